//! A gateway in this process, on ports of the system's choice, with a model from the prepared folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Command, FromArgMatches};
use inference_gateway::app::{self, Listeners, Requests};
use inference_gateway::config::Settings;
use inference_gateway::shutdown::{ReloadHandle, StopHandle, reload_requests, stop_requests};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Long enough for a busy machine; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running gateway. Dropping it lets its task end with the test's runtime.
pub(crate) struct Gateway {
    pub(crate) api: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) client: reqwest::Client,
    stop: StopHandle,
    reload: ReloadHandle,
    task: JoinHandle<anyhow::Result<()>>,
    _state: tempfile::TempDir,
}

/// The project's folder.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Something in the prepared folder.
pub(crate) fn prepared(path: &str) -> PathBuf {
    let full = project().join("prepared").join(path);
    assert!(full.exists(), "{} is missing: run `make prepare-tests`", full.display());
    full
}

/// A tiny model by name.
pub(crate) fn tiny(name: &str) -> String {
    prepared("tiny").join(name).display().to_string()
}

/// A Python script of the project, run with the prepared interpreter.
pub(crate) fn python(script: &str) -> std::process::Command {
    let mut command = std::process::Command::new(prepared("venv/bin/python"));
    command.arg(project().join(script));
    command
}

/// Settings from flags alone, as the command line would give them.
pub(crate) fn settings(flags: &[&str]) -> Settings {
    let fixed = [
        "test",
        "--default-model-name=tiny",
        "--listen-address=127.0.0.1:0",
        "--ops-address=127.0.0.1:0",
        "--threads=2",
        "--spinning=false",
        concat!("--verify-executable=", env!("CARGO_BIN_EXE_inference-gateway")),
    ];
    let command = Settings::augment_args(Command::new("test").args_override_self(true));
    let matches =
        command.try_get_matches_from(fixed.iter().chain(flags)).expect("the test's flags are understood");
    Settings::from_arg_matches(&matches).expect("the test's flags are understood")
}

impl Gateway {
    /// Serves a tiny model and waits until it answers.
    pub(crate) async fn tiny() -> Self {
        Self::serving(&tiny("llama"), &[]).await
    }

    /// Serves a model folder and waits until it answers.
    pub(crate) async fn serving(model: &str, flags: &[&str]) -> Self {
        let path = format!("--default-model-path={model}");
        let mut all = vec![path.as_str()];
        all.extend(flags);
        let gateway = Self::start(settings(&all)).await;
        gateway.wait_ready().await;
        gateway
    }

    /// Starts without waiting for the model.
    pub(crate) async fn start(mut settings: Settings) -> Self {
        let state = tempfile::tempdir().unwrap();
        settings.sources.state_dir.get_or_insert_with(|| state.path().to_owned());
        assert!(prepared("lib/libonnxruntime.so").exists());
        let listeners = Listeners {
            api: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            ops: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            admin: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let admin = listeners.admin.local_addr().unwrap();
        let (api, ops) = (listeners.api.local_addr().unwrap(), listeners.ops.local_addr().unwrap());
        let (stop, stop_requests) = stop_requests();
        let (reload, reload_requests) = reload_requests();
        let requests = Requests {
            stop: stop_requests,
            reload: reload_requests,
            reload_handle: reload.clone(),
            log: None,
        };
        let task = spawn(app::run(settings, listeners, requests));
        Self { api, ops, admin, client: client(), stop, reload, task, _state: state }
    }

    /// Waits for `/readyz` to say 200; fails at once when the model has failed for good.
    pub(crate) async fn wait_ready(&self) {
        let began = Instant::now();
        loop {
            let (status, body) = self.readyz().await;
            if status == StatusCode::OK {
                return;
            }
            let failed =
                body["models"].as_array().is_some_and(|all| all.iter().any(|m| m["state"] == "failed"));
            assert!(!failed && began.elapsed() < PATIENCE, "the model did not get ready: {body}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn readyz(&self) -> (StatusCode, Value) {
        let response = self.get_ops("/readyz").await;
        (response.status(), response.json().await.unwrap())
    }

    /// Waits for `/readyz` to say 503; returns its body.
    pub(crate) async fn wait_not_ready(&self) -> Value {
        let began = Instant::now();
        loop {
            let (status, body) = self.readyz().await;
            if status == StatusCode::SERVICE_UNAVAILABLE {
                return body;
            }
            assert!(began.elapsed() < PATIENCE, "still ready: {body}");
        }
    }

    /// Waits until the only model is in `state`; returns its reason.
    pub(crate) async fn wait_state(&self, state: &str) -> String {
        let began = Instant::now();
        loop {
            let (status, body) = self.readyz().await;
            let model = &body["models"][0];
            if model["state"] == state && (state == "failed" || model["reason"].is_string()) {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
                return model["reason"].as_str().unwrap_or_default().to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "the model never was {state}: {body}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(format!("http://{}{path}", self.api)).send().await.unwrap()
    }

    pub(crate) async fn get_ops(&self, path: &str) -> Response {
        self.client.get(format!("http://{}{path}", self.ops)).send().await.unwrap()
    }

    /// A request to the native API with any body.
    pub(crate) fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.client.post(format!("http://{}/api/v1/inference", self.api)).body(body)
    }

    /// An answer to a JSON request, with its status.
    pub(crate) async fn infer(&self, request: &Value) -> (StatusCode, Value) {
        let response = self.post(request.to_string()).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// The token ids of a greedy generation without an end.
    pub(crate) async fn greedy(&self, prompt: &str, tokens: usize) -> Vec<u64> {
        let request = json!({
            "text": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
        });
        let (status, body) = self.infer(&request).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        ids(&body["metadata"]["token_ids"])
    }

    /// The value of a sample, 0 when there is none.
    pub(crate) async fn sample(&self, name_and_labels: &str) -> f64 {
        let text = self.get_ops("/metrics").await.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits for a sample to have a value.
    pub(crate) async fn wait_sample(&self, name_and_labels: &str, value: f64) {
        let began = Instant::now();
        loop {
            let found = self.sample(name_and_labels).await;
            if (found - value).abs() < f64::EPSILON {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{name_and_labels} is {found}, not {value}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks for the list of models to be read again.
    pub(crate) fn reload(&self) {
        self.reload.reload();
    }

    /// Asks for the end.
    pub(crate) fn stop(&self) {
        self.stop.stop();
    }

    /// Waits for the end that was asked for.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the gateway ends").unwrap()
    }
}

/// A client that reuses nothing, so that a test's connections are its own.
pub(crate) fn client() -> reqwest::Client {
    // Another test of this process may have installed it.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// Tests own their runtime, which ends their tasks; the tracker is the application's.
#[expect(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// A list of models in a file of its own, as `--models-file` reads it.
pub(crate) struct ModelsList {
    folder: tempfile::TempDir,
}

impl ModelsList {
    /// A list with this content; paths in it are absolute without their first `/`.
    pub(crate) fn new(yaml: &str) -> Self {
        let list = Self { folder: tempfile::tempdir().unwrap() };
        list.write(yaml);
        list
    }

    /// Replaces the content as editors and Kubernetes do: by rename.
    pub(crate) fn write(&self, yaml: &str) {
        let staged = self.folder.path().join("models.yaml.new");
        std::fs::write(&staged, yaml).unwrap();
        std::fs::rename(&staged, self.path()).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("models.yaml")
    }

    /// A gateway that follows the list, with cache and state in the list's folder.
    pub(crate) async fn gateway(&self, flags: &[&str]) -> Gateway {
        let file = format!("--models-file={}", self.path().display());
        let cache = format!("--cache-dir={}", self.folder.path().join("cache").display());
        let mut all = vec![file.as_str(), cache.as_str(), "--model-root=/"];
        all.extend(flags);
        Gateway::start(settings(&all)).await
    }
}

/// A list entry for a folder of this machine, with more fields of its spec.
pub(crate) fn entry(name: &str, model: &str, fields: &str) -> String {
    let path = model.strip_prefix('/').unwrap();
    let separator = if fields.is_empty() { "" } else { ", " };
    format!("- {{name: {name}, spec: {{source: {{path: {path}, inPlace: true}}{separator}{fields}}}}}\n")
}
