//! What to serve and where it comes from: values that are parsed once and cannot be wrong afterwards.
//!
//! First stop of a model on its way into the process: settings hand over a string, [`Source`] is what the
//! rest of the code sees. Nothing in here touches the network; only [`Source::parse_tokenizer`] looks at the
//! file system. No value in here ever prints a secret: the query of a URL (it may hold a signature) is left
//! out of `Display` and `Debug`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use super::oci::OciSource;

/// The forms [`Source`] accepts, for error messages.
const ACCEPTED: &str = "a path (/models/chat), an http or https URL of a file, \
     hf://owner/repository[@revision][/path], or \
     oci://registry/repository[:tag][@sha256:…]";

/// The revision of a hub repository when none is named.
const DEFAULT_REVISION: &str = "main";

/// The hub whose file addresses are recognised without any setting.
pub const DEFAULT_HUB_ENDPOINT: &str = "https://huggingface.co";

/// Where the files of a model or of a tokenizer come from.
///
/// From: decisions 15 (one parser for environment, command line and, later, objects).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file or folder of this machine.
    Path(PathBuf),
    /// One file behind an http or https address; `…/manifest.json` and `…/` name all files of a model's
    /// manifest.
    Url(HttpUrl),
    /// A file, a folder or the whole of a repository on the hub.
    Hub(HubSource),
    /// An artifact in a registry.
    Oci(OciSource),
}

/// An http or https address of a file: has a host, no user information, no fragment.
///
/// `Display` and `Debug` leave the query out: it may carry a signature.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl(Url);

/// A repository on the hub, at a revision, and optionally a file or folder in it.
///
/// Every part is safe to use as a relative path: no `..`, no empty segment, no control character.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubSource {
    repository: String,
    revision: String,
    path: Option<String>,
}

/// Why a string is not a [`Source`]. The text never repeats the query or the user information of a URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nothing was given.
    #[error("the source is empty; give {ACCEPTED}")]
    Empty,
    /// A byte that no path and no address can hold.
    #[error("the source contains a NUL character; give {ACCEPTED}")]
    Nul,
    /// `scheme://` that is none of ours.
    #[error("sources of scheme \"{scheme}\" are not supported; give {ACCEPTED}")]
    Scheme {
        /// What stood before `://`.
        scheme: String,
    },
    /// `user:password@` in an address.
    #[error(
        "the URL on host \"{host}\" carries a user name or password; leave them out (HF_TOKEN is for the hub)"
    )]
    UserInformation {
        /// The host of the refused address.
        host: String,
    },
    /// An address that cannot be read.
    #[error("failed to parse the URL: {reason}; give {ACCEPTED}")]
    Url {
        /// What the parser says.
        reason: String,
    },
    /// A hub repository, revision or path that is not one.
    #[error("\"{part}\" is not a {expected}; write hf://owner/repository[@revision][/path]")]
    Hub {
        /// What was found.
        part: String,
        /// What it had to be.
        expected: &'static str,
    },
    /// A registry, repository, tag or digest that is not one.
    #[error("\"{part}\" is not a {expected}; write oci://registry/repository[:tag][@sha256:…]")]
    Oci {
        /// What was found.
        part: String,
        /// What it had to be.
        expected: &'static str,
    },
}

impl Source {
    /// Reads a source as written in the environment or on the command line.
    ///
    /// An address `https://huggingface.co/{repository}/resolve/{revision}/{path}` becomes a [`Source::Hub`],
    /// so that the configured endpoint, the token and the hub's cache apply to it.
    ///
    /// # Errors
    /// When `text` has none of the accepted forms.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SourceError::Empty);
        }
        if text.contains('\0') {
            return Err(SourceError::Nul);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Path(PathBuf::from(text)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "hf" => HubSource::parse(rest).map(Self::Hub),
            "oci" => OciSource::parse(rest).map(Self::Oci),
            "http" | "https" => {
                let url = HttpUrl::parse(text)?;
                let hub = default_hub();
                Ok(HubSource::from_url(&url, &hub)?.map_or(Self::Url(url), Self::Hub))
            }
            _ => Err(SourceError::Scheme { scheme: scheme.to_owned() }),
        }
    }

    /// The address of a [`Source::Url`], or of the registry of a [`Source::Oci`].
    pub fn url(&self) -> Option<&HttpUrl> {
        match self {
            Self::Url(url) => Some(url),
            Self::Oci(oci) => Some(oci.registry()),
            Self::Path(_) | Self::Hub(_) => None,
        }
    }

    /// Reads the tokenizer setting: everything [`Source::parse`] takes, and a bare hub id
    /// (`owner/repository`, or `gpt2` for the old repositories without owner). A path that exists wins over a
    /// hub id of the same spelling.
    ///
    /// # Errors
    /// As [`Source::parse`].
    pub fn parse_tokenizer(text: &str) -> Result<Self, SourceError> {
        let source = Self::parse(text)?;
        match &source {
            Self::Path(path) if looks_like_hub_id(path) && !path.exists() => {
                HubSource::parse(text.trim()).map(Self::Hub)
            }
            Self::Path(_) | Self::Url(_) | Self::Hub(_) | Self::Oci(_) => Ok(source),
        }
    }
}

fn default_hub() -> HttpUrl {
    HttpUrl::parse(DEFAULT_HUB_ENDPOINT).expect("the default endpoint is an http address")
}

/// Whether a path that does not exist can only have been meant as a hub id.
fn looks_like_hub_id(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let segments: Vec<&str> = text.split('/').collect();
    let is_file = path.extension().is_some_and(|extension| extension == "json");
    segments.len() <= 2 && !is_file && segments.iter().all(|segment| is_repository_part(segment))
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(formatter, "{}", path.display()),
            Self::Url(url) => url.fmt(formatter),
            Self::Hub(hub) => hub.fmt(formatter),
            Self::Oci(oci) => oci.fmt(formatter),
        }
    }
}

impl HttpUrl {
    /// Reads an address; a fragment is dropped.
    ///
    /// # Errors
    /// When it is no address, its scheme is not http or https, or it carries a user name or password.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let mut url = Url::parse(text).map_err(|error| SourceError::Url { reason: error.to_string() })?;
        if !url.username().is_empty() || url.password().is_some() {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(SourceError::UserInformation { host });
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SourceError::Scheme { scheme: url.scheme().to_owned() });
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// The host, as a name or an address.
    pub fn host(&self) -> Option<&str> {
        self.0.host_str()
    }

    /// The whole address, with its query: for the request line only.
    pub(crate) fn as_url(&self) -> &Url {
        &self.0
    }
}

impl FromStr for HttpUrl {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        Self::parse(text)
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&without_query(&self.0))
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HttpUrl({self})")
    }
}

/// The form of an address that may be logged: no query, no fragment, no user information.
pub(crate) fn without_query(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

impl HubSource {
    /// `owner/repository`, or one segment for the old repositories without owner.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Branch, tag or commit; `main` when none was named.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// A file or folder of the repository, relative, separated by `/`.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Reads what follows `hf://`. A `/` inside a revision is written `%2F`.
    fn parse(text: &str) -> Result<Self, SourceError> {
        let text = text.trim_end_matches('/');
        let (head, tail) = match text.split_once('/') {
            Some((name, _)) if name.contains('@') => text.split_at(name.len()),
            Some((owner, rest)) => {
                let name = rest.find('/').unwrap_or(rest.len());
                text.split_at(owner.len() + 1 + name)
            }
            None => (text, ""),
        };
        let (repository, revision) = match head.split_once('@') {
            Some((repository, revision)) => (repository, decode(revision)?),
            None => (head, DEFAULT_REVISION.to_owned()),
        };
        Self::checked(repository, revision, tail.strip_prefix('/').map(str::to_owned))
    }

    /// Recognises `{endpoint}/{repository}/resolve/{revision}/{path}`; `None` for any other address.
    ///
    /// # Errors
    /// When the address has that form and a part of it is not acceptable.
    pub(crate) fn from_url(url: &HttpUrl, endpoint: &HttpUrl) -> Result<Option<Self>, SourceError> {
        if url.0.origin() != endpoint.0.origin() {
            return Ok(None);
        }
        let prefix = endpoint.0.path().trim_end_matches('/');
        let Some(path) = url.0.path().strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) else {
            return Ok(None);
        };
        let segments: Vec<&str> = path.split('/').collect();
        let (id, revision, file) = match segments.as_slice() {
            [owner, name, "resolve", revision, file @ ..] if !file.is_empty() => {
                (format!("{owner}/{name}"), revision, file)
            }
            [name, "resolve", revision, file @ ..] if !file.is_empty() => {
                ((*name).to_owned(), revision, file)
            }
            _ => return Ok(None),
        };
        let file = file.iter().map(|segment| decode(segment)).collect::<Result<Vec<_>, _>>()?.join("/");
        Self::checked(&id, decode(revision)?, Some(file)).map(Some)
    }

    fn checked(repository: &str, revision: String, path: Option<String>) -> Result<Self, SourceError> {
        let refuse =
            |part: &str, expected| Err(SourceError::Hub { part: part.escape_debug().to_string(), expected });
        let parts: Vec<&str> = repository.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_repository_part(part)) {
            return refuse(repository, "hub repository (owner/name of letters, digits, '.', '_' and '-')");
        }
        if !is_relative_path(&revision) {
            return refuse(&revision, "hub revision (branch, tag or commit)");
        }
        if let Some(path) = path.as_deref().filter(|path| !is_relative_path(path)) {
            return refuse(path, "path in a hub repository (relative, without \"..\")");
        }
        Ok(Self { repository: repository.to_owned(), revision, path })
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "hf://{}@{}", self.repository, self.revision.replace('/', "%2F"))?;
        self.path.as_ref().map_or(Ok(()), |path| write!(formatter, "/{path}"))
    }
}

/// The hub's own rule for owner and name; `--` would make the cache's folder names ambiguous.
fn is_repository_part(part: &str) -> bool {
    (1..=96).contains(&part.len())
        && part.starts_with(|first: char| first.is_ascii_alphanumeric())
        && part.chars().all(|char| char.is_ascii_alphanumeric() || ".-_".contains(char))
        && !part.contains("--")
        && !part.contains("..")
}

/// Whether a path stays below the folder it is joined to, names something in it, and means the same in a URL and on disk.
pub(crate) fn is_relative_path(path: &str) -> bool {
    let allowed = |char: char| !char.is_control() && !"\\?#:*\"<>|".contains(char);
    path.len() <= 512
        && path.chars().all(allowed)
        && path.split('/').all(|segment| !matches!(segment, "" | "." | "..") && segment.len() <= 200)
}

fn decode(text: &str) -> Result<String, SourceError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| SourceError::Hub { part: text.to_owned(), expected: "percent-encoded UTF-8 text" })
}

#[cfg(test)]
mod tests;
