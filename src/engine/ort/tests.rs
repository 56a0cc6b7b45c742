//! The adapters that share runs between rows, on tiny graphs in ONNX Runtime: what each row gets, and in how many runs.

use std::path::{Path, PathBuf};

use super::concat::Concat;
use super::groups::{Bounds, group};
use super::recompute::Recompute;
use super::*;
use crate::engine::backend::{Batch, Feeding, Geometry, Input, Wanted};
use crate::engine::request::TokenId;

const ROWS: Rows = Rows { rows: 8, context_tokens: 256, huge_pages_up_to_bytes: 0 };

/// Logits of a row in company against those of the row alone: sums of as many numbers in another order.
const TOLERANCE: f32 = 1e-4;

/// The seam of the worker, and how many runs it took.
struct Adapter<B> {
    backend: B,
    runs: fn(&B) -> usize,
}

fn open(model: &str) -> (Session, Contract, u64) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = project.join("prepared/tiny").join(model);
    assert!(folder.exists(), "{} is missing: run `make prepare-tests`", folder.display());
    let search = library::Search { working_folder: Some(project.to_owned()), ..library::Search::default() };
    let runtime = Runtime::start(&search, &RuntimeOptions { threads: 2, spinning: false }).unwrap();
    let graph: PathBuf = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .unwrap();
    let operators = graph_file::scan(&graph).unwrap();
    let session = runtime.session(&graph).unwrap();
    let contract = Contract::read(&session, &operators, &GraphHints::default()).unwrap();
    (session, contract, operators.parameters())
}

/// What the backend of a folder can do, loaded from these files of it.
fn loaded(model: &str, graph: &str, with_past: Option<&str>) -> Result<Geometry, String> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = project.join("prepared/tiny").join(model);
    let search = library::Search { working_folder: Some(project.to_owned()), ..library::Search::default() };
    let runtime = Runtime::start(&search, &RuntimeOptions { threads: 2, spinning: false }).unwrap();
    let files = GraphFiles {
        graph: folder.join(graph),
        with_past: with_past.map(|with_past| folder.join(with_past)),
    };
    let loaded = runtime.load(&files, &GraphHints::default(), ROWS);
    loaded.map(|backend| backend.geometry()).map_err(|error| error.to_string())
}

fn concat(model: &str) -> Adapter<Concat> {
    let (session, Contract { graph, cache }, _) = open(model);
    let Cache::Concat { layout, left_padding } = cache else { panic!("{model} is of another kind") };
    Adapter { backend: Concat::new(session, graph, (layout, left_padding), ROWS), runs: Concat::runs }
}

fn recompute(model: &str) -> Adapter<Recompute> {
    let (session, Contract { graph, cache }, parameters) = open(model);
    assert!(matches!(cache, Cache::None { .. }), "{model} is of another kind");
    Adapter { backend: Recompute::new(session, graph, parameters, ROWS).unwrap(), runs: Recompute::runs }
}

impl<B: Backend> Adapter<B> {
    /// Feeds one prompt into `row`, in pieces of `piece` tokens; the logits of its last token.
    fn prefill(&mut self, row: usize, prompt: &[TokenId], piece: usize) -> Vec<f32> {
        let mut logits = Vec::new();
        for (index, tokens) in prompt.chunks(piece).enumerate() {
            let inputs = [Input { past: index * piece, tokens }];
            let batch = Batch { first_row: row, inputs: &inputs, wanted: Wanted::Last };
            logits = self.backend.forward(&batch).unwrap().to_vec();
        }
        logits
    }

    /// Feeds the last token of each text; the logits of each, and the number of runs that it took.
    fn decode(&mut self, texts: &[Text]) -> (Vec<Vec<f32>>, usize) {
        let inputs: Vec<Input<'_>> = texts
            .iter()
            .map(|text| Input { past: text.tokens.len() - 1, tokens: &text.tokens[text.tokens.len() - 1..] })
            .collect();
        let before = (self.runs)(&self.backend);
        let batch = Batch { first_row: 0, inputs: &inputs, wanted: Wanted::Last };
        let logits = self.backend.forward(&batch).unwrap();
        let rows = logits.chunks_exact(logits.len() / texts.len()).map(<[f32]>::to_vec).collect();
        (rows, (self.runs)(&self.backend) - before)
    }
}

/// A text in a row.
#[derive(Clone)]
struct Text {
    tokens: Vec<TokenId>,
    /// Logits of each step as the row gets them alone.
    alone: Vec<Vec<f32>>,
    step: usize,
}

fn highest(logits: &[f32]) -> TokenId {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as TokenId
}

impl Text {
    /// A prompt, and what follows it alone in row 0 of a backend.
    fn new<B: Backend>(alone: &mut Adapter<B>, prompt: Vec<TokenId>, steps: usize) -> Self {
        let mut text = Self { tokens: prompt.clone(), alone: Vec::new(), step: 0 };
        let mut logits = alone.prefill(0, &prompt, prompt.len());
        for _ in 1..steps {
            text.tokens.push(highest(&logits));
            text.alone.push(logits);
            logits = alone.decode(std::slice::from_ref(&text)).0.remove(0);
        }
        text.alone.push(logits);
        alone.backend.release_row(0, false);
        Self { tokens: prompt, ..text }
    }

    /// Compares and takes the next token; whether the text is complete.
    fn accept(&mut self, logits: &[f32]) -> bool {
        let expected = &self.alone[self.step];
        let furthest = expected.iter().zip(logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < TOLERANCE, "step {}: logits differ by {furthest}", self.step);
        assert_eq!(highest(logits), highest(expected));
        self.tokens.push(highest(logits));
        self.step += 1;
        self.step == self.alone.len()
    }
}

/// Numbers below a bound, always the same.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

/// Texts come and go as the worker lets them; each step must take as many runs as `bounds` ask for.
///
/// With a cache the new token of a row is not part of its length when rows are grouped.
fn check_company<B: Backend>(mut alone: Adapter<B>, mut company: Adapter<B>, bounds: Bounds) {
    let not_counted = usize::from(company.backend.geometry().cache_bytes_per_token > 0);
    let mut random = random(7);
    let piece = if company.backend.geometry().feeding == Feeding::Whole { 256 } else { 5 };
    let mut texts: Vec<Text> = Vec::new();
    let (mut shared, mut left) = (0, 0);
    for _ in 0..250 {
        if texts.len() < ROWS.rows && random(4) == 0 {
            let prompt = (0..=random(60)).map(|_| random(256) as TokenId).collect();
            let steps = 1 + random(60);
            let mut text = Text::new(&mut alone, prompt, steps);
            let row = texts.len();
            let logits = company.prefill(row, &text.tokens.clone(), piece);
            if text.accept(&logits) {
                company.backend.release_row(row, false);
            } else {
                texts.push(text);
            }
        }
        if texts.is_empty() {
            continue;
        }
        let (logits, runs) = company.decode(&texts);
        let lengths: Vec<(usize, usize)> =
            texts.iter().map(|text| text.tokens.len() - not_counted).enumerate().collect();
        assert_eq!(runs, group(&lengths, bounds).len(), "{lengths:?}");
        shared += usize::from(texts.len() > 1 && runs == 1);
        for row in (0..texts.len()).rev() {
            if texts[row].accept(&logits[row]) {
                left += 1;
                texts.swap_remove(row);
                if row < texts.len() {
                    company.backend.move_row(texts.len(), row, texts[row].tokens.len() - 1);
                }
                company.backend.release_row(texts.len(), false);
            }
        }
    }
    assert!(left > 20, "only {left} texts came and went");
    assert!(shared > 5, "only {shared} steps of several rows were one run");
}

const PADDED: Bounds = Bounds { equal_lengths: false, padded_percent: 200, tokens: usize::MAX };

#[test]
fn rows_of_concatenated_caches_share_runs_and_get_what_they_get_alone() {
    for model in ["gpt2", "gpt2-merged", "llama-plain", "layouts/operator", "layouts/int32"] {
        check_company(concat(model), concat(model), PADDED);
    }
}

#[test]
fn rows_without_a_cache_share_runs_and_get_what_they_get_alone() {
    let model = "gpt2-no-cache";
    let bounds = Bounds { equal_lengths: false, padded_percent: 125, tokens: 1024 };
    check_company(recompute(model), recompute(model), bounds);
}

#[test]
fn without_positions_only_rows_of_one_length_share_a_run() {
    let model = "gpt2-unpositioned";
    let (mut alone, mut company) = (concat(model), concat(model));
    let mut texts: Vec<Text> = [3, 9, 3, 4]
        .iter()
        .enumerate()
        .map(|(row, length)| {
            let mut text = Text::new(&mut alone, (0..*length).map(|token| token + 65).collect(), 20);
            let logits = company.prefill(row, &text.tokens.clone(), 256);
            text.accept(&logits);
            text
        })
        .collect();
    for _ in 1..20 {
        let (logits, runs) = company.decode(&texts);
        assert_eq!(runs, 3, "lengths are 3, 9, 3 and 4 tokens and grow alike");
        for (text, logits) in texts.iter_mut().zip(&logits) {
            text.accept(logits);
        }
    }
}

#[test]
fn a_row_without_its_cache_is_an_error_and_no_nonsense() {
    let mut company = concat("gpt2");
    let inputs = [Input { past: 3, tokens: &[65] }];
    let message =
        company.backend.forward(&Batch { first_row: 0, inputs: &inputs, wanted: Wanted::Last }).unwrap_err();
    assert!(message.to_string().contains("misses its cache"), "{message}");
}

#[test]
fn memory_is_told_with_the_padding_that_is_allowed() {
    // Keys and values of 2 layers, 2 heads of 32 numbers; old and new; padding for as much again.
    let token_bytes = 2 * 2 * 2 * 32 * 4;
    assert_eq!(concat("gpt2").backend.geometry().cache_bytes_per_token, 2 * 2 * token_bytes);
    assert_eq!(concat("gpt2-unpositioned").backend.geometry().cache_bytes_per_token, 2 * token_bytes);
}

#[test]
fn of_a_pair_both_graphs_are_loaded_only_where_the_second_cannot_take_prompts() {
    for (model, feeding) in [
        ("layouts/pair", Feeding::Chunks),
        ("layouts/pair-one-token", Feeding::Whole),
        ("layouts/pair-unmasked", Feeding::Whole),
    ] {
        let geometry = loaded(model, "decoder_model.onnx", Some("decoder_with_past_model.onnx")).unwrap();
        assert_eq!(geometry.feeding, feeding, "{model}");
    }
    let swapped = loaded("layouts/pair", "decoder_with_past_model.onnx", Some("decoder_model.onnx"));
    let message = swapped.unwrap_err();
    assert!(message.contains("decoder_model.onnx takes no `past_key_values.0.key`"), "{message}");
}

#[test]
fn halves_take_half_the_memory_in_place_and_concatenated() {
    let token_bytes = |model: &str| loaded(model, "model.onnx", None).unwrap().cache_bytes_per_token;
    assert_eq!(2 * token_bytes("layouts/grouped-fp16"), token_bytes("llama-all-logits"));
    assert_eq!(2 * token_bytes("layouts/fp16-cache"), token_bytes("gpt2"));
    let in_place = loaded("layouts/grouped-fp16", "model.onnx", None).unwrap();
    assert!(in_place.keeps_prefixes && in_place.feeding == Feeding::LongChunks, "{in_place:?}");
}
