//! Clients that send without end: bodies, headers, frames. The connection ends, memory stays, and others are answered.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cli::{Served, serve};
use crate::harness::{PATIENCE, client, spawn, tiny};

const MEBIBYTE: usize = 1 << 20;
/// What all floods together may add to the memory of the process.
const MOST_GROWTH_BYTES: u64 = 50 << 20;
/// Time for what comes back when all is sent, on connections that the gateway does not end.
const ANSWER: Duration = Duration::from_secs(10);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: &str = "POST /api/v1/inference HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n";

// Types and flags of frames. From: RFC 9113, section 6
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// How a flood went.
struct Outcome {
    /// Whether the gateway ended the connection before all was sent.
    ended: bool,
    /// What came back, its beginning and its end.
    answer: Vec<u8>,
}

/// Sends the pieces one after the other, and reads what comes back meanwhile.
async fn flood(address: &str, pieces: impl Iterator<Item = Vec<u8>>) -> Outcome {
    let (mut from, mut to) = TcpStream::connect(address).await.unwrap().into_split();
    let mut read = spawn(async move {
        let (mut answer, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..count]);
            if answer.len() > MEBIBYTE {
                answer.drain(1 << 16..answer.len() - (1 << 16));
            }
        }
        answer
    });
    let mut ended = false;
    for piece in pieces {
        if read.is_finished() || to.write_all(&piece).await.is_err() {
            ended = true;
            break;
        }
    }
    // Who closes the half that sends does not want the answer any more.
    let answer = match tokio::time::timeout(ANSWER, &mut read).await {
        Ok(answer) => answer,
        Err(_nothing_ends_it) => {
            drop(to);
            tokio::time::timeout(PATIENCE, read).await.expect("the connection ends")
        }
    };
    Outcome { ended, answer: answer.unwrap() }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `POST http://gateway/api/v1/inference`, as HPACK writes it. From: RFC 7541, appendix A
fn request_head() -> Vec<u8> {
    let path = b"/api/v1/inference";
    [&[0x83, 0x86, 0x04, path.len() as u8], &path[..], &[0x01, 7], b"gateway"].concat()
}

/// The beginning of a connection of HTTP/2, and then these frames.
fn frames(rest: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].into_iter().chain(rest)
}

/// Whether a frame of this type is at a place where one may begin. The answer is the gateway's, and its frames are small.
fn has_frame(answer: &[u8], kind: u8) -> bool {
    let mut rest = answer;
    while rest.len() >= 9 {
        if rest[3] == kind {
            return true;
        }
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    false
}

async fn others_are_answered(served: &Served) {
    let request = json!({"text": "Once", "max_tokens": 4, "ignore_eos": true});
    let url = format!("http://{}/api/v1/inference", served.api);
    let answer = client().post(url).body(request.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_without_an_end_and_of_many_pieces_cost_no_memory() {
    let served = serve(&tiny("llama"), &["--body-timeout=20s"]);
    others_are_answered(&served).await;
    let before = served.resident_bytes();

    let declared = format!("{HEAD}Content-Length: {}\r\n\r\n", 100 * MEBIBYTE);
    let body = std::iter::repeat_n(vec![b'a'; MEBIBYTE], 100);
    let large = flood(&served.api, std::iter::once(declared.into_bytes()).chain(body)).await;
    assert!(large.ended, "100 MiB were taken");
    // Who still sends when the connection is closed may not get to read why.
    let told = String::from_utf8_lossy(&large.answer).into_owned();
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 413"), "{told}");

    let chunked = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    let chunk = [b"10000\r\n", &vec![b'a'; 1 << 16][..], b"\r\n"].concat();
    let endless = std::iter::once(chunked.clone()).chain(std::iter::repeat_n(chunk, 4096));
    let endless = flood(&served.api, endless).await;
    assert!(endless.ended, "256 MiB were taken");
    let told = String::from_utf8_lossy(&endless.answer).into_owned();
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 413"), "{told}");

    // A million pieces of a body that is not too large.
    let tiny_chunks = std::iter::repeat_n(b"1\r\na\r\n".repeat(10_000), 100);
    let end = std::iter::once(b"0\r\n\r\n".to_vec());
    let pieces = flood(&served.api, std::iter::once(chunked).chain(tiny_chunks).chain(end)).await;
    let told = String::from_utf8_lossy(&pieces.answer).into_owned();
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("invalid_json"), "{told}");

    others_are_answered(&served).await;
    let grown = served.resident_bytes().saturating_sub(before);
    assert!(grown < MOST_GROWTH_BYTES, "{} MiB more", grown >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_their_connection_and_cost_no_memory() {
    let served = serve(&tiny("llama"), &["--body-timeout=2s"]);
    others_are_answered(&served).await;
    let before = served.resident_bytes();

    // Requests that are taken back at once.
    let resets = (0..500_000).map(|number| {
        let stream = 2 * number + 1;
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &request_head()), reset].concat()
    });
    let outcome = flood(&served.api, frames(resets)).await;
    assert!(outcome.ended && has_frame(&outcome.answer, GOAWAY), "half a million resets were taken");

    // A head that never ends: one header after the other.
    let header = [&[0x00, 1, b'x', 0x7f, 0x81, 0x7c][..], &vec![b'v'; 16_000]].concat();
    let continued = std::iter::repeat_n(frame(CONTINUATION, 0, 1, &header), 16_000);
    let head = std::iter::once(frame(HEADERS, 0, 1, &request_head()));
    let outcome = flood(&served.api, frames(head.chain(continued))).await;
    assert!(outcome.ended, "256 MB of headers were taken");

    // Pieces of a body that are empty.
    let head = std::iter::once(frame(HEADERS, END_HEADERS, 1, &request_head()));
    let empty = std::iter::from_fn(|| Some(frame(DATA, 0, 1, &[]).repeat(1000))).take(100_000);
    let outcome = flood(&served.api, frames(head.chain(empty))).await;
    assert!(outcome.ended, "a hundred million empty pieces were taken");

    // Questions that have to be answered.
    let pings = std::iter::repeat_n(frame(PING, 0, 0, &[0; 8]).repeat(1000), 100);
    flood(&served.api, frames(pings)).await;

    others_are_answered(&served).await;
    // What is freed is given back a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let grown = served.resident_bytes().saturating_sub(before);
    assert!(grown < MOST_GROWTH_BYTES, "{} MiB more", grown >> 20);
}
