//! How metrics are written: in the format that a scraper asked for.
//!
//! The HTTP side asks, `metrics.rs` tells family by family; this file chooses the format by the `Accept` header and writes it:
//! OpenMetrics 1.0, unless the client asks for the older Prometheus text. It must never change a number.
//!
//! Declared names are those of Prometheus. The formats differ in what a counter is called: `name_total` in Prometheus;
//! in OpenMetrics the family is `name` and its sample `name_total`.
//!
//! From: OpenMetrics 1.0.0, <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::proto::Histogram;

/// Units in names: only what a family name ends with may be declared as its unit.
const UNITS: [&str; 4] = ["seconds", "bytes", "tokens", "ratio"];

/// What is laid out for an answer; it grows if that is not enough.
const ANSWER_BYTES: usize = 64 << 10;
/// 2⁵³: to here a number with 64 bits tells integers apart.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

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

/// The kinds of metric that this process declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by their size.
    Histogram,
}

impl Kind {
    /// As it is written.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A request that was counted in a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// Its trace.
    pub trace_id: u128,
    /// What was observed, within the bounds of the bucket.
    pub value: f64,
    /// When.
    pub at: SystemTime,
}

/// An exposition as far as it is written: families one after the other, each with its samples. A gateway with one model tells
/// some 35 KB, and endpoint pickers ask twenty times a second: lines are put together from pieces, and only what differs is
/// formatted.
pub struct Writer {
    format: Format,
    out: String,
    /// What the samples of the family are called.
    sample: String,
    /// Bounds of buckets as they are written. Many histograms share them.
    bounds: HashMap<u64, String>,
}

impl Writer {
    /// Nothing is written yet.
    pub fn new(format: Format) -> Self {
        let out = String::with_capacity(ANSWER_BYTES);
        Self { format, out, sample: String::new(), bounds: HashMap::new() }
    }

    /// Begins a family, of which there is one of each name.
    pub fn family(&mut self, declared: &str, kind: Kind, help: &str) {
        let is_open_metrics = self.is_open_metrics();
        let name = match kind {
            Kind::Counter if is_open_metrics => declared.strip_suffix("_total").unwrap_or(declared),
            Kind::Counter | Kind::Gauge | Kind::Histogram => declared,
        };
        if is_open_metrics {
            self.push(&["# TYPE ", name, " ", kind.label(), "\n"]);
            if let Some(unit) = unit(name) {
                self.push(&["# UNIT ", name, " ", unit, "\n"]);
            }
            self.push(&["# HELP ", name, " ", &escaped(help), "\n"]);
        } else {
            self.push(&["# HELP ", name, " ", &escaped_help(help), "\n"]);
            self.push(&["# TYPE ", name, " ", kind.label(), "\n"]);
        }
        name.clone_into(&mut self.sample);
        if kind == Kind::Counter && is_open_metrics {
            self.sample.push_str("_total");
        }
    }

    /// Adds the value of a counter or a gauge. `labels` are those that [`labels`] wrote.
    pub fn value(&mut self, labels: &str, value: f64) {
        self.begin_line("", labels);
        self.end_line(value);
    }

    /// Adds a histogram, whose buckets are cumulative; that of +∞ is added, as the crate leaves it out. The exemplars, if any, are
    /// those of the buckets, and stand behind their values where they are wanted.
    pub fn histogram(&mut self, labels: &str, histogram: &Histogram, exemplars: &[Option<Exemplar>]) {
        let exemplars = if self.has_exemplars() { exemplars } else { &[] };
        let mut exemplars = exemplars.iter();
        let comma = if labels.is_empty() { "" } else { "," };
        let before_bound = [&self.sample, "_bucket{", labels, comma, "le=\""].concat();
        let bounded = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound() < f64::INFINITY);
        let bounded = bounded.map(|bucket| (Some(bucket.upper_bound()), bucket.cumulative_count()));
        for (bound, count) in bounded.chain([(None, histogram.get_sample_count())]) {
            self.out.push_str(&before_bound);
            self.push_bound(bound);
            self.push(&["\"} ", itoa::Buffer::new().format(count)]);
            if let Some(exemplar) = exemplars.next().and_then(Option::as_ref) {
                self.push_exemplar(exemplar);
            }
            self.out.push('\n');
        }
        self.begin_line("_sum", labels);
        self.end_line(histogram.get_sample_sum());
        self.begin_line("_count", labels);
        self.push(&[itoa::Buffer::new().format(histogram.get_sample_count()), "\n"]);
    }

    /// The whole exposition.
    pub fn finish(mut self) -> String {
        if self.is_open_metrics() {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    fn is_open_metrics(&self) -> bool {
        matches!(self.format, Format::OpenMetrics { .. })
    }

    fn has_exemplars(&self) -> bool {
        matches!(self.format, Format::OpenMetrics { exemplars: true })
    }

    fn push(&mut self, pieces: &[&str]) {
        for piece in pieces {
            self.out.push_str(piece);
        }
    }

    fn begin_line(&mut self, suffix: &str, labels: &str) {
        self.out.push_str(&self.sample);
        self.out.push_str(suffix);
        if !labels.is_empty() {
            self.push(&["{", labels, "}"]);
        }
        self.out.push(' ');
    }

    /// Adds a value and ends its line.
    fn end_line(&mut self, value: f64) {
        self.push_number(value);
        self.out.push('\n');
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

    fn push_bound(&mut self, bound: Option<f64>) {
        let Some(bound) = bound else { return self.out.push_str("+Inf") };
        let spell = if self.is_open_metrics() { canonical } else { number };
        self.out.push_str(self.bounds.entry(bound.to_bits()).or_insert_with(|| spell(bound)));
    }

    fn push_exemplar(&mut self, exemplar: &Exemplar) {
        let Exemplar { trace_id, value, at } = exemplar;
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.push(&[" # {trace_id=\"", &format!("{trace_id:032x}"), "\"} "]);
        self.push_number(*value);
        self.push(&[" ", &format!("{seconds:.3}")]);
    }
}

/// Labels as they are written, by their names, with commas between them.
pub fn labels<'text>(pairs: impl IntoIterator<Item = (&'text str, &'text str)>) -> String {
    let mut pairs: Vec<(&str, &str)> = pairs.into_iter().collect();
    pairs.sort_unstable();
    let mut written = String::new();
    for (name, value) in pairs {
        let comma = if written.is_empty() { "" } else { "," };
        for piece in [comma, name, "=\"", &escaped(value), "\""] {
            written.push_str(piece);
        }
    }
    written
}

fn unit(name: &str) -> Option<&'static str> {
    UNITS.into_iter().find(|unit| name.strip_suffix(unit).is_some_and(|before| before.ends_with('_')))
}

/// Escapes label values, in OpenMetrics also help texts.
fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(['\\', '\n', '"']) {
        text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"").into()
    } else {
        text.into()
    }
}

/// Escapes help texts in Prometheus text.
fn escaped_help(text: &str) -> Cow<'_, str> {
    if text.contains(['\\', '\n']) {
        text.replace('\\', "\\\\").replace('\n', "\\n").into()
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
