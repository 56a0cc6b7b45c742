//! Files, archives, tokenizers, templates, addresses: whatever comes, the old revision answers.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

const FAILURES: &str = "inference_gateway_model_failures_total";

/// Applies each of `broken` and expects the reason beside it, with a client in the background.
async fn each_is_refused(flags: &[&str], broken: &[(&str, String)]) {
    let (list, gateway) = serving(flags).await;
    let client = Background::start(&gateway).await;
    let serving = gateway.readyz().await.1["models"][0]["serving"].clone();
    for (reason, entry) in broken {
        let told = refused(&list, &gateway, entry).await;
        assert!(told.starts_with(&format!("{reason}: ")), "expected {reason}: {told}");
        let counted = gateway.sample(&format!("{FAILURES}{{model=\"chat\",reason=\"{reason}\"}}")).await;
        assert!(counted >= 1.0, "{reason} is not counted");
    }
    let model = gateway.readyz().await.1["models"][0].clone();
    assert_eq!((&model["serving"], swaps(&gateway).await), (&serving, 0.0), "{model}");
    client.saw_no_failure().await;
}

fn digest_of(folder: &Path) -> String {
    let packed =
        Command::new(env!("CARGO_BIN_EXE_inference-gateway")).arg("pack").arg(folder).output().unwrap();
    String::from_utf8(packed.stdout).unwrap().trim().to_owned()
}

/// Row 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graph_that_is_none_is_refused_and_the_old_one_answers() {
    let graph = std::fs::read(Path::new(&tiny("llama")).join("model.onnx")).unwrap();
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut contents: Vec<Vec<u8>> =
        vec![Vec::new(), noise, b"<!DOCTYPE html><html><body>404</body></html>".to_vec()];
    contents.extend((1..8).map(|eighth| graph[..graph.len() * eighth / 8].to_vec()));
    let folders: Vec<_> = contents
        .iter()
        .map(|bytes| {
            let folder = copy("llama");
            write(folder.path(), "model.onnx", bytes);
            folder
        })
        .collect();
    let broken: Vec<_> = folders.iter().map(|folder| ("InvalidOnnx", model(&text(folder), ""))).collect();
    each_is_refused(&[], &broken).await;
}

/// Row 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bit_of_the_weights_is_seen_when_the_digest_is_given() {
    // Of another model than the one that serves, whose bytes the store has.
    let folder = copy("llama-all-logits");
    let digest = digest_of(folder.path());
    let weights = folder.path().join("model.onnx.data");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let source = format!("{{path: {}, digest: '{digest}'}}", text(&folder).strip_prefix('/').unwrap());
    each_is_refused(&[], &[("DigestMismatch", sourced(&source, ""))]).await;
}

/// Row 3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_change_under_the_same_path_are_refused() {
    let (list, gateway) = serving(&[]).await;
    let folder = copy("gpt2");
    applied(&list, &gateway, &model(&text(&folder), "")).await;
    let client = Background::start(&gateway).await;
    let other = std::fs::read(Path::new(&tiny("gpt2-unpositioned")).join("model.onnx")).unwrap();
    std::fs::write(folder.path().join("model.onnx"), other).unwrap();
    let told = refused(&list, &gateway, &model(&text(&folder), "runtime: {contextLength: 100}")).await;
    assert!(told.starts_with("DigestMismatch: "), "{told}");
    client.saw_no_failure().await;
}

/// Rows 4, 5, 6, 7 and 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_loaded_is_refused_by_its_name() {
    let folders: Vec<_> = (0..6).map(|_| copy("llama")).collect();
    let at = |index: usize, name: &str| folders[index].path().join(name);
    // A tokenizer with more tokens than the graph has logits.
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(at(0, "tokenizer.json")).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let size = vocabulary.len();
    vocabulary.extend((0..500).map(|more| (format!("more-{more}"), json!(size + 500 + more))));
    std::fs::write(at(0, "tokenizer.json"), tokenizer.to_string()).unwrap();
    // Weights that are elsewhere.
    let outside = tempfile::NamedTempFile::new_in(std::env::temp_dir()).unwrap();
    std::fs::copy(at(1, "model.onnx.data"), outside.path()).unwrap();
    std::fs::remove_file(at(1, "model.onnx.data")).unwrap();
    std::fs::hard_link(outside.path(), at(1, "model.onnx.data")).unwrap();
    std::fs::remove_file(at(2, "model.onnx.data")).unwrap();
    symlink(outside.path(), at(2, "model.onnx.data")).unwrap();
    std::fs::remove_file(at(3, "model.onnx.data")).unwrap();
    assert!(Command::new("mkfifo").arg(at(3, "model.onnx.data")).status().unwrap().success());
    // A template without an end.
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}";
    std::fs::write(at(4, "chat_template.jinja"), endless).unwrap();
    let archive = write(folders[5].path(), "model.tar.gz", b"\x1f\x8b\x08\x00nothing");
    let broken = [
        ("TokenizerMismatch", model(&text(&folders[0]), "")),
        ("ExternalDataUnsafe", model(&text(&folders[1]), "")),
        ("ExternalDataUnsafe", model(&text(&folders[2]), "")),
        ("ExternalDataUnsafe", model(&text(&folders[3]), "")),
        ("TemplateInvalid", model(&text(&folders[4]), "")),
        ("TemplateInvalid", model(&tiny("gpt2"), &format!("runtime: {{chatTemplate: {endless:?}}}"))),
        ("ArchiveUnsafe", model(&archive.display().to_string(), "")),
        (
            "ProbeFailed",
            model(&tiny("gpt2"), "verify: {probes: [{prompt: Hello, expectContains: 'not this'}]}"),
        ),
        ("InvalidSpec", model(&tiny("gpt2"), "runtime: {contextLength: 100000}")),
    ];
    each_is_refused(&[], &broken).await;
}

/// Row 18.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_are_not_public_are_not_reached() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let broken: Vec<_> = [
        "https://127.0.0.1/manifest.json",
        "https://10.1.2.3/manifest.json",
        "https://169.254.169.254/manifest.json",
        "https://[::1]/manifest.json",
        "https://[::ffff:127.0.0.1]/manifest.json",
        "https://2130706433/manifest.json",
        "https://0177.0.0.1/manifest.json",
        "https://localhost/manifest.json",
        "http://example.com/manifest.json",
    ]
    .iter()
    .map(|url| ("HostNotAllowed", sourced(&format!("{{url: '{url}', digest: '{digest}'}}"), "")))
    .collect();
    each_is_refused(&[], &broken).await;
}

/// Row 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_overwritten_or_deleted_does_not_disturb_what_serves() {
    let (list, gateway) = serving(&[]).await;
    let folder = copy("gpt2");
    applied(&list, &gateway, &model(&text(&folder), "")).await;
    let client = Background::start(&gateway).await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::write(file.unwrap().path(), b"").unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(folder);
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.saw_no_failure().await;
}
