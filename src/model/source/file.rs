//! Files that are already on this machine: nothing is copied, only found.

use std::fs;
use std::path::{Path, PathBuf};

use super::TOKENIZER_FILE;
use super::error::{FetchError, storage};
use super::partial::blocking;
use crate::model::layout::{GENAI_CONFIG, GRAPH_CANDIDATES, is_graph, named_by_genai, only_graph};

/// A folder of thousands of files need not appear whole in a message.
const LISTED_NAMES: usize = 20;

/// The graph: `path` itself if it is an `.onnx` or `.ort` file, else what the folder's `genai_config.json` names, else the
/// first of [`GRAPH_CANDIDATES`] in the folder, else its only graph.
pub(super) async fn graph(path: &Path) -> Result<PathBuf, FetchError> {
    let given = path.to_owned();
    blocking(path, move || {
        if fs::metadata(&given).map_err(storage("open the model", &given))?.is_dir() {
            return match named_by_genai(&given.join(GENAI_CONFIG)) {
                Ok(Some(name)) => first_of(&given, &[&given], &[&name], "graph named by genai_config.json"),
                Ok(None) => first_of(&given, &[&given], &GRAPH_CANDIDATES, "ONNX graph")
                    .or_else(|missing| only_graph_of(&given)?.ok_or(missing)),
                Err(named) => Err(not_found("ONNX graph", &given, named, listing(&given)?)),
            };
        }
        if given.to_str().is_some_and(is_graph) && given.is_file() {
            return Ok(given);
        }
        // A pipe would keep whoever opens it waiting for ever.
        let found = "a file of another kind".to_owned();
        Err(not_found("ONNX graph", &given, "a folder or a file named *.onnx or *.ort".to_owned(), found))
    })
    .await
}

/// The graph in a folder that has no other.
fn only_graph_of(folder: &Path) -> Result<Option<PathBuf>, FetchError> {
    let names = names(folder)?;
    let files = names.iter().map(String::as_str).filter(|name| folder.join(name).is_file());
    Ok(only_graph(files).map(|name| folder.join(name)))
}

/// The `tokenizer.json`: `path` itself if it is a `.json` file, else in the folder of the path, or above a folder
/// called `onnx`.
pub(super) async fn tokenizer(path: &Path) -> Result<PathBuf, FetchError> {
    let given = path.to_owned();
    blocking(path, move || {
        let is_folder = fs::metadata(&given).map_err(storage("open the tokenizer", &given))?.is_dir();
        if given.extension().is_some_and(|extension| extension == "json") && given.is_file() {
            return Ok(given);
        }
        let folder = if is_folder { given.as_path() } else { given.parent().unwrap_or(Path::new("")) };
        let above = folder.parent().filter(|_| folder.file_name().is_some_and(|name| name == "onnx"));
        let folders: Vec<&Path> = std::iter::once(folder).chain(above).collect();
        first_of(folder, &folders, &[TOKENIZER_FILE], "tokenizer.json")
    })
    .await
}

/// The first of `names` that exists in the first of `folders` that has one.
fn first_of(
    place: &Path,
    folders: &[&Path],
    names: &[&str],
    wanted: &'static str,
) -> Result<PathBuf, FetchError> {
    let mut tried = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    tried
        .find(|path| path.is_file())
        .map_or_else(|| Err(not_found(wanted, place, names.join(", "), listing(place)?)), Ok)
}

fn not_found(wanted: &'static str, place: &Path, looked_for: String, found: String) -> FetchError {
    FetchError::NotFound { wanted, place: place.display().to_string(), looked_for, found }
}

/// The names in a folder, shortened.
fn listing(folder: &Path) -> Result<String, FetchError> {
    let mut names = names(folder)?;
    let more = names.len().saturating_sub(LISTED_NAMES);
    names.truncate(LISTED_NAMES);
    Ok(match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    })
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Result<Vec<String>, FetchError> {
    // A relative file name has an empty parent.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = fs::read_dir(folder).map_err(storage("list the folder", folder))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}
