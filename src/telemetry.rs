//! Logs: JSON lines for machines, text for a person at a terminal. Both go to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For reading.
    Text,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not understood.
    #[error("RUST_LOG is not a log filter: {0} (example: info,ort=warn)")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Something else has set up logging already.
    #[error("failed to set up logging")]
    Init(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process.
///
/// # Errors
/// The filter is not understood, or logging is set up already.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter)?;
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .finish()
            .try_init()?;
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init()?;
    }
    Ok(())
}
