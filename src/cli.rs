//! The command line: `serve` (also without a subcommand), `generate`, `config`, `verify`, `fetch`, `pack`, `check`, `crd`,
//! `metrics`, `openapi` and `controller`.

mod check;
mod fetch;
mod generate;
mod progress;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::app::{self, Listeners, Report, Requests};
use crate::config::{self, ControllerSettings, Resolved, Settings};
use crate::http::openapi;
use crate::k8s::crd;
use crate::metrics::Metrics;
use crate::model::manifest::Manifest;
use crate::model::verify;
use crate::shutdown::{self, SignalThread};
use crate::telemetry;

const ABOUT: &str = "Text generation with ONNX models as a Kubernetes-native HTTP service";

/// What the command line asks for.
enum Action {
    Serve,
    Config,
    Verify,
    Fetch(fetch::Request),
    Generate(Box<generate::Request>),
}

/// Parses the command line and does what it says; the exit code of what ended well, or was ended.
///
/// # Errors
/// Bad usage, or what was asked for failed.
pub fn run() -> anyhow::Result<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let matches = command().get_matches_from(&arguments);
    if let Some(done) = without_settings(&matches) {
        return done.map(|()| ExitCode::SUCCESS);
    }
    let (action, resolved) = parse(&arguments, &matches)?;
    match action {
        Action::Serve => serve(resolved.settings),
        Action::Config => print_config(&resolved),
        Action::Verify => verify(&resolved.settings),
        Action::Fetch(request) => fetch::fetch(resolved.settings, &request),
        Action::Generate(request) => return generate::generate(&resolved.settings, &request),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Does what needs no settings, if that is asked for.
fn without_settings(matches: &ArgMatches) -> Option<anyhow::Result<()>> {
    Some(match matches.subcommand()? {
        ("pack", folder) => pack(folder),
        ("config", config) if config.get_flag("markdown") => print_settings_reference(),
        ("controller", settings) => {
            ControllerSettings::from_arg_matches(settings).map_err(Into::into).and_then(control)
        }
        ("crd", wanted) => print_definitions(wanted.get_one::<String>("kind").map(String::as_str)),
        ("check", wanted) => check::check(wanted),
        ("metrics", _) => print_metrics_reference(),
        ("openapi", _) => print_api_description(),
        (verify::SUBCOMMAND, _) => verify_model(),
        _ => return None,
    })
}

fn command() -> Command {
    // Arguments first: each `augment_args` would put the text of its struct in place of the command's.
    let serve = Settings::augment_args(Command::new("serve"))
        .about("Serve the API (also without a subcommand)")
        .long_about(None);
    let config = Settings::augment_args(Command::new("config"))
        .about("Print every setting, its value and its origin")
        .long_about(None)
        .arg(
            Arg::new("markdown")
                .long("markdown")
                .action(ArgAction::SetTrue)
                .help("Print their reference instead"),
        );
    let verify = Settings::augment_args(Command::new("verify"))
        .about("Check a model: its files against its manifest, then load it and generate a little")
        .long_about(None)
        .arg(folder_argument("The model's folder or graph; any other source is understood too"));
    let fetch = fetch::arguments(Settings::augment_args(Command::new("fetch")));
    let generate = generate::arguments(Settings::augment_args(Command::new("generate")));
    let pack = Command::new("pack")
        .about("Write manifest.json for a model's folder and print its digest")
        .arg(folder_argument("The folder that holds the model's files"));
    Settings::augment_args(Command::new("inference-gateway").version(env!("CARGO_PKG_VERSION")))
        .about(ABOUT)
        .long_about(None)
        .args_conflicts_with_subcommands(true)
        .subcommand(serve)
        .subcommand(generate)
        .subcommand(config)
        .subcommand(verify)
        .subcommand(fetch)
        .subcommand(pack)
        .subcommand(check::arguments(Command::new("check")))
        .subcommand(
            ControllerSettings::augment_args(Command::new("controller"))
                .about("Roll models out over the pods of a gateway (one holds the lease)")
                .long_about(None),
        )
        .subcommand(
            Command::new("crd").about("Print the CustomResourceDefinitions for `kubectl apply -f -`").arg(
                Arg::new("kind")
                    .value_name("KIND")
                    .value_parser(["models", "modelreplicas"])
                    .help("One of them; default: both"),
            ),
        )
        .subcommand(Command::new("metrics").about("Print the reference of every metric"))
        .subcommand(Command::new("openapi").about("Print the OpenAPI document of the API"))
        .subcommand(
            Command::new(verify::SUBCOMMAND).hide(true).about("Try the model that standard input describes"),
        )
}

fn folder_argument(help: &'static str) -> Arg {
    Arg::new("folder").value_name("FOLDER").required(true).value_parser(value_parser!(PathBuf)).help(help)
}

/// Parses twice: the first time to find the settings file, whose values become the defaults of the second.
fn parse(arguments: &[std::ffi::OsString], first: &ArgMatches) -> anyhow::Result<(Action, Resolved)> {
    let mut root = command();
    let (name, settings) = chosen(first);
    let name = name.map(str::to_owned);
    root = match &name {
        None => config::with_file(root, settings)?,
        Some(name) => {
            let subcommand = root.find_subcommand(name).context("a parsed subcommand exists")?.clone();
            let subcommand = config::with_file(subcommand, settings)?;
            root.mut_subcommand(name, |_| subcommand)
        }
    };
    let matches = root.clone().get_matches_from(arguments);
    let (_, settings) = chosen(&matches);
    let holder = name.as_deref().and_then(|name| root.find_subcommand(name)).unwrap_or(&root);
    let mut resolved = Resolved::from_matches(holder, settings)?;
    let action = match name.as_deref() {
        Some("config") => Action::Config,
        Some("verify") => {
            let folder = settings.get_one::<PathBuf>("folder").context("clap asks for the folder")?;
            resolved.settings.model.default_model_path = folder.display().to_string();
            Action::Verify
        }
        Some("fetch") => Action::Fetch(fetch::Request::from_matches(settings)?),
        Some("generate") => Action::Generate(Box::new(generate::Request::from_matches(settings))),
        _ => Action::Serve,
    };
    Ok((action, resolved))
}

fn chosen(matches: &ArgMatches) -> (Option<&str>, &ArgMatches) {
    match matches.subcommand() {
        Some((name, settings)) => (Some(name), settings),
        None => (None, matches),
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    let log = telemetry::init(&settings.log.log_filter, settings.log.log_format)?;
    let (stop, stop_requests) = shutdown::stop_requests();
    let (reload, reload_requests) = shutdown::reload_requests();
    let requests = Requests {
        stop: stop_requests,
        reload: reload_requests,
        reload_handle: reload.clone(),
        log: Some(log),
    };
    let _signals = SignalThread::start(stop, reload).context("failed to handle signals")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let outcome = runtime.block_on(async {
        let listeners = Listeners::bind(&settings).await?;
        Box::pin(app::run(settings, listeners, requests)).await
    });
    // Without waiting for a thread that is stuck.
    runtime.shutdown_background();
    outcome
}

fn control(settings: ControllerSettings) -> anyhow::Result<()> {
    telemetry::init(&settings.log.log_filter, settings.log.log_format)?;
    let (stop, stop_requests) = shutdown::stop_requests();
    let (reload, _nothing_to_read_again) = shutdown::reload_requests();
    let _signals = SignalThread::start(stop, reload).context("failed to handle signals")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    runtime.block_on(app::control(settings, stop_requests))
}

fn print_config(resolved: &Resolved) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for setting in &resolved.shown {
        let config::Shown { name, variable, value, origin } = setting;
        writeln!(out, "{name:<24} {variable:<34} {origin:<12} {value}")?;
    }
    Ok(())
}

fn print_settings_reference() -> anyhow::Result<()> {
    let reference = config::reference(&Settings::augment_args(Command::new("inference-gateway")));
    Ok(std::io::stdout().write_all(reference.as_bytes())?)
}

fn print_api_description() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(openapi::printed().as_bytes())?)
}

fn print_metrics_reference() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(Metrics::reference().as_bytes())?)
}

fn pack(matches: &ArgMatches) -> anyhow::Result<()> {
    let folder: &PathBuf = matches.get_one("folder").context("clap asks for the folder")?;
    let digest = Manifest::of_folder(folder)?.write(folder)?;
    writeln!(std::io::stdout(), "{digest}")?;
    Ok(())
}

fn print_definitions(kind: Option<&str>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for document in crd::documents() {
        if kind.is_none_or(|kind| document["spec"]["names"]["plural"] == kind) {
            writeln!(out, "---\n{}", serde_yaml::to_string(&document)?.trim_end())?;
        }
    }
    Ok(())
}

fn verify(settings: &Settings) -> anyhow::Result<()> {
    telemetry::init(&settings.log.log_filter, settings.log.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let report = runtime.block_on(app::verify(settings))?;
    print_report(&settings.model.default_model_path, &report)
}

/// What the process does that tries a model for another one.
fn verify_model() -> anyhow::Result<()> {
    telemetry::init("warn", telemetry::LogFormat::Auto)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let answer = runtime.block_on(verify::run_child(std::io::stdin().lock()));
    writeln!(std::io::stdout(), "\n{answer}")?;
    Ok(())
}

fn print_report(source: &str, report: &Report) -> anyhow::Result<()> {
    let Report { manifest, files, found } = report;
    let cache = match found.cache_bytes_per_token {
        0 => "none: every token computes the whole text anew".to_owned(),
        bytes if found.in_place => format!("{bytes} bytes a token, written in place"),
        bytes => format!("{bytes} bytes a token, copied by every step"),
    };
    let manifest = match manifest {
        Some((digest, files, bytes)) => format!("{digest}, {files} files of {bytes} bytes, all as listed"),
        None => "none: `inference-gateway pack` writes one".to_owned(),
    };
    let ends = match found.end_tokens.as_slice() {
        [] => "none: every text runs to its limit".to_owned(),
        tokens => tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "model       {source}")?;
    writeln!(out, "manifest    {manifest}")?;
    writeln!(
        out,
        "vocabulary  {} tokens in the graph, {} in the tokenizer",
        found.vocabulary_size, found.tokenizer_size
    )?;
    writeln!(out, "context     {} tokens", found.context_tokens)?;
    writeln!(out, "cache       {cache}")?;
    writeln!(out, "ends with   token {ends}")?;
    writeln!(out, "template    {}", if found.has_template { "compiles and renders" } else { "none" })?;
    writeln!(out, "weights     {} bytes", files.weights_bytes)?;
    let (peak, estimate) = (found.peak_bytes, files.memory_estimate_bytes);
    writeln!(out, "memory      {peak} bytes at most while loading and generating; {estimate} were expected")?;
    writeln!(out, "load        {:.3} s", found.load.as_secs_f64())?;
    writeln!(out, "generates   yes: {} probes in {:.3} s", found.probes, found.probe.as_secs_f64())?;
    Ok(())
}
