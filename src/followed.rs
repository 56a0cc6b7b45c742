//! Files that may change while the process runs: when to read them again, and what stays when they do not hold.
//!
//! Looked at once a second rather than watched: a mounted ConfigMap or Secret changes by a link to another folder, network
//! file systems tell nobody, and a look costs microseconds.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A change that leaves no trace in a file's attributes is seen after so many looks.
const LOOKS_BETWEEN_READS: u32 = 30;

/// Files that are read together.
#[derive(Debug)]
pub struct Followed {
    paths: Vec<PathBuf>,
    /// As they were looked at last; a file that is not there has none.
    known: Option<Vec<Option<Traces>>>,
    /// Between two looks.
    pause: Duration,
}

/// What is known of a file without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    /// Where links lead.
    path: PathBuf,
    identity: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused it.
    #[error("failed to read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than anything that is meant.
    #[error("{path} has more than {most} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are read at most.
        most: usize,
    },
}

/// What was made of the last content that held.
#[derive(Debug)]
pub struct LastGood<T> {
    current: ArcSwapOption<T>,
    /// Why nothing has held yet.
    trouble: ArcSwapOption<String>,
    /// SHA-256 of what was read last, or of why that was not possible: files of secrets are not kept.
    seen: Mutex<Option<[u8; 32]>>,
}

/// What became of a content.
#[derive(Debug)]
pub enum Offered<T> {
    /// It was there before.
    Known,
    /// It is in force now.
    Applied(Arc<T>),
    /// It does not hold, and what was there before stays in force.
    Kept(String),
    /// It does not hold, and nothing is in force.
    Nothing(String),
}

impl<T> Default for LastGood<T> {
    fn default() -> Self {
        Self { current: ArcSwapOption::empty(), trouble: ArcSwapOption::empty(), seen: Mutex::default() }
    }
}

impl<T> LastGood<T> {
    /// What is in force.
    pub fn get(&self) -> Option<Arc<T>> {
        self.current.load_full()
    }

    /// Why nothing is in force.
    pub fn trouble(&self) -> Option<String> {
        if self.current.load().is_some() { None } else { self.trouble.load().as_deref().cloned() }
    }

    /// Puts in force what `make` makes of a content that is new, given what is in force.
    pub fn offer<E: Display>(
        &self,
        content: &Result<Vec<u8>, String>,
        make: impl FnOnce(Option<&T>) -> Result<T, E>,
    ) -> Offered<T> {
        let now: [u8; 32] = match content {
            Ok(bytes) => Sha256::digest(bytes).into(),
            Err(error) => Sha256::digest(error).into(),
        };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        if seen == Some(now) {
            return Offered::Known;
        }
        let before = self.current.load_full();
        match make(before.as_deref()) {
            Ok(value) => {
                let value = Arc::new(value);
                self.current.store(Some(Arc::clone(&value)));
                Offered::Applied(value)
            }
            Err(error) if before.is_some() => Offered::Kept(error.to_string()),
            Err(error) => {
                self.trouble.store(Some(Arc::new(error.to_string())));
                Offered::Nothing(error.to_string())
            }
        }
    }
}

impl Followed {
    /// Files that were not read yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, known: None, pause: LOOK }
    }

    /// Returns when one of the files may have changed since the last return, the first time at once. May be dropped at any
    /// time.
    pub async fn changed(&mut self) {
        for _look in 0..LOOKS_BETWEEN_READS {
            if self.known.is_some() {
                tokio::time::sleep(self.pause).await;
            }
            let mut now = Vec::with_capacity(self.paths.len());
            for path in &self.paths {
                now.push(traces(path).await);
            }
            if self.known.as_ref() != Some(&now) {
                self.known = Some(now);
                return;
            }
        }
    }
}

async fn traces(path: &Path) -> Option<Traces> {
    use std::os::unix::fs::MetadataExt;

    let path = tokio::fs::canonicalize(path).await.ok()?;
    let metadata = tokio::fs::metadata(&path).await.ok()?;
    Some(Traces {
        identity: (metadata.dev(), metadata.ino()),
        bytes: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        path,
    })
}

/// The whole content of a file.
///
/// # Errors
/// It cannot be read, or has more than `most` bytes.
pub async fn read(path: &Path, most: usize) -> Result<Vec<u8>, ReadError> {
    let fail = |source| ReadError::Read { path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(fail)?;
    let mut bytes = Vec::new();
    // One more than allowed, so that too many are seen.
    file.take(most as u64 + 1).read_to_end(&mut bytes).await.map_err(fail)?;
    if bytes.len() > most {
        return Err(ReadError::TooLarge { path: path.to_owned(), most });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(10);

    fn follow(path: PathBuf) -> Followed {
        Followed { pause: PAUSE, ..Followed::new(vec![path]) }
    }

    /// Whether a look shows a change; one that takes all its looks has seen none.
    async fn changes(followed: &mut Followed) -> bool {
        let before = format!("{:?}", followed.known);
        followed.changed().await;
        before != format!("{:?}", followed.known)
    }

    #[tokio::test]
    async fn a_secret_that_is_swapped_by_a_link_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["first", "second"] {
            std::fs::create_dir(path(version)).unwrap();
            std::fs::write(path(version).join("keys.yaml"), version).unwrap();
        }
        symlink("first", path("..data")).unwrap();
        symlink("..data/keys.yaml", path("keys.yaml")).unwrap();
        let mut followed = follow(path("keys.yaml"));
        assert!(changes(&mut followed).await, "it was never read");
        assert!(!changes(&mut followed).await, "it is read again after a while all the same");
        symlink("second", path("..new")).unwrap();
        std::fs::rename(path("..new"), path("..data")).unwrap();
        assert!(changes(&mut followed).await);
        assert_eq!(read(&path("keys.yaml"), 10).await.unwrap(), b"second");
        std::fs::remove_file(path("keys.yaml")).unwrap();
        assert!(changes(&mut followed).await, "it is gone");
        assert!(!changes(&mut followed).await);
    }

    #[test]
    fn what_does_not_hold_leaves_in_force_what_did() {
        let last_good = LastGood::<u32>::default();
        let offer = |text: &str| {
            last_good.offer(&Ok(text.as_bytes().to_vec()), |before| {
                text.parse::<u32>().map(|number| number + before.copied().unwrap_or_default())
            })
        };
        assert!(matches!(offer("x"), Offered::Nothing(_)));
        assert_eq!(last_good.trouble().as_deref(), Some("invalid digit found in string"));
        assert!(matches!(offer("x"), Offered::Known));
        assert!(matches!(offer("1"), Offered::Applied(made) if *made == 1));
        assert!(matches!(offer("y"), Offered::Kept(_)));
        assert!(matches!(offer("1"), Offered::Applied(made) if *made == 2), "it is new again");
        assert_eq!((last_good.get().as_deref(), last_good.trouble()), (Some(&2), None));
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345").unwrap();
        assert_eq!(read(file.path(), 5).await.unwrap(), b"12345");
        assert!(read(file.path(), 4).await.unwrap_err().to_string().ends_with("has more than 4 bytes"));
    }
}
