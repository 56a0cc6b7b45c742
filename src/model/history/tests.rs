//! What processes have died of, and what comes of it.

use super::*;

struct Disk(tempfile::TempDir);

impl Disk {
    fn open(&self) -> History {
        let folder = StateFolder::open(self.0.path().to_owned()).unwrap();
        History::open(Some(&folder), &"a/b".parse().unwrap())
    }

    /// Opens after a process that ended without a chance to write.
    fn open_after_death(&self, history: History) -> History {
        std::mem::forget(history);
        self.open()
    }

    /// The same, of a process that has just begun to do something with a revision, which is wanted again.
    fn die(&self, mut history: History, (revision, doing): (&str, Doing), is_stable: bool) -> History {
        history.begin(revision, doing);
        let mut next = self.open_after_death(history);
        next.judge(revision, is_stable);
        next
    }

    /// A process that serves `good`, which has proved itself.
    fn serving(&self) -> History {
        let mut history = self.open();
        history.set_stable(good());
        history
    }
}

fn good() -> Stable {
    let document = serde_json::json!({"name": "a/b", "spec": {"source": {"path": "good"}}});
    let document = serde_json::from_value(document).unwrap();
    Stable { revision: "good".to_owned(), document: Some(document), digest: None, memory_bytes: 1 }
}

const NEW: (&str, Doing) = ("new", Doing::Watching);

fn disk() -> Disk {
    Disk(tempfile::tempdir().unwrap())
}

#[test]
fn a_revision_that_kills_the_process_is_not_tried_again_when_another_has_proved_itself() {
    let disk = disk();
    let history = disk.die(disk.serving(), ("bad", Doing::Loading), false);
    assert_eq!(history.quarantined("bad").unwrap().reason, Reason::LoadCrashed);
    assert_eq!(history.stable().unwrap().revision, "good");
    drop(history);
    assert!(disk.open().quarantined("bad").is_some(), "that lasts");
    let mut history = disk.open();
    history.forgive("bad");
    drop(history);
    assert!(disk.open().quarantined("bad").is_none(), "until it is forgiven");
}

#[test]
fn without_an_alternative_one_death_is_no_proof() {
    let disk = disk();
    let mut history = disk.open();
    for death in 1..=DEATHS_WITHOUT_ALTERNATIVE {
        assert!(history.quarantined("only").is_none(), "after {} deaths", death - 1);
        history = disk.die(history, ("only", Doing::Loading), false);
    }
    assert!(history.quarantined("only").unwrap().message.contains("3 times"));
}

#[test]
fn a_revision_that_nobody_can_load_again_is_no_alternative() {
    let disk = disk();
    let mut history = disk.open();
    history.set_stable(Stable { document: None, ..good() });
    assert!(disk.die(history, ("new", Doing::Loading), false).quarantined("new").is_none());
}

#[test]
fn a_revision_that_is_being_watched_is_convicted_by_one_death() {
    let disk = disk();
    let history = disk.die(disk.serving(), NEW, false);
    let failed = history.quarantined("new").unwrap();
    assert_eq!(failed.message, "the gateway died while this revision was being watched (1 times)");
}

#[test]
fn what_the_fleet_has_found_good_is_convicted_by_three_deaths_and_those_for_good() {
    let disk = disk();
    let mut history = disk.serving();
    for (death, doing) in [(1, Doing::Watching), (2, Doing::Loading), (3, Doing::Watching)] {
        assert!(history.quarantined("new").is_none(), "before death {death}");
        history = disk.die(history, ("new", doing), true);
    }
    assert!(history.quarantined("new").unwrap().message.contains("3 times"));
    history.judge("new", true);
    drop(history);
    let mut history = disk.open();
    history.judge("new", true);
    assert!(history.quarantined("new").is_some());
}

#[test]
fn deaths_before_a_revision_has_proved_itself_are_forgotten() {
    let disk = disk();
    let mut history = disk.die(disk.serving(), NEW, true);
    history = disk.die(history, NEW, true);
    assert!(history.is_suspect("new"));
    history.set_stable(Stable { revision: "new".to_owned(), ..good() });
    assert!(!history.is_suspect("new"));
    history.set_stable(good());
    assert!(disk.die(history, NEW, true).quarantined("new").is_none());
}

#[test]
fn a_death_that_did_not_convict_is_not_held_against_a_later_rollout() {
    let disk = disk();
    let mut history = disk.die(disk.serving(), NEW, true);
    history.begin("next", Doing::Loading);
    history.begin("next", Doing::Watching);
    history.judge("new", false);
    assert!(history.quarantined("new").is_none(), "it is rolled out once more");
    assert!(disk.die(history, NEW, false).quarantined("new").unwrap().message.contains("1 times"));
}

/// The process does not know yet that all others serve the revision, or could not know.
#[test]
fn a_conviction_is_taken_back_when_the_fleet_has_found_the_revision_good() {
    let disk = disk();
    let mut history = disk.die(disk.serving(), NEW, false);
    history.judge("good", true);
    assert!(history.quarantined("new").is_some(), "another one is wanted");
    history.judge("new", false);
    assert!(history.quarantined("new").is_some(), "it is tried out still");
    history.judge("new", true);
    assert!(history.quarantined("new").is_none());
    for death in [2, 3] {
        assert!(history.quarantined("new").is_none(), "before death {death}");
        history = disk.die(history, NEW, true);
    }
    assert!(history.quarantined("new").is_some(), "the first death has counted");
}

#[test]
fn a_conviction_that_an_earlier_version_has_written_is_taken_back_too() {
    let disk = disk();
    let failed = |reason| serde_json::json!({"revision": reason, "reason": reason, "message": ""});
    let record = serde_json::json!({
        "stable": good(), "attempt": null, "quarantined": [failed("LoadCrashed"), failed("SoakErrors")],
    });
    fs::write(disk.0.path().join("a%2Fb.json"), record.to_string()).unwrap();
    let mut history = disk.open();
    for wanted in ["LoadCrashed", "SoakErrors"] {
        history.judge(wanted, true);
    }
    assert!(history.quarantined("LoadCrashed").is_none());
    assert!(history.quarantined("SoakErrors").is_some(), "it was seen to do badly");
}

#[test]
fn nobody_is_convicted_before_it_is_known_what_is_wanted() {
    let disk = disk();
    let mut history = disk.serving();
    history.begin("new", Doing::Watching);
    let mut history = disk.open_after_death(history);
    assert!(history.quarantined("new").is_none());
    history.judge("good", false);
    assert!(history.quarantined("new").is_none(), "it is not wanted");
    // Nothing was done with it when this one died.
    let mut history = disk.open_after_death(history);
    history.judge("new", false);
    assert!(history.quarantined("new").unwrap().message.contains("1 times"));
}

#[test]
fn a_process_that_ends_because_of_a_revision_has_died_of_it() {
    let disk = disk();
    let mut history = disk.serving();
    history.begin("new", Doing::Watching);
    history.die();
    drop(history);
    assert!(disk.open().is_suspect("new"));
}

#[test]
fn an_end_in_order_is_no_death() {
    let disk = disk();
    let mut history = disk.serving();
    history.begin("new", Doing::Watching);
    drop(history);
    let mut history = disk.open();
    history.judge("new", false);
    assert!(history.quarantined("new").is_none());
}

#[test]
fn the_stable_revision_is_not_convicted_by_its_own_watch() {
    let disk = disk();
    assert!(disk.die(disk.serving(), ("good", Doing::Watching), false).quarantined("good").is_none());
}

#[test]
fn what_failed_in_a_trial_is_tried_again_by_the_next_process() {
    let disk = disk();
    let mut history = disk.open();
    history.quarantine("typo", Reason::SourceNotFound, "no such folder");
    assert!(history.quarantined("typo").is_some());
    drop(history);
    assert!(disk.open().quarantined("typo").is_none());
}

#[test]
fn one_gateway_has_the_folder() {
    let disk = disk();
    let first = StateFolder::open(disk.0.path().to_owned());
    assert!(first.is_some() && StateFolder::open(disk.0.path().to_owned()).is_none());
    drop(first);
    assert!(StateFolder::open(disk.0.path().to_owned()).is_some());
}

#[test]
fn a_broken_file_or_folder_costs_only_the_memory() {
    let disk = disk();
    fs::write(disk.0.path().join("a%2Fb.json"), b"{").unwrap();
    assert!(disk.open().stable().is_none());
    assert!(StateFolder::open(PathBuf::from("/proc/nothing")).is_none());
    let mut history = History::open(None, &"a".parse().unwrap());
    history.set_stable(good());
    assert_eq!(history.stable().unwrap().revision, "good");
}
