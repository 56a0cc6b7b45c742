//! How far the download of the moment has come.
//!
//! Written by the download, read by whoever reports readiness; neither waits for the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counters of a running fetch; cheap to clone, all clones are the same counters.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<ProgressReading>>);

/// One reading of [`Progress`]: the three values belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgressReading {
    /// Name of the file that is being downloaded; `None` before the first, between two files and at the end.
    pub file: Option<String>,
    /// Bytes of that file that are on this machine, those of an earlier attempt included.
    pub done_bytes: u64,
    /// Size of that file in bytes, once the server has told it.
    pub total_bytes: Option<u64>,
    /// Bytes of all files of this fetch before that file.
    pub earlier_bytes: u64,
    /// Bytes of all files, where the source tells them beforehand.
    pub planned_bytes: Option<u64>,
    /// Bytes that came over the network, over all files and attempts.
    pub fetched_bytes: u64,
}

impl Progress {
    /// The values of this moment.
    pub fn read(&self) -> ProgressReading {
        self.lock().clone()
    }

    /// The bytes of all files are known.
    pub(super) fn plan(&self, bytes: u64) {
        self.lock().planned_bytes = Some(bytes);
    }

    /// A file of so many bytes need not be fetched.
    pub(super) fn skip(&self, bytes: u64) {
        self.lock().earlier_bytes += bytes;
    }

    /// Names what is done beside downloads, such as hashing a file.
    pub(in crate::model) fn note(&self, what: &str) {
        let mut reading = self.lock();
        reading.file = Some(what.to_owned());
        (reading.done_bytes, reading.total_bytes) = (0, None);
    }

    pub(super) fn start(&self, file: &str, done_bytes: u64, total_bytes: Option<u64>) {
        let mut reading = self.lock();
        *reading =
            ProgressReading { file: Some(file.to_owned()), done_bytes, total_bytes, ..reading.clone() };
    }

    pub(super) fn add(&self, bytes: u64) {
        let mut reading = self.lock();
        reading.done_bytes += bytes;
        reading.fetched_bytes += bytes;
    }

    /// Bytes that came over the network so far.
    pub(in crate::model) fn fetched_bytes(&self) -> u64 {
        self.lock().fetched_bytes
    }

    pub(in crate::model) fn finish(&self) {
        let mut reading = self.lock();
        let earlier_bytes = reading.earlier_bytes + reading.done_bytes;
        let ProgressReading { planned_bytes, fetched_bytes, .. } = *reading;
        *reading =
            ProgressReading { earlier_bytes, planned_bytes, fetched_bytes, ..ProgressReading::default() };
    }

    fn lock(&self) -> MutexGuard<'_, ProgressReading> {
        // Plain numbers are whole whatever happened to another holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
