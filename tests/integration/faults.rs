//! What goes wrong with a model while another revision serves: the old one answers throughout, the reason is told, nothing is
//! tried for ever. A client in the background may not see one failure.

mod artifacts;
#[cfg(feature = "failpoints")]
mod crashes;
mod downloads;
mod swaps;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Gateway, ModelsList, PATIENCE, ids, spawn, tiny};

/// What the client in the background asks.
const PROMPT: &str = "Once upon a time";

/// A client that asks one model all the time, streaming and not, over connections that it keeps.
struct Background {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    task: JoinHandle<Result<(), String>>,
}

impl Background {
    /// Begins to ask; every answer must be the tokens that the model gives now.
    async fn start(gateway: &Gateway) -> Self {
        let golden = gateway.greedy(PROMPT, 6).await;
        Self::expecting(gateway, vec![golden])
    }

    /// Begins to ask; answers are those of `tiny/llama`, and from some moment on those of `next`.
    async fn across_a_swap_to(gateway: &Gateway, next: &str) -> Self {
        let before = gateway.greedy(PROMPT, 6).await;
        let after = Gateway::serving(&tiny(next), &[]).await.greedy(PROMPT, 6).await;
        assert_ne!(before, after, "the models cannot be told apart");
        Self::expecting(gateway, vec![before, after])
    }

    /// Each answer is one of `goldens`, and none comes after a later one.
    fn expecting(gateway: &Gateway, goldens: Vec<Vec<u64>>) -> Self {
        let url = format!("http://{}/api/v1/inference", gateway.api);
        let client = reqwest::Client::new();
        let body = |stream: bool| {
            json!({"text": PROMPT, "max_tokens": 6, "temperature": 0, "ignore_eos": true,
                   "return_token_ids": true, "stream": stream})
        };
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (ended, counted) = (Arc::clone(&stop), Arc::clone(&answers));
        let task = spawn(async move {
            let (mut turn, mut reached) = (0, 0);
            while !ended.load(Ordering::Relaxed) {
                turn += 1;
                let tokens = ask(&client, &url, &body(turn % 2 == 0)).await?;
                let found = goldens[reached..].iter().position(|golden| *golden == tokens);
                reached +=
                    found.ok_or_else(|| format!("{tokens:?} instead of {goldens:?} from {reached} on"))?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { stop, answers, task }
    }

    /// Ends it: it has asked, and has seen no failure.
    async fn saw_no_failure(self) {
        let began = Instant::now();
        while self.answers.load(Ordering::Relaxed) < 5 && !self.task.is_finished() {
            assert!(began.elapsed() < PATIENCE, "the client hardly got an answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap().unwrap();
    }
}

/// The tokens of an answer, or what is wrong with it.
async fn ask(client: &reqwest::Client, url: &str, body: &Value) -> Result<Vec<u64>, String> {
    let response =
        client.post(url).body(body.to_string()).send().await.map_err(|error| format!("{error:?}"))?;
    let status = response.status();
    let text = response.text().await.map_err(|error| format!("{error:?}"))?;
    let last = text.trim_end().rsplit("data: ").next().unwrap_or_default();
    let answer: Value = serde_json::from_str(last).unwrap_or_default();
    match (status.as_u16(), &answer["metadata"]["token_ids"]) {
        (200, tokens @ Value::Array(_)) => Ok(ids(tokens)),
        _ => Err(format!("{status}: {text}")),
    }
}

/// A gateway that serves `chat` from tiny/llama, and the list to change that.
async fn serving(flags: &[&str]) -> (ModelsList, Gateway) {
    let list = ModelsList::new(&model(&tiny("llama"), ""));
    let gateway = list.gateway(flags).await;
    gateway.wait_ready().await;
    (list, gateway)
}

/// The list entry of `chat` from a folder that is copied to the store; `fields` follow the source.
fn model(folder: &str, fields: &str) -> String {
    sourced(&format!("{{path: {}}}", folder.strip_prefix('/').unwrap()), fields)
}

fn sourced(source: &str, fields: &str) -> String {
    let fields = if fields.is_empty() { String::new() } else { format!(", {fields}") };
    format!("- {{name: chat, spec: {{source: {source}{fields}}}}}\n")
}

/// A copy of a tiny model that a test may break.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(tiny(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

fn text(folder: &tempfile::TempDir) -> String {
    folder.path().display().to_string()
}

/// Applies a list and waits until its revision has failed; returns reason and message as `/readyz` tells them.
async fn refused(list: &ModelsList, gateway: &Gateway, entry: &str) -> String {
    let before = gateway.readyz().await.1["models"][0]["revision"].clone();
    list.write(entry);
    gateway.reload();
    let body = wait(gateway, |model| {
        model["state"] == "failed" && model["revision"] != before && model["reason"].is_string()
    })
    .await;
    assert_eq!(body["ready"], true, "what serves goes on: {body}");
    body["reason"].as_str().unwrap().to_owned()
}

/// Waits until `/readyz` tells of the first model what `holds`; returns it.
async fn wait(gateway: &Gateway, holds: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (_, body) = gateway.readyz().await;
        if holds(&body["models"][0]) {
            return body["models"][0].clone();
        }
        assert!(began.elapsed() < PATIENCE, "{body}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Applies a list and waits until its revision answers.
async fn applied(list: &ModelsList, gateway: &Gateway, entry: &str) -> String {
    let before = gateway.readyz().await.1["models"][0]["serving"].clone();
    list.write(entry);
    gateway.reload();
    let model = wait(gateway, |model| model["state"] == "ready" && model["serving"] != before).await;
    model["serving"].as_str().unwrap().to_owned()
}

async fn swaps(gateway: &Gateway) -> f64 {
    gateway.sample("inference_gateway_model_swaps_total{model=\"chat\",reason=\"update\"}").await
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}
