//! The corpus again, with the ordinary compiler: whatever a target ever failed on, and examples of what it takes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::TARGETS;

/// Inputs that are large, in all, would be a burden for every clone.
const MOST_CORPUS_BYTES: u64 = 500_000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The files of a folder, or the folders.
fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_input_of_the_corpus_keeps_the_promises_of_its_target() {
    for (name, target) in TARGETS {
        let inputs = listed(&corpus().join(name));
        assert!(inputs.len() >= 3, "{name} has hardly any inputs");
        for path in inputs {
            let input = fs::read(&path).unwrap();
            let outcome = std::panic::catch_unwind(|| target(&input));
            assert!(outcome.is_ok(), "{name} fails on {}", path.display());
        }
    }
}

#[test]
fn no_target_panics_on_what_is_nothing_at_all() {
    for (_, target) in TARGETS {
        let long = vec![b'['; 2_000];
        for input in [&b""[..], b"\0", b"\xff\xfe\xfd", b"\xef\xbb\xbf{}", b"{}", b"[]", b"null", &long] {
            target(input);
        }
    }
}

#[test]
fn the_corpus_is_small_and_belongs_to_targets() {
    let folders = listed(&corpus());
    let names: BTreeSet<&str> =
        folders.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, TARGETS.into_iter().map(|(name, _)| name).collect());
    let files = folders.iter().flat_map(|folder| listed(folder));
    let bytes: u64 = files.map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes <= MOST_CORPUS_BYTES, "{bytes} bytes");
}
