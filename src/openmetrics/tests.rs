//! Tests of the exposition: the texts by snapshot, the choice by headers that real clients send.

use prometheus::core::{Collector, Metric};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, TextEncoder};

use super::*;

const OPEN_METRICS: Format = Format::OpenMetrics { exemplars: true };

fn counter(format: Format) -> String {
    let mut writer = Writer::new(format);
    writer.family("gateway_prompt_tokens_total", Kind::Counter, "Tokens of prompts.");
    writer.value(&labels([("model", "a")]), 7.0);
    writer.finish()
}

fn histograms() -> HistogramVec {
    let options =
        HistogramOpts::new("gateway_step_duration_seconds", "A step.").buckets(vec![0.005, 1.0, 10.0]);
    let histograms = HistogramVec::new(options, &["model"]).unwrap();
    histograms.with_label_values(&["a"]).observe(0.5);
    histograms.with_label_values(&["a"]).observe(64.0);
    histograms
}

fn histogram(format: Format) -> String {
    let mut writer = Writer::new(format);
    writer.family("gateway_step_duration_seconds", Kind::Histogram, "A step.");
    let metric = histograms().with_label_values(&["a"]).metric();
    writer.histogram(&labels([("model", "a")]), metric.get_histogram(), &[]);
    writer.finish()
}

fn gauge(help: &str, labels: &str, value: f64) -> String {
    let mut writer = Writer::new(OPEN_METRICS);
    writer.family("gauge", Kind::Gauge, help);
    writer.value(labels, value);
    writer.finish()
}

#[test]
fn a_counter_is_named_without_total_and_its_sample_with_it() {
    let expected = r#"# TYPE gateway_prompt_tokens counter
# UNIT gateway_prompt_tokens tokens
# HELP gateway_prompt_tokens Tokens of prompts.
gateway_prompt_tokens_total{model="a"} 7
# EOF
"#;
    assert_eq!(counter(OPEN_METRICS), expected);
}

#[test]
fn a_counter_that_was_declared_without_total_gets_it() {
    let mut writer = Writer::new(OPEN_METRICS);
    writer.family("events", Kind::Counter, "Events.");
    writer.value("", 0.0);
    let expected = "# TYPE events counter\n# HELP events Events.\nevents_total 0\n# EOF\n";
    assert_eq!(writer.finish(), expected);
}

#[test]
fn a_histogram_has_canonical_bounds_and_one_of_infinity() {
    let expected = r#"# TYPE gateway_step_duration_seconds histogram
# UNIT gateway_step_duration_seconds seconds
# HELP gateway_step_duration_seconds A step.
gateway_step_duration_seconds_bucket{model="a",le="0.005"} 0
gateway_step_duration_seconds_bucket{model="a",le="1.0"} 1
gateway_step_duration_seconds_bucket{model="a",le="10.0"} 1
gateway_step_duration_seconds_bucket{model="a",le="+Inf"} 2
gateway_step_duration_seconds_sum{model="a"} 64.5
gateway_step_duration_seconds_count{model="a"} 2
# EOF
"#;
    assert_eq!(histogram(OPEN_METRICS), expected);
}

#[test]
fn help_and_label_values_are_escaped() {
    let text = gauge("a \"b\"\n\\c", &labels([("value", "\"q\" \\ \n é😀")]), -1.5);
    assert!(text.contains("# HELP gauge a \\\"b\\\"\\n\\\\c\n"), "{text}");
    assert!(text.contains("gauge{value=\"\\\"q\\\" \\\\ \\n é😀\"} -1.5\n"), "{text}");
}

#[test]
fn values_that_are_no_ordinary_numbers_are_spelled_out() {
    for (value, text) in [
        (f64::INFINITY, "+Inf"),
        (f64::NEG_INFINITY, "-Inf"),
        (f64::NAN, "NaN"),
        (0.1, "0.1"),
        (3.0, "3"),
        (-1.25e300, "-1.25e300"),
        (-0.0, "-0"),
        (-7.0, "-7"),
        (9_007_199_254_740_992.0, "9007199254740992"),
        (9_007_199_254_740_994.0, "9007199254740994"),
        (1e16, "1e16"),
    ] {
        assert!(gauge("G.", "", value).contains(&format!("\ngauge {text}\n")));
    }
}

#[test]
fn a_unit_is_declared_only_where_the_name_ends_with_it() {
    assert_eq!(unit("request_duration_seconds"), Some("seconds"));
    assert_eq!(unit("cache_bytes"), Some("bytes"));
    for name in ["seconds", "milliseconds", "bytes_read", "requests"] {
        assert_eq!(unit(name), None, "{name}");
    }
}

/// The examples of the specification, and what Go prints.
#[test]
fn bounds_are_spelled_as_the_specification_asks() {
    let spelled = [
        (0.0, "0.0"),
        (0.001, "0.001"),
        (0.01, "0.01"),
        (0.1, "0.1"),
        (0.95, "0.95"),
        (1.0, "1.0"),
        (10.0, "10.0"),
        (1e-10, "1e-10"),
        (1e-9, "1e-09"),
        (1e-5, "1e-05"),
        (0.0001, "0.0001"),
        (100_000.0, "100000.0"),
        (1e6, "1e+06"),
        (1_234_567.5, "1.2345675e+06"),
        (1e10, "1e+10"),
        (-1.0, "-1.0"),
    ];
    for (bound, text) in spelled {
        assert_eq!(canonical(bound), text);
    }
}

#[test]
fn no_families_are_an_empty_exposition() {
    assert_eq!(Writer::new(OPEN_METRICS).finish(), "# EOF\n");
    assert_eq!(Writer::new(Format::Prometheus).finish(), "");
}

#[test]
fn labels_are_written_by_their_names() {
    assert_eq!(labels([]), "");
    assert_eq!(labels([("model", "b"), ("finish_reason", "a")]), r#"finish_reason="a",model="b""#);
}

/// The crate `prometheus` writes the same.
#[test]
fn prometheus_text_is_that_of_the_crate() {
    let options = Opts::new("gateway_prompt_tokens_total", "Tokens of prompts.");
    let counters = IntCounterVec::new(options, &["model"]).unwrap();
    counters.with_label_values(&["a"]).inc_by(7);
    let theirs =
        |collector: &dyn Collector| TextEncoder::new().encode_to_string(&collector.collect()).unwrap();
    assert_eq!(counter(Format::Prometheus), theirs(&counters));
    assert_eq!(histogram(Format::Prometheus), theirs(&histograms()));
    let odd = "a \"b\"\n\\c";
    let gauge = prometheus::Gauge::new("gauge", odd).unwrap();
    gauge.set(0.1);
    let mut writer = Writer::new(Format::Prometheus);
    writer.family("gauge", Kind::Gauge, odd);
    writer.value("", 0.1);
    assert_eq!(writer.finish(), theirs(&gauge));
}

#[test]
fn open_metrics_is_written_unless_text_is_asked_for() {
    let open_metrics = [
        "",
        "*/*",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        "application/openmetrics-text",
        "text/plain,application/openmetrics-text",
        "text/plain;q=0",
        "image/png",
        "nonsense;;,=/",
        // Prometheus 2.
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        // Prometheus 3, without and with native histograms.
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    ];
    for accept in open_metrics {
        let exemplars = accept.contains("openmetrics");
        assert_eq!(negotiate(Some(accept)), Format::OpenMetrics { exemplars }, "{accept}");
    }
    assert_eq!(negotiate(None), Format::OpenMetrics { exemplars: false });

    let text = [
        "text/plain",
        "TEXT/Plain; charset=utf-8",
        "text/*",
        "text/plain;version=0.0.4",
        "text/plain, */*",
        "application/json, text/plain, */*",
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;q=0.4 , text/plain; q=0.5",
        "application/openmetrics-text;q=0, */*",
    ];
    for accept in text {
        assert_eq!(negotiate(Some(accept)), Format::Prometheus, "{accept}");
    }
}

#[test]
fn the_answer_says_what_it_is() {
    assert_eq!(
        Format::OpenMetrics { exemplars: false }.content_type(),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert_eq!(Format::Prometheus.content_type(), "text/plain; version=0.0.4; charset=utf-8");
}
