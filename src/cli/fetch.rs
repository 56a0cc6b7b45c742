//! `inference-gateway fetch`: prepares a model in the cache, tells how far it is, prints digest and folder.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::app;
use crate::config::Settings;
use crate::model::manifest::Digest;
use crate::model::source::{Progress, ProgressReading};
use crate::model::spec::Source;
use crate::model::store::{PrepareError, Prepared, Store, Wanted};
use crate::telemetry;

/// Between two looks at the progress where a person watches.
const REDRAW: Duration = Duration::from_millis(200);
/// Between two log lines where nobody does.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// What is asked for.
pub(super) struct Request {
    source: String,
    tokenizer: Option<String>,
    digest: Option<Digest>,
}

pub(super) fn arguments(command: Command) -> Command {
    command
        .about("Prepare a model in the cache, and print its digest and folder")
        .long_about(None)
        .arg(
            Arg::new("source")
                .value_name("SOURCE")
                .required(true)
                .help("A folder, an .onnx file, a URL, hf://owner/repo or oci://registry/repository:tag"),
        )
        .arg(
            Arg::new("digest")
                .long("digest")
                .value_name("DIGEST")
                .value_parser(value_parser!(Digest))
                .help("The only digest that is acceptable, as sha256:…"),
        )
        .arg(
            Arg::new("tokenizer")
                .long("tokenizer")
                .value_name("SOURCE")
                .help("The tokenizer, when it is not that of the source"),
        )
}

impl Request {
    pub(super) fn from_matches(matches: &ArgMatches) -> anyhow::Result<Self> {
        Ok(Self {
            source: matches.get_one::<String>("source").context("clap asks for the source")?.clone(),
            tokenizer: matches.get_one::<String>("tokenizer").cloned(),
            digest: matches.get_one::<Digest>("digest").cloned(),
        })
    }
}

pub(super) fn fetch(mut settings: Settings, request: &Request) -> anyhow::Result<()> {
    telemetry::init(&settings.log.log_filter, settings.log.log_format)?;
    // The source stands where the model of the settings would, so that its host is trusted as that one's is.
    settings.model.default_model_path.clone_from(&request.source);
    settings.model.default_tokenizer.clone_from(&request.tokenizer);
    let source = Source::parse(&request.source).context("the source is not understood")?;
    let given = request.tokenizer.as_deref().map(Source::parse_tokenizer).transpose();
    let given = given.context("the tokenizer's source is not understood")?;
    // The built-in model has its tokenizer elsewhere.
    let tokenizer = if given.is_some() { given } else { settings.model.tokenizer()? };
    let wanted = Wanted {
        source: &source,
        tokenizer: tokenizer.as_ref(),
        digest: request.digest.as_ref(),
        in_place: false,
    };
    let store = app::store(&settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let outcome = runtime.block_on(watched(&store, &wanted));
    let prepared = outcome.map_err(|error| {
        let reason = error.reason();
        anyhow::Error::new(error).context(reason)
    })?;
    let mut out = std::io::stdout().lock();
    let digest = prepared.digest.as_ref().map_or("none".to_owned(), ToString::to_string);
    writeln!(out, "digest  {digest}")?;
    writeln!(out, "folder  {}", prepared.folder.display())?;
    Ok(())
}

/// Prepares, and tells how far it is.
async fn watched(store: &Store, wanted: &Wanted<'_>) -> Result<Prepared, PrepareError> {
    let (progress, terminal) = (Progress::default(), std::io::stderr().is_terminal());
    let mut ticks = tokio::time::interval(if terminal { REDRAW } else { LOG_INTERVAL });
    ticks.tick().await;
    let mut prepare = std::pin::pin!(store.prepare(wanted, &progress));
    let outcome = loop {
        tokio::select! {
            outcome = &mut prepare => break outcome,
            _ = ticks.tick() => tell(&progress.read(), terminal),
        }
    };
    if terminal {
        draw("");
    }
    outcome
}

fn tell(reading: &ProgressReading, terminal: bool) {
    let ProgressReading { file, done_bytes, total_bytes, earlier_bytes, planned_bytes, fetched_bytes: _ } =
        reading;
    let Some(file) = file else { return };
    // All files where their sizes are known, else the file of the moment.
    let (done_bytes, total_bytes) = match planned_bytes {
        Some(_) => (done_bytes + earlier_bytes, *planned_bytes),
        None => (*done_bytes, *total_bytes),
    };
    if !terminal {
        tracing::info!(file, done_bytes, total_bytes, "fetching");
        return;
    }
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let amount = match (total_bytes.filter(|total| *total > 0), done_bytes) {
        (Some(total), done) => format!(
            "{:.1} of {:.1} MB, {:.0} %",
            megabytes(done),
            megabytes(total),
            100.0 * done as f64 / total as f64
        ),
        (None, 0) => String::new(),
        (None, done) => format!("{:.1} MB", megabytes(done)),
    };
    draw(&format!("{file}  {amount}"));
}

/// Replaces the line of the terminal.
fn draw(line: &str) {
    let mut err = std::io::stderr().lock();
    // A terminal that is gone is no reason to stop.
    drop(write!(err, "\r{line}\x1b[K").and_then(|()| err.flush()));
}
