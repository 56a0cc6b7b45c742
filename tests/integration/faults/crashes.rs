//! Models that kill, hang or starve whoever tries them, as processes of their own.

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
