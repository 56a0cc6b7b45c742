//! The engine in process: no HTTP, no text. A long-lived process that is driven by lines, so that its runs can
//! alternate with those of other engines.
//!
//! ```sh
//! cargo bench --bench engine -- --model prepared/models/smollm2-135m-instruct-w8a8
//! ```
//!
//! Loads the model once and prints `{"ready": true}`. Then, for each JSON line on standard input
//! `{"prompts": [[504, 3575], …], "tokens": 128}` it submits all prompts at once, reads every stream to its end, and
//! prints one JSON line: `wall_seconds` from the first submission to the last token, `first_token_seconds` of each
//! prompt, `together_tokens_per_second` while all of them decode, and the `token_ids`. Sampling is greedy; nothing
//! but the number of tokens ends a text.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures_util::future::try_join_all;
use inference_gateway::engine::ort::{GraphFiles, GraphHints, Rows, Runtime, RuntimeOptions, library};
use inference_gateway::engine::{
    Engine, EngineLimits, Event, Request, Sampling, Shared, TokenId, TokenStream,
};
use inference_gateway::metrics::Metrics;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    /// Folder with `model.onnx`.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// Threads that compute.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    threads: usize,
    /// Sequences generated at once.
    #[arg(long, default_value_t = 32)]
    rows: usize,
    /// Tokens of a sequence, prompt and output together.
    #[arg(long, default_value_t = 2048)]
    context_tokens: usize,
    /// Tokens of a prompt that are fed in one run.
    #[arg(long, default_value_t = 64)]
    chunk_tokens: usize,
    /// Bytes for kept beginnings of prompts; 0 keeps none.
    #[arg(long, default_value_t = 0)]
    prefix_bytes: usize,
    /// Tokens that are drafted at most for a sequence that decodes alone; 0 drafts none.
    #[arg(long, default_value_t = 0)]
    draft_tokens: usize,
    /// Keep caches in pages of the usual size.
    #[arg(long)]
    small_pages: bool,
    /// The ONNX Runtime library; default: as the gateway finds it.
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    ort_dylib_path: Option<PathBuf>,
    /// Let idle threads sleep at once.
    #[arg(long)]
    no_spinning: bool,
    /// `cargo bench` adds this flag.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    prompts: Vec<Vec<TokenId>>,
    tokens: usize,
}

/// The output of one prompt, each token with its time in seconds.
struct Output {
    token_ids: Vec<TokenId>,
    times: Vec<f64>,
}

fn start_engine(arguments: &Arguments) -> Result<Engine> {
    let search = library::Search {
        explicit: arguments.ort_dylib_path.clone(),
        executable: std::env::current_exe().ok(),
        working_folder: std::env::current_dir().ok(),
        ..library::Search::default()
    };
    let options = RuntimeOptions { threads: arguments.threads, spinning: !arguments.no_spinning };
    let runtime = Runtime::start(&search, &options)?;
    let rows = Rows {
        rows: arguments.rows,
        context_tokens: arguments.context_tokens,
        huge_pages_up_to_bytes: if arguments.small_pages { 0 } else { u64::MAX },
    };
    let graph = GraphFiles { graph: arguments.model.join("model.onnx"), with_past: None };
    let backend = runtime.load(&graph, &GraphHints::default(), rows)?;
    let limits = EngineLimits {
        chunk_tokens: arguments.chunk_tokens,
        queue: 1024,
        cache_tokens: arguments.rows * arguments.context_tokens,
        prefix_bytes: arguments.prefix_bytes,
        draft_tokens: arguments.draft_tokens,
    };
    Engine::start(
        "bench",
        backend,
        limits,
        Shared { turns: runtime.turns(), metrics: Metrics::new().model("bench") },
    )
    .context("failed to start the engine thread")
}

/// Reads a stream to its end.
async fn read(mut stream: TokenStream, begin: Instant, tokens: usize) -> Result<Output> {
    let mut output = Output { token_ids: Vec::with_capacity(tokens), times: Vec::with_capacity(tokens) };
    while let Some(event) = stream.next().await {
        match event? {
            Event::Prefilled { .. } => {}
            Event::Token { token, .. } => {
                output.token_ids.push(token);
                output.times.push(begin.elapsed().as_secs_f64());
            }
            Event::Finished(_) => return Ok(output),
        }
    }
    bail!("the engine has stopped")
}

async fn measure(engine: &Engine, case: Case) -> Result<Value> {
    let Case { prompts, tokens } = case;
    let begin = Instant::now();
    let mut streams = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let request = Request {
            prompt,
            sampling: Sampling::greedy(),
            max_tokens: tokens,
            stop_tokens: Vec::new(),
            logprobs: None,
            deadline: None,
        };
        streams.push(read(engine.submit(engine.reserve()?, request)?, begin, tokens));
    }
    let outputs = try_join_all(streams).await?;
    Ok(report(&outputs))
}

fn report(outputs: &[Output]) -> Value {
    let firsts: Vec<f64> = outputs.iter().filter_map(|output| output.times.first().copied()).collect();
    let lasts = || outputs.iter().filter_map(|output| output.times.last().copied());
    let from = firsts.iter().copied().fold(0.0, f64::max);
    let to = lasts().fold(f64::INFINITY, f64::min);
    let together = outputs.iter().flat_map(|output| &output.times).filter(|&&time| time > from && time <= to);
    json!({
        "wall_seconds": lasts().fold(0.0, f64::max),
        "first_token_seconds": firsts,
        "together_tokens_per_second": (to > from).then(|| together.count() as f64 / (to - from)),
        "token_ids": outputs.iter().map(|output| &output.token_ids).collect::<Vec<_>>(),
    })
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let engine = start_engine(&arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut output = std::io::stdout();
    writeln!(output, "{}", json!({"ready": true}))?;
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?) {
            Ok(case) => runtime.block_on(measure(&engine, case)),
            Err(error) => Err(error.into()),
        };
        let answer = answer.unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
        writeln!(output, "{answer}")?;
    }
    engine.stop();
    Ok(())
}
