//! The command line: `serve` (also without a subcommand) and `config`.

use std::io::Write;

use anyhow::Context;
use clap::{ArgMatches, Args, Command};

use crate::app::{self, Listeners};
use crate::config::{self, Resolved, Settings};
use crate::shutdown::{self, SignalThread};
use crate::telemetry;

const ABOUT: &str = "Text generation with ONNX models as a Kubernetes-native HTTP service";

/// What the command line asks for.
enum Action {
    Serve,
    Config,
}

/// Parses the command line and does what it says.
///
/// # Errors
/// Bad usage, or what was asked for failed.
pub fn run() -> anyhow::Result<()> {
    let (action, resolved) = parse(std::env::args_os())?;
    match action {
        Action::Serve => serve(resolved.settings),
        Action::Config => print_config(&resolved),
    }
}

fn command() -> Command {
    let serve =
        Settings::augment_args(Command::new("serve").about("Serve the API (also without a subcommand)"));
    let config =
        Settings::augment_args(Command::new("config").about("Print every setting, its value and its origin"));
    Settings::augment_args(Command::new("inference-gateway").about(ABOUT).version(env!("CARGO_PKG_VERSION")))
        .args_conflicts_with_subcommands(true)
        .subcommand(serve)
        .subcommand(config)
}

/// Parses twice: the first time to find the settings file, whose values become the defaults of the second.
fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> anyhow::Result<(Action, Resolved)> {
    let arguments: Vec<_> = arguments.collect();
    let mut root = command();
    let matches = root.clone().get_matches_from(&arguments);
    let (name, settings) = chosen(&matches);
    let name = name.map(str::to_owned);
    root = match &name {
        None => config::with_file(root, settings)?,
        Some(name) => {
            let subcommand = root.find_subcommand(name).context("a parsed subcommand exists")?.clone();
            let subcommand = config::with_file(subcommand, settings)?;
            root.mut_subcommand(name, |_| subcommand)
        }
    };
    let matches = root.clone().get_matches_from(&arguments);
    let (_, settings) = chosen(&matches);
    let holder = name.as_deref().and_then(|name| root.find_subcommand(name)).unwrap_or(&root);
    let resolved = Resolved::from_matches(holder, settings)?;
    let action = if name.as_deref() == Some("config") { Action::Config } else { Action::Serve };
    Ok((action, resolved))
}

fn chosen(matches: &ArgMatches) -> (Option<&str>, &ArgMatches) {
    match matches.subcommand() {
        Some((name, settings)) => (Some(name), settings),
        None => (None, matches),
    }
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    telemetry::init(&settings.log.log_filter, settings.log.log_format)?;
    let (stop, requests) = shutdown::stop_requests();
    let _signals = SignalThread::start(stop).context("failed to handle signals")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    runtime.block_on(async {
        let listeners = Listeners::bind(&settings).await?;
        app::run(settings, listeners, requests).await
    })
}

fn print_config(resolved: &Resolved) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for setting in &resolved.shown {
        let config::Shown { name, variable, value, origin } = setting;
        writeln!(out, "{name:<24} {variable:<34} {origin:<12} {value}")?;
    }
    Ok(())
}
