//! A load client for streamed text generation: one thread, which while it measures only reads and looks at the clock.
//!
//! ```text
//! requests file ─▶ render all bodies ─▶ send, read, note the time of each read ─▶ afterwards: events, tokens, report
//! ```
//!
//! ```sh
//! cargo bench --bench load_client -- --address 127.0.0.1:3000 --dialect native --requests FILE [--streams N]
//! ```
//!
//! The file is a JSON list of `{"text": …, "token_ids": […], "tokens": 128, "at_seconds": 0.0, "group": "…"}`. With
//! `--streams` so many streams work through it, each beginning its next request when its last one has ended (closed
//! loop); without, each request begins at its `at_seconds`, whatever the server does (open loop). Sampling is greedy
//! and end-of-text tokens do not end a text, so that every server does the same work.
//!
//! Prints one JSON line: tokens a second, times to the first token, gaps between events, and its own CPU time, which a
//! server on the same cores has lost. Every request has a connection of its own, and connecting is part of its time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Room for a whole answer, so that reading rarely allocates.
const ANSWER_BYTES: usize = 256 * 1024;
/// What every event begins with. JSON escapes line ends, so no text can look like it.
const EVENT: &[u8] = b"\ndata: ";

#[derive(Parser)]
struct Arguments {
    /// Where the server listens.
    #[arg(long)]
    address: SocketAddr,
    /// What the server speaks.
    #[arg(long)]
    dialect: Dialect,
    /// JSON list of requests.
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// Closed loop with so many streams; without it, requests begin at their `at_seconds`.
    #[arg(long, value_name = "N")]
    streams: Option<NonZeroUsize>,
    /// Report the time of every event.
    #[arg(long)]
    times: bool,
    /// `cargo bench` adds this flag.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dialect {
    /// The gateway's own API.
    Native,
    /// `/completion` of llama.cpp's server.
    Llama,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    text: String,
    #[serde(default)]
    token_ids: Vec<u32>,
    tokens: usize,
    #[serde(default)]
    at_seconds: f64,
    #[serde(default)]
    group: String,
}

/// What came back, as it came.
struct Answer {
    began: Instant,
    /// When bytes came, and how many there were then.
    reads: Vec<(Instant, usize)>,
    bytes: Vec<u8>,
    failure: Option<std::io::Error>,
}

/// One answered request, in seconds since the beginning of all.
#[derive(Serialize)]
struct Report {
    group: String,
    began: f64,
    tokens: u64,
    prompt_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Times of the events that carry text.
    #[serde(skip)]
    events: Vec<f64>,
}

impl Dialect {
    fn render(self, address: SocketAddr, request: &Request) -> Vec<u8> {
        let Request { text, token_ids, tokens, at_seconds: _, group: _ } = request;
        let (path, body) = match self {
            Self::Native => (
                "/api/v1/inference",
                json!({
                    "text": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
                    "skip_special_tokens": false, "stream": true,
                }),
            ),
            Self::Llama => (
                "/completion",
                json!({
                    "prompt": if token_ids.is_empty() { json!(text) } else { json!(token_ids) },
                    "n_predict": tokens, "temperature": 0, "samplers": ["temperature"], "ignore_eos": true,
                    "cache_prompt": false, "stream": true,
                }),
            ),
        };
        let body = body.to_string();
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// Tokens of the output and of the prompt, from the last event.
    fn counts(self, last: &Value) -> Option<(u64, u64)> {
        let (of, output, prompt) = match self {
            Self::Native => (&last["metadata"], "tokens_generated", "prompt_tokens"),
            Self::Llama => (last, "tokens_predicted", "tokens_evaluated"),
        };
        Some((of[output].as_u64()?, of[prompt].as_u64()?))
    }
}

/// One request from connecting to the last byte.
async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut answer = Answer {
        began: Instant::now(),
        reads: Vec::with_capacity(2048),
        bytes: Vec::with_capacity(ANSWER_BYTES),
        failure: None,
    };
    answer.failure = read_all(address, request, &mut answer.reads, &mut answer.bytes).await.err();
    answer
}

async fn read_all(
    address: SocketAddr,
    request: &[u8],
    reads: &mut Vec<(Instant, usize)>,
    bytes: &mut Vec<u8>,
) -> std::io::Result<()> {
    let mut connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    connection.write_all(request).await?;
    while connection.read_buf(bytes).await? > 0 {
        reads.push((Instant::now(), bytes.len()));
    }
    Ok(())
}

/// `streams` at a time, in the order of the list; the answers keep that order.
async fn closed_loop(address: SocketAddr, bodies: &[Vec<u8>], streams: usize) -> Vec<Answer> {
    let next = Cell::new(0);
    let stream = || async {
        let mut answers = Vec::new();
        while let Some(body) = bodies.get(next.get()) {
            let index = next.replace(next.get() + 1);
            answers.push((index, exchange(address, body).await));
        }
        answers
    };
    let mut all: Vec<_> = join_all((0..streams).map(|_| stream())).await.into_iter().flatten().collect();
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, answer)| answer).collect()
}

/// Each at its own time.
async fn open_loop(address: SocketAddr, bodies: &[Vec<u8>], requests: &[Request]) -> Vec<Answer> {
    let begin = tokio::time::Instant::now();
    join_all(bodies.iter().zip(requests).map(|(body, request)| async move {
        tokio::time::sleep_until(begin + Duration::from_secs_f64(request.at_seconds)).await;
        exchange(address, body).await
    }))
    .await
}

/// Finds the events in an answer and reads the last one, which counts tokens.
fn report(dialect: Dialect, request: &Request, answer: &Answer, begin: Instant) -> Report {
    let Answer { began, reads, bytes, failure } = answer;
    let starts: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(EVENT)).collect();
    let last = starts.last().and_then(|&at| {
        let data = &bytes[at + EVENT.len()..];
        let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
        serde_json::from_slice::<Value>(&data[..end]).ok()
    });
    let counts = last.as_ref().and_then(|last| dialect.counts(last));
    let error = match (failure, counts) {
        (Some(failure), _) => Some(failure.to_string()),
        (None, Some((tokens, _))) if tokens == request.tokens as u64 => None,
        (None, Some((tokens, _))) => Some(format!("{tokens} tokens came, not {}", request.tokens)),
        (None, None) => {
            Some(format!("not a stream: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(400)])))
        }
    };
    let (tokens, prompt_tokens) = counts.unwrap_or_default();
    let mut reads = reads.iter().peekable();
    let mut events = Vec::with_capacity(starts.len());
    for at in starts.iter().take(starts.len().saturating_sub(1)) {
        while reads.next_if(|(_, length)| length <= at).is_some() {}
        if let Some((when, _)) = reads.peek() {
            events.push((*when - begin).as_secs_f64());
        }
    }
    Report {
        group: request.group.clone(),
        began: (*began - begin).as_secs_f64(),
        tokens,
        prompt_tokens,
        error,
        events,
    }
}

/// Tokens a second while all of `reports` were decoding: from the last first token to the first last one.
fn rate_of_all_together(reports: &[&Report]) -> Option<f64> {
    let from = reports.iter().filter_map(|r| r.events.first()).copied().fold(0.0, f64::max);
    let to = reports.iter().filter_map(|r| r.events.last()).copied().fold(f64::INFINITY, f64::min);
    let tokens: f64 = reports
        .iter()
        .filter(|report| !report.events.is_empty())
        .map(|report| {
            let inside = report.events.iter().filter(|&&time| time > from && time <= to).count();
            // An event can hold several tokens, when characters need them.
            inside as f64 * report.tokens as f64 / report.events.len() as f64
        })
        .sum();
    (to > from && to.is_finite()).then(|| tokens / (to - from))
}

fn milliseconds(mut seconds: Vec<f64>) -> Value {
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let rank = (share * seconds.len() as f64).ceil() as usize;
        seconds.get(rank.saturating_sub(1)).map(|value| rounded(value * 1e3, 3))
    };
    json!({"count": seconds.len(), "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": at(1.0)})
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn summary(reports: &[&Report]) -> Value {
    let tokens: u64 = reports.iter().map(|report| report.tokens).sum();
    let begin = reports.iter().map(|report| report.began).fold(f64::INFINITY, f64::min);
    let end = reports.iter().filter_map(|report| report.events.last()).copied().fold(begin, f64::max);
    let first = |report: &&Report| report.events.first().map(|first| first - report.began);
    let latency = |report: &&Report| report.events.last().map(|last| last - report.began);
    let gaps = reports.iter().flat_map(|report| report.events.windows(2).map(|pair| pair[1] - pair[0]));
    json!({
        "requests": reports.len(),
        "errors": reports.iter().filter(|report| report.error.is_some()).count(),
        "first_error": reports.iter().find_map(|report| report.error.as_deref()),
        "tokens": tokens,
        "prompt_tokens": reports.iter().map(|report| report.prompt_tokens).sum::<u64>(),
        "wall_seconds": rounded(end - begin, 6),
        "tokens_per_second": (end > begin).then(|| rounded(tokens as f64 / (end - begin), 3)),
        "together_tokens_per_second": rate_of_all_together(reports).map(|rate| rounded(rate, 3)),
        "first_token_ms": milliseconds(reports.iter().filter_map(first).collect()),
        "latency_ms": milliseconds(reports.iter().filter_map(latency).collect()),
        "gap_ms": milliseconds(gaps.collect()),
    })
}

#[expect(unsafe_code, reason = "getrusage has no safe wrapper in the crates that the project uses")]
fn own_cpu_seconds() -> f64 {
    // SAFETY: getrusage fills the struct it is given, for which all zeros are valid.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn main() -> Result<()> {
    let Arguments { address, dialect, requests, streams, times, bench: _ } = Arguments::parse();
    let text = std::fs::read(&requests).with_context(|| format!("failed to read {}", requests.display()))?;
    let requests: Vec<Request> =
        serde_json::from_slice(&text).context("failed to understand the requests")?;
    if requests.is_empty() {
        bail!("the file has no requests");
    }
    let bodies: Vec<Vec<u8>> = requests.iter().map(|request| dialect.render(address, request)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let cpu = own_cpu_seconds();
    let begin = Instant::now();
    let answers = match streams {
        Some(streams) => runtime.block_on(closed_loop(address, &bodies, streams.get())),
        None => runtime.block_on(open_loop(address, &bodies, &requests)),
    };
    let cpu = own_cpu_seconds() - cpu;

    let reports: Vec<Report> = requests
        .iter()
        .zip(&answers)
        .map(|(request, answer)| report(dialect, request, answer, begin))
        .collect();
    let mut groups: BTreeMap<&str, Vec<&Report>> = BTreeMap::new();
    for report in &reports {
        groups.entry(&report.group).or_default().push(report);
    }
    let mut output = summary(&reports.iter().collect::<Vec<_>>());
    output["client_cpu_seconds"] = json!(rounded(cpu, 6));
    output["each_first_token_ms"] = reports
        .iter()
        .map(|report| report.events.first().map(|first| rounded((first - report.began) * 1e3, 3)))
        .collect();
    if groups.len() > 1 {
        output["groups"] = groups.iter().map(|(name, reports)| (*name, summary(reports))).collect();
    }
    if times {
        output["each"] =
            reports.iter().map(|report| json!({"report": report, "events": report.events})).collect();
    }
    writeln!(std::io::stdout(), "{output}").context("failed to write the result")
}
