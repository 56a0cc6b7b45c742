//! Files for parsers that read a path.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

/// Calls `with` with a file of this name that holds `content`. One file for each thread, written anew each time.
pub(super) fn with_file<T>(name: &str, content: &[u8], with: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static FOLDER: RefCell<Option<Folder>> = const { RefCell::new(None) };
    }
    FOLDER.with_borrow_mut(|folder| {
        let path = folder.get_or_insert_with(Folder::made).0.join(name);
        fs::write(&path, content).expect("the temporary folder can be written to");
        with(&path)
    })
}

/// Removed when its thread ends.
struct Folder(PathBuf);

impl Folder {
    fn made() -> Self {
        // Memory where there is such a place: a target writes some thousand times a second.
        let shared = Path::new("/dev/shm");
        let root = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let name = format!("inference-gateway-fuzz-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let path = root.join(name);
        fs::create_dir(&path).expect("the temporary folder can be written to");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}
