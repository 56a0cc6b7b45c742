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

/// Deaths of the process while it loads or first serves a revision, where there is nothing better to go back to: an eviction, a
/// lack of memory or the end of the node's power may look like one.
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
    /// What processes have died of, which has neither failed nor proved itself since.
    #[serde(default)]
    suspect: Option<Attempt>,
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
    /// Times that the process has died of it.
    #[serde(default)]
    deaths: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Attempt {
    revision: String,
    doing: Doing,
    /// Times that a process has died of it.
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
    /// Reads what is known of a model, and counts the end of the last process, if that was not in order.
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
        history.count_death();
        history
    }

    /// What comes of it is [judged](Self::judge) when it is known what is wanted.
    fn count_death(&mut self) {
        if let Some(attempt) = self.record.attempt.take() {
            self.record.suspect = Some(Attempt { deaths: attempt.deaths + 1, ..attempt });
            self.write();
        }
    }

    /// Judges what processes have died of, now that it is known what is wanted.
    ///
    /// One death convicts where there is something better to go back to. There is nothing better than what the fleet has found
    /// good: a node that loses its power kills many pods at once, and none of them would follow the fleet any more. So a
    /// conviction from before that was known is taken back.
    pub(super) fn judge(&mut self, wanted: &str, is_stable: bool) {
        if is_stable {
            self.reopen(wanted);
        }
        let Some(suspect) = self.record.suspect.clone() else {
            return;
        };
        let proved = self.record.stable.as_ref().filter(|stable| stable.document.is_some());
        let has_better = !is_stable && proved.is_some_and(|stable| stable.revision != suspect.revision);
        let at_once = has_better && suspect.revision == wanted;
        if at_once || suspect.deaths >= DEATHS_WITHOUT_ALTERNATIVE {
            let doing = match suspect.doing {
                Doing::Loading => "while it loaded this revision",
                Doing::Watching => "while this revision was being watched",
            };
            let message = format!("the gateway died {doing} ({} times)", suspect.deaths);
            self.convict(&suspect.revision, Reason::LoadCrashed, &message, suspect.deaths);
        }
    }

    /// Takes back the conviction of a revision by too few deaths; they still count.
    fn reopen(&mut self, revision: &str) {
        let too_few = |failed: &Quarantined| {
            failed.revision == revision
                && failed.reason == Reason::LoadCrashed
                && failed.deaths < DEATHS_WITHOUT_ALTERNATIVE
        };
        let Some(at) = self.record.quarantined.iter().position(too_few) else {
            return;
        };
        let Quarantined { revision, deaths, .. } = self.record.quarantined.remove(at);
        tracing::warn!(
            revision,
            deaths,
            "the fleet has found a revision good that was given up here: trying it again"
        );
        self.record.suspect = Some(Attempt { revision, doing: Doing::Watching, deaths });
        self.write();
    }

    /// Whether a process has died of a revision that has neither failed nor proved itself since.
    pub(super) fn is_suspect(&self, revision: &str) -> bool {
        self.record.suspect.as_ref().is_some_and(|suspect| suspect.revision == revision)
    }

    /// Notes that a dangerous step begins. What an earlier revision was suspected of is over then.
    pub(super) fn begin(&mut self, revision: &str, doing: Doing) {
        self.record.suspect = self.record.suspect.take().filter(|suspect| suspect.revision == revision);
        let deaths = self.record.suspect.as_ref().map_or(0, |suspect| suspect.deaths);
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

    /// Notes that the process ends of what it does now, although in order: nothing is written any more.
    pub(super) fn die(&mut self) {
        self.path = None;
    }

    /// Notes a revision that has proved itself.
    pub(super) fn set_stable(&mut self, stable: Stable) {
        self.record.attempt = None;
        self.record.suspect = None;
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
        self.convict(revision, reason, message, 0);
    }

    fn convict(&mut self, revision: &str, reason: Reason, message: &str, deaths: u32) {
        self.record.attempt = None;
        self.forget(revision);
        let failed =
            Quarantined { revision: revision.to_owned(), reason, message: message.to_owned(), deaths };
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
        self.forget(revision);
        self.write();
    }

    fn forget(&mut self, revision: &str) {
        self.record.quarantined.retain(|failed| failed.revision != revision);
        if self.is_suspect(revision) {
            self.record.suspect = None;
        }
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
            suspect: self.record.suspect.clone(),
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
mod tests;
