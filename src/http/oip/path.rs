//! What a path below `/v2/models/` asks for. A model's name may have slashes, so it is read from its end.

use axum::http::Method;

/// `{name}[/versions/{version}][/ready|/infer|/generate|/generate_stream]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelPath {
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) wanted: Wanted,
}

/// What is wanted of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Metadata,
    Ready,
    Infer,
    Generate,
    GenerateStream,
}

impl Wanted {
    /// How it is asked for.
    pub(super) fn methods(self) -> &'static [Method] {
        match self {
            Self::Metadata | Self::Ready => &[Method::GET, Method::HEAD],
            Self::Infer | Self::Generate | Self::GenerateStream => &[Method::POST],
        }
    }
}

impl ModelPath {
    /// Reads what stands behind `/v2/models/`.
    pub(super) fn parse(path: &str) -> Self {
        let (path, wanted) = match path.rsplit_once('/') {
            Some((before, "ready")) => (before, Wanted::Ready),
            Some((before, "infer")) => (before, Wanted::Infer),
            Some((before, "generate")) => (before, Wanted::Generate),
            Some((before, "generate_stream")) => (before, Wanted::GenerateStream),
            _ => (path, Wanted::Metadata),
        };
        let versioned = path.rsplit_once('/').and_then(|(before, version)| {
            Some((before.strip_suffix("/versions")?, version)).filter(|(_, version)| !version.is_empty())
        });
        match versioned {
            Some((name, version)) => {
                Self { name: name.to_owned(), version: Some(version.to_owned()), wanted }
            }
            None => Self { name: path.to_owned(), version: None, wanted },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_slashes_are_told_from_what_is_wanted_of_them() {
        let cases = [
            ("m", "m", None, Wanted::Metadata),
            ("org/m", "org/m", None, Wanted::Metadata),
            ("m/ready", "m", None, Wanted::Ready),
            ("m/versions/7", "m", Some("7"), Wanted::Metadata),
            ("org/m/versions/7/ready", "org/m", Some("7"), Wanted::Ready),
            ("org/m/generate", "org/m", None, Wanted::Generate),
            ("org/m/versions/7/generate_stream", "org/m", Some("7"), Wanted::GenerateStream),
            ("m/versions/7/infer", "m", Some("7"), Wanted::Infer),
            // None of these is a version.
            ("ready", "ready", None, Wanted::Metadata),
            ("versions/7", "versions/7", None, Wanted::Metadata),
            ("m/versions/", "m/versions/", None, Wanted::Metadata),
            ("m/versions/ready", "m/versions", None, Wanted::Ready),
            ("m/load", "m/load", None, Wanted::Metadata),
        ];
        for (path, name, version, wanted) in cases {
            let expected = ModelPath { name: name.to_owned(), version: version.map(str::to_owned), wanted };
            assert_eq!(ModelPath::parse(path), expected, "{path}");
        }
    }
}
