//! Where `libonnxruntime.so` is. Looked for before the crate `ort` is touched, which would panic without it.

use std::path::PathBuf;

use super::OrtError;

const FILE_NAME: &str = "libonnxruntime.so";

/// Places where the system's loader usually looks.
const SYSTEM_FOLDERS: [&str; 6] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// What the search may use; filled by whoever reads the environment.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// `ORT_DYLIB_PATH`: this file and no other.
    pub explicit: Option<PathBuf>,
    /// The running executable.
    pub executable: Option<PathBuf>,
    /// The working folder.
    pub working_folder: Option<PathBuf>,
    /// `LD_LIBRARY_PATH`, split.
    pub library_path: Vec<PathBuf>,
}

/// The library to load: the explicit one, beside the executable, a project's prepared folder, the system.
///
/// # Errors
/// [`OrtError::LibraryNotFound`], which says where was looked and what to do.
pub fn find(search: &Search) -> Result<PathBuf, OrtError> {
    if let Some(explicit) = &search.explicit {
        return if explicit.is_file() {
            Ok(explicit.clone())
        } else {
            Err(OrtError::LibraryNotFound(format!(
                "ORT_DYLIB_PATH names {}, which is not a file: set it to the path of {FILE_NAME}, or unset it",
                explicit.display()
            )))
        };
    }
    let candidates = candidates(search);
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let list: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        OrtError::LibraryNotFound(format!(
            "the ONNX Runtime library was not found: run `make prepare` in the project's folder, or set \
             ORT_DYLIB_PATH to the path of {FILE_NAME} (1.31 or newer); looked at {}",
            list.join(", ")
        ))
    })
}

fn candidates(search: &Search) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let executable_folder = search.executable.as_deref().and_then(|path| path.parent());
    if let Some(folder) = executable_folder {
        found.push(folder.join(FILE_NAME));
        found.push(folder.join("lib").join(FILE_NAME));
        found.push(folder.join("../lib").join(FILE_NAME));
    }
    // `target/release/inference-gateway` and `target/debug/deps/integration-…` stand below the project.
    let parents = executable_folder.into_iter().flat_map(|folder| folder.ancestors().skip(1).take(3));
    let prepared = search.working_folder.as_deref().into_iter().chain(parents);
    found.extend(prepared.map(|folder| folder.join("prepared/lib").join(FILE_NAME)));
    found.extend(search.library_path.iter().map(|folder| folder.join(FILE_NAME)));
    found.extend(SYSTEM_FOLDERS.iter().map(|folder| PathBuf::from(folder).join(FILE_NAME)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_path_that_is_missing_is_named_and_nothing_else_is_tried() {
        let search =
            Search { explicit: Some(PathBuf::from("/nowhere/libonnxruntime.so")), ..Search::default() };
        let message = find(&search).unwrap_err().to_string();
        assert!(message.contains("ORT_DYLIB_PATH names /nowhere/libonnxruntime.so"), "{message}");
    }

    #[test]
    fn the_file_beside_the_executable_wins_over_the_prepared_one() {
        let folder = tempfile::tempdir().unwrap();
        let beside = folder.path().join("target/release");
        let prepared = folder.path().join("prepared/lib");
        for place in [&beside, &prepared] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join(FILE_NAME), b"").unwrap();
        }
        let search = Search { executable: Some(beside.join("inference-gateway")), ..Search::default() };
        assert_eq!(find(&search).unwrap(), beside.join(FILE_NAME));
        std::fs::remove_file(beside.join(FILE_NAME)).unwrap();
        assert_eq!(find(&search).unwrap(), prepared.join(FILE_NAME));
    }
}
