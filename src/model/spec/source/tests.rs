//! What is a source, what is not, and what its printed form hides.

use super::{HttpUrl, HubSource, Source, SourceError};
use crate::model::spec::OciSource;

fn hub(text: &str) -> HubSource {
    match Source::parse(text).unwrap() {
        Source::Hub(hub) => hub,
        other => panic!("{text} became {other:?}"),
    }
}

fn parts(hub: &HubSource) -> (&str, &str, Option<&str>) {
    (hub.repository(), hub.revision(), hub.path())
}

#[test]
fn text_without_a_scheme_is_a_path() {
    assert_eq!(Source::parse(" /models/chat \n").unwrap(), Source::Path("/models/chat".into()));
    assert_eq!(Source::parse("owner/repo").unwrap(), Source::Path("owner/repo".into()));
}

#[test]
fn hub_sources_are_read_with_and_without_revision_and_path() {
    assert_eq!(parts(&hub("hf://a/b")), ("a/b", "main", None));
    assert_eq!(parts(&hub("hf://a/b/")), ("a/b", "main", None));
    assert_eq!(parts(&hub("hf://a/b@v1")), ("a/b", "v1", None));
    assert_eq!(parts(&hub("hf://a/b@v1/onnx/model.onnx")), ("a/b", "v1", Some("onnx/model.onnx")));
    assert_eq!(parts(&hub("hf://a/b/onnx")), ("a/b", "main", Some("onnx")));
    assert_eq!(parts(&hub("hf://gpt2@main/model.onnx")), ("gpt2", "main", Some("model.onnx")));
    assert_eq!(parts(&hub("hf://a/b@refs%2Fpr%2F1/x")), ("a/b", "refs/pr/1", Some("x")));
    assert_eq!(parts(&hub("hf://a/b/mail@home.onnx")), ("a/b", "main", Some("mail@home.onnx")));
}

#[test]
fn resolve_addresses_of_the_hub_become_hub_sources() {
    let gpt2 = "https://huggingface.co/openai-community/gpt2/resolve/main/onnx/decoder_model_merged.onnx";
    let expected = ("openai-community/gpt2", "main", Some("onnx/decoder_model_merged.onnx"));
    assert_eq!(parts(&hub(gpt2)), expected);
    assert_eq!(parts(&hub(&format!("{gpt2}?download=true"))), expected);
    let encoded = hub("https://huggingface.co/a/b/resolve/refs%2Fpr%2F1/a%20b.onnx");
    assert_eq!(parts(&encoded), ("a/b", "refs/pr/1", Some("a b.onnx")));
    assert!(matches!(Source::parse("https://huggingface.co/a/b/blob/main/x").unwrap(), Source::Url(_)));
    assert!(matches!(Source::parse("https://example.com/a/b/resolve/main/x").unwrap(), Source::Url(_)));
}

#[test]
fn the_configured_endpoint_is_recognised_below_its_own_path_only() {
    let endpoint = HttpUrl::parse("http://mirror:8080/hub/").unwrap();
    let inside = HttpUrl::parse("http://mirror:8080/hub/a/b/resolve/main/model.onnx").unwrap();
    let found = HubSource::from_url(&inside, &endpoint).unwrap().unwrap();
    assert_eq!(parts(&found), ("a/b", "main", Some("model.onnx")));
    for other in ["http://mirror:8080/a/b/resolve/main/x", "http://mirror:8081/hub/a/b/resolve/main/x"] {
        assert_eq!(HubSource::from_url(&HttpUrl::parse(other).unwrap(), &endpoint).unwrap(), None);
    }
}

#[test]
fn what_is_no_source_is_refused_with_what_is_accepted() {
    assert_eq!(Source::parse("  "), Err(SourceError::Empty));
    assert_eq!(Source::parse("/a\0b"), Err(SourceError::Nul));
    for text in ["file:///etc/passwd", "s3://bucket/x", "ftp://h/x"] {
        let error = Source::parse(text).unwrap_err();
        assert!(matches!(error, SourceError::Scheme { .. }), "{text}: {error}");
        assert!(error.to_string().contains("hf://owner/repository"), "{error}");
    }
    for text in ["https://", "http://[::1", "https://a b/x"] {
        assert!(matches!(Source::parse(text), Err(SourceError::Url { .. })), "{text}");
    }
}

#[test]
fn hub_parts_that_could_leave_the_cache_are_refused() {
    for text in [
        "hf://",
        "hf://a/b@",
        "hf://../b",
        "hf://a/..",
        "hf://a/b@..",
        "hf://a/b@%2E%2E",
        "hf://a/b@x/../y",
        "hf://a/b//c",
        "hf://a/b/./c",
        "hf://a/b@..%2F..%2Fx",
        "hf://a/b@main/c\\d",
        "hf://a/b/c?d",
        "hf://a--b/c",
        "hf:///b",
        "hf://a/b@%FF",
        "https://huggingface.co/a/b/resolve/main/..%2F..%2Fx",
    ] {
        assert!(
            matches!(Source::parse(text), Err(SourceError::Hub { .. })),
            "{text}: {:?}",
            Source::parse(text)
        );
    }
}

#[test]
fn secrets_in_an_address_are_never_printed() {
    let error = Source::parse("https://user:hunter2@example.com/model.onnx?sig=abc").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    let source = Source::parse("https://example.com/model.onnx?sig=abc#frag").unwrap();
    assert_eq!(source.to_string(), "https://example.com/model.onnx");
    assert!(!format!("{source:?}").contains("abc"), "{source:?}");
}

#[test]
fn the_printed_form_reads_back_as_the_same_source() {
    for text in [
        "/models/chat",
        "https://example.com/m.onnx",
        "hf://a/b@refs%2Fpr%2F1/x",
        "hf://gpt2",
        "oci://r.example:5000/a/b:1",
    ] {
        let source = Source::parse(text).unwrap();
        assert_eq!(Source::parse(&source.to_string()).unwrap(), source, "{text}");
    }
}

#[test]
fn a_tokenizer_setting_is_a_path_if_that_exists_and_a_hub_id_otherwise() {
    let id = |text: &str| match Source::parse_tokenizer(text).unwrap() {
        Source::Hub(hub) => hub.repository().to_owned(),
        other => panic!("{text} became {other:?}"),
    };
    assert_eq!(id("openai-community/gpt2"), "openai-community/gpt2");
    assert_eq!(id("gpt2"), "gpt2");
    assert_eq!(id("hf://a/b"), "a/b");
    // `src` exists: tests run in the root of the package.
    for path in ["src", "/models/none", "./none", "../none", "a/b/c", "none/tokenizer.json"] {
        assert_eq!(Source::parse_tokenizer(path).unwrap(), Source::Path(path.into()), "{path}");
    }
}

#[test]
fn artifacts_are_read_with_port_tag_and_digest() {
    let oci = |text: &str| match Source::parse(text).unwrap() {
        Source::Oci(oci) => oci,
        other => panic!("{text} became {other:?}"),
    };
    let parts = |oci: &OciSource| {
        (oci.registry().to_string(), oci.repository().to_owned(), oci.reference().to_owned())
    };
    let digest = format!("sha256:{}", "0a".repeat(32));
    let expect = |registry: &str, repository: &str, reference: &str| {
        (registry.to_owned(), repository.to_owned(), reference.to_owned())
    };
    assert_eq!(parts(&oci("oci://r.example/a")), expect("https://r.example/", "a", "latest"));
    assert_eq!(
        parts(&oci("oci://R.example:5000/a/b-c__d:v1.0")),
        expect("https://r.example:5000/", "a/b-c__d", "v1.0")
    );
    let pinned = format!("oci://r.example/a:v1@{digest}");
    assert_eq!(parts(&oci(&pinned)), expect("https://r.example/", "a", &digest));
    assert_eq!((oci(&pinned).to_string(), oci(&pinned).digest()), (pinned.clone(), Some(digest.as_str())));
}

#[test]
fn what_is_no_artifact_is_refused_and_no_password_is_printed() {
    for text in [
        "oci://",
        "oci://r",
        "oci:///a",
        "oci://r/",
        "oci://r/A",
        "oci://r/a//b",
        "oci://r/../b",
        "oci://r/a:",
        "oci://r/a:.x",
        "oci://r/a@sha256:12",
        "oci://r/a@md5:x",
        "oci://r?x/a",
        "oci://r#x/a",
        "oci://r/a?x",
        "oci://r/a___b",
        "oci://r/-a",
        "oci://r/a._b",
    ] {
        let error = Source::parse(text).unwrap_err();
        assert!(matches!(error, SourceError::Oci { .. }), "{text}: {error:?}");
    }
    let error = Source::parse("oci://user:hunter2@r/a").unwrap_err();
    assert!(matches!(error, SourceError::UserInformation { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}
