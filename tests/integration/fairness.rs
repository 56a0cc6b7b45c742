//! Two models in one process share the compute threads a step each, however unlike their steps are.
//!
//! Settings name one model; this is the level below them, where any number can be brought into service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use inference_gateway::engine::Sampling;
use inference_gateway::engine::ort::library::Search;
use inference_gateway::engine::ort::{Runtime, RuntimeOptions};
use inference_gateway::generate::{self, Delta, EndReason, Input};
use inference_gateway::metrics::Metrics;
use inference_gateway::model::reconcile::{ModelSpec, Workshop};
use inference_gateway::model::source::{FetchSettings, Fetcher, Guard};
use inference_gateway::model::spec::{HttpUrl, Source};
use inference_gateway::model::{HugePages, LoadLimits, LoadedModel, MemoryLimits, Registry};
use inference_gateway::openmetrics::{self, Format};

use crate::harness::{PATIENCE, prepared, tiny};

/// Steps of the slow model that are looked at.
const SLOW_STEPS: u64 = 60;

fn workshop(folder: &std::path::Path) -> Workshop {
    let search = Search { explicit: Some(prepared("lib/libonnxruntime.so")), ..Search::default() };
    let settings = FetchSettings {
        guard: Guard::default(),
        hub_endpoint: HttpUrl::parse("https://huggingface.co").unwrap(),
        hub_token: None,
        hub_cache: folder.to_owned(),
        download_cache: folder.to_owned(),
        connect_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(1),
        maximum_file_bytes: 0,
    };
    Workshop {
        fetcher: Fetcher::new(settings),
        runtime: Runtime::start(&search, &RuntimeOptions { threads: 2, spinning: false }).unwrap(),
        registry: Arc::new(Registry::default()),
        metrics: Arc::new(Metrics::new()),
    }
}

fn spec(name: &str, model: &str) -> ModelSpec {
    let memory =
        MemoryLimits { cache_bytes: Some(256 << 20), prefix_bytes: Some(0), ..MemoryLimits::default() };
    ModelSpec {
        name: name.parse().unwrap(),
        source: Source::parse(model).unwrap(),
        tokenizer: None,
        limits: LoadLimits {
            context_tokens: None,
            rows: 4,
            huge_pages: HugePages::Never,
            chunk_tokens: 16,
            draft_tokens: 0,
            queue: 256,
            memory,
        },
    }
}

fn input(max_tokens: usize) -> Input {
    Input {
        prompt: "Once upon a time".to_owned(),
        sampling: Sampling::greedy(),
        max_tokens: Some(max_tokens),
        timeout: None,
        stop: Vec::new(),
        stop_tokens: Vec::new(),
        logprobs: None,
        ignore_eos: true,
        skip_special_tokens: true,
    }
}

/// Keeps all rows of a model busy for ever.
async fn load(model: &Arc<LoadedModel>) {
    let client = async || {
        loop {
            let mut generation = generate::start(Arc::clone(model), input(200)).await.unwrap();
            while generation.next().await.unwrap().unwrap() != Delta::End(EndReason::Length) {}
        }
    };
    // More than rows, so that a next one waits whenever a row gets free.
    join_all((0..12).map(|_| client())).await;
}

/// Steps that a model has run.
fn steps(metrics: &Metrics, model: &str) -> u64 {
    let text = openmetrics::encode(&metrics.gather(), Format::OpenMetrics).unwrap();
    let name = format!("inference_gateway_step_duration_seconds_count{{model=\"{model}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap();
    value.parse::<f64>().unwrap() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_model_and_a_slow_one_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let workshop = workshop(folder.path());
    let quick = workshop.bring_up(&spec("quick", &tiny("llama"))).await.unwrap();
    let int8 = prepared("models/smollm2-135m-instruct-int8").display().to_string();
    let slow = workshop.bring_up(&spec("slow", &int8)).await.unwrap();
    let counts = || ["quick", "slow"].map(|model| steps(&workshop.metrics, model));
    let watch = async {
        let began = Instant::now();
        let until = async |slow_steps: u64| {
            loop {
                let [quick, slow] = counts();
                if slow >= slow_steps {
                    return [quick, slow];
                }
                assert!(began.elapsed() < PATIENCE, "the slow model does not get on: {quick} {slow}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // Both are busy from here on.
        let busy = counts()[1] + 5;
        let before = until(busy).await;
        let after = until(before[1] + SLOW_STEPS).await;
        [after[0] - before[0], after[1] - before[1]]
    };
    let [quick_steps, slow_steps] = tokio::select! {
        steps = watch => steps,
        () = load(&quick) => panic!("the load ended"),
        () = load(&slow) => panic!("the load ended"),
    };
    // Unfair would be tens of quick steps for each slow one, or none.
    assert!(
        quick_steps * 2 >= slow_steps && quick_steps <= slow_steps * 2,
        "{quick_steps} quick steps beside {slow_steps} slow ones"
    );
}
