//! Models that kill, hang or starve whoever tries them, as processes of their own.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::*;
use crate::soak::Process;

/// The first model, which is tried in the serving process, where these faults are not.
fn good() -> String {
    model(&tiny("llama"), "verify: {isolation: InProcess}, rollout: {watch: {windowSeconds: 0}}")
}

fn next(fields: &str) -> String {
    model(&tiny("gpt2"), fields)
}

async fn wait_failed(process: &Process) -> Value {
    let began = Instant::now();
    loop {
        let model = process.model().await;
        if model["state"] == "failed" {
            return model;
        }
        assert!(began.elapsed() < PATIENCE, "{model}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Children of a process that have ended and that nobody has asked about.
fn zombies(parent: u32) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let mut rest = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned);
        Some((rest.next()?, rest.next()?.parse::<u32>().ok()?))
    });
    all.filter(|(state, of)| state == "Z" && *of == parent).count()
}

/// Row 9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_trial_of_a_model_does_the_gateway_lives_and_answers() {
    for (fault, seconds, reason) in [
        ("abort", 20, "VerifyCrashed"),
        ("segfault", 20, "VerifyCrashed"),
        ("hang", 2, "VerifyTimeout"),
        ("allocate", 60, "VerifyCrashed"),
    ] {
        let process = Process::start(&format!("in-verify-child=return({fault})"));
        process.write_list(&good());
        let serving = process.wait_serving("").await;
        let golden = process.ask("abc", false).await.unwrap();
        process.write_list(&next(&format!("verify: {{timeoutSeconds: {seconds}}}")));
        let mut answers = 0;
        let model = loop {
            assert_eq!(process.ask("abc", answers % 2 == 0).await.unwrap(), golden, "while {fault}");
            answers += 1;
            let model = process.model().await;
            if model["state"] == "failed" {
                break model;
            }
        };
        let told = model["reason"].as_str().unwrap();
        assert!(told.starts_with(&format!("{reason}: ")), "{fault}: {told}");
        assert_eq!((&model["serving"], zombies(process.child.id())), (&json!(serving), 0), "{fault}");
    }
}

/// Row 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_kills_the_gateway_is_not_tried_again_and_the_last_good_one_answers() {
    // The first load of each process goes well, the second one kills it.
    let faults = "before-load=1*off->return(abort)";
    let mut process = Process::start(faults);
    process.write_list(&good());
    let serving = process.wait_serving("").await;
    let golden = process.ask("abc", false).await.unwrap();
    process.write_list(&next("verify: {isolation: InProcess}"));
    let began = Instant::now();
    while process.child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "the gateway survives what should kill it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = Arc::clone(&process.folder);
    drop(process);
    for _restart in 0..2 {
        let process = Process::start_in(Arc::clone(&folder), faults);
        let model = wait_failed(&process).await;
        assert!(model["reason"].as_str().unwrap().starts_with("LoadCrashed: "), "{model}");
        let began = Instant::now();
        while process.model().await["serving"] != serving {
            assert!(began.elapsed() < PATIENCE, "the last good revision does not come back");
        }
        assert_eq!(process.ask("abc", true).await.unwrap(), golden);
    }
}

/// What serves, as it was loaded: its memory was measured then, and `serving_since` changes with the pointer.
async fn pointer(process: &Process) -> Value {
    let url = format!("http://{}/admin/models", process.admin);
    let view: Value = process.client.get(url).send().await.unwrap().json().await.unwrap();
    let model = &view["models"][0];
    let serving = &model["serving"];
    json!([
        serving["revision"],
        serving["digest"],
        serving["memory_bytes"],
        model["serving_since"],
        model["going"]
    ])
}

async fn pointers_moved(process: &Process) -> f64 {
    let url = format!("http://{}/metrics", process.ops);
    let text = process.client.get(url).send().await.unwrap().text().await.unwrap();
    let moved = text.lines().filter(|line| line.starts_with("inference_gateway_model_swaps_total"));
    moved.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Whatever step an attempt fails in, the pointer stays on the very model that it was on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_fails_in_any_step_leaves_the_very_model_that_served() {
    // The first warm-up goes well, no other one does; every trial in a process of its own ends at once.
    let process = Process::start("in-warm-up=1*off->return(fail);in-verify-child=return(abort)");
    process.write_list(&good());
    process.wait_serving("").await;
    let golden = process.ask("abc", false).await.unwrap();
    let (before, moved) = (pointer(&process).await, pointers_moved(&process).await);
    let broken = copy("gpt2");
    std::fs::write(broken.path().join("model.onnx"), b"no graph").unwrap();
    let in_place = format!("{{path: {}, inPlace: true}}", &text(&broken)[1..]);
    let digest = format!("{{path: {}, digest: \"sha256:{}\"}}", &tiny("gpt2")[1..], "0".repeat(64));
    let probe = "verify: {isolation: InProcess, probes: [{prompt: a, expectContains: 'never this'}]}";
    let attempts = [
        ("fetch", sourced(&digest, ""), "DigestMismatch"),
        ("look at the files", sourced(&in_place, ""), "InvalidOnnx"),
        ("trial", next(""), "VerifyCrashed"),
        ("load", sourced(&in_place, "verify: {isolation: InProcess}"), "InvalidOnnx"),
        ("warm-up", next("verify: {isolation: InProcess}"), "ProbeFailed"),
        ("probe", next(probe), "ProbeFailed"),
    ];
    let mut order: Vec<usize> = (0..attempts.len()).chain(0..attempts.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(7));
    for (turn, step, entry, reason) in order
        .iter()
        .enumerate()
        .map(|(turn, index)| (turn, attempts[*index].0, &attempts[*index].1, attempts[*index].2))
    {
        // Another context makes another revision, which has not failed yet.
        let tokens = 32 + turn;
        let entry = entry.replace("}}\n", &format!(", runtime: {{contextLength: {tokens}}}}}}}\n"));
        let last = process.model().await["revision"].clone();
        process.write_list(&entry);
        let began = Instant::now();
        let model = loop {
            let model = process.model().await;
            if model["state"] == "failed" && model["revision"] != last {
                break model;
            }
            assert_eq!(process.ask("abc", turn % 2 == 0).await.unwrap(), golden, "{step}");
            assert!(began.elapsed() < PATIENCE, "{step}: {model}");
        };
        assert!(model["reason"].as_str().unwrap().starts_with(reason), "{step}: {model}");
        assert_eq!(
            (pointer(&process).await, pointers_moved(&process).await),
            (before.clone(), moved),
            "{step}"
        );
    }
}
