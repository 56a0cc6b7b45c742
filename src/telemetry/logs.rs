//! Logs: JSON lines for machines, text for a person at a terminal. Both go to standard error.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

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
    #[error("RUST_LOG {0}")]
    Filter(#[from] InvalidFilter),
    /// Something else has set up logging already.
    #[error("failed to set up logging")]
    Init(#[from] tracing_subscriber::util::TryInitError),
}

/// A text that is no log filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not a log filter: `{part}` is no level and no `target=level` (example: info,ort=warn)")]
pub struct InvalidFilter {
    /// The first part that is not understood.
    part: String,
}

/// Why another filter could not be set.
#[derive(Debug, thiserror::Error)]
pub enum SetFilterError {
    /// The filter is not understood.
    #[error("the filter {0}")]
    Filter(#[from] InvalidFilter),
    /// Logging has ended.
    #[error("failed to change the log filter")]
    Gone(#[from] reload::Error),
}

/// The filter of the log, as part of what writes it.
pub type FilterLayer = reload::Layer<EnvFilter, Registry>;

/// Changes what is logged while the process runs. All clones change the same.
#[derive(Debug, Clone)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

impl LogControl {
    /// The control, and the layer that it controls for as long as that lives.
    ///
    /// # Errors
    /// The filter is not understood.
    pub fn new(filter: &str) -> Result<(Self, FilterLayer), InvalidFilter> {
        let (layer, handle) = reload::Layer::new(parse(filter)?);
        Ok((Self(handle), layer))
    }

    /// The filter in force; empty once logging has ended.
    pub fn filter(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Sets another filter, for the next line on.
    ///
    /// # Errors
    /// The filter is not understood; the one before stays in force.
    pub fn set_filter(&self, filter: &str) -> Result<(), SetFilterError> {
        Ok(self.0.reload(parse(filter)?)?)
    }
}

/// The parser's own message does not say which part is wrong.
fn parse(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    let refused = |part: &str| InvalidFilter { part: part.chars().take(80).collect() };
    EnvFilter::try_new(filter).map_err(|_unspecific| {
        let wrong = filter.split(',').find(|part| EnvFilter::try_new(part).is_err());
        refused(wrong.unwrap_or(filter))
    })
}

/// Sets up logging for the process.
///
/// # Errors
/// The filter is not understood, or logging is set up already.
pub fn init(filter: &str, format: LogFormat) -> Result<LogControl, TelemetryError> {
    let (control, filter) = LogControl::new(filter)?;
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_can_be_changed_and_a_bad_one_changes_nothing() {
        let (control, _layer) = LogControl::new("info,ort=warn").unwrap();
        control.set_filter("debug").unwrap();
        assert_eq!(control.filter(), "debug");
        let error = control.set_filter("info,ort=loud,x=debug").unwrap_err().to_string();
        assert!(error.contains("`ort=loud`"), "{error}");
        assert_eq!(control.filter(), "debug");
    }

    #[test]
    fn a_control_without_its_layer_says_so() {
        let (control, layer) = LogControl::new("info").unwrap();
        drop(layer);
        assert_eq!(control.filter(), "");
        assert!(control.set_filter("debug").is_err());
    }
}
