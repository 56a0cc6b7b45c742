//! `inference-gateway fetch`: prepares a model in the cache, tells how far it is, prints digest and folder.

use std::io::Write;

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::progress;
use crate::app;
use crate::config::Settings;
use crate::model::manifest::Digest;
use crate::model::source::Progress;
use crate::model::spec::Source;
use crate::model::store::Wanted;
use crate::telemetry;

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
    let told = Progress::default();
    let outcome = runtime.block_on(progress::watched(store.prepare(&wanted, &told), &told, ""));
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
