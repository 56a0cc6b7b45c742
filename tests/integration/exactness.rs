//! The tokens of a request are those of the reference, whoever else runs, wherever its chunks end, and whether its
//! beginning was copied or computed.

use std::fs;

use serde_json::{Value, json};

use crate::adapters::reference;
use crate::company::{Company, prefix_hits, staggered, steps_of_more_than};
use crate::harness::{Gateway, ids, prepared, project, tiny};

/// What must not change a token.
#[derive(Debug, Clone, Copy)]
struct Setup {
    chunk_tokens: usize,
    keeps_prefixes: bool,
}

impl Setup {
    async fn serve(self, model: &str) -> Gateway {
        let chunk = format!("--prefill-chunk-tokens={}", self.chunk_tokens);
        let prefix = if self.keeps_prefixes { "--prefix-memory=256Mi" } else { "--prefix-memory=0" };
        Gateway::serving(model, &[&chunk, prefix, "--max-batch-size=24"]).await
    }
}

fn greedy(text: &str, max_tokens: usize) -> Value {
    json!({
        "text": text, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true, "return_token_ids": true,
        "stream": true,
    })
}

/// A text whose first `prompt_bytes` bytes are a prompt and whose rest is its continuation, with all tokens of both.
struct Known {
    text: String,
    prompt_bytes: usize,
    tokens: Vec<u64>,
}

impl Known {
    /// Made by Hugging Face transformers; see `golden.json`.
    fn golden() -> Vec<Self> {
        let file = fs::read_to_string(project().join("tests/fixtures/golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&file).unwrap();
        let case = |case: &Value| {
            let prompt = case["prompt"].as_str().unwrap();
            let mut tokens = ids(&case["prompt_token_ids"]);
            tokens.extend(ids(&case["token_ids"]));
            let text = format!("{prompt}{}", case["text"].as_str().unwrap());
            Self { text, prompt_bytes: prompt.len(), tokens }
        };
        golden["cases"].as_array().unwrap().iter().map(case).collect()
    }

    /// The prompt, to be continued.
    fn early(&self, max_tokens: usize) -> Value {
        greedy(&self.text[..self.prompt_bytes], max_tokens)
    }

    /// A longer prompt, with most of the continuation: what follows is known too.
    fn late(&self) -> Value {
        let most = self.prompt_bytes + (self.text.len() - self.prompt_bytes) * 4 / 5;
        let cut = self.text[..self.text.floor_char_boundary(most)].rfind(' ').unwrap();
        greedy(&self.text[..cut], 8)
    }

    fn check(&self, metadata: &Value, context: &str) {
        let mut found = ids(&metadata["prompt_token_ids"]);
        found.extend(ids(&metadata["token_ids"]));
        assert_eq!(found[..], self.tokens[..found.len()], "{context}: {}", self.text);
    }
}

/// Serves with `setup` and asks for each wave of requests, whose tokens are `known`, amid a company; returns how many
/// prompt tokens were copied in the last wave.
async fn ask_in_company(
    setup: Setup,
    model: &str,
    known: &[Known],
    waves: &[Vec<Value>],
    company_tokens: usize,
) -> f64 {
    let gateway = setup.serve(model).await;
    let company = Company {
        seed: setup.chunk_tokens as u64,
        seats: 12,
        longest_prompt_words: setup.chunk_tokens.min(12),
        most_tokens: company_tokens,
    };
    let context = format!("{model}: {setup:?} {company:?}");
    let mut hits_before = 0.0;
    for requests in waves {
        hits_before = prefix_hits(&gateway).await;
        let answers = company.around(&gateway, staggered(&gateway, requests, 2)).await;
        for ((known, request), metadata) in known.iter().zip(requests).zip(&answers) {
            assert_eq!(metadata["tokens_generated"], request["max_tokens"], "{context}");
            known.check(metadata, &context);
        }
    }
    let crowded = steps_of_more_than(&gateway, 4).await;
    // Half of the tokens of an answer, so that they did not just meet in passing.
    assert!(crowded >= 24.0, "{context}: only {crowded} steps had more than 4 rows");
    prefix_hits(&gateway).await - hits_before
}

/// The full-precision model, each golden case amid a company that comes and goes. All lengths of chunks and all kinds of
/// graph with and without kept beginnings are below, on tiny models; here, where a run is slow:
///
/// - chunks of 1, beginnings kept: the first tokens of the cases, then the same prompts again, copied but for their last token;
/// - chunks of 7, nothing kept: the cases;
/// - chunks of 32, beginnings kept: later parts of the cases, with prompts of up to three chunks, twice;
/// - chunks of 64, nothing kept: the cases and their later parts, one of them longer than a chunk.
#[tokio::test]
async fn the_golden_tokens_come_in_any_company_and_with_any_chunks() {
    let known = Known::golden();
    assert_eq!(known.len(), 8);
    let model = prepared("models/smollm2-135m-instruct-fp32").display().to_string();
    let [early, first, again]: [Vec<Value>; 3] =
        [48, 16, 8].map(|tokens| known.iter().map(|known| known.early(tokens)).collect());
    let late: Vec<Value> = known.iter().map(Known::late).collect();
    let ask = async |chunk_tokens, keeps_prefixes, waves: &[Vec<Value>]| {
        ask_in_company(Setup { chunk_tokens, keeps_prefixes }, &model, &known, waves, 40).await
    };
    // The prompts of the cases have 105 tokens in all; those of their later parts 24 to 70 each.
    assert!(ask(1, true, &[first, again]).await >= 97.0, "beginnings were computed again");
    assert_eq!(ask(7, false, std::slice::from_ref(&early)).await.to_bits(), 0.0_f64.to_bits());
    assert!(
        ask(32, true, &[late.clone(), late.clone()]).await >= 7.0 * 32.0,
        "beginnings were computed again"
    );
    assert_eq!(ask(64, false, &[early, late]).await.to_bits(), 0.0_f64.to_bits());
}

/// Each kind of graph in a company: in place, with all lengths of chunks and with and without kept beginnings, which are
/// then copied in a second wave of the same prompts; concat with all lengths of chunks; kinds that cannot take chunks and
/// graphs whose logits are selected by us, with fewer.
#[tokio::test]
async fn every_kind_of_graph_is_exact_in_company() {
    let all_chunks: &[usize] = &[1, 7, 32, 64];
    let kinds: [(&str, &[usize], &[bool]); 5] = [
        ("llama", all_chunks, &[true, false]),
        ("llama-all-logits", &[7, 64], &[true]),
        ("gpt2", all_chunks, &[true]),
        ("gpt2-merged", &[7], &[true]),
        ("gpt2-no-cache", &[7], &[true]),
    ];
    let prompts: Vec<String> = (0..6).map(|number| SENTENCE[number..].repeat(1 + number / 5)).collect();
    let tokens: Vec<Vec<u64>> = prompts.iter().map(|text| text.bytes().map(u64::from).collect()).collect();
    for (model, chunks, kept) in kinds {
        let answers = reference(&tiny(model), &tokens, 24);
        let known: Vec<Known> = prompts
            .iter()
            .zip(tokens.iter().zip(answers))
            .map(|(text, (prompt, answer))| Known {
                text: text.clone(),
                prompt_bytes: text.len(),
                tokens: [prompt.clone(), answer].concat(),
            })
            .collect();
        let wave: Vec<Value> = known.iter().map(|known| known.early(24)).collect();
        for (&chunk_tokens, &keeps_prefixes) in chunks.iter().flat_map(|c| kept.iter().map(move |k| (c, k))) {
            let setup = Setup { chunk_tokens, keeps_prefixes };
            let is_copied = keeps_prefixes && model.starts_with("llama");
            let waves = vec![wave.clone(); if is_copied { 2 } else { 1 }];
            // Steps are so short that a company of short texts would wait for its clients most of the time.
            let copied_tokens = ask_in_company(setup, &tiny(model), &known, &waves, 160).await;
            assert_eq!(copied_tokens > 0.0, is_copied, "{model}: {setup:?} copied {copied_tokens} tokens");
        }
    }
}

/// Longer than the longest chunk.
const SENTENCE: &str =
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on in the sun of the late day";
