//! A watch that goes through the proxy: line by line, as the proxy is told to behave now.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::proxy::Behaviour;

/// A watch that is ended early is ended after so long.
const SHORT: Duration = Duration::from_secs(1);
/// Bookmarks come so often where nothing else does.
const BOOKMARK_PERIOD: Duration = Duration::from_millis(500);

/// An answer of the apiserver.
pub(crate) struct Relay {
    pub(crate) response: reqwest::Response,
    /// Version at which the watch was asked to begin.
    pub(crate) version: String,
}

/// What was told until now.
struct Told {
    lines: mpsc::Sender<Result<Bytes, Infallible>>,
    /// Version of the last event that was passed on.
    version: String,
    /// The event before the last one.
    before: Option<String>,
    held: Vec<String>,
}

/// Passes lines on until the apiserver ends the watch, the client leaves, or the proxy is to end it.
pub(crate) async fn relay(
    answer: Relay,
    mut behaviour: watch::Receiver<Behaviour>,
    lines: mpsc::Sender<Result<Bytes, Infallible>>,
) {
    let Relay { mut response, version } = answer;
    let mut told = Told { lines, version, before: None, held: Vec::new() };
    let mut now = *behaviour.borrow_and_update();
    let (began, mut rest) = (Instant::now(), Vec::new());
    let mut bookmarks = tokio::time::interval(BOOKMARK_PERIOD);
    if now == Behaviour::EndsWatchesAtOnce {
        return;
    }
    loop {
        let ends_early = matches!(now, Behaviour::EndsWatches | Behaviour::CutsShort);
        tokio::select! {
            chunk = response.chunk() => match chunk {
                Ok(Some(chunk)) => rest.extend_from_slice(&chunk),
                _ => return,
            },
            changed = behaviour.changed() => {
                now = *behaviour.borrow_and_update();
                if changed.is_err() || now.ends_open_watches() {
                    return;
                }
                if now == Behaviour::Silent {
                    // Whoever it fell silent to hears nothing any more, as on a connection whose other end is gone.
                    told.lines.closed().await;
                    return;
                }
                if now == Behaviour::Good {
                    for line in std::mem::take(&mut told.held) {
                        told.pass(&line).await;
                    }
                }
            }
            () = told.lines.closed() => return,
            () = sleep_until(began + SHORT), if ends_early => {
                if now == Behaviour::CutsShort {
                    told.send("{\"type\":\"MODIFIED\",\"object\":{\"kind\":").await;
                }
                return;
            }
            _ = bookmarks.tick(), if now == Behaviour::HoldsEvents => told.bookmark().await,
        }
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            match now {
                Behaviour::CutsShort => {
                    told.send(&line[..line.len() / 2]).await;
                    return;
                }
                Behaviour::HoldsEvents => told.held.push(line),
                Behaviour::RepeatsEvents => told.repeat(line).await,
                _ => told.pass(&line).await,
            }
        }
    }
}

impl Told {
    async fn send(&self, text: &str) {
        // An error means that the client has left, which is seen elsewhere.
        drop(self.lines.send(Ok(Bytes::from(text.to_owned()))).await);
    }

    async fn pass(&mut self, line: &str) {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(version) = event["object"]["metadata"]["resourceVersion"].as_str() {
            version.clone_into(&mut self.version);
        }
        self.send(line).await;
    }

    /// Twice, and then the one before once more.
    async fn repeat(&mut self, line: String) {
        self.pass(&line).await;
        self.send(&line).await;
        if let Some(before) = self.before.replace(line) {
            self.send(&before).await;
        }
    }

    /// A bookmark that promises no more than was told.
    async fn bookmark(&self) {
        let bookmark = json!({"type": "BOOKMARK", "object": {
            "apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model",
            "metadata": {"resourceVersion": self.version, "creationTimestamp": null}}});
        self.send(&format!("{bookmark}\n")).await;
    }
}
