//! What a bad model can do to the process that tries it, and cannot do to ours.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use inference_gateway::model::spec::{Probe, VerifySpec};
use inference_gateway::model::verify::{ChildBounds, VerifyError, VerifyReport, VerifyRequest};
use inference_gateway::model::verify::{check_files, in_child};
use inference_gateway::model::{HugePages, LoadLimits, MemoryLimits, Reason};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, prepared, tiny};

mod crashes;

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_inference-gateway");
/// Long enough for a busy machine to load a tiny model.
const SECONDS: u32 = 60;

/// A copy of a tiny model that can be spoiled.
fn copy_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(tiny(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

fn request(folder: &Path) -> VerifyRequest {
    VerifyRequest {
        name: "tiny".parse().unwrap(),
        graph: folder.join("model.onnx"),
        tokenizer: folder.join("tokenizer.json"),
        limits: LoadLimits {
            context_tokens: None,
            rows: 4,
            huge_pages: HugePages::Auto,
            chunk_tokens: 64,
            queue: 16,
            draft_tokens: 0,
            memory: MemoryLimits::default(),
        },
        chat_template: None,
        verify: VerifySpec { timeout_seconds: SECONDS, ..VerifySpec::default() },
    }
}

fn bounds() -> ChildBounds {
    ChildBounds {
        executable: PathBuf::from(EXECUTABLE),
        memory_bytes: 1 << 30,
        timeout: Duration::from_secs(SECONDS.into()),
        library: prepared("lib/libonnxruntime.so"),
        threads: 1,
    }
}

/// Bounds whose executable is the real one with a fault; its id goes to the file `pid` of `folder`.
///
/// A process of its own writes the script: a file that this one had open for writing could not be executed while any
/// other test starts a process.
fn faulty(folder: &Path, faults: &str) -> ChildBounds {
    let script = folder.join("faulty");
    let pid = folder.join("pid");
    let text = format!(
        "#!/bin/sh\necho $$ > '{}'\nFAILPOINTS='{faults}' exec '{EXECUTABLE}' \"$@\"\n",
        pid.display()
    );
    let written = Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod +x \"$0\""])
        .arg(&script)
        .arg(text)
        .status();
    assert!(written.unwrap().success());
    ChildBounds { executable: script, ..bounds() }
}

async fn tried(request: &VerifyRequest) -> Result<VerifyReport, VerifyError> {
    in_child(request, &bounds()).await
}

/// The reason and the message of a refusal.
fn refused<T: std::fmt::Debug>(outcome: Result<T, VerifyError>) -> (Reason, String) {
    let error = outcome.unwrap_err();
    (error.reason(), error.to_string())
}

fn replace(path: &Path, old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len(), "lengths in a graph are part of it");
    let mut bytes = fs::read(path).unwrap();
    let places: Vec<usize> =
        (0..=bytes.len() - old.len()).filter(|at| &bytes[*at..at + old.len()] == old).collect();
    assert!(!places.is_empty(), "{} does not hold {}", path.display(), String::from_utf8_lossy(old));
    for at in places {
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    fs::write(path, bytes).unwrap();
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[tokio::test]
async fn every_tiny_model_passes_and_its_memory_is_measured() {
    for name in ["llama", "llama-plain", "llama-all-logits", "gpt2", "gpt2-no-cache", "gpt2-unpositioned"] {
        let folder = PathBuf::from(tiny(name));
        let files = check_files(&request(&folder)).unwrap();
        assert!(files.weights_bytes > 100_000 && files.context_tokens == 256, "{name}");
        let report = tried(&request(&folder)).await.unwrap();
        assert_eq!((report.probes, report.context_tokens), (2, 256), "{name}");
        assert!(report.peak_bytes > files.weights_bytes, "{name}: {}", report.peak_bytes);
        assert!(report.peak_bytes <= files.memory_estimate_bytes, "{name}: {}", report.peak_bytes);
    }
}

#[test]
fn files_that_are_no_whole_graph_are_invalid_within_seconds() {
    let folder = copy_of("llama");
    let graph = folder.path().join("model.onnx");
    let whole = fs::read(&graph).unwrap();
    let truncated = (0..20).map(|part| whole[..whole.len() * part / 20].to_vec());
    let noise = (1u32..4).map(|seed| {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(100_000).collect()
    });
    let html = b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>".to_vec();
    let began = Instant::now();
    for bytes in truncated.chain(noise).chain([html, Vec::new()]) {
        fs::write(&graph, &bytes).unwrap();
        let (reason, message) = refused(check_files(&request(folder.path())));
        assert_eq!(reason, Reason::InvalidOnnx, "{} bytes: {message}", bytes.len());
    }
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_tokenizer_of_another_model_is_a_mismatch() {
    let folder = copy_of("llama");
    let config = folder.path().join("tokenizer_config.json");
    let special = |change: fn(&mut Value)| {
        let folder = copy_of("llama");
        edit_json(&folder.path().join("tokenizer_config.json"), change);
        refused(check_files(&request(folder.path())))
    };
    let swapped = special(|config| {
        config["added_tokens_decoder"]["256"]["content"] = json!("<|eos|>");
        config["added_tokens_decoder"]["257"]["content"] = json!("<|bos|>");
    });
    assert_eq!(swapped.0, Reason::TokenizerMismatch, "{}", swapped.1);

    // Larger than the logits; nothing but the numbers says so.
    fs::remove_file(&config).unwrap();
    let other = prepared("models/smollm2-135m-instruct-w8a8/tokenizer.json");
    fs::copy(other, folder.path().join("tokenizer.json")).unwrap();
    let (reason, message) = refused(tried(&request(folder.path())).await);
    assert_eq!(reason, Reason::TokenizerMismatch);
    assert!(message.contains("49152") && message.contains("259"), "{message}");

    let folder = copy_of("llama");
    edit_json(&folder.path().join("tokenizer_config.json"), |config| {
        config["eos_token"] = json!("<|im_end|>");
        config["added_tokens_decoder"] = json!({});
    });
    edit_json(&folder.path().join("generation_config.json"), |config| config["eos_token_id"] = json!(90_000));
    edit_json(&folder.path().join("config.json"), |config| config["eos_token_id"] = json!(90_000));
    let (reason, message) = refused(check_files(&request(folder.path())));
    assert_eq!(reason, Reason::TokenizerMismatch);
    assert!(message.contains("none of the tokens that end a text"), "{message}");

    // One that it knows and one that the graph cannot give.
    edit_json(&folder.path().join("config.json"), |config| config["eos_token_id"] = json!(257));
    assert_eq!(refused(tried(&request(folder.path())).await).0, Reason::TokenizerMismatch);

    fs::write(folder.path().join("tokenizer.json"), b"{\"version\": 1").unwrap();
    assert_eq!(refused(check_files(&request(folder.path()))).0, Reason::TokenizerMismatch);
}

#[tokio::test]
async fn what_a_graph_asks_for_and_nobody_has_is_named() {
    let mutated_of = async |model: &str, old: &[u8], new: &[u8]| {
        let folder = copy_of(model);
        replace(&folder.path().join("model.onnx"), old, new);
        refused(tried(&request(folder.path())).await)
    };
    let mutated = async |old: &[u8], new: &[u8]| mutated_of("llama", old, new).await;
    let custom = mutated(b"com.microsoft", b"com.macrosoft").await;
    assert_eq!(custom.0, Reason::UnsupportedOperator, "{}", custom.1);
    assert!(custom.1.contains("com.macrosoft::GroupQueryAttention"), "{}", custom.1);

    let unknown = mutated(b"GroupQueryAttention", b"GroupQueryAttenti0n").await;
    assert_eq!(unknown.0, Reason::UnsupportedOperator, "{}", unknown.1);
    assert!(unknown.1.contains("GroupQueryAttenti0n"), "{}", unknown.1);

    let no_logits = mutated_of("gpt2", b"logits", b"l0gits").await;
    assert_eq!(no_logits.0, Reason::UnsupportedOperator, "{}", no_logits.1);
    assert!(no_logits.1.contains("`logits`"), "{}", no_logits.1);

    let not_text = mutated(b"input_ids", b"input_\xff\xfes").await;
    assert_eq!(not_text.0, Reason::InvalidOnnx, "{}", not_text.1);
    assert!(not_text.1.contains("UTF-8"), "{}", not_text.1);
}

#[tokio::test]
async fn a_version_that_is_too_new_is_unsupported() {
    let folder = copy_of("llama");
    let graph = folder.path().join("model.onnx");
    let mut bytes = fs::read(&graph).unwrap();
    assert_eq!(bytes[0], 0x08, "the first field is the version of the format");
    bytes[1] = 99;
    fs::write(&graph, &bytes).unwrap();
    let (reason, message) = refused(tried(&request(folder.path())).await);
    assert_eq!(reason, Reason::UnsupportedOperator, "{message}");

    bytes[1] = 10;
    // A second import of the default domain, which stands last and counts.
    bytes.extend([0x42, 0x04, 0x0a, 0x00, 0x10, 99]);
    fs::write(&graph, &bytes).unwrap();
    let (reason, message) = refused(tried(&request(folder.path())).await);
    assert_eq!(reason, Reason::UnsupportedOperator, "{message}");
}

#[test]
fn weights_that_are_not_a_plain_file_of_the_model_are_unsafe() {
    type Spoil = fn(weights: &Path, outside: &Path);
    let ways: [(&str, Spoil); 8] = [
        ("missing", |_, _| {}),
        ("symbolic link", |weights, outside| symlink(outside, weights).unwrap()),
        ("hard link", |weights, outside| fs::hard_link(outside, weights).unwrap()),
        ("pipe", |weights, _| {
            assert!(Command::new("mkfifo").arg(weights).status().unwrap().success());
        }),
        ("folder", |weights, _| fs::create_dir(weights).unwrap()),
        ("device", |weights, _| symlink("/dev/zero", weights).unwrap()),
        ("short", |weights, _| fs::write(weights, b"short").unwrap()),
        ("empty", |weights, _| fs::write(weights, b"").unwrap()),
    ];
    for (what, spoil) in ways {
        let (folder, elsewhere) = (copy_of("llama"), tempfile::tempdir().unwrap());
        let weights = folder.path().join("model.onnx.data");
        let outside = elsewhere.path().join("data");
        fs::rename(&weights, &outside).unwrap();
        spoil(&weights, &outside);
        let (reason, message) = refused(check_files(&request(folder.path())));
        assert_eq!(reason, Reason::ExternalDataUnsafe, "{what}: {message}");
        assert!(message.contains("model.onnx.data"), "{what}: {message}");
    }
}

#[test]
fn places_outside_of_the_folder_are_unsafe() {
    // As long as `model.onnx.data`.
    for location in ["../../etc/hosts", "/etc/./hostname", "a/../../../../b", "*/_ORT_MEM_ADDR"] {
        let folder = copy_of("llama");
        let graph = folder.path().join("model.onnx");
        replace(&graph, b"model.onnx.data", location.as_bytes());
        let (reason, message) = refused(check_files(&request(folder.path())));
        assert_eq!(reason, Reason::ExternalDataUnsafe, "{location}: {message}");
    }
}

#[test]
fn links_of_the_hub_cache_are_followed_into_its_blobs_only() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--owner--name");
    let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for file in fs::read_dir(tiny("llama")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), blobs.join(file.file_name())).unwrap();
        let target = Path::new("../../blobs").join(file.file_name());
        symlink(target, snapshot.join(file.file_name())).unwrap();
    }
    check_files(&request(&snapshot)).unwrap();
    fs::rename(blobs.join("model.onnx.data"), cache.path().join("data")).unwrap();
    symlink("../../data", blobs.join("model.onnx.data")).unwrap();
    assert_eq!(refused(check_files(&request(&snapshot))).0, Reason::ExternalDataUnsafe);
}

#[tokio::test]
async fn a_model_that_does_not_answer_as_it_should_fails_its_probe() {
    let folder = copy_of("llama");
    let weights = folder.path().join("model.onnx.data");
    let length = fs::metadata(&weights).unwrap().len() as usize;
    let nan: Vec<u8> = f32::NAN.to_le_bytes().into_iter().cycle().take(length).collect();
    fs::write(&weights, nan).unwrap();
    let (reason, message) = refused(tried(&request(folder.path())).await);
    assert_eq!(reason, Reason::ProbeFailed, "{message}");
    assert!(message.contains("not finite"), "{message}");

    let folder = copy_of("llama");
    edit_json(&folder.path().join("generation_config.json"), |config| {
        config["eos_token_id"] = (0..259).collect::<Vec<_>>().into();
    });
    let (reason, message) = refused(tried(&request(folder.path())).await);
    assert_eq!(reason, Reason::ProbeFailed, "{message}");
    assert!(message.contains("ends every text at once"), "{message}");

    let folder = copy_of("llama");
    let bounds = faulty(folder.path(), "in-engine-step=5*off->return(hang)");
    let mut hanging = request(folder.path());
    hanging.verify.timeout_seconds = 5;
    let (reason, message) = refused(in_child(&hanging, &bounds).await);
    assert_eq!(reason, Reason::ProbeFailed, "{message}");
}

#[tokio::test]
async fn expectations_are_compared_with_what_the_model_says() {
    let folder = PathBuf::from(tiny("llama"));
    let mut wish = request(&folder);
    let probe = |contains: Option<&str>, tokens: Option<&[u32]>| Probe {
        prompt: "Hello".to_owned(),
        max_tokens: 4,
        expect_contains: contains.map(str::to_owned),
        expect_tokens: tokens.map(<[u32]>::to_vec),
    };
    wish.verify.probes = vec![probe(None, Some(&[1, 2, 3, 4]))];
    let (reason, message) = refused(tried(&wish).await);
    assert_eq!(reason, Reason::ProbeFailed);
    // The message says what came; with that as the expectation the probe comes true.
    let list = message.split_once("has the tokens ").unwrap().1.split_once(", expected").unwrap().0;
    let tokens: Vec<u32> = serde_json::from_str(list).unwrap();
    wish.verify.probes = vec![probe(None, Some(&tokens)), probe(None, None)];
    assert_eq!(tried(&wish).await.unwrap().probes, 2);
    wish.verify.probes = vec![probe(Some("no model says this"), None)];
    assert_eq!(refused(tried(&wish).await).0, Reason::ProbeFailed);
    wish.verify.timeout_seconds = 0;
    assert_eq!(refused(check_files(&wish)).0, Reason::InvalidSpec);
}

#[tokio::test]
async fn a_template_without_an_end_is_invalid_and_stalls_nothing() {
    let began = Instant::now();
    let templates = [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "x".repeat((1 << 20) + 1),
        "{% for message in %}".to_owned(),
    ];
    for (index, template) in templates.iter().enumerate() {
        let folder = copy_of("llama");
        edit_json(&folder.path().join("tokenizer_config.json"), |config| {
            config["chat_template"] = json!(template);
        });
        assert_eq!(refused(check_files(&request(folder.path()))).0, Reason::TemplateInvalid, "{index}");
        let folder = copy_of("llama");
        fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        assert_eq!(refused(tried(&request(folder.path())).await).0, Reason::TemplateInvalid, "{index}");
        let mut wish = request(&PathBuf::from(tiny("llama")));
        wish.chat_template = Some(template.clone());
        assert_eq!(refused(check_files(&wish)).0, Reason::TemplateInvalid, "{index}");
    }
    assert!(began.elapsed() < PATIENCE);
}
