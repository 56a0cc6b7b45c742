//! Swaps under load, as a process of its own: no request fails, no answer is of another revision than it says, and nothing
//! is left behind.
//!
//! `make soak` runs 500 swaps between two real models with the release build; here the same is done with fewer and tiny ones,
//! and builds that leak or mix must not pass.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "`make soak` sets variables and reads what it prints"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, ids, prepared, spawn, tiny};

const PROMPTS: [&str; 3] = ["Once upon a time", "The capital of France is", "abc"];
const TOKENS: usize = 12;
const CLIENTS: usize = 4;
/// Memory is compared with that after this swap.
const SETTLED: usize = 5;

/// A gateway in a process of its own.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) api: String,
    pub(crate) ops: String,
    pub(crate) admin: String,
    pub(crate) client: reqwest::Client,
    /// Cache, state and the list of models.
    pub(crate) folder: Arc<tempfile::TempDir>,
}

/// What the operating system says of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    resident_bytes: u64,
    /// Of them, pages of files: the system takes and gives them as it likes.
    mapped_bytes: u64,
    threads: usize,
    files: usize,
}

impl Process {
    pub(crate) fn start(faults: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("models.yaml"), "[]").unwrap();
        Self::start_in(Arc::new(folder), faults)
    }

    /// Starts with the list, the cache and the state of an earlier process.
    pub(crate) fn start_in(folder: Arc<tempfile::TempDir>, faults: &str) -> Self {
        let executable = std::env::var("SOAK_EXECUTABLE")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_inference-gateway").to_owned());
        let mut child = Command::new(executable)
            .args([
                "--listen-address=127.0.0.1:0",
                "--ops-address=127.0.0.1:0",
                "--admin-address=127.0.0.1:0",
                "--log-format=json",
            ])
            .args(["--threads=2", "--spinning=false", "--model-root=/"])
            .arg(format!("--models-file={}", folder.path().join("models.yaml").display()))
            .arg(format!("--cache-dir={}", folder.path().join("cache").display()))
            .env("FAILPOINTS", faults)
            .env("INFERENCE_MEMORY_LIMIT", "3Gi")
            .env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so"))
            .env("INFERENCE_ADMIN_ADDRESS", "127.0.0.1:0")
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening: Value = loop {
            let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line.to_string().contains("\"listening\"") {
                break line;
            }
        };
        // Somebody has to read the rest.
        std::thread::spawn(move || lines.for_each(drop));
        let address = |name: &str| {
            let found = listening[name].as_str().or_else(|| listening["fields"][name].as_str());
            found.unwrap().to_owned()
        };
        let (api, ops, admin) = (address("api"), address("ops"), address("admin"));
        drop(rustls::crypto::ring::default_provider().install_default());
        Self { child, api, ops, admin, client: reqwest::Client::new(), folder }
    }

    pub(crate) fn write_list(&self, entry: &str) {
        let staged = self.folder.path().join("new");
        std::fs::write(&staged, entry).unwrap();
        std::fs::rename(staged, self.folder.path().join("models.yaml")).unwrap();
        let reload = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status();
        assert!(reload.unwrap().success());
    }

    /// Waits until the model of the list answers and nothing drains; returns its revision.
    pub(crate) async fn wait_serving(&self, other_than: &str) -> String {
        let began = Instant::now();
        loop {
            let url = format!("http://{}/readyz", self.ops);
            let body: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
            let model = &body["models"][0];
            if model["state"] == "ready" && model["serving"] != other_than {
                return model["serving"].as_str().unwrap().to_owned();
            }
            assert_ne!(model["state"], "failed", "{body}");
            assert!(began.elapsed() < PATIENCE * 3, "{body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What `/readyz` says of the first model.
    pub(crate) async fn model(&self) -> Value {
        let url = format!("http://{}/readyz", self.ops);
        let body: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        body["models"][0].clone()
    }

    /// Whether an earlier revision is still held.
    async fn is_draining(&self) -> bool {
        let url = format!("http://{}/admin/models", self.admin);
        let body: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        !body["models"][0]["going"].as_array().unwrap().is_empty()
    }

    fn usage(&self) -> Usage {
        let proc = format!("/proc/{}", self.child.id());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let number = |label: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(label)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Usage {
            resident_bytes: number("VmRSS:") * 1024,
            mapped_bytes: number("RssFile:") * 1024,
            threads: number("Threads:") as usize,
            files: std::fs::read_dir(format!("{proc}/fd")).unwrap().count(),
        }
    }

    /// One answer: the revision that it names, and its tokens.
    pub(crate) async fn ask(&self, prompt: &str, stream: bool) -> Result<(String, Vec<u64>), String> {
        let body = json!({
            "text": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
            "stream": stream,
        });
        let url = format!("http://{}/api/v1/inference", self.api);
        let response = self.client.post(url).body(body.to_string()).send().await;
        let response = response.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let revision =
            response.headers().get("x-model-revision").map(|value| value.to_str().unwrap().to_owned());
        let mut text = String::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            text.push_str(&String::from_utf8_lossy(&piece.map_err(|error| format!("{error:?}"))?));
        }
        let last = if stream { text.trim_end().rsplit("data: ").next().unwrap_or_default() } else { &text };
        let answer: Value = serde_json::from_str(last).map_err(|error| format!("{error}: {text}"))?;
        match (status.as_u16(), revision, &answer["metadata"]["token_ids"]) {
            (200, Some(revision), tokens @ Value::Array(_)) => Ok((revision, ids(tokens))),
            _ => Err(format!("{status}: {text}")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A model of the list, by folder, with the digest that keeps the gateway from reading the folder again.
struct Model {
    entry: String,
}

impl Model {
    /// Packs a copy of the folder, so that the prepared one stays as it is.
    fn new(folder: &Path, copies: &Path) -> Self {
        let copy = copies.join(folder.file_name().unwrap());
        std::fs::create_dir_all(&copy).unwrap();
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
            }
        }
        let packed =
            Command::new(env!("CARGO_BIN_EXE_inference-gateway")).arg("pack").arg(&copy).output().unwrap();
        let digest = String::from_utf8(packed.stdout).unwrap();
        let path = copy.display().to_string();
        let entry = format!(
            "- name: chat\n  spec:\n    source: {{path: {}, digest: '{}'}}\n    runtime: {{maxBatchSize: 8, \
             cacheMemory: 64Mi, prefixMemory: 16Mi, contextLength: 128}}\n    rollout: {{watch: {{windowSeconds: 0}}}}\n",
            path.strip_prefix('/').unwrap(),
            digest.trim()
        );
        Self { entry }
    }
}

/// What was found in a soak.
struct Outcome {
    answers: usize,
    failures: Vec<String>,
    early: Usage,
    late: Usage,
    swap_seconds: Vec<f64>,
}

/// Golden answers by revision and prompt.
type Golden = BTreeMap<(String, usize), Vec<u64>>;

async fn soak(folders: [&Path; 2], swaps: usize, faults: &str) -> Outcome {
    let copies = tempfile::tempdir().unwrap();
    let models = folders.map(|folder| Model::new(folder, copies.path()));
    let process = Arc::new(Process::start(faults));
    let mut golden = Golden::new();
    let mut serving = String::new();
    for model in &models {
        process.write_list(&model.entry);
        serving = process.wait_serving(&serving).await;
        for (index, prompt) in PROMPTS.iter().enumerate() {
            golden.insert((serving.clone(), index), process.ask(prompt, false).await.unwrap().1);
        }
    }
    let revisions: Vec<&String> = golden.keys().map(|(revision, _)| revision).collect();
    assert!(revisions.first() != revisions.last(), "the models are two");

    let (golden, failures) = (Arc::new(golden), Arc::new(Mutex::new(Vec::new())));
    let (answers, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (process, golden, failures) =
                (Arc::clone(&process), Arc::clone(&golden), Arc::clone(&failures));
            let (answers, stop) = (Arc::clone(&answers), Arc::clone(&stop));
            spawn(async move {
                for turn in client.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let index = turn % PROMPTS.len();
                    let wrong = match process.ask(PROMPTS[index], turn % 2 == 0).await {
                        Ok((revision, tokens)) => {
                            let expected = golden.get(&(revision.clone(), index));
                            (expected != Some(&tokens))
                                .then(|| format!("{revision} gives {tokens:?}, not {expected:?}"))
                        }
                        Err(error) => Some(error),
                    };
                    answers.fetch_add(1, Ordering::Relaxed);
                    failures.lock().unwrap().extend(wrong);
                }
            })
        })
        .collect();
    let (mut early, mut swap_seconds) = (None, Vec::new());
    // An odd number, so that the last one brings the same model as the fifth.
    for swap in 0..(swaps | 1) {
        let began = Instant::now();
        process.write_list(&models[swap % 2].entry);
        serving = process.wait_serving(&serving).await;
        swap_seconds.push(began.elapsed().as_secs_f64());
        if swap + 1 == SETTLED {
            early = Some(settled(&process).await);
        }
        if (swap + 1) % 50 == 0 {
            println!(
                "{} swaps, {} answers, {:?}",
                swap + 1,
                answers.load(Ordering::Relaxed),
                process.usage()
            );
        }
    }
    let late = settled(&process).await;
    stop.store(true, Ordering::Relaxed);
    join_all(clients).await;
    let failures = std::mem::take(&mut *failures.lock().unwrap());
    Outcome { answers: answers.load(Ordering::Relaxed), failures, early: early.unwrap(), late, swap_seconds }
}

/// Usage once the old revision is gone: the least of a few looks.
async fn settled(process: &Process) -> Usage {
    let began = Instant::now();
    while process.is_draining().await {
        assert!(began.elapsed() < PATIENCE * 3, "the old revision is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut least = process.usage();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = process.usage();
        least = Usage {
            resident_bytes: least.resident_bytes.min(now.resident_bytes),
            mapped_bytes: least.mapped_bytes.min(now.mapped_bytes),
            threads: least.threads.min(now.threads),
            files: least.files.min(now.files),
        };
    }
    least
}

impl Outcome {
    /// What must hold; the first thing that does not.
    fn verdict(&self) -> Result<(), String> {
        let Self { answers, failures, early, late, swap_seconds: _ } = self;
        if let Some(first) = failures.first() {
            return Err(format!("{} of {answers} answers are wrong; the first: {first}", failures.len()));
        }
        if *answers < 20 {
            return Err(format!("only {answers} answers"));
        }
        let (before, after) = (early.resident_bytes as f64, late.resident_bytes as f64);
        if (after / before - 1.0).abs() > 0.15 {
            return Err(format!("memory went from {before} to {after} bytes"));
        }
        // Connections, and threads that tokenise, come and go with the clients.
        if late.threads > early.threads + CLIENTS || late.files > early.files + CLIENTS {
            return Err(format!("threads or files are left behind: {early:?}, {late:?}"));
        }
        Ok(())
    }

    fn print(&self) {
        let mut seconds = self.swap_seconds.clone();
        seconds.sort_by(f64::total_cmp);
        let of = |part: f64| seconds[((seconds.len() - 1) as f64 * part) as usize];
        println!(
            "{} swaps: median {:.2} s, longest {:.2} s; {} answers, {} wrong; after swap {SETTLED} {:?}, at the end {:?}",
            seconds.len(),
            of(0.5),
            of(1.0),
            self.answers,
            self.failures.len(),
            self.early,
            self.late
        );
    }
}

/// Two tiny models whose tokenizers are the same and whose answers differ.
fn two_tiny() -> [String; 2] {
    [tiny("llama"), tiny("gpt2")]
}

async fn tiny_soak(swaps: usize, faults: &str) -> Outcome {
    let [a, b] = two_tiny();
    let outcome = soak([Path::new(&a), Path::new(&b)], swaps, faults).await;
    outcome.print();
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_lose_nothing_mix_nothing_and_leave_nothing_behind() {
    tiny_soak(20, "").await.verdict().unwrap();
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_leaks_models_does_not_pass() {
    let verdict = tiny_soak(12, "in-reaper=return(leak)").await.verdict();
    let told = verdict.unwrap_err();
    assert!(told.contains("memory went") || told.contains("left behind"), "{told}");
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_mixes_revisions_does_not_pass() {
    let verdict = tiny_soak(12, "in-answer=return(mix)").await.verdict();
    let told = verdict.unwrap_err();
    assert!(told.contains("answers are wrong"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "most of an hour: `make soak` runs it with the release build"]
async fn five_hundred_swaps_between_two_real_models() {
    let models =
        ["w8a8", "int8"].map(|precision| prepared(&format!("models/smollm2-135m-instruct-{precision}")));
    let swaps = std::env::var("SOAK_SWAPS").map_or(500, |text| text.parse().unwrap());
    let outcome = soak([&models[0], &models[1]], swaps, "").await;
    outcome.print();
    outcome.verdict().unwrap();
}

/// Gaps between the tokens of streams on one model, in milliseconds, while `during` runs.
async fn gaps_while<F: Future<Output = ()>>(process: &Process, during: F) -> Vec<f64> {
    const STREAMS: usize = 4;
    let stop = AtomicBool::new(false);
    let stream = async || {
        let body = json!({"model": "steady", "text": "Once upon a time", "max_tokens": 200, "temperature": 0,
                          "ignore_eos": true, "stream": true});
        let mut gaps = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let url = format!("http://{}/api/v1/inference", process.api);
            let response = process.client.post(url).body(body.to_string()).send().await.unwrap();
            assert_eq!(response.status(), 200);
            let (mut pieces, mut last) = (response.bytes_stream(), None);
            while let Some(piece) = pieces.next().await {
                piece.unwrap();
                let now = Instant::now();
                gaps.extend(last.map(|last| now.duration_since(last).as_secs_f64() * 1e3));
                last = Some(now);
            }
        }
        gaps
    };
    let streams = join_all((0..STREAMS).map(|_| stream()));
    let until_done = async {
        during.await;
        stop.store(true, Ordering::Relaxed);
    };
    let (gaps, ()) = futures_util::join!(streams, until_done);
    let mut gaps: Vec<f64> = gaps.into_iter().flatten().collect();
    gaps.sort_by(f64::total_cmp);
    gaps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and an idle machine: `make soak` runs it"]
async fn what_twenty_swaps_cost_the_streams_of_another_model() {
    let copies = tempfile::tempdir().unwrap();
    let models = ["w8a8", "int8"].map(|precision| {
        Model::new(&prepared(&format!("models/smollm2-135m-instruct-{precision}")), copies.path())
    });
    let process = Process::start("");
    let steady = models[0]
        .entry
        .replace("name: chat", "name: steady")
        .replace("contextLength: 128", "contextLength: 512");
    let list = |swap: usize| format!("{}{steady}", models[swap % 2].entry);
    process.write_list(&list(1));
    let mut serving = process.wait_serving("").await;
    let began = Instant::now();
    loop {
        let url = format!("http://{}/readyz", process.ops);
        let body: Value = process.client.get(url).send().await.unwrap().json().await.unwrap();
        if body["models"][1]["state"] == "ready" {
            break;
        }
        assert!(began.elapsed() < PATIENCE * 3, "{body}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut swap_seconds = Vec::new();
    let swaps = async {
        for swap in 0..20 {
            let began = Instant::now();
            process.write_list(&list(swap));
            serving = process.wait_serving(&serving).await;
            swap_seconds.push(began.elapsed().as_secs_f64());
        }
    };
    let quiet = gaps_while(&process, tokio::time::sleep(Duration::from_secs(30))).await;
    let swapping = gaps_while(&process, swaps).await;
    let of = |gaps: &[f64], part: f64| gaps[((gaps.len() - 1) as f64 * part) as usize];
    for (name, gaps) in [("without swaps", &quiet), ("20 swaps", &swapping)] {
        println!(
            "{name}: {} gaps, median {:.1} ms, 99th percentile {:.1} ms, longest {:.1} ms",
            gaps.len(),
            of(gaps, 0.5),
            of(gaps, 0.99),
            of(gaps, 1.0)
        );
    }
    swap_seconds.sort_by(f64::total_cmp);
    println!(
        "ratio of the 99th percentiles {:.2}; a swap took {:.1} s (median), {:.1} s (longest)",
        of(&swapping, 0.99) / of(&quiet, 0.99),
        of(&swap_seconds, 0.5),
        of(&swap_seconds, 1.0)
    );
}
