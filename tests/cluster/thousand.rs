//! A thousand models of one gateway: how much memory a pod and a controller take that hear of all of them, and how long it takes
//! until they have. Most are paused, so that nothing of them is loaded.
//!
//! Run by hand: `cargo test --features failpoints --test cluster thousand -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::fleet::{Fleet, condition, spec};
use crate::plane::ControlPlane;
use crate::scale::number;

/// Memory that a thousand objects may take more than none, in a pod or a controller.
const MOST_BYTES: u64 = 100 << 20;
/// Time in which everything has been heard of and told.
const PATIENCE: Duration = Duration::from_mins(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; run by hand"]
async fn a_thousand_models_cost_little_memory() {
    let models = number("MANY_MODELS", 1000);
    let plane = ControlPlane::start("thousand").await;
    let fleet = Fleet::start(&plane, "thousand", 1).await;
    fleet.all_ready().await;
    fleet.apply("chat", &spec("llama")).await;
    fleet.wait_rolled_out("chat").await;
    let traffic = fleet.traffic("chat", &["llama", "gpt2"]).await;
    let memory = || {
        let pod = fleet.pods[0].container(|program| program.resident_bytes());
        [pod, fleet.controllers[0].program.resident_bytes()]
    };
    let before = memory();
    traffic.phase("a thousand models");
    let began = Instant::now();
    let mut paused = spec("llama");
    paused["paused"] = json!(true);
    for index in 0..models {
        let name = format!("model-{index}");
        let object = json!({"apiVersion": "inference-gateway.io/v1alpha1", "kind": "Model",
                            "metadata": {"name": name}, "spec": paused});
        let ours = PatchParams::apply("tests").force();
        fleet.models.patch(&name, &ours, &Patch::Apply(&object)).await.unwrap();
    }
    let applied = began.elapsed();
    loop {
        let all = fleet.models.list(&ListParams::default()).await.unwrap();
        let heard =
            all.items.iter().filter(|model| condition(&model.data["status"], "Accepted") != "-").count();
        if heard > models {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{heard} of {models} models were heard of");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!(
        "{models} models applied after {:.1} s, all accepted after {:.1} s",
        applied.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    // The one that serves moves on among them.
    let began = Instant::now();
    fleet.apply("chat", &spec("gpt2")).await;
    fleet.wait_rolled_out("chat").await;
    println!("one more rollout among them: {:.1} s", began.elapsed().as_secs_f64());
    for (who, (before, after)) in ["pod", "controller"].iter().zip(before.into_iter().zip(memory())) {
        println!("{who}: {} MB before, {} MB with {models} models", before >> 20, after >> 20);
        assert!(after.saturating_sub(before) < MOST_BYTES, "{who}: {before} to {after} bytes");
    }
    assert_eq!(traffic.stop().await.verdict(), Ok(()));
}
