//! What a library that crashes, hangs or takes all memory does to us: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use inference_gateway::model::Reason;
use inference_gateway::model::verify::{ChildBounds, in_child};

use super::{EXECUTABLE, bounds, copy_of, faulty, refused, request, tried};
use crate::harness::{PATIENCE, prepared, python, tiny};

fn state_of(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until the process that a faulty child has written down is no more, not even as a zombie.
async fn wait_buried(folder: &Path) {
    let pid = fs::read_to_string(folder.join("pid")).unwrap().trim().to_owned();
    let began = Instant::now();
    while let Some(state) = state_of(&pid) {
        assert!(began.elapsed() < PATIENCE, "process {pid} is still there, in state {state}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_crash_of_the_library_is_the_end_of_the_child_only() {
    for (fault, signal) in [("abort", "SIGABRT"), ("segfault", "SIGSEGV"), ("allocate", "SIGABRT")] {
        let folder = copy_of("llama");
        let mut bounds = faulty(folder.path(), &format!("in-verify-child=return({fault})"));
        bounds.memory_bytes = 256 << 20;
        let (reason, message) = refused(in_child(&request(folder.path()), &bounds).await);
        assert_eq!(reason, Reason::VerifyCrashed, "{fault}: {message}");
        assert!(message.contains(signal), "{fault}: {message}");
        wait_buried(folder.path()).await;
    }
}

#[tokio::test]
async fn a_graph_that_asks_for_half_a_terabyte_fails_in_the_child() {
    for when in ["load", "run"] {
        let folder = copy_of("gpt2-no-cache");
        let graph = folder.path().join("model.onnx");
        let made = python("tests/fixtures/hungry_model.py").arg(when).arg(graph).status();
        assert!(made.unwrap().success());
        let (reason, message) = refused(tried(&request(folder.path())).await);
        let expected = [Reason::ProbeFailed, Reason::InsufficientMemory, Reason::VerifyCrashed];
        assert!(expected.contains(&reason), "{when}: {reason}: {message}");
        assert!(message.contains("alloc"), "{when}: {message}");
    }
}

#[tokio::test]
async fn a_child_that_hangs_is_ended_in_time_and_one_that_chatters_is_not_listened_to() {
    let folder = copy_of("llama");
    let mut bounds = faulty(folder.path(), "in-verify-child=return(hang)");
    bounds.timeout = Duration::from_secs(1);
    let (reason, message) = refused(in_child(&request(folder.path()), &bounds).await);
    assert_eq!(reason, Reason::VerifyTimeout, "{message}");
    wait_buried(folder.path()).await;

    let bounds = faulty(folder.path(), "in-verify-child=return(chatter)");
    let (reason, message) = refused(in_child(&request(folder.path()), &bounds).await);
    assert_eq!(reason, Reason::VerifyCrashed);
    assert!(message.len() < 8192, "{} bytes", message.len());
    wait_buried(folder.path()).await;
}

#[tokio::test]
async fn dropping_the_wish_ends_and_buries_the_child() {
    let folder = copy_of("llama");
    let bounds = faulty(folder.path(), "in-verify-child=return(hang)");
    let wish = request(folder.path());
    let pid = folder.path().join("pid");
    let begun = async {
        while !fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        outcome = in_child(&wish, &bounds) => panic!("{outcome:?}"),
        () = begun => {}
    }
    wait_buried(folder.path()).await;
}

#[tokio::test]
async fn a_child_does_not_outlive_the_process_that_asked() {
    let folder = copy_of("llama");
    let mut asking = Command::new(EXECUTABLE)
        .arg("verify")
        .arg(folder.path())
        .env_clear()
        .env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so"))
        .env("FAILPOINTS", "in-verify-child=return(hang)")
        .spawn()
        .unwrap();
    let children = || -> BTreeSet<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", asking.id())).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    // Bound to its parent it is once it has the lowest priority, which is set later.
    let bound = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.split_whitespace().nth(16) == Some("19"))
    };
    let began = Instant::now();
    let child = loop {
        if let Some(child) = children().into_iter().find(bound) {
            break child;
        }
        assert!(began.elapsed() < PATIENCE, "no child");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    asking.kill().unwrap();
    asking.wait().unwrap();
    // Whoever adopts it may leave it a zombie.
    while state_of(&child).is_some_and(|state| state != 'Z') {
        assert!(began.elapsed() < PATIENCE, "the child lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_model_that_cannot_fit_is_not_tried() {
    let folder = copy_of("llama");
    let bounds = ChildBounds { memory_bytes: 8 << 20, ..bounds() };
    let (reason, message) = refused(in_child(&request(folder.path()), &bounds).await);
    assert_eq!(reason, Reason::InsufficientMemory, "{message}");
}

#[tokio::test]
async fn a_child_that_cannot_start_or_says_nothing_is_an_error() {
    let folder = copy_of("llama");
    let missing = ChildBounds { executable: PathBuf::from("/nowhere"), ..bounds() };
    assert_eq!(refused(in_child(&request(folder.path()), &missing).await).0, Reason::Internal);
    let silent = ChildBounds { executable: PathBuf::from("/bin/true"), ..bounds() };
    assert_eq!(refused(in_child(&request(folder.path()), &silent).await).0, Reason::VerifyCrashed);
    let no_library = ChildBounds { library: PathBuf::from("/nowhere"), ..bounds() };
    assert_eq!(refused(in_child(&request(folder.path()), &no_library).await).0, Reason::Internal);
}

#[test]
fn a_fault_of_the_serving_process_alone_does_not_touch_the_child() {
    use std::os::unix::process::ExitStatusExt;

    let run = |arguments: &[&str]| {
        Command::new(EXECUTABLE)
            .args(arguments)
            .env_clear()
            .env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so"))
            .env("FAILPOINTS", "before-load=return(abort)")
            .output()
            .unwrap()
            .status
    };
    let model = tiny("llama");
    assert!(run(&["verify", &model]).success());
    let path = format!("--default-model-path={model}");
    let served = run(&[
        "serve",
        &path,
        "--listen-address=127.0.0.1:0",
        "--ops-address=127.0.0.1:0",
        "--admin-address=127.0.0.1:0",
    ]);
    assert_eq!(served.signal(), Some(6));
}
