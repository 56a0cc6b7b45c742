//! Tests of the exposition: the texts by snapshot, the choice by headers that real clients send.

use super::*;
use prometheus::core::Collector;
use prometheus::{Counter, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts};

fn counter() -> Vec<MetricFamily> {
    let counters =
        IntCounterVec::new(Opts::new("gateway_prompt_tokens_total", "Tokens of prompts."), &["model"])
            .unwrap();
    counters.with_label_values(&["a"]).inc_by(7);
    counters.collect()
}

fn histogram() -> Vec<MetricFamily> {
    let options =
        HistogramOpts::new("gateway_step_duration_seconds", "A step.").buckets(vec![0.005, 1.0, 10.0]);
    let histograms = HistogramVec::new(options, &["model"]).unwrap();
    histograms.with_label_values(&["a"]).observe(0.5);
    histograms.with_label_values(&["a"]).observe(64.0);
    histograms.collect()
}

fn open_metrics(families: &[MetricFamily]) -> String {
    encode(families, &Exemplars::default(), Format::OpenMetrics { exemplars: true }).unwrap()
}

#[test]
fn a_counter_is_named_without_total_and_its_sample_with_it() {
    let expected = r#"# TYPE gateway_prompt_tokens counter
# UNIT gateway_prompt_tokens tokens
# HELP gateway_prompt_tokens Tokens of prompts.
gateway_prompt_tokens_total{model="a"} 7
# EOF
"#;
    assert_eq!(open_metrics(&counter()), expected);
}

#[test]
fn a_counter_that_was_declared_without_total_gets_it() {
    let counter = Counter::new("events", "Events.").unwrap();
    assert_eq!(
        open_metrics(&counter.collect()),
        "# TYPE events counter\n# HELP events Events.\nevents_total 0\n# EOF\n"
    );
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
    assert_eq!(open_metrics(&histogram()), expected);
}

#[test]
fn help_and_label_values_are_escaped() {
    let gauges = GaugeVec::new(Opts::new("odd", "a \"b\"\n\\c"), &["value"]).unwrap();
    gauges.with_label_values(&["\"q\" \\ \n é😀"]).set(-1.5);
    let text = open_metrics(&gauges.collect());
    assert!(text.contains("# HELP odd a \\\"b\\\"\\n\\\\c\n"), "{text}");
    assert!(text.contains("odd{value=\"\\\"q\\\" \\\\ \\n é😀\"} -1.5\n"), "{text}");
}

#[test]
fn values_that_are_no_ordinary_numbers_are_spelled_out() {
    let gauge = Gauge::new("gauge", "G.").unwrap();
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
        gauge.set(value);
        assert!(open_metrics(&gauge.collect()).contains(&format!("\ngauge {text}\n")));
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
    assert_eq!(open_metrics(&[]), "# EOF\n");
}

#[test]
fn prometheus_text_keeps_the_declared_name() {
    let text = encode(&counter(), &Exemplars::default(), Format::Prometheus).unwrap();
    assert!(text.contains("# TYPE gateway_prompt_tokens_total counter\n"), "{text}");
    assert!(!text.contains("EOF"));
}

#[test]
fn a_kind_that_is_not_ours_is_an_error_in_both_formats() {
    let mut families = counter();
    families[0].set_field_type(MetricType::UNTYPED);
    for format in [Format::OpenMetrics { exemplars: true }, Format::Prometheus] {
        assert!(matches!(
            encode(&families, &Exemplars::default(), format),
            Err(OpenMetricsError::Kind { .. })
        ));
    }
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
