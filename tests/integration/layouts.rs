//! Each layout in which others keep a model, without a word of configuration: it gives the tokens that the same weights
//! give as this project's own exporter writes them.

use std::path::Path;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::adapters::PROMPTS;
use crate::harness::{Gateway, prepared, python, settings, tiny};

const TOKENS: usize = 48;

fn layout(name: &str) -> String {
    tiny(&format!("layouts/{name}"))
}

/// A copy of a prepared folder without the files that `leave_out` chooses.
pub(crate) fn copy_of(model: &str, leave_out: impl Fn(&str) -> bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(prepared("tiny").join(model)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !leave_out(name) {
            std::fs::copy(&path, folder.path().join(name)).unwrap();
        }
    }
    folder
}

/// The tokens of a folder, each prompt alone and then all of them together.
async fn tokens(model: &str, flags: &[&str]) -> Vec<Vec<u64>> {
    let gateway = &Gateway::serving(model, flags).await;
    let mut alone = Vec::new();
    for prompt in PROMPTS {
        alone.push(gateway.greedy(prompt, TOKENS).await);
    }
    let together = join_all(PROMPTS.map(|prompt| gateway.greedy(prompt, TOKENS))).await;
    assert_eq!(together, alone, "{model}: in company");
    alone
}

/// Serves `model` with prompts in pieces and whole, and compares with `sibling`, which has the same weights.
async fn gives_what_its_sibling_gives(model: &str, sibling: &str) {
    let expected = tokens(&tiny(sibling), &[]).await;
    for flags in [&["--prefill-chunk-tokens=3"][..], &[]] {
        assert_eq!(tokens(model, flags).await, expected, "{model} {flags:?}");
    }
}

/// Why a folder is not served.
async fn refusal(folder: &Path) -> String {
    let path = format!("--default-model-path={}", folder.display());
    Gateway::start(settings(&[&path])).await.wait_state("failed").await
}

#[tokio::test]
async fn a_pair_whose_second_graph_can_do_all_is_served() {
    gives_what_its_sibling_gives(&layout("pair"), "gpt2").await;
}

#[tokio::test]
async fn a_pair_whose_second_graph_takes_one_token_a_run_is_served() {
    gives_what_its_sibling_gives(&layout("pair-one-token"), "gpt2").await;
}

#[tokio::test]
async fn a_pair_whose_second_graph_only_looks_as_if_it_took_prompts_is_served() {
    gives_what_its_sibling_gives(&layout("pair-unmasked"), "gpt2").await;
}

#[tokio::test]
async fn a_pair_is_served_from_the_path_of_either_graph() {
    let expected = tokens(&tiny("gpt2"), &[]).await;
    for name in ["decoder_model.onnx", "decoder_with_past_model.onnx"] {
        assert_eq!(tokens(&format!("{}/{name}", layout("pair-one-token")), &[]).await, expected, "{name}");
    }
}

#[tokio::test]
async fn the_first_graph_of_a_pair_alone_is_served_without_a_cache() {
    let folder = copy_of("layouts/pair", |name| name == "decoder_with_past_model.onnx");
    gives_what_its_sibling_gives(folder.path().to_str().unwrap(), "gpt2").await;
}

#[tokio::test]
async fn the_second_graph_of_a_pair_alone_is_refused_when_it_is_made_for_one_token_a_run() {
    for model in ["layouts/pair-one-token", "layouts/pair-unmasked"] {
        let folder = copy_of(model, |name| name == "decoder_model.onnx");
        let reason = refusal(&folder.path().join("decoder_with_past_model.onnx")).await;
        assert!(reason.contains("one token a run") && reason.contains("decoder_model.onnx"), "{reason}");
    }
}

#[tokio::test]
async fn a_mask_with_the_shape_for_one_token_is_no_reason_to_refuse() {
    for model in ["merged", "one-more"] {
        gives_what_its_sibling_gives(&layout(model), "gpt2").await;
    }
}

#[tokio::test]
async fn a_folder_of_genai_is_served_under_its_own_names() {
    gives_what_its_sibling_gives(&layout("genai"), "llama").await;
}

#[tokio::test]
async fn what_a_genai_config_says_and_is_not_understood_is_refused_by_name() {
    let folder = copy_of("layouts/genai", |_| false);
    let file = folder.path().join("genai_config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let cases: [(&str, Value, &str); 4] = [
        ("/inputs/past_key_names", json!("cache"), "`past_key_names` is `cache`"),
        ("/inputs/past_key_names", json!("other_%d"), "the input `past_key_0`"),
        ("/outputs/logits", json!("logits"), "no output `logits`; its outputs are scores"),
        ("/filename", json!("gone.onnx"), "gone.onnx"),
    ];
    for (pointer, value, part) in cases {
        let mut changed = config.clone();
        *changed["model"]["decoder"].pointer_mut(pointer).unwrap() = value;
        std::fs::write(&file, changed.to_string()).unwrap();
        let reason = refusal(folder.path()).await;
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[tokio::test]
async fn the_model_zoos_gpt2_is_served_without_a_cache() {
    gives_what_its_sibling_gives(&layout("zoo"), "gpt2").await;
}

#[tokio::test]
async fn a_graph_without_names_that_takes_rows_of_tokens_is_served() {
    gives_what_its_sibling_gives(&layout("zoo-flat"), "gpt2").await;
}

#[tokio::test]
async fn hidden_states_in_place_of_logits_are_refused() {
    let reason = refusal(Path::new(&layout("zoo-hidden"))).await;
    for part in ["`output1` is 64 wide", "259 tokens", "hidden states"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
}

#[tokio::test]
async fn a_graph_for_one_row_a_run_is_served() {
    gives_what_its_sibling_gives(&layout("one-row"), "gpt2").await;
}

#[tokio::test]
async fn integers_of_32_bits_are_served() {
    gives_what_its_sibling_gives(&layout("int32"), "gpt2").await;
    gives_what_its_sibling_gives(&layout("grouped-int32"), "llama").await;
}

#[tokio::test]
async fn caches_and_logits_of_16_bits_are_served() {
    gives_what_its_sibling_gives(&layout("fp16"), "gpt2").await;
    gives_what_its_sibling_gives(&layout("fp16-cache"), "gpt2").await;
}

#[tokio::test]
async fn grouped_attention_with_a_cache_of_16_bits_is_served_in_place() {
    gives_what_its_sibling_gives(&layout("grouped-fp16"), "llama").await;
}

#[tokio::test]
async fn multi_head_attention_as_one_operator_is_served() {
    gives_what_its_sibling_gives(&layout("operator"), "gpt2").await;
}

/// A copy of a model whose graph is in ONNX Runtime's own format.
pub(crate) fn in_ort_format(model: &str) -> tempfile::TempDir {
    let folder = copy_of(model, |name| name.contains(".onnx"));
    let status = python("tests/fixtures/ort_format.py")
        .arg(prepared("tiny").join(model).join("model.onnx"))
        .arg(folder.path().join("model.ort"))
        .status()
        .unwrap();
    assert!(status.success(), "the conversion failed");
    folder
}

#[tokio::test]
async fn grouped_attention_is_seen_in_onnx_runtimes_own_format() {
    let folder = in_ort_format("llama");
    let gateway = Gateway::serving(folder.path().to_str().unwrap(), &["--prefill-chunk-tokens=4"]).await;
    for _ in 0..2 {
        gateway.greedy(PROMPTS[1], 2).await;
    }
    // Only graphs that write in place keep beginnings of prompts.
    let hits = gateway.sample("inference_gateway_prefix_hit_tokens_total{model=\"tiny\"}").await;
    assert!(hits >= 16.0, "{hits} tokens were copied");
}

#[tokio::test]
async fn graphs_in_onnx_runtimes_own_format_are_served() {
    for model in ["llama", "llama-plain", "gpt2", "gpt2-no-cache"] {
        let folder = in_ort_format(model);
        gives_what_its_sibling_gives(folder.path().to_str().unwrap(), model).await;
    }
    let folder = in_ort_format("llama");
    let graph = folder.path().join("model.ort");
    gives_what_its_sibling_gives(graph.to_str().unwrap(), "llama").await;
    std::fs::write(&graph, b"<html>not found</html>").unwrap();
    let reason = refusal(folder.path()).await;
    assert!(reason.contains("model.ort cannot be loaded: it is an HTML page"), "{reason}");
}
