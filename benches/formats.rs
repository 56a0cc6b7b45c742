//! What a format costs, without a model: the vocabulary's tree, compiling, and the mask of each token.
//!
//! ```sh
//! cargo bench --bench formats -- --model prepared/models/smollm2-135m-instruct-w8a8
//! ```
//!
//! Each schema of `tests/fixtures/schemas` is followed twice through random tokens of those that it allows, which is harder
//! than what models write. Prints, for each and for all, the milliseconds that compiling takes and the microseconds of a
//! token: median, mean, the highest of a hundred, the highest.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use inference_gateway::memory::resident_bytes;
use inference_gateway::text::constraint::{Format, Grammars, Progress};
use inference_gateway::text::tokenizer::Tokenizer;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Tokens of one text at most.
const TOKENS: usize = 128;

#[derive(Parser)]
struct Arguments {
    /// Folder with `tokenizer.json`.
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,
    /// The token that ends a text.
    #[arg(long, default_value = "<|im_end|>")]
    end: String,
    /// `cargo bench` adds this flag.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Microseconds of tokens.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn line(&mut self) -> String {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0.get(((self.0.len() as f64 * share) as usize).min(self.0.len() - 1));
        let mean = self.0.iter().sum::<f64>() / self.0.len() as f64;
        let [median, high, highest] = [0.5, 0.99, 1.0].map(|share| at(share).copied().unwrap_or_default());
        format!(
            "{:6} tokens  median {median:7.1}  mean {mean:7.1}  99 % {high:8.1}  highest {highest:8.1} us",
            self.0.len()
        )
    }
}

fn schemas() -> Result<Vec<(String, Format)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schemas");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
        found.push((name, Format::JsonSchema(serde_json::from_slice(&std::fs::read(path)?)?)));
    }
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(found)
}

/// Follows a constraint through random tokens to its end, or for so many tokens.
fn follow(mut progress: Progress, end: u32, random: &mut StdRng, times: &mut Times) -> Result<()> {
    for _ in 0..TOKENS {
        let words = progress.allowed().iter().enumerate();
        let allowed: Vec<u32> = words
            .flat_map(|(index, word)| {
                (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index as u32 * 32 + bit)
            })
            .collect();
        let token = allowed[random.random_range(0..allowed.len())];
        if token == end {
            break;
        }
        let begin = Instant::now();
        let complete = progress.accept(token)?;
        if !complete {
            progress.prepare()?;
        }
        times.0.push(begin.elapsed().as_secs_f64() * 1e6);
        if complete {
            break;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let tokenizer = Arc::new(Tokenizer::from_file(&arguments.model.join("tokenizer.json"))?);
    let end =
        tokenizer.token_to_id(&arguments.end).context("the vocabulary has the token that ends a text")?;
    let mut out = std::io::stdout().lock();
    let mebibytes = || resident_bytes().unwrap_or_default() as f64 / f64::from(1 << 20);
    let (before, begin) = (mebibytes(), Instant::now());
    let grammars = Grammars::new(tokenizer, &[end]);
    drop(grammars.compile(&Format::Choice(vec!["yes".to_owned(), "no".to_owned()]), true)?);
    let (seconds, taken) = (begin.elapsed().as_secs_f64(), mebibytes() - before);
    writeln!(out, "the first format of a model: {:.1} ms, {taken:.1} MiB", seconds * 1e3)?;
    let (mut random, mut all, before) = (StdRng::seed_from_u64(1), Times::default(), mebibytes());
    for (name, format) in schemas()? {
        let mut times = Times::default();
        let begin = Instant::now();
        let progress = grammars.begin(&format, true)?;
        let compiled = begin.elapsed();
        follow(progress, end, &mut random, &mut times)?;
        let begin = Instant::now();
        let progress = grammars.begin(&format, true)?;
        let copied = begin.elapsed();
        follow(progress, end, &mut random, &mut times)?;
        let milliseconds = [compiled, copied].map(|time| time.as_secs_f64() * 1e3);
        let [compiled, copied] = milliseconds;
        writeln!(out, "{name:20} compiled {compiled:6.2} ms  again {copied:6.2} ms {}", times.line())?;
        all.0.append(&mut times.0);
    }
    writeln!(out, "all {}", all.line())?;
    writeln!(out, "kept formats: {:.1} MiB", mebibytes() - before)?;
    Ok(())
}
