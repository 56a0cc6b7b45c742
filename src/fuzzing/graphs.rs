//! Files that are said to be graphs, as they are looked at before ONNX Runtime sees them.

use std::fs::File;
use std::path::{Component, Path};

use super::scratch;
use crate::engine::ort::inspect::{external_files, inspect};
use crate::engine::ort::named_data_files;

/// A file in the format of ONNX and in that of ONNX Runtime: what is taken asks for files of its own folder.
pub(super) fn graphs(content: &[u8]) {
    for name in ["model.onnx", "model.ort"] {
        scratch::with_file(name, content, |path| {
            if let Ok(inspection) = inspect(path) {
                assert!(inspection.external.keys().all(|name| stays(name)), "{:?}", inspection.external);
            }
            if let Ok(files) = external_files(File::open(path).expect("it was just written")) {
                assert!(files.iter().all(|name| stays(name)), "{files:?}");
            }
            // Names only, which whoever opens one judges.
            drop(named_data_files(path));
        });
    }
}

/// Whether a name leads to nothing outside of the folder it is in.
fn stays(name: &str) -> bool {
    !name.is_empty()
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}
