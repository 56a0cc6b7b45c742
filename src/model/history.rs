//! What a model went through, on disk: the revision that has proved itself, those that have failed, and the one that is being
//! loaded, so that a revision that kills the process is not tried again for ever.
//!
//! One small file a model and gateway, `{state folder}/{model}.json`, written whole before each dangerous step. A folder
//! that cannot be written costs only this memory.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::ModelDocument;
use super::{ModelName, Reason};

/// Deaths of the process while it loads a revision, when nothing else has ever served: an eviction or a lack of memory may
/// look like one.
const DEATHS_WITHOUT_ALTERNATIVE: u32 = 3;

/// The folder of one gateway; held by a lock as long as the process lives.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Opens the folder; `None`, with a warning, when it cannot be had or another gateway has it.
    pub fn open(path: PathBuf) -> Option<Self> {
        let lock = fs::create_dir_all(&path).and_then(|()| File::create(path.join("lock")));
        match lock.map(|lock| (lock.try_lock(), lock)) {
            Ok((Ok(()), lock)) => Some(Self { path, _lock: lock }),
            Ok((Err(_taken), _)) => {
                let path = path.display();
                tracing::warn!(%path, "another gateway has this state folder: set INFERENCE_STATE_DIR to one for each");
                None
            }
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "no state folder: a restart will try a revision again that killed the process");
                None
            }
        }
    }
}

/// The file of one model.
#[derive(Debug)]
pub(super) struct History {
    path: Option<PathBuf>,
    record: Record,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The revision to go back to.
    stable: Option<Stable>,
    /// Revisions that have failed for good. Those that were only tried are tried again by the next process.
    quarantined: Vec<Quarantined>,
    /// What was being done when the file was written.
    attempt: Option<Attempt>,
}

/// A revision that has proved itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stable {
    pub(super) revision: String,
    /// To be read again after a restart; the model of the environment has none.
    pub(super) document: Option<ModelDocument>,
    /// Of the manifest of its files: what was tried.
    pub(super) digest: Option<String>,
    /// Memory that loading it took.
    pub(super) memory_bytes: u64,
}

/// A revision that has failed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quarantined {
    pub(super) revision: String,
    pub(super) reason: Reason,
    pub(super) message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Attempt {
    revision: String,
    doing: Doing,
    /// Times that the process has died of it.
    deaths: u32,
}

/// The steps that may kill the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Doing {
    /// Bringing the graph into memory.
    Loading,
    /// Serving it for the first time.
    Watching,
}

/// Revisions remembered as failed; older ones are forgotten.
const MOST_QUARANTINED: usize = 16;

impl History {
    /// Reads what is known of a model, and judges what the last process died of, if it was not ended in order.
    pub(super) fn open(folder: Option<&StateFolder>, model: &ModelName) -> Self {
        let name = model.as_str().replace('%', "%25").replace('/', "%2F");
        let path = folder.map(|folder| folder.path.join(format!("{name}.json")));
        let record = path.as_ref().and_then(|path| match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .inspect_err(|error| {
                    tracing::warn!(path = %path.display(), %error, "the model's history is unreadable; beginning a new one");
                })
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "failed to read the model's history");
                None
            }
        });
        let mut history = Self { path, record: record.unwrap_or_default() };
        history.judge_last_end();
        history
    }

    fn judge_last_end(&mut self) {
        let Some(attempt) = &mut self.record.attempt else {
            return;
        };
        attempt.deaths += 1;
        let attempt = attempt.clone();
        let alternative =
            self.record.stable.as_ref().is_some_and(|stable| stable.revision != attempt.revision);
        let (convicted, message) = match attempt.doing {
            Doing::Loading => (
                alternative || attempt.deaths >= DEATHS_WITHOUT_ALTERNATIVE,
                "the gateway died while it loaded this revision",
            ),
            Doing::Watching => (alternative, "the gateway died while this revision was being watched"),
        };
        if convicted {
            let message = format!("{message} ({} times)", attempt.deaths);
            self.quarantine(&attempt.revision, Reason::LoadCrashed, &message);
        }
        self.record.attempt = Some(attempt).filter(|_| !convicted);
        self.write();
    }

    /// Notes that a dangerous step begins.
    pub(super) fn begin(&mut self, revision: &str, doing: Doing) {
        let deaths = self.record.attempt.as_ref().filter(|attempt| attempt.revision == revision);
        let deaths = deaths.map_or(0, |attempt| attempt.deaths);
        self.record.attempt = Some(Attempt { revision: revision.to_owned(), doing, deaths });
        self.write();
    }

    /// Notes that it has ended, well or not, and the process lives.
    pub(super) fn end(&mut self) {
        if self.record.attempt.take().is_some() {
            self.write();
        }
    }

    /// Notes that an attempt was broken off, unless a new revision is being watched.
    pub(super) fn end_attempt(&mut self, watching: bool) {
        if !watching {
            self.end();
        }
    }

    /// Notes a revision that has proved itself.
    pub(super) fn set_stable(&mut self, stable: Stable) {
        self.record.attempt = None;
        self.record.quarantined.retain(|failed| failed.revision != stable.revision);
        self.record.stable = Some(stable);
        self.write();
    }

    /// The revision that has proved itself.
    pub(super) fn stable(&self) -> Option<&Stable> {
        self.record.stable.as_ref()
    }

    /// Notes a revision that is not tried again.
    pub(super) fn quarantine(&mut self, revision: &str, reason: Reason, message: &str) {
        self.record.attempt = None;
        self.record.quarantined.retain(|failed| failed.revision != revision);
        let failed = Quarantined { revision: revision.to_owned(), reason, message: message.to_owned() };
        self.record.quarantined.push(failed);
        let surplus = self.record.quarantined.len().saturating_sub(MOST_QUARANTINED);
        self.record.quarantined.drain(..surplus);
        self.write();
    }

    /// Why a revision is not tried again, if that is so.
    pub(super) fn quarantined(&self, revision: &str) -> Option<&Quarantined> {
        self.record.quarantined.iter().find(|failed| failed.revision == revision)
    }

    /// Lets a revision be tried again.
    pub(super) fn forgive(&mut self, revision: &str) {
        self.record.quarantined.retain(|failed| failed.revision != revision);
        self.write();
    }

    fn write(&self) {
        let Some(path) = &self.path else {
            return;
        };
        let lasting =
            |failed: &&Quarantined| matches!(failed.reason, Reason::LoadCrashed | Reason::SoakErrors);
        let lasting = Record {
            stable: self.record.stable.clone(),
            quarantined: self.record.quarantined.iter().filter(lasting).cloned().collect(),
            attempt: self.record.attempt.clone(),
        };
        let staged = path.with_extension("json.new");
        let bytes = serde_json::to_vec(&lasting).expect("a record has string keys only");
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&staged, bytes))
            .and_then(|()| File::open(&staged)?.sync_all())
            .and_then(|()| fs::rename(&staged, path))
            .and_then(|()| path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "failed to write the model's history: a restart may try a failed revision again");
        }
    }
}

impl Drop for History {
    /// A process that ends in order has not died of what it was doing.
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
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
    }

    fn good() -> Stable {
        Stable { revision: "good".to_owned(), document: None, digest: None, memory_bytes: 1 }
    }

    fn disk() -> Disk {
        Disk(tempfile::tempdir().unwrap())
    }

    #[test]
    fn a_revision_that_kills_the_process_is_not_tried_again_when_another_has_proved_itself() {
        let disk = disk();
        let mut history = disk.open();
        history.set_stable(good());
        history.begin("bad", Doing::Loading);
        let history = disk.open_after_death(history);
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
            history.begin("only", Doing::Loading);
            history = disk.open_after_death(history);
        }
        assert!(history.quarantined("only").unwrap().message.contains("3 times"));
    }

    #[test]
    fn an_end_in_order_is_no_death() {
        let disk = disk();
        let mut history = disk.open();
        history.set_stable(good());
        history.begin("new", Doing::Watching);
        drop(history);
        assert!(disk.open().quarantined("new").is_none());
    }

    #[test]
    fn the_stable_revision_is_not_convicted_by_its_own_watch() {
        let disk = disk();
        let mut history = disk.open();
        history.set_stable(good());
        history.begin("good", Doing::Watching);
        assert!(disk.open_after_death(history).quarantined("good").is_none());
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
}
