//! What the admin listener tells, as JSON and as the values of its page.

use std::time::SystemTime;

use serde::Serialize;

use super::Admin;
use crate::memory;
use crate::model::{Failure, Load, Preparation, Serving, Snapshot, Status};

/// The state of the process.
#[derive(Debug, Serialize)]
pub(super) struct View {
    pub(super) models: Vec<ModelView>,
    /// The list of models, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) models_file: Option<FileView>,
    pub(super) memory: MemoryView,
}

#[derive(Debug, Serialize)]
pub(super) struct ModelView {
    pub(super) name: String,
    /// What requests call it.
    pub(super) names: Vec<String>,
    pub(super) state: &'static str,
    /// The wanted revision.
    pub(super) revision: String,
    pub(super) message: String,
    pub(super) serving: Option<LoadedView>,
    /// RFC 3339, UTC.
    pub(super) serving_since: Option<String>,
    /// Revisions that still have requests, or are kept to go back to.
    pub(super) going: Vec<LoadedView>,
    /// The revision that is brought here and tried ahead of its service.
    pub(super) ahead: Option<AheadView>,
    pub(super) download: Option<DownloadView>,
    pub(super) last_failure: Option<FailureView>,
    /// The last ones, the newest first; those before the last success too.
    pub(super) recent_failures: Vec<FailureView>,
}

#[derive(Debug, Serialize)]
pub(super) struct LoadedView {
    pub(super) revision: String,
    pub(super) digest: Option<String>,
    pub(super) memory_bytes: u64,
    pub(super) requests_in_flight: usize,
    /// Generations in a row of the batch, and those that wait for one.
    pub(super) running: usize,
    pub(super) waiting: usize,
    /// How many may run, and how many may wait.
    pub(super) rows: usize,
    pub(super) queue_limit: usize,
}

#[derive(Debug, Serialize)]
pub(super) struct AheadView {
    pub(super) revision: String,
    pub(super) state: &'static str,
    pub(super) digest: Option<String>,
    pub(super) failure: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct DownloadView {
    pub(super) file: String,
    pub(super) done_bytes: u64,
    pub(super) total_bytes: Option<u64>,
    /// Of files that are done.
    pub(super) earlier_bytes: u64,
    /// Of all files, where that is known.
    pub(super) planned_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct FailureView {
    pub(super) revision: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// RFC 3339, UTC.
    pub(super) at: String,
}

#[derive(Debug, Serialize)]
pub(super) struct FileView {
    pub(super) path: String,
    pub(super) applied_at: Option<String>,
    /// What is wrong with what the file holds now.
    pub(super) error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct MemoryView {
    pub(super) resident_bytes: Option<u64>,
    pub(super) free_bytes: Option<u64>,
}

pub(super) fn view(admin: &Admin) -> View {
    View {
        models: admin.registry.snapshots().iter().map(model).collect(),
        models_file: admin.models_file.as_ref().map(|file| {
            let reading = file.status.read();
            FileView {
                path: file.path.display().to_string(),
                applied_at: reading.applied_at.map(written),
                error: reading.error,
            }
        }),
        memory: MemoryView {
            resident_bytes: memory::resident_bytes(),
            free_bytes: memory::free_bytes(admin.memory_limit),
        },
    }
}

fn model(model: &Snapshot) -> ModelView {
    let Snapshot { key, names, status, serving, going } = model;
    let Status {
        revision,
        state,
        message,
        progress,
        last_failure,
        recent_failures,
        ahead,
        prepared: _,
        serving_since,
        serving_from: _,
    } = status;
    let reading = progress.as_ref().map(crate::model::source::Progress::read);
    ModelView {
        name: key.to_string(),
        names: names.iter().map(ToString::to_string).collect(),
        state: state.label(),
        revision: revision.clone(),
        message: message.clone(),
        serving: serving.as_ref().map(loaded),
        serving_since: serving_since.map(written),
        going: going.iter().map(loaded).collect(),
        ahead: ahead.as_ref().map(|ahead| {
            let Preparation { revision, state, digest, failure } = ahead;
            AheadView {
                revision: revision.clone(),
                state: state.label(),
                digest: digest.as_ref().map(ToString::to_string),
                failure: failure.as_ref().map(|(reason, message)| format!("{reason}: {message}")),
            }
        }),
        download: reading.and_then(|reading| {
            Some(DownloadView {
                file: reading.file?,
                done_bytes: reading.done_bytes,
                total_bytes: reading.total_bytes,
                earlier_bytes: reading.earlier_bytes,
                planned_bytes: reading.planned_bytes,
            })
        }),
        last_failure: last_failure.as_ref().map(failure),
        recent_failures: recent_failures.iter().rev().map(failure).collect(),
    }
}

fn failure(failure: &Failure) -> FailureView {
    let Failure { revision, reason, message, at } = failure;
    FailureView {
        revision: revision.clone(),
        reason: reason.label(),
        message: message.clone(),
        at: written(*at),
    }
}

fn loaded(loaded: &Serving) -> LoadedView {
    let Serving { revision, digest, memory_bytes, in_flight, load } = loaded;
    let Load { running, waiting, rows, queue_limit } = *load;
    LoadedView {
        revision: revision.clone(),
        digest: digest.as_ref().map(ToString::to_string),
        memory_bytes: *memory_bytes,
        requests_in_flight: *in_flight,
        running,
        waiting,
        rows,
        queue_limit,
    }
}

fn written(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
