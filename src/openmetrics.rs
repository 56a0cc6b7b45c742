//! Gathered metric families → the text that a scraper asked for.
//!
//! `metrics.rs` declares and gathers, the HTTP side answers; in between this file chooses the format by the `Accept` header
//! and writes it: OpenMetrics 1.0, unless the client asks for the older Prometheus text. It must never change a number.
//!
//! Declared names are those of Prometheus. The formats differ in what a counter is called: `name_total` in Prometheus;
//! in OpenMetrics the family is `name` and its sample `name_total`.
//!
//! From: OpenMetrics 1.0.0, <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use prometheus::TextEncoder;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use thiserror::Error;

use crate::metrics::{Exemplar, Exemplars};

/// Units in names: only what a family name ends with may be declared as its unit.
const UNITS: [&str; 4] = ["seconds", "bytes", "tokens", "ratio"];

/// What is laid out for an answer; it grows if that is not enough.
const ANSWER_BYTES: usize = 64 << 10;
/// 2⁵³: to here a number with 64 bits tells integers apart.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Metrics that cannot be written.
#[derive(Debug, Error)]
pub enum OpenMetricsError {
    /// A kind of metric that this process does not declare.
    #[error("failed to write metric {name}: {kind:?} is neither counter nor gauge nor histogram")]
    Kind {
        /// Name of the family.
        name: String,
        /// Its kind.
        kind: MetricType,
    },
    /// The encoder for Prometheus text refused them.
    #[error("failed to write metrics as prometheus text")]
    Prometheus(#[source] prometheus::Error),
}

/// A text format for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, with exemplars if it was asked for by name: parsers of the older format stumble over them.
    OpenMetrics {
        /// Whether it has exemplars.
        exemplars: bool,
    },
    /// Prometheus text 0.0.4.
    Prometheus,
}

impl Format {
    /// Value of the `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics { .. } => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Chooses the format by the value of the `Accept` header: Prometheus text when the client likes it better by its
/// q-values, or equally but names it and OpenMetrics not; otherwise OpenMetrics. Parameters such as `version` and
/// `escaping` make no difference: there is one version of each, and the answer says which.
pub fn negotiate(accept: Option<&str>) -> Format {
    let ranges: Vec<Range<'_>> = accept.unwrap_or_default().split(',').filter_map(Range::parse).collect();
    let open_metrics = liking(&ranges, "application", "openmetrics-text");
    if liking(&ranges, "text", "plain") > open_metrics {
        Format::Prometheus
    } else {
        Format::OpenMetrics { exemplars: open_metrics.1 == BY_NAME }
    }
}

/// Closeness of a range that names the very type.
const BY_NAME: u8 = 2;

/// Quality in thousandths, then how closely the type was named. The closest range decides; of equals the better.
fn liking(ranges: &[Range<'_>], kind: &str, subtype: &str) -> (u16, u8) {
    let closest = ranges
        .iter()
        .filter_map(|range| Some((range.closeness(kind, subtype)?, range.quality_thousandths)))
        .max();
    closest.map_or((0, 0), |(closeness, quality)| if quality > 0 { (quality, closeness) } else { (0, 0) })
}

/// One media range of an `Accept` header. From: RFC 9110 §12.5.1.
struct Range<'accept> {
    kind: &'accept str,
    subtype: &'accept str,
    quality_thousandths: u16,
}

impl<'accept> Range<'accept> {
    /// `None` for what is no media range; such a range is left out, the others count.
    fn parse(text: &'accept str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let quality = parts
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .map_or(Some(1.0), |(_, value)| value.trim().parse::<f32>().ok())
            .filter(|quality| (0.0..=1.0).contains(quality))?;
        Some(Self { kind, subtype, quality_thousandths: (quality * 1000.0).round() as u16 })
    }

    fn closeness(&self, kind: &str, subtype: &str) -> Option<u8> {
        let Self { kind: own_kind, subtype: own_subtype, quality_thousandths: _ } = self;
        match (*own_kind, *own_subtype) {
            ("*", "*") => Some(0),
            (own, "*") if own.eq_ignore_ascii_case(kind) => Some(1),
            (own, sub) if own.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => {
                Some(BY_NAME)
            }
            _other => None,
        }
    }
}

/// Writes the families of a registry.
///
/// # Errors
/// [`OpenMetricsError::Kind`] for summaries and untyped metrics, [`OpenMetricsError::Prometheus`] for families without
/// name or metrics; a registry gathers neither when only counters, gauges and histograms are declared.
pub fn encode(
    families: &[MetricFamily],
    exemplars: &Exemplars,
    format: Format,
) -> Result<String, OpenMetricsError> {
    let kinds = families.iter().map(Kind::of).collect::<Result<Vec<_>, _>>()?;
    match format {
        Format::Prometheus => {
            TextEncoder::new().encode_to_string(families).map_err(OpenMetricsError::Prometheus)
        }
        Format::OpenMetrics { exemplars: wanted } => {
            let exemplars = wanted.then_some(exemplars);
            let mut writer =
                Writer { out: String::with_capacity(ANSWER_BYTES), exemplars, bounds: HashMap::new() };
            for (family, kind) in families.iter().zip(kinds) {
                writer.family(family, kind);
            }
            writer.out.push_str("# EOF\n");
            Ok(writer.out)
        }
    }
}

/// The kinds of metric that this process declares.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn of(family: &MetricFamily) -> Result<Self, OpenMetricsError> {
        match family.get_field_type() {
            MetricType::COUNTER => Ok(Self::Counter),
            MetricType::GAUGE => Ok(Self::Gauge),
            MetricType::HISTOGRAM => Ok(Self::Histogram),
            kind @ (MetricType::SUMMARY | MetricType::UNTYPED) => {
                Err(OpenMetricsError::Kind { name: family.name().to_owned(), kind })
            }
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The answer as far as it is written. A gateway with one model tells some 35 KB, and endpoint pickers ask twenty times a
/// second: lines are put together from pieces, and only what differs is formatted.
struct Writer<'all> {
    out: String,
    exemplars: Option<&'all Exemplars>,
    /// Bounds of buckets as they are written. Many histograms share them.
    bounds: HashMap<u64, String>,
}

impl Writer<'_> {
    fn push(&mut self, pieces: &[&str]) {
        for piece in pieces {
            self.out.push_str(piece);
        }
    }

    /// Adds a value, exactly: the shortest decimal number that is this one.
    fn push_number(&mut self, value: f64) {
        let is_negative_zero = value == 0.0 && value.is_sign_negative();
        if value.fract() == 0.0 && value.abs() <= MOST_EXACT && !is_negative_zero {
            self.out.push_str(itoa::Buffer::new().format(value as i64));
        } else {
            self.out.push_str(&number(value));
        }
    }

    /// Adds a value and ends its line.
    fn end_line(&mut self, value: f64) {
        self.push_number(value);
        self.out.push('\n');
    }

    fn push_exemplar(&mut self, exemplar: &Exemplar) {
        let Exemplar { trace_id, value, at } = exemplar;
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.push(&[" # {trace_id=\"", &format!("{trace_id:032x}"), "\"} "]);
        self.push_number(*value);
        self.push(&[" ", &format!("{seconds:.3}")]);
    }

    fn family(&mut self, family: &MetricFamily, kind: Kind) {
        let declared = family.name();
        let name = match kind {
            Kind::Counter => declared.strip_suffix("_total").unwrap_or(declared),
            Kind::Gauge | Kind::Histogram => declared,
        };
        self.push(&["# TYPE ", name, " ", kind.label(), "\n"]);
        if let Some(unit) = unit(name) {
            self.push(&["# UNIT ", name, " ", unit, "\n"]);
        }
        self.push(&["# HELP ", name, " ", &escaped(family.help()), "\n"]);
        for metric in family.get_metric() {
            let labels = labels(metric.get_label());
            match kind {
                Kind::Counter => {
                    self.push(&[name, "_total", &in_braces(&labels), " "]);
                    self.end_line(metric.get_counter().get_value());
                }
                Kind::Gauge => {
                    self.push(&[name, &in_braces(&labels), " "]);
                    self.end_line(metric.get_gauge().get_value());
                }
                Kind::Histogram => self.histogram(name, &labels, metric),
            }
        }
    }

    /// The buckets are cumulative already; the one of +∞ is added, as the crate leaves it out. Exemplars stand behind the values.
    fn histogram(&mut self, name: &str, labels: &str, metric: &Metric) {
        let histogram = metric.get_histogram();
        let exemplars = self.exemplars.and_then(|all| all.of(name, metric)).unwrap_or_default();
        let mut exemplars = exemplars.iter();
        let comma = if labels.is_empty() { "" } else { "," };
        let before_bound = [name, "_bucket{", labels, comma, "le=\""].concat();
        let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound() < f64::INFINITY);
        let bounded = bounded.map(|bucket| (Some(bucket.upper_bound()), bucket.cumulative_count()));
        for (bound, count) in bounded.chain([(None, histogram.get_sample_count())]) {
            self.out.push_str(&before_bound);
            match bound {
                Some(bound) => {
                    self.out.push_str(self.bounds.entry(bound.to_bits()).or_insert_with(|| canonical(bound)));
                }
                None => self.out.push_str("+Inf"),
            }
            self.push(&["\"} ", itoa::Buffer::new().format(count)]);
            if let Some(exemplar) = exemplars.next().and_then(Option::as_ref) {
                self.push_exemplar(exemplar);
            }
            self.out.push('\n');
        }
        let labels = in_braces(labels);
        self.push(&[name, "_sum", &labels, " "]);
        self.end_line(histogram.get_sample_sum());
        self.push(&[
            name,
            "_count",
            &labels,
            " ",
            itoa::Buffer::new().format(histogram.get_sample_count()),
            "\n",
        ]);
    }
}

/// Labels as they are written, with commas between them.
fn labels(labels: &[LabelPair]) -> String {
    let mut written = String::new();
    for label in labels {
        let comma = if written.is_empty() { "" } else { "," };
        for piece in [comma, label.name(), "=\"", &escaped(label.value()), "\""] {
            written.push_str(piece);
        }
    }
    written
}

fn in_braces(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { ["{", labels, "}"].concat() }
}

fn unit(name: &str) -> Option<&'static str> {
    UNITS.into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|before| before.ends_with('_')))
}

/// Escapes help texts and label values: the same in OpenMetrics.
fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(['\\', '\n', '"']) {
        text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"").into()
    } else {
        text.into()
    }
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let text = format!("{value:?}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// A bound as a label value, which has to be spelled the same by everybody: as Go's `%g` does, with `.0` when it would
/// look like an integer. From: OpenMetrics 1.0.0 §"Canonical Numbers".
fn canonical(bound: f64) -> String {
    let scientific = format!("{bound:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return number(bound);
    };
    match exponent.parse::<i32>() {
        Ok(exponent @ 6..) => format!("{mantissa}e+{exponent:02}"),
        Ok(exponent @ ..-4) => format!("{mantissa}e-{:02}", exponent.abs()),
        Ok(_) | Err(_) => format!("{bound:?}"),
    }
}

#[cfg(test)]
mod tests;
