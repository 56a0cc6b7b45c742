//! Company for a request: other generations that arrive and leave while it runs.
//!
//! What arrives is drawn from a seed; when it arrives and leaves is tied to the progress of streams, not to a clock.

use futures_util::StreamExt;
use futures_util::future::join_all;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg32;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::Gateway;

/// Others: each seat is taken by one generation after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Company {
    pub(crate) seed: u64,
    pub(crate) seats: usize,
    pub(crate) longest_prompt_words: usize,
    pub(crate) most_tokens: usize,
}

const WORDS: [&str; 12] =
    ["a", "the", "water", "of", "one", "light", "2", "(", "and", "village", "\n", "because"];

impl Company {
    /// Does `work` while every seat is taken; when it is done, everybody leaves.
    pub(crate) async fn around<T>(self, gateway: &Gateway, work: impl Future<Output = T>) -> T {
        let seats = join_all((0..self.seats).map(|seat| self.occupy(gateway, seat)));
        tokio::select! {
            done = work => done,
            _ = seats => panic!("the seats are taken for ever"),
        }
    }

    /// One generation after another; about half of them leave before their end.
    async fn occupy(self, gateway: &Gateway, seat: usize) {
        let mut random = Pcg32::seed_from_u64(self.seed.wrapping_mul(1000) + seat as u64);
        loop {
            let words = random.random_range(1..=self.longest_prompt_words);
            let text: Vec<&str> = (0..words).map(|_| WORDS[random.random_range(0..WORDS.len())]).collect();
            let max_tokens = random.random_range(self.most_tokens / 4..=self.most_tokens);
            let patience_pieces =
                if random.random_bool(0.5) { random.random_range(0..max_tokens) } else { usize::MAX };
            let request = json!({
                "text": text.join(" "), "max_tokens": max_tokens, "ignore_eos": true, "stream": true,
                "temperature": if random.random_bool(0.5) { 0.0 } else { 1.0 }, "seed": random.random::<u32>(),
            });
            let mut stream = Stream::open(gateway, &request).await;
            while stream.pieces < patience_pieces && stream.next().await.is_some() {}
        }
    }
}

/// A streamed generation.
pub(crate) struct Stream {
    body: futures_util::stream::BoxStream<'static, reqwest::Result<axum::body::Bytes>>,
    buffer: Vec<u8>,
    /// Pieces of text that have come.
    pub(crate) pieces: usize,
}

impl Stream {
    /// Returns when the generation was accepted, which is before its first token.
    pub(crate) async fn open(gateway: &Gateway, request: &Value) -> Self {
        let response = gateway.post(request.to_string()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{request}");
        Self { body: response.bytes_stream().boxed(), buffer: Vec::new(), pieces: 0 }
    }

    /// The next event, `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let Some(data) = event.strip_prefix(b"data: ") else {
                    continue;
                };
                let data: Value = serde_json::from_slice(data).unwrap();
                assert!(data.get("error").is_none(), "{data}");
                self.pieces += usize::from(data.get("text").is_some());
                return Some(data);
            }
            self.buffer.extend_from_slice(&self.body.next().await?.unwrap());
        }
    }
}

/// Runs the requests, each of which arrives when the one before it has got `apart_pieces` pieces of text or has ended;
/// returns their metadata.
pub(crate) async fn staggered(gateway: &Gateway, requests: &[Value], apart_pieces: usize) -> Vec<Value> {
    let (_, mut before) = watch::channel(usize::MAX);
    let clients = requests.iter().map(|request| {
        let (told, seen) = watch::channel(0);
        let mut earlier = std::mem::replace(&mut before, seen);
        async move {
            // An earlier one that has ended is gone, which is the same news.
            drop(earlier.wait_for(|pieces| *pieces >= apart_pieces).await);
            let mut stream = Stream::open(gateway, request).await;
            while let Some(event) = stream.next().await {
                told.send_replace(stream.pieces);
                if let Some(metadata) = event.get("metadata") {
                    return metadata.clone();
                }
            }
            panic!("the stream ended without its end: {request}")
        }
    });
    join_all(clients).await
}

/// Steps in which more than `rows` rows decoded together; `rows` is 0 or a bound of the histogram's buckets.
pub(crate) async fn steps_of_more_than(gateway: &Gateway, rows: usize) -> f64 {
    let all = gateway.sample("inference_gateway_step_rows_count{model=\"tiny\"}").await;
    let bucket = format!("inference_gateway_step_rows_bucket{{model=\"tiny\",le=\"{rows}.0\"}}");
    all - gateway.sample(&bucket).await
}

/// Prompt tokens that were copied from a kept beginning.
pub(crate) async fn prefix_hits(gateway: &Gateway) -> f64 {
    gateway.sample("inference_gateway_prefix_hit_tokens_total{model=\"tiny\"}").await
}
