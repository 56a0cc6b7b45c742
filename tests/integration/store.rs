//! `inference-gateway fetch` as processes: killed, two at once, on a disk that is full.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use inference_gateway::model::manifest::Manifest;

use crate::harness::{PATIENCE, client, spawn};

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_inference-gateway");
/// Bytes of the weights; sent in pieces, so that a process can be killed between them.
const WEIGHTS: usize = 1 << 20;
const PIECE: usize = 1 << 16;

/// An ONNX file of one node and one weight in `weights.bin`.
///
/// From: `onnx.proto`; `ModelProto.graph` 7, `GraphProto.node` 1, `.initializer` 5, `TensorProto.external_data` 13.
fn graph() -> Vec<u8> {
    let field = |number: u8, value: &[u8]| {
        let key = [number << 3 | 2, u8::try_from(value.len()).unwrap()];
        [key.as_slice(), value].concat()
    };
    let entry = field(13, &[field(1, b"location"), field(2, b"weights.bin")].concat());
    let body = [field(1, &field(4, b"MatMul")), field(5, &entry)].concat();
    [vec![0x08, 9], field(7, &body)].concat()
}

/// A server of a model at `/m/`, with ranges, that takes a moment for each piece.
struct Server {
    address: String,
    content: Arc<Content>,
}

struct Content {
    pause: Duration,
    /// Bodies that were begun, by path.
    downloads: Mutex<Vec<String>>,
    sent_bytes: AtomicUsize,
}

impl Server {
    async fn start(pause: Duration) -> Self {
        let content =
            Arc::new(Content { pause, downloads: Mutex::default(), sent_bytes: AtomicUsize::new(0) });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&content));
        drop(spawn(async move { axum::serve(listener, router).await }));
        let server = Self { address, content };
        client().head(server.url()).send().await.unwrap();
        server
    }

    fn url(&self) -> String {
        format!("{}/m/model.onnx", self.address)
    }

    fn sent_bytes(&self) -> usize {
        self.content.sent_bytes.load(Ordering::SeqCst)
    }

    fn downloads(&self) -> Vec<String> {
        self.content.downloads.lock().unwrap().clone()
    }
}

async fn answer(State(content): State<Arc<Content>>, request: Request) -> Response {
    let body = match request.uri().path() {
        "/m/model.onnx" => graph(),
        "/m/weights.bin" => (0..WEIGHTS).map(|at| (at / 251 + at) as u8).collect(),
        "/m/tokenizer.json" => b"{}".to_vec(),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let mut headers = HeaderMap::new();
    headers.insert("etag", "\"v1\"".parse().unwrap());
    let range = request.headers().get("range").and_then(|range| range.to_str().ok());
    let first =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let total = body.len();
    let status = if let Some(first) = first {
        headers.insert("content-range", format!("bytes {first}-{}/{total}", total - 1).parse().unwrap());
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    let rest = body[first.unwrap_or(0)..].to_vec();
    headers.insert("content-length", rest.len().into());
    if request.method() == "HEAD" {
        return (status, headers).into_response();
    }
    content.downloads.lock().unwrap().push(request.uri().path().to_owned());
    let pieces = futures_util::stream::unfold((content, rest), |(content, mut rest)| async move {
        if rest.is_empty() {
            return None;
        }
        tokio::time::sleep(content.pause).await;
        let piece: Vec<u8> = rest.drain(..PIECE.min(rest.len())).collect();
        content.sent_bytes.fetch_add(piece.len(), Ordering::SeqCst);
        Some((Ok::<_, Infallible>(piece), (content, rest)))
    });
    (status, headers, Body::from_stream(pieces)).into_response()
}

fn fetch(cache: &Path, source: &str) -> Command {
    let mut command = Command::new(EXECUTABLE);
    command.env_clear().env("HOME", "/nowhere").env("INFERENCE_CACHE_DIR", cache).args(["fetch", source]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to its end without holding up the server.
async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn ended(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The folder that a successful fetch prints, verified against the digest beside it.
fn fetched(output: &Output) -> PathBuf {
    assert!(output.status.success(), "{}", stderr(output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    };
    let folder = PathBuf::from(value("folder"));
    let (manifest, digest) = Manifest::read(&folder).unwrap().unwrap();
    manifest.verify(&folder).unwrap();
    assert_eq!(value("digest"), digest.to_string());
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Every model in the store is whole.
fn assert_whole(cache: &Path) {
    for name in names(&cache.join("models")) {
        let folder = cache.join("models").join(&name);
        let (manifest, digest) = Manifest::read(&folder).unwrap().expect("a manifest");
        manifest.verify(&folder).unwrap();
        assert_eq!(digest.digits(), name);
    }
}

#[tokio::test]
async fn fetch_prints_digest_and_folder_and_needs_no_network_the_second_time() {
    let (server, cache) = (Server::start(Duration::ZERO).await, tempfile::tempdir().unwrap());
    let folder = fetched(&run(fetch(cache.path(), &server.url())).await);
    assert_eq!(std::fs::read(folder.join("model.onnx")).unwrap(), graph());
    let downloads = server.downloads().len();
    assert_eq!(fetched(&run(fetch(cache.path(), &server.url())).await), folder);
    let digest = format!("sha256:{}", folder.file_name().unwrap().to_str().unwrap());
    let mut pinned = fetch(cache.path(), "http://127.0.0.1:9/model.onnx");
    pinned.args(["--digest", &digest]);
    assert_eq!(fetched(&run(pinned).await), folder);
    assert_eq!(server.downloads().len(), downloads);
}

#[tokio::test]
async fn fetch_says_why_it_failed_with_the_word_of_the_status() {
    let (server, cache) = (Server::start(Duration::ZERO).await, tempfile::tempdir().unwrap());
    let mut other = fetch(cache.path(), &server.url());
    other.args(["--digest", &format!("sha256:{}", "0".repeat(64))]);
    for (command, reason) in [
        (other, "DigestMismatch"),
        (fetch(cache.path(), "/nowhere"), "SourceNotFound"),
        (fetch(cache.path(), "/nowhere/model.tar.gz"), "ArchiveUnsafe"),
        (fetch(cache.path(), &format!("{}/none.onnx", server.address)), "SourceNotFound"),
        (fetch(Path::new("/proc/none"), &server.url()), "CacheUnusable"),
    ] {
        let output = run(command).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"");
        assert!(stderr(&output).contains(&format!("inference-gateway: {reason}: ")), "{}", stderr(&output));
    }
    let strange = run(fetch(cache.path(), "ftp://example.com/x")).await;
    assert!(
        stderr(&strange).contains("the source is not understood: sources of scheme"),
        "{}",
        stderr(&strange)
    );
    assert_eq!(names(&cache.path().join("staging")), Vec::<String>::new());
}

/// Row 14.
#[tokio::test]
async fn a_fetch_that_is_killed_at_any_point_goes_on_where_it_was() {
    let server = Server::start(Duration::from_millis(15)).await;
    // How long a whole fetch takes; then killed at ten points of that time, the end more closely.
    let began = Instant::now();
    let reference = tempfile::tempdir().unwrap();
    let digest = fetched(&run(fetch(reference.path(), &server.url())).await);
    let whole = began.elapsed();
    for point in [0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.94, 0.96, 0.98, 1.0] {
        let cache = tempfile::tempdir().unwrap();
        let before = server.sent_bytes();
        let mut child = fetch(cache.path(), &server.url()).spawn().unwrap();
        tokio::time::sleep(whole.mul_f64(point)).await;
        child.kill().unwrap();
        ended(child).await;
        assert_whole(cache.path());
        let folder = fetched(&run(fetch(cache.path(), &server.url())).await);
        assert_eq!(folder.file_name(), digest.file_name());
        assert_eq!(names(&cache.path().join("staging")), Vec::<String>::new(), "killed at {point}");
        assert_whole(cache.path());
        // What had been sent and was not read yet comes again; never the whole a third time.
        let sent = server.sent_bytes() - before;
        assert!(sent <= 2 * (WEIGHTS + PIECE), "killed at {point}: {sent} bytes");
    }
}

/// Row 14, at the very points that matter.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_fetch_that_dies_around_the_rename_leaves_nothing_half_made() {
    let server = Server::start(Duration::ZERO).await;
    let points = [
        "after-download-chunk=3*off->return(abort)",
        "before-download-rename=2*off->return(abort)",
        "after-download-rename=2*off->return(abort)",
        "after-move=return(abort)",
        "before-rename=return(abort)",
        "after-rename=return(abort)",
    ];
    for point in points {
        let cache = tempfile::tempdir().unwrap();
        let before = server.sent_bytes();
        let mut dying = fetch(cache.path(), &server.url());
        dying.env("FAILPOINTS", point);
        let output = run(dying).await;
        assert_eq!(output.status.code(), None, "{point}: it dies of a signal: {}", stderr(&output));
        assert_whole(cache.path());
        let folder = fetched(&run(fetch(cache.path(), &server.url())).await);
        assert_whole(cache.path());
        assert_eq!(std::fs::read(folder.join("model.onnx")).unwrap(), graph());
        assert_eq!(names(&cache.path().join("staging")), Vec::<String>::new(), "{point}");
        assert_eq!(names(&cache.path().join("downloads")), Vec::<String>::new(), "{point}");
        let sent = server.sent_bytes() - before;
        assert!(sent <= 2 * (WEIGHTS + PIECE), "{point}: {sent} bytes");
    }
}

/// Row 14, where nothing is downloaded: the time is that of copying, hashing and publishing.
#[tokio::test]
async fn a_copy_that_is_killed_at_any_point_is_made_anew() {
    let model = tempfile::tempdir().unwrap();
    std::fs::write(model.path().join("model.onnx"), graph()).unwrap();
    std::fs::write(model.path().join("weights.bin"), vec![7; 32 << 20]).unwrap();
    std::fs::write(model.path().join("tokenizer.json"), b"{}").unwrap();
    let (source, reference) = (model.path().to_str().unwrap(), tempfile::tempdir().unwrap());
    let began = Instant::now();
    let whole = fetched(&run(fetch(reference.path(), source)).await);
    let duration = began.elapsed();
    for point in 1..=10 {
        let cache = tempfile::tempdir().unwrap();
        let mut child = fetch(cache.path(), source).spawn().unwrap();
        tokio::time::sleep(duration * point / 10).await;
        child.kill().unwrap();
        ended(child).await;
        assert_whole(cache.path());
        let folder = fetched(&run(fetch(cache.path(), source)).await);
        assert_eq!(folder.file_name(), whole.file_name());
        assert_eq!(names(&cache.path().join("staging")), Vec::<String>::new(), "killed at {point} of 10");
    }
}

/// Row 17.
#[tokio::test]
async fn two_processes_download_once_and_the_death_of_one_does_not_stop_the_other() {
    let server = Server::start(Duration::from_millis(10)).await;
    let cache = tempfile::tempdir().unwrap();
    let [one, two] = [(); 2].map(|()| fetch(cache.path(), &server.url()).spawn().unwrap());
    let folders = [fetched(&ended(one).await), fetched(&ended(two).await)];
    assert_eq!(folders[0], folders[1]);
    let mut downloads = server.downloads();
    downloads.sort();
    assert_eq!(downloads, ["/m/model.onnx", "/m/tokenizer.json", "/m/weights.bin"]);

    let cache = tempfile::tempdir().unwrap();
    let before = server.sent_bytes();
    let mut holder = fetch(cache.path(), &server.url()).spawn().unwrap();
    let began = Instant::now();
    while server.sent_bytes() - before < WEIGHTS / 4 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waiting = fetch(cache.path(), &server.url()).spawn().unwrap();
    holder.kill().unwrap();
    ended(holder).await;
    assert_eq!(fetched(&ended(waiting).await).file_name(), folders[0].file_name());
}

/// A small file system of its own; needs root rights, as the container that runs the tests has.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path());
        assert!(mount.status().unwrap().success(), "run this test as root, with the right to mount");
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0.path()).status());
    }
}

/// Row 15.
#[tokio::test]
async fn a_full_disk_is_told_harms_nothing_and_is_no_trouble_once_there_is_room() {
    let server = Server::start(Duration::ZERO).await;
    let disk = SmallDisk::mount("2m");
    let cache = disk.0.path().join("cache");
    let model = |name: &str, bytes: usize| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx"), graph()).unwrap();
        std::fs::write(folder.path().join("weights.bin"), vec![7; bytes]).unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), name).unwrap();
        folder
    };
    let (small, large) = (model("small", 400_000), model("large", 1 << 20));
    let first = fetched(&run(fetch(&cache, small.path().to_str().unwrap())).await);
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 900_000]).unwrap();
    for source in [large.path().to_str().unwrap(), &server.url()] {
        let output = run(fetch(&cache, source)).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("inference-gateway: DiskFull: "), "{}", stderr(&output));
        assert_eq!(names(&cache.join("staging")), Vec::<String>::new(), "the room is given back");
        assert_whole(&cache);
        assert_eq!(fetched(&run(fetch(&cache, small.path().to_str().unwrap())).await), first);
    }
    std::fs::remove_file(&ballast).unwrap();
    fetched(&run(fetch(&cache, &server.url())).await);
    assert_whole(&cache);
}
