//! Where the tests find what was prepared, and where they put what they make.
//!
//! A run has a folder of its own below `target/tmp/cluster`, which it locks. Statics are never dropped and a killed run
//! cleans up nothing, so each run removes the folders that nobody holds any more.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The folder of this run.
struct Run {
    folder: PathBuf,
    _lock: File,
}

static RUN: LazyLock<Run> = LazyLock::new(|| {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
    fs::create_dir_all(&all).unwrap();
    // Held while somebody looks at the others, so that a new folder is never seen before it is locked.
    let door = File::create(all.join("lock")).unwrap();
    door.lock().unwrap();
    remove_abandoned(&all);
    let folder = all.join(std::process::id().to_string());
    fs::create_dir(&folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    Run { folder, _lock: lock }
});

/// Removes the folders of runs that have ended.
fn remove_abandoned(all: &Path) {
    for entry in fs::read_dir(all).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let abandoned = File::open(folder.join("lock")).map_or(true, |lock| lock.try_lock().is_ok());
        if abandoned {
            // A process of a killed run may be writing its last words: then the next run removes the rest.
            drop(fs::remove_dir_all(folder));
        }
    }
}

/// A new folder of this run, whose name begins with `name`.
pub(crate) fn new_folder(name: &str) -> PathBuf {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    let folder = RUN.folder.join(format!("{name}-{}", MADE.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&folder).unwrap_or_else(|error| panic!("{} cannot be made: {error}", folder.display()));
    folder
}

/// Something in the prepared folder.
pub(crate) fn prepared(path: &str) -> PathBuf {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("prepared").join(path);
    assert!(full.exists(), "{} is missing: run `make prepare-tests`", full.display());
    full
}

/// A program of the control plane: of the folder that `KUBEBUILDER_ASSETS` names if it has all of them, or the one that
/// `scripts/prepare.py kubernetes` made.
#[expect(clippy::disallowed_methods, reason = "the variable is that of all tests against an apiserver")]
pub(crate) fn program(name: &str) -> PathBuf {
    let all = ["etcd", "kube-apiserver", "kube-controller-manager"];
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let folder = assets.filter(|folder| all.iter().all(|program| folder.join(program).is_file()));
    folder.map_or_else(|| prepared("kubernetes").join(name), |folder| folder.join(name))
}
