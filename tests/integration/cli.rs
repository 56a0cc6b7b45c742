//! The executable itself: settings, signals, messages, exit codes.

mod generate;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{client, prepared, tiny};

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_inference-gateway");

/// The executable with an environment of its own.
fn gateway() -> Command {
    let mut command = Command::new(EXECUTABLE);
    command.env_clear().env("HOME", "/nowhere");
    command
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The line of a setting, its columns separated by one space.
fn setting(output: &Output, name: &str) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn config_prints_each_setting_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.yaml");
    std::fs::write(&file, "queue-limit: 7\nmax-batch-size: 3\nlisten-address: 127.0.0.1:4000\n").unwrap();
    let output = run(gateway()
        .args(["config", "--listen-address=127.0.0.1:5000", "--config-file"])
        .arg(&file)
        .env("INFERENCE_MAX_BATCH_SIZE", "5")
        .env("HF_TOKEN", "hf_secret"));
    assert_eq!(
        setting(&output, "listen-address"),
        "listen-address INFERENCE_LISTEN_ADDRESS flag 127.0.0.1:5000"
    );
    assert_eq!(setting(&output, "max-batch-size"), "max-batch-size INFERENCE_MAX_BATCH_SIZE environment 5");
    assert_eq!(setting(&output, "queue-limit"), "queue-limit INFERENCE_QUEUE_LIMIT file 7");
    assert_eq!(setting(&output, "drain-timeout"), "drain-timeout INFERENCE_DRAIN_TIMEOUT default 30s");
    assert_eq!(
        setting(&output, "default-tokenizer"),
        "default-tokenizer INFERENCE_DEFAULT_TOKENIZER default openai-community/gpt2"
    );
    assert_eq!(setting(&output, "hf-token"), "hf-token HF_TOKEN environment (set, not shown)");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("hf_secret"));
}

#[test]
fn a_setting_that_is_not_understood_is_named() {
    let output = run(gateway().env("INFERENCE_QUEUE_LIMIT", "many"));
    assert!(!output.status.success());
    assert!(stderr(&output).contains("--queue-limit"), "{}", stderr(&output));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.yaml");
    std::fs::write(&file, "queue-limits: 7\n").unwrap();
    let output = run(gateway().arg("--config-file").arg(&file));
    assert!(!output.status.success());
    assert!(stderr(&output).contains("there is no setting `queue-limits`"), "{}", stderr(&output));
}

#[test]
fn a_missing_library_is_a_message_that_says_what_to_do() {
    let output = run(gateway().env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").args([
        "--listen-address=127.0.0.1:0",
        "--ops-address=127.0.0.1:0",
        "--admin-address=127.0.0.1:0",
    ]));
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("ORT_DYLIB_PATH names /nowhere/libonnxruntime.so"), "{message}");
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn a_broken_library_is_a_message_too() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libonnxruntime.so");
    std::fs::write(&library, b"not a library").unwrap();
    let output = run(gateway().env("ORT_DYLIB_PATH", &library).args([
        "--listen-address=127.0.0.1:0",
        "--ops-address=127.0.0.1:0",
        "--admin-address=127.0.0.1:0",
    ]));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("failed to load ONNX Runtime from"), "{}", stderr(&output));
}

#[test]
fn an_address_that_is_taken_is_named_with_its_variable() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(gateway().arg(format!("--listen-address={address}")));
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains(&address) && message.contains("INFERENCE_LISTEN_ADDRESS"), "{message}");
}

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A served model in a process of its own.
pub(crate) struct Served {
    child: Process,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    pub(crate) api: String,
}

#[expect(clippy::zombie_processes, reason = "a test that panics here ends the whole process")]
pub(crate) fn serve(model: &str, flags: &[&str]) -> Served {
    let mut child = gateway()
        .env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so"))
        .env("INFERENCE_DEFAULT_MODEL_NAME", "tiny")
        .env("INFERENCE_DEFAULT_MODEL_PATH", model)
        .args([
            "--listen-address=127.0.0.1:0",
            "--ops-address=127.0.0.1:0",
            "--admin-address=127.0.0.1:0",
            "--log-format=json",
            "--threads=1",
        ])
        .args(flags)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut api = String::new();
    loop {
        let line = lines.next().expect("the gateway goes on").unwrap();
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
        if event["message"] == "listening" {
            event["api"].as_str().unwrap().clone_into(&mut api);
        }
        if event["message"] == "model ready" {
            return Served { child: Process(child), lines, api };
        }
    }
}

impl Served {
    /// Memory of the process.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most memory that the process ever had.
    pub(crate) fn most_resident_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// The exit code, and the log lines up to it.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let lines = self
            .lines
            .map(|line| serde_json::from_str(&line.unwrap()).expect("log lines are JSON"))
            .collect();
        (self.child.0.wait().unwrap().code(), lines)
    }
}

#[tokio::test]
async fn a_signal_ends_the_process_with_code_0_after_its_work() {
    for signal in ["TERM", "INT"] {
        let served = serve(&tiny("llama"), &[]);
        let request = json!({"text": "abc", "max_tokens": 200, "ignore_eos": true, "stream": true});
        let response = client()
            .post(format!("http://{}/api/v1/inference", served.api))
            .body(request.to_string())
            .send()
            .await
            .unwrap();
        served.signal(signal);
        assert!(response.text().await.unwrap().contains("\"tokens_generated\":200"));
        let (code, _) = served.end();
        assert_eq!(code, Some(0), "SIG{signal}");
    }
}

#[tokio::test]
async fn every_log_line_of_a_request_carries_its_id_and_no_prompt() {
    let served = serve(&tiny("llama"), &[]);
    let url = format!("http://{}/api/v1/inference", served.api);
    let request = json!({"text": "a very private prompt", "max_tokens": 3});
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let response = client()
        .post(url)
        .header("x-request-id", "trace-me")
        .header("traceparent", traceparent)
        .body(request.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["x-request-id"], "trace-me");
    response.text().await.unwrap();
    client().get(format!("http://{}/readyz", served.api)).send().await.unwrap();
    served.signal("TERM");
    let (_, lines) = served.end();
    assert!(!lines.iter().any(|line| line["path"] == "/readyz"), "probes bury what matters");
    let of_request: Vec<&Value> =
        lines.iter().filter(|line| line["span"]["request_id"] == "trace-me").collect();
    let messages: Vec<&str> = of_request.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["response"], "one line a request");
    let line = of_request[0];
    assert_eq!(line["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    for (field, value) in [
        ("method", json!("POST")),
        ("route", json!("/api/v1/inference")),
        ("status", json!(200)),
        ("model", json!("tiny")),
        ("prompt_tokens", json!(21)),
        ("output_tokens", json!(3)),
        ("finish_reason", json!("length")),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    for field in ["duration_ms", "queue_ms", "prefill_ms", "decode_ms"] {
        assert!(line[field].as_f64().unwrap() >= 0.0, "{field} of {line}");
    }
    assert!(lines.iter().all(|line| !line.to_string().contains("private")));
}

/// Whatever a client writes where a log line might take it over.
#[tokio::test]
async fn no_client_can_write_a_line_of_its_own() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let served = serve(&tiny("llama"), &["--log-filter=debug"]);
    let forged = r#"{"level":"ERROR","message":"forged"}"#;
    let requests = [
        "GET /%0a%7b%22message%22:%22forged%22%7d HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            .to_owned(),
        "GET /\x1b[31mforged\x07 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
        format!("GET /x\r\n{forged} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: a\t{forged}\r\n\r\n"),
        format!("GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntraceparent: 00-{forged}\r\n\r\n"),
        format!("{forged} /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"),
    ];
    for request in requests {
        let mut connection = tokio::net::TcpStream::connect(&served.api).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        drop(connection.read_to_end(&mut Vec::new()).await);
    }
    let url = format!("http://{}/api/v1/inference", served.api);
    let body = json!({"text": "a secret", "model": "m\n\u{1b}[31mforged", "stop": ["\nforged"]});
    client().post(url).body(body.to_string()).send().await.unwrap().text().await.unwrap();
    served.signal("TERM");
    let mut asked = 0;
    for line in served.lines.map(Result::unwrap) {
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a JSON line: {line}"));
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let message = event["message"].as_str().unwrap();
        assert!(message != "forged" && !line.contains("a secret"), "{line}");
        asked += usize::from(message == "response");
    }
    assert!(asked >= 3, "what could be parsed was logged");
}

/// A copy of a tiny model.
fn copied(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(prepared("tiny").join(model)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn verify(folder: &std::path::Path) -> Output {
    run(gateway().arg("verify").arg(folder).env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so")))
}

#[test]
fn a_packed_model_verifies_and_a_damaged_one_does_not() {
    let folder = copied("llama");
    let unpacked = verify(folder.path());
    assert!(unpacked.status.success(), "{}", stderr(&unpacked));
    let text = String::from_utf8_lossy(&unpacked.stdout).into_owned();
    assert!(text.contains("manifest    none") && text.contains("written in place"), "{text}");

    let packed = run(gateway().arg("pack").arg(folder.path()));
    let digest = String::from_utf8_lossy(&packed.stdout).trim().to_owned();
    assert!(packed.status.success() && digest.starts_with("sha256:"), "{}", stderr(&packed));
    let verified = verify(folder.path());
    let text = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(verified.status.success() && text.contains(&digest) && text.contains("all as listed"), "{text}");

    // ONNX Runtime would load it.
    let weights = folder.path().join("model.onnx.data");
    let damaged = if weights.exists() { weights } else { folder.path().join("model.onnx") };
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let refused = verify(folder.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("is not the file that the manifest lists"), "{}", stderr(&refused));
}

#[test]
fn verify_says_what_keeps_a_model_from_answering() {
    let folder = copied("llama");
    std::fs::write(folder.path().join("model.onnx"), b"<html>not found</html>").unwrap();
    let refused = verify(folder.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("it is an HTML page"), "{}", stderr(&refused));
    let missing = run(gateway().args(["pack", "/nowhere"]));
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("/nowhere"), "{}", stderr(&missing));
}

/// What `check` says of a served model, with these flags.
fn check(address: &str, flags: &[&str]) -> Output {
    run(gateway().args(["check", address]).args(flags))
}

#[test]
fn a_gateway_that_answers_passes_its_check() {
    let served = serve(&tiny("llama"), &[]);
    let address = format!("http://{}", served.api);
    let output = check(&address, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("with 1 models") && said.contains("tiny: revision "), "{said}");
    assert!(said.contains(" made 8 tokens in "), "{said}");

    let output = check(&address, &["--model=other", "--wait=1s"]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("there is no model other (there are: tiny)"), "{message}");
    served.signal("TERM");
}

#[test]
fn a_gateway_that_asks_who_comes_is_checked_with_a_key_or_by_its_readiness() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let keys = file("keys.yaml", "keys: [{name: check, key: 0123456789abcdef, models: ['*']}]");
    let key = file("key", "0123456789abcdef\n");
    let served = serve(&tiny("llama"), &["--auth-mode=apiKeys", &format!("--auth-keys-file={keys}")]);
    let address = format!("http://{}", served.api);
    let without = check(&address, &[]);
    assert!(stderr(&without).contains("answered with status 401"), "{}", stderr(&without));
    let with = check(&address, &[&format!("--key-file={key}")]);
    assert!(with.status.success(), "{}", stderr(&with));
    assert!(String::from_utf8_lossy(&with.stdout).contains(" made 8 tokens in "));
    let ready = check(&address, &["--ready-only"]);
    assert!(ready.status.success() && !String::from_utf8_lossy(&ready.stdout).contains("made"));
    served.signal("TERM");
}

#[test]
fn settings_of_access_that_contradict_each_other_end_the_start() {
    for (flags, why) in [
        (&["--auth-mode=apiKeys"][..], "INFERENCE_AUTH_KEYS_FILE does not say where the keys are"),
        (&["--auth-keys-file=/keys.yaml"], "and nobody looks at it"),
        (&["--auth-audiences=x"], "nobody's token is looked at"),
        (&["--tls-cert-file=/tls.crt"], "go together, and one of them is not set"),
        (&["--tls-client-ca-file=/ca.crt"], "is set without TLS"),
        (&["--auth-mode=keys"], "possible values: none, apiKeys, kubernetes"),
    ] {
        let output = run(gateway()
            .arg("serve")
            .args(["--listen-address=127.0.0.1:0", "--ops-address=127.0.0.1:0"])
            .args(["--admin-address=127.0.0.1:0", "--default-model-path=/none"])
            .args(flags));
        assert!(!output.status.success() && stderr(&output).contains(why), "{flags:?}: {}", stderr(&output));
    }
}

#[test]
fn a_check_says_what_did_not_answer() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = check(&format!("http://{port}"), &["--wait=1s"]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains(&port.to_string()) && message.contains("is not ready after 1s"), "{message}");

    let output = check("localhost:3000", &[]);
    assert!(stderr(&output).contains("write it as http://HOST:PORT"), "{}", stderr(&output));
}

#[test]
fn each_subcommand_says_what_it_does() {
    let help = |arguments: &[&str]| {
        let output = run(gateway().args(arguments));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (subcommand, about) in [
        ("serve", "Serve the API"),
        ("generate", "Generate one text"),
        ("config", "Print every setting"),
        ("verify", "Check a model"),
        ("fetch", "Prepare a model"),
        ("controller", "Roll models out"),
        ("check", "Try a running gateway"),
    ] {
        assert!(help(&["--help"]).contains(about), "{subcommand} in the list");
        assert!(help(&[subcommand, "--help"]).starts_with(about), "{}", help(&[subcommand, "--help"]));
    }
    assert!(help(&["--help"]).starts_with("Text generation with ONNX models"));
}
