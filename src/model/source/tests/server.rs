//! An HTTP/1.1 server of the tests that keeps exact count of the bytes it sends and breaks the rules on demand.
//!
//! Written on plain sockets: a library would refuse to cut, to lie and to stall at a given byte.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::model::hexadecimal::hexadecimal;

/// What goes wrong with the next GET of a file that exists.
#[derive(Debug, Clone)]
pub(in crate::model) enum Trick {
    /// Close the connection after so many bytes of the body.
    CutAfter(usize),
    /// Say nothing more after so many bytes of the body.
    StallAfter(usize),
    /// One byte, and another one, and another one.
    Drip,
    /// This status and these headers instead of the file.
    Status(u16, &'static str),
    /// A 206 whose range begins elsewhere.
    WrongRange,
    /// A 206 for a version of another name, despite `If-Range`.
    OtherVersionRange,
    /// The whole file although a range was asked for.
    IgnoreRange,
    /// No length, and no end.
    Endless,
    /// These bytes instead of the file's, under the same headers.
    Corrupt,
    /// Nothing goes wrong.
    None,
}

/// What a path answers.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct Page {
    pub(in crate::model) body: Vec<u8>,
    /// 0 stands for 200.
    pub(in crate::model) status: u16,
    pub(in crate::model) headers: Vec<(&'static str, String)>,
}

impl Page {
    pub(in crate::model) fn file(body: &[u8], etag: &str) -> Self {
        Self { body: body.to_vec(), status: 200, headers: vec![("ETag", format!("\"{etag}\""))] }
    }

    pub(in crate::model) fn redirect(to: &str) -> Self {
        Self { status: 302, headers: vec![("Location", to.to_owned())], ..Self::default() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }
}

/// One request as it came in, and how much of a body it got.
#[derive(Debug, Clone)]
pub(in crate::model) struct Seen {
    pub(in crate::model) method: String,
    pub(in crate::model) path: String,
    pub(in crate::model) headers: HashMap<String, String>,
    pub(in crate::model) sent_bytes: usize,
}

#[derive(Default)]
struct State {
    pages: HashMap<String, Page>,
    tricks: VecDeque<Trick>,
    seen: Vec<Seen>,
}

/// Serves until it is dropped.
pub(in crate::model) struct Server {
    pub(in crate::model) address: String,
    state: Arc<Mutex<State>>,
    stalled: Arc<Notify>,
    _connections: JoinSet<()>,
}

impl Server {
    pub(in crate::model) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let stalled = Arc::<Notify>::default();
        let mut task = JoinSet::new();
        let (shared, notify) = (Arc::clone(&state), Arc::clone(&stalled));
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (state, stalled) = (Arc::clone(&shared), Arc::clone(&notify));
                connections.spawn(async move {
                    // A client that goes away is part of the tests.
                    drop(answer(socket, &state, &stalled).await);
                });
            }
        });
        Self { address, state, stalled, _connections: task }
    }

    pub(in crate::model) fn put(&self, path: &str, page: Page) {
        self.lock().pages.insert(path.to_owned(), page);
    }

    pub(in crate::model) fn play(&self, tricks: impl IntoIterator<Item = Trick>) {
        self.lock().tricks.extend(tricks);
    }

    /// Returns when a stalling answer has sent what it sends.
    pub(in crate::model) async fn has_stalled(&self) {
        self.stalled.notified().await;
    }

    pub(in crate::model) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub(in crate::model) fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// GETs of a page that exists, in order.
    pub(in crate::model) fn downloads(&self) -> Vec<Seen> {
        let state = self.lock();
        let of_a_page = |seen: &&Seen| seen.method == "GET" && state.pages.contains_key(&seen.path);
        state.seen.iter().filter(of_a_page).cloned().collect()
    }

    /// A file of the repository `o/r` as the hub serves large ones: known by its sha256, kept in a store elsewhere.
    pub(in crate::model) fn put_large(&self, commit: &str, path: &str, body: &[u8], store: &Server) {
        let digest = hexadecimal(&Sha256::digest(body));
        let stored = format!("/store/{digest}");
        store.put(&stored, Page::file(body, "etag-of-the-store"));
        let mut page = Page::redirect(&format!("{}?signature=secret", store.url(&stored)));
        page.headers.push(("X-Linked-ETag", format!("\"{digest}\"")));
        page.headers.push(("X-Linked-Size", body.len().to_string()));
        self.put_revisions(commit, path, page);
    }

    /// A file of the repository `o/r` as the hub serves small ones: by itself, known by the hash of the git object.
    pub(in crate::model) fn put_small(&self, commit: &str, path: &str, body: &[u8]) {
        let digest = hexadecimal(&Sha256::digest(body));
        self.put_revisions(commit, path, Page::file(body, &digest[..40]));
    }

    fn put_revisions(&self, commit: &str, path: &str, mut page: Page) {
        page.headers.push(("X-Repo-Commit", commit.to_owned()));
        for revision in ["main", commit] {
            self.put(&format!("/o/r/resolve/{revision}/{path}"), page.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// Answers one request and closes the connection.
async fn answer(socket: TcpStream, state: &Mutex<State>, stalled: &Notify) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    let (number, page, seen) = {
        let seen = read_request(&mut socket).await?;
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        (state.seen.len() - 1, state.pages.get(&seen.path).cloned(), seen)
    };
    let Some(mut page) = page else {
        return socket
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .await;
    };
    let trick = if seen.method == "GET" && page.status == 200 {
        state.lock().unwrap().tricks.pop_front().unwrap_or(Trick::None)
    } else {
        Trick::None
    };
    if let Trick::Status(status, headers) = trick {
        let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n");
        return socket.write_all(head.as_bytes()).await;
    }
    if matches!(trick, Trick::Corrupt) {
        page.body.iter_mut().for_each(|byte| *byte ^= 0xff);
    }
    let first = range_start(&page, &seen, &trick);
    let head = head(&page, first, &trick);
    socket.write_all(head.as_bytes()).await?;
    if seen.method == "HEAD" {
        return socket.flush().await;
    }
    let body = &page.body[first.unwrap_or(0)..];
    let length = match trick {
        Trick::CutAfter(bytes) | Trick::StallAfter(bytes) => bytes.min(body.len()),
        _ => body.len(),
    };
    // Counted first: the client may act on the last byte before we run again.
    state.lock().unwrap().seen[number].sent_bytes = length;
    socket.write_all(&body[..length]).await?;
    socket.flush().await?;
    match trick {
        Trick::StallAfter(_) => {
            stalled.notify_one();
            std::future::pending().await
        }
        Trick::Drip => loop {
            socket.write_all(b"x").await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        },
        Trick::Endless => loop {
            socket.write_all(&[0; 8192]).await?;
        },
        _ => Ok(()),
    }
}

async fn read_request(socket: &mut BufReader<TcpStream>) -> std::io::Result<Seen> {
    let mut line = String::new();
    socket.read_line(&mut line).await?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return Ok(Seen { method, path, headers, sent_bytes: 0 });
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
}

/// The first byte of a 206; `None` for a whole answer.
fn range_start(page: &Page, seen: &Seen, trick: &Trick) -> Option<usize> {
    let first: usize = seen.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()?;
    let asked_for = seen.headers.get("if-range").map(String::as_str);
    let current = asked_for == page.header("ETag") || matches!(trick, Trick::OtherVersionRange);
    (current && first <= page.body.len() && !matches!(trick, Trick::IgnoreRange)).then_some(first)
}

fn head(page: &Page, first: Option<usize>, trick: &Trick) -> String {
    let total = page.body.len();
    let status = if page.status == 0 { 200 } else { page.status };
    let mut head = match first {
        Some(first) if first == total => format!("HTTP/1.1 416 X\r\nContent-Range: bytes */{total}\r\n"),
        Some(first) => {
            let told = if matches!(trick, Trick::WrongRange) { first - 1 } else { first };
            format!("HTTP/1.1 206 X\r\nContent-Range: bytes {told}-{}/{total}\r\n", total - 1)
        }
        None => format!("HTTP/1.1 {status} X\r\n"),
    };
    for (name, value) in &page.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    match trick {
        Trick::Endless => {}
        Trick::Drip => head += "Content-Length: 1000000\r\n",
        _ => write!(head, "Content-Length: {}\r\n", total - first.unwrap_or(0)).unwrap(),
    }
    head + "Connection: close\r\n\r\n"
}
