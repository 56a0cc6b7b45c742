//! What is told of the process, of models and of rollouts, and what is forgotten again.

use std::time::Duration;

use super::{Metrics, SwapKind};
use crate::openmetrics::Format;

impl Metrics {
    /// The value of a sample, by its name and labels as they are written.
    pub(crate) fn sample(&self, written: &str) -> Option<f64> {
        let text = self.exposition(Format::Prometheus);
        text.lines().find_map(|line| line.strip_prefix(written)?.strip_prefix(' ')?.parse().ok())
    }
}

/// Names of all families.
fn names(metrics: &Metrics) -> Vec<String> {
    let text = metrics.exposition(Format::Prometheus);
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

/// Samples of one family, as `label values = value`, in the order in which they stand. No value here has a comma.
fn samples(metrics: &Metrics, family: &str) -> Vec<String> {
    let text = metrics.exposition(Format::Prometheus);
    let found = text.lines().filter_map(|line| line.strip_prefix(family));
    found
        .filter_map(|rest| {
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.rsplit_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let values = labels.split(',').map(|label| label.split('"').nth(1).unwrap_or_default());
            Some(format!("{} = {value}", values.collect::<Vec<_>>().join(" ")))
        })
        .collect()
}

#[test]
fn what_has_no_meaning_here_is_not_there() {
    let metrics = Metrics::new();
    for family in ["ready", "controller_leader", "controller_leader_changes_total", "config_reload_success"] {
        assert!(samples(&metrics, &format!("inference_gateway_{family}")).is_empty(), "{family}");
    }
    metrics.leading(false);
    metrics.config_reloaded(true);
    assert_eq!(samples(&metrics, "inference_gateway_controller_leader"), [" = 0"]);
    assert_eq!(samples(&metrics, "inference_gateway_controller_leader_changes_total"), [" = 0"]);
    assert_eq!(samples(&metrics, "inference_gateway_config_reload_success"), [" = 1"]);
}

#[test]
fn rollouts_are_told_by_the_leader_alone_and_of_models_that_exist() {
    let phase = |metrics: &Metrics| -> Vec<String> {
        let all = samples(metrics, "inference_gateway_rollout_phase");
        all.into_iter().filter(|line| line.ends_with("= 1")).collect()
    };
    let metrics = Metrics::new();
    metrics.rollout_phase("chat", "Canary");
    metrics.rollout_phase("code", "Failed");
    assert_eq!(phase(&metrics), ["chat Canary = 1", "code Failed = 1"]);
    metrics.keep_rollouts_of(["chat"]);
    assert_eq!(phase(&metrics), ["chat Canary = 1"]);
    metrics.rollout_phase("chat", "Idle");
    assert_eq!(phase(&metrics), ["chat Idle = 1"]);
    metrics.keep_rollouts_of([]);
    assert!(samples(&metrics, "inference_gateway_rollout_phase").is_empty());
}

#[test]
fn readiness_is_told_of_models_that_are_served_and_of_no_others() {
    let ready = |metrics: &Metrics| samples(metrics, "inference_gateway_model_ready");
    let metrics = Metrics::new();
    metrics.models_ready([("chat", Some(false)), ("code", Some(true)), ("next", None)]);
    assert_eq!(ready(&metrics), ["chat = 0", "code = 1"]);
    metrics.model_swapped("chat", "1", SwapKind::First, Duration::ZERO);
    metrics.models_ready([("chat", Some(true)), ("next", Some(true))]);
    assert_eq!(ready(&metrics), ["chat = 1", "next = 1"]);
}

#[test]
fn the_use_of_the_cache_is_a_part_of_all_revisions_together() {
    let usage = |metrics: &Metrics| samples(metrics, "inference_gateway_cache_usage_ratio");
    let metrics = Metrics::new();
    let old = metrics.model("chat");
    old.capacity(4, 300);
    old.load(1, 0, 60);
    assert_eq!(usage(&metrics), ["chat = 0.2"]);
    let new = metrics.model("chat");
    new.capacity(4, 100);
    new.load(1, 0, 40);
    assert_eq!(usage(&metrics), ["chat = 0.25"]);
    drop(old);
    assert_eq!(usage(&metrics), ["chat = 0.4"]);
    drop(new);
    let unbounded = metrics.model("chat");
    unbounded.capacity(4, usize::MAX);
    unbounded.load(1, 0, 40);
    assert_eq!(usage(&metrics), ["chat = 0"]);
}

#[test]
fn the_process_is_measured() {
    let metrics = Metrics::new();
    let value = |family: &str| {
        let lines = samples(&metrics, family);
        assert_eq!(lines.len(), 1, "{family}");
        lines[0].trim_start_matches(" = ").parse::<f64>().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - value("process_start_time_seconds");
    assert!((-2.0..86_400.0).contains(&age), "began {age} s ago");
    // Time that a thread spends is seen, and never counted twice.
    let before = value("process_cpu_seconds_total");
    let began = std::time::Instant::now();
    while value("process_cpu_seconds_total") < before + 0.05 {
        assert!(began.elapsed() < Duration::from_mins(1), "no time was spent");
    }
    assert!(samples(&metrics, "inference_gateway_memory_limit_bytes").is_empty());
    metrics.memory_limit(u64::MAX);
    assert!(value("inference_gateway_memory_limit_bytes") > 9e18, "as large as a number can be");
}

#[test]
fn the_page_has_every_family() {
    let page = Metrics::reference();
    for row in [
        "| `inference_gateway_model_info` | gauge | `model`, `revision` | 1 for the revision that answers. |",
        "| `inference_gateway_config_reload_success` | gauge |  | 1 while",
        "| `process_cpu_seconds_total` | counter |  | Time",
        "| `inference_gateway_time_to_first_token_seconds` | histogram | `model` | Time from",
        "| `inference_gateway_time_to_first_token_seconds` | 0.001, 0.005,",
    ] {
        assert!(page.contains(row), "{row}");
    }
    let metrics = Metrics::new();
    for name in names(&metrics) {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn families_and_their_metrics_are_always_in_the_same_order() {
    let metrics = Metrics::new();
    let models = ["m9", "b", "a", "m10", "zz", "c"].map(|name| metrics.model(name));
    for model in &models {
        model.capacity(1, 100);
    }
    let names = names(&metrics);
    assert!(names.is_sorted() && names.len() > 20, "{names:?}");
    let rows = ["a = 1", "b = 1", "c = 1", "m10 = 1", "m9 = 1", "zz = 1"];
    assert_eq!(samples(&metrics, "inference_gateway_rows"), rows);
}

#[test]
fn endpoint_pickers_are_told_one_sum_of_all_models_and_only_when_asked_for() {
    let names = |metrics: &Metrics| -> Vec<String> {
        names(metrics).into_iter().filter(|name| name.contains(':')).collect()
    };
    assert!(names(&Metrics::new()).is_empty());
    let metrics = Metrics::new().for_pickers(64);
    assert_eq!(samples(&metrics, "vllm:kv_cache_usage_perc"), [" = 0"]);
    let (chat, code) = (metrics.model("chat"), metrics.model("code"));
    chat.capacity(4, 640);
    chat.load(3, 2, 600);
    code.capacity(4, 1280);
    code.load(1, 5, 360);
    assert_eq!(samples(&metrics, "vllm:num_requests_waiting"), [" = 7"]);
    assert_eq!(samples(&metrics, "vllm:num_requests_running"), [" = 4"]);
    assert_eq!(samples(&metrics, "vllm:kv_cache_usage_perc"), [" = 0.5"]);
    assert_eq!(samples(&metrics, "vllm:cache_config_info"), ["64 30 = 1"]);
    assert_eq!(names(&metrics).len(), 4);
}

#[test]
fn a_bucket_tells_the_last_sampled_request_in_it() {
    let exposition = |metrics: &Metrics, exemplars| metrics.exposition(Format::OpenMetrics { exemplars });
    let metrics = Metrics::new();
    let model = metrics.model("chat");
    for (milliseconds, trace_id) in [(3, Some(7)), (4, Some(0xabc)), (4, None), (1_000_000, Some(9))] {
        model.first_token(Duration::from_millis(milliseconds), trace_id);
    }
    metrics.http_request("GET", 200, Duration::from_millis(5), Some(1));
    model.engine_phases(Duration::ZERO, Duration::from_secs(1), Some(u128::MAX));
    let text = exposition(&metrics, true);
    for (line, value) in [
        ("time_to_first_token_seconds_bucket{model=\"chat\",le=\"0.001\"} 0", None),
        ("time_to_first_token_seconds_bucket{model=\"chat\",le=\"0.005\"} 3", Some((0xabc, "0.004"))),
        ("time_to_first_token_seconds_bucket{model=\"chat\",le=\"0.01\"} 3", None),
        ("time_to_first_token_seconds_bucket{model=\"chat\",le=\"+Inf\"} 4", Some((9, "1000"))),
        ("http_request_duration_seconds_bucket{le=\"0.005\"} 1", Some((1, "0.005"))),
        ("queue_duration_seconds_bucket{model=\"chat\",le=\"0.001\"} 0", Some((u128::MAX, "0"))),
    ] {
        let line = format!("inference_gateway_{line}");
        let found = text.lines().find_map(|one| one.strip_prefix(&line)).unwrap_or_else(|| panic!("{line}"));
        let exemplar = value.map(|(id, value)| format!(" # {{trace_id=\"{id:032x}\"}} {value} "));
        assert!(found.starts_with(exemplar.as_deref().unwrap_or_default()), "{line}{found}");
        assert_eq!(found.is_empty(), exemplar.is_none(), "{line}{found}");
    }
    assert!(!exposition(&metrics, false).contains(" # {"), "not for those who did not ask for them by name");
}
