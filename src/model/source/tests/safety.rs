//! Redirects, tokens, signatures: what must never leak.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;
use url::Url;

use super::super::HubToken;
use super::super::http::follow_location;
use super::server::{Page, Server, Trick};
use super::{FetchError, Guard, GuardRules, Place, TOKEN, bytes, read};

/// The log lines of one test.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn a_plain_url_gets_no_token() {
    let server = Server::start().await;
    server.put("/model.onnx", Page::file(b"x", "v"));
    Place::without_hub().graph(&server.url("/model.onnx")).await.unwrap();
    assert!(server.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[tokio::test]
async fn a_redirect_to_another_origin_is_followed_without_the_token() {
    let (hub, other) = (Server::start().await, Server::start().await);
    other.put("/moved.onnx", Page::file(b"moved", "v"));
    // Not a resolve address, so it is a plain file; on the hub's origin, so the token goes along.
    hub.put("/plain/model.onnx", Page::redirect(&other.url("/moved.onnx")));
    let place = Place::new(&hub.address);
    let graph = place.graph(&hub.url("/plain/model.onnx")).await.unwrap();
    assert_eq!(read(&graph), b"moved");
    assert!(hub.seen().iter().all(|seen| seen.headers.contains_key("authorization")));
    assert!(other.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[tokio::test]
async fn redirects_that_lead_nowhere_good_are_refused() {
    let server = Server::start().await;
    for target in ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://user:pass@127.0.0.1/x", "/model.onnx"] {
        server.put("/model.onnx", Page::redirect(target));
        let place = Place::without_hub();
        let error = place.graph(&server.url("/model.onnx")).await.unwrap_err();
        assert!(matches!(error, FetchError::Redirect { .. }) && error.is_permanent(), "{target}: {error:?}");
        assert_eq!(place.final_files(), Vec::<String>::new());
    }
    let asked = server.seen().iter().filter(|seen| seen.path == "/model.onnx").count();
    assert_eq!(asked, 3 + 11, "ten redirects are followed, not eleven");
}

#[test]
fn a_redirect_never_leaves_tls() {
    let from = Url::parse("https://example.com/a/b").unwrap();
    assert_eq!(follow_location(&from, Some("../c")).unwrap().as_str(), "https://example.com/c");
    assert_eq!(follow_location(&from, Some("//other/c")).unwrap().as_str(), "https://other/c");
    for refused in [Some("http://example.com/a/b"), Some("http://[bad"), None] {
        assert!(matches!(follow_location(&from, refused), Err(FetchError::Redirect { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn names_in_an_address_cannot_leave_the_cache() {
    let server = Server::start().await;
    let place = Place::without_hub();
    for path in ["/..%2F..%2Fevil.onnx", "/%00.onnx", "/.hidden", "/"] {
        server.put(path, Page::file(b"x", "v"));
        let graph = place.graph(&server.url(path)).await.unwrap();
        let folder = graph.parent().unwrap();
        assert_eq!(folder.parent().unwrap(), place.settings.download_cache, "{path}");
        assert!(!graph.file_name().unwrap().to_str().unwrap().starts_with('.'), "{path}");
    }
}

#[tokio::test]
async fn a_body_in_a_coding_that_was_not_asked_for_is_refused() {
    let server = Server::start().await;
    let headers = vec![("Content-Encoding", "gzip".to_owned())];
    server.put("/model.onnx", Page { body: vec![1], status: 200, headers });
    let error = Place::without_hub().graph(&server.url("/model.onnx")).await.unwrap_err();
    assert!(matches!(error, FetchError::Response { .. }), "{error:?}");
    assert_eq!(server.seen()[0].headers["accept-encoding"], "identity");
    let headers = vec![("Content-Encoding", "gzip".to_owned())];
    server.put("/model.onnx_data", Page { body: vec![1], status: 404, headers });
    server.put("/model.onnx", Page::file(b"x", "v"));
    let place = Place::without_hub();
    place.graph(&server.url("/model.onnx")).await.expect("a compressed error page is still a 404");
}

#[tokio::test]
async fn one_line_per_file_and_no_secret_in_lines_or_errors() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(lines.clone());
    // With a single subscriber, tracing asks the thread that first reaches a line whether anybody listens, and that
    // may be the thread of another test; with two, it asks both.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let server = Server::start().await;
    server.put("/model.onnx", Page::file(&bytes(100_000, 1), "v"));
    server.play([Trick::CutAfter(40_000)]);
    let place = Place::new(&server.address);
    let url = server.url("/model.onnx?signature=hidden");
    let mut told = format!("{:?}", place.settings);
    for url in [url.as_str(), "http://127.0.0.1:9/model.onnx?signature=hidden"] {
        let failure = place.graph(url).await.unwrap_err();
        told.extend([format!("{failure:?}")]);
        let mut error: &dyn std::error::Error = &failure;
        while let Some(cause) = error.source() {
            told.extend([error.to_string(), cause.to_string()]);
            error = cause;
        }
    }
    place.graph(&url).await.unwrap();
    let ours: Vec<String> =
        lines.text().lines().filter(|line| line.contains("inference_gateway")).map(str::to_owned).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    for field in ["downloaded", "bytes=100000", "resumed_from_bytes", "40000", "duration_ms", "/model.onnx"] {
        assert!(ours[0].contains(field), "{field}: {}", ours[0]);
    }
    told += &lines.text();
    for secret in [TOKEN, "hidden"] {
        assert!(!told.contains(secret), "{told}");
    }
}

#[test]
fn a_token_is_trimmed_and_checked_once() {
    assert!(HubToken::parse(" hf_x\n").is_ok());
    for text in ["", " \n", "a\nb", "a\0b"] {
        assert!(matches!(HubToken::parse(text), Err(FetchError::Token)), "{text:?}");
    }
}

#[tokio::test]
async fn our_own_network_is_not_reached_by_address_by_name_or_by_redirect() {
    let (public, inner) = (Server::start().await, Server::start().await);
    inner.put("/model.onnx", Page::file(b"secret", "v"));
    // The first server stands for one on the internet; `localhost` for a name that leads inside.
    let by_name = inner.url("/model.onnx").replace("127.0.0.1", "localhost");
    public.put("/model.onnx", Page::redirect(&by_name));
    let mut place = Place::without_hub();
    place.settings.guard = Guard::new(GuardRules {
        insecure_hosts: vec!["localhost".parse().unwrap(), "127.0.0.1".parse().unwrap()],
        trusted_hosts: std::iter::once("127.0.0.1".to_owned()).collect(),
        ..GuardRules::default()
    });
    for url in [by_name.as_str(), &public.url("/model.onnx")] {
        let error = place.graph(url).await.unwrap_err();
        assert_eq!(error.reason().label(), "HostNotAllowed", "{error}");
        assert!(
            error.is_permanent() && error.to_string().contains("INFERENCE_ALLOWED_PRIVATE_NETWORKS"),
            "{error}"
        );
    }
    place.settings.guard = Guard::default();
    for url in [inner.url("/model.onnx"), inner.url("/model.onnx").replace("http://", "https://")] {
        let error = place.graph(&url).await.unwrap_err();
        assert_eq!(error.reason().label(), "HostNotAllowed", "{error}");
    }
    assert!(inner.seen().is_empty(), "a connection was made");
}
