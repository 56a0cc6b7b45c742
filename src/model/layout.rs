//! Which files make a model: the names under which exporters keep a graph, and what lies beside it.
//!
//! Pure but for [`graph_files`], [`data_files`] and [`named_by_genai`], which look at files. Paths are separated by `/`, in
//! folders, repositories and addresses alike.
//!
//! From: the file names of Hugging Face Optimum and of the ONNX Runtime GenAI model builder.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::manifest::MOST_FILES;
use super::spec::is_relative_path;
use crate::engine::ort::{GraphFiles, named_data_files};

/// Where a graph is looked for in a folder or a repository, in this order.
pub const GRAPH_CANDIDATES: [&str; 12] = [
    "model.onnx",
    "decoder_model_merged.onnx",
    "decoder_model.onnx",
    "onnx/model.onnx",
    "onnx/decoder_model_merged.onnx",
    "onnx/decoder_model.onnx",
    "model.ort",
    "decoder_model_merged.ort",
    "decoder_model.ort",
    "onnx/model.ort",
    "onnx/decoder_model_merged.ort",
    "onnx/decoder_model.ort",
];

/// Says how a folder of ONNX Runtime GenAI is made up; its graph may have any name.
pub(super) const GENAI_CONFIG: &str = "genai_config.json";

/// The builder's files have a few thousand bytes. A larger one is not read to find the graph.
const MOST_GENAI_BYTES: u64 = 1 << 20;

/// What exporters append to the name of a graph for the file that holds its weights.
const WEIGHT_SUFFIXES: [&str; 2] = ["_data", ".data"];

/// How the names of a pair begin: the graph for prompts, which returns a cache, and the one that takes it.
const PROMPTS: &str = "decoder_model";
const WITH_PAST: &str = "decoder_with_past_model";

/// Begins like [`PROMPTS`] and needs no second graph.
const MERGED: &str = "decoder_model_merged";

/// Whether a path names a graph and not a folder.
pub(super) fn is_graph(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "onnx" || extension == "ort")
}

/// The only graph among the names in a folder: its name tells nothing, and need not. A pair counts as one, by its graph for
/// prompts; hidden files count as none.
pub(super) fn only_graph<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let graphs: BTreeSet<&str> =
        names.into_iter().filter(|name| is_graph(name) && !name.starts_with('.')).collect();
    let is_second = |name: &str| prompts_name(name).is_some_and(|prompts| graphs.contains(prompts.as_str()));
    let mut firsts = graphs.iter().filter(|name| !is_second(name));
    firsts.next().filter(|_| firsts.next().is_none()).copied()
}

/// Files that may lie beside a graph and belong to it: its weights, the other graph of a pair, and that one's weights.
pub(super) fn companions(graph: &str) -> Vec<String> {
    let other = with_past_name(graph).or_else(|| prompts_name(graph));
    let graphs = std::iter::once(graph.to_owned()).chain(other.clone());
    let weights = graphs.flat_map(|graph| WEIGHT_SUFFIXES.map(|suffix| format!("{graph}{suffix}")));
    weights.chain(other.clone()).collect()
}

/// The graph at `graph`, with the other one of the pair if there is one; `graph` may be either of the two.
pub(super) fn graph_files(graph: &Path) -> GraphFiles {
    let name = graph.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let beside =
        |name: Option<String>| name.map(|name| graph.with_file_name(name)).filter(|path| path.is_file());
    if let Some(with_past) = beside(with_past_name(name)) {
        return GraphFiles { graph: graph.to_owned(), with_past: Some(with_past) };
    }
    match beside(prompts_name(name)) {
        Some(prompts) => GraphFiles { graph: prompts, with_past: Some(graph.to_owned()) },
        None => GraphFiles { graph: graph.to_owned(), with_past: None },
    }
}

/// The file that the [`GENAI_CONFIG`] at `path` names as the decoder's graph; `None` when it names none or is not there.
///
/// # Errors
/// It is too large, or the name is no path inside the folder; the text says what was looked for.
pub(super) fn named_by_genai(path: &Path) -> Result<Option<String>, String> {
    let mut config = Vec::new();
    // A pipe of this name would never end.
    if path.is_file()
        && let Ok(file) = File::open(path)
    {
        // What cannot be read is refused with its error when the model is loaded.
        drop(file.take(MOST_GENAI_BYTES + 1).read_to_end(&mut config));
    }
    if config.len() as u64 > MOST_GENAI_BYTES {
        return Err(format!("what a {GENAI_CONFIG} of more than {MOST_GENAI_BYTES} bytes names"));
    }
    genai_graph(&config)
}

/// The file that the content of a [`GENAI_CONFIG`] names as the decoder's graph; `None` when it names none.
///
/// # Errors
/// The name is no path inside the folder.
fn genai_graph(config: &[u8]) -> Result<Option<String>, String> {
    // A file that is no JSON is refused with its error when the model is loaded.
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let Some(name) = config["model"]["decoder"]["filename"].as_str().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let described = format!("{name} (named by {GENAI_CONFIG})");
    if is_relative_path(name) && is_graph(name) {
        Ok(Some(name.to_owned()))
    } else {
        Err(format!("{described}, which is not an .onnx or .ort file of this folder"))
    }
}

/// The files beside a graph that it names itself as the places of its weights, such as `model.onnx_data_1`. What would lie
/// outside its folder is left out, and so is what is more than a model has: each may be a question to a server.
pub(super) fn data_files(graph: &Path) -> Vec<String> {
    named_data_files(graph).into_iter().filter(|name| is_relative_path(name)).take(MOST_FILES).collect()
}

/// The graph that takes the cache which the one at `graph` returns.
fn with_past_name(graph: &str) -> Option<String> {
    let (folder, name) = split(graph);
    let rest = name.strip_prefix(PROMPTS).filter(|_| !name.starts_with(MERGED))?;
    Some(format!("{folder}{WITH_PAST}{rest}"))
}

/// The graph that returns the cache which the one at `graph` takes.
fn prompts_name(graph: &str) -> Option<String> {
    let (folder, name) = split(graph);
    let prompts = format!("{folder}{PROMPTS}{}", name.strip_prefix(WITH_PAST)?);
    with_past_name(&prompts).map(|_| prompts)
}

/// The folder of a path, empty or with its `/`, and the name in it.
fn split(path: &str) -> (&str, &str) {
    path.rfind('/').map_or(("", path), |slash| path.split_at(slash + 1))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn weights_and_the_other_graph_of_a_pair_belong_to_a_graph() {
        assert_eq!(companions("onnx/model.onnx"), ["onnx/model.onnx_data", "onnx/model.onnx.data"]);
        assert_eq!(
            companions("onnx/decoder_model.onnx"),
            [
                "onnx/decoder_model.onnx_data",
                "onnx/decoder_model.onnx.data",
                "onnx/decoder_with_past_model.onnx_data",
                "onnx/decoder_with_past_model.onnx.data",
                "onnx/decoder_with_past_model.onnx",
            ]
        );
        assert_eq!(
            companions("onnx/decoder_with_past_model.onnx"),
            [
                "onnx/decoder_with_past_model.onnx_data",
                "onnx/decoder_with_past_model.onnx.data",
                "onnx/decoder_model.onnx_data",
                "onnx/decoder_model.onnx.data",
                "onnx/decoder_model.onnx",
            ]
        );
        for alone in ["decoder_model_merged.onnx", "decoder_with_past_model_merged.onnx", "model.onnx"] {
            assert_eq!(companions(alone).len(), 2, "{alone}");
        }
        assert_eq!(
            with_past_name("decoder_model_int8.ort").as_deref(),
            Some("decoder_with_past_model_int8.ort")
        );
    }

    #[test]
    fn one_graph_or_one_pair_of_any_name_is_found() {
        assert_eq!(only_graph(["config.json", "gpt2.ort", "gpt2.ort.data"]), Some("gpt2.ort"));
        let pair = ["decoder_with_past_model_int8.onnx", "decoder_model_int8.onnx"];
        assert_eq!(only_graph(pair), Some(pair[1]));
        assert_eq!(only_graph([pair[0], "._gpt2.onnx"]), Some(pair[0]));
        assert_eq!(only_graph(["a.onnx", "b.onnx"]), None);
        assert_eq!(only_graph([pair[0], pair[1], "a.ort"]), None);
        assert_eq!(only_graph(["onnx", "model.bin"]), None);
    }

    #[test]
    fn a_pair_is_found_from_either_of_its_graphs() {
        let folder = tempfile::tempdir().unwrap();
        let [prompts, with_past] =
            ["decoder_model.onnx", "decoder_with_past_model.onnx"].map(|name| folder.path().join(name));
        std::fs::write(&prompts, b"x").unwrap();
        let alone = GraphFiles { graph: prompts.clone(), with_past: None };
        assert_eq!(graph_files(&prompts), alone);
        std::fs::write(&with_past, b"x").unwrap();
        let pair = GraphFiles { graph: prompts.clone(), with_past: Some(with_past.clone()) };
        assert_eq!((graph_files(&prompts), graph_files(&with_past)), (pair.clone(), pair));
        std::fs::remove_file(&prompts).unwrap();
        assert_eq!(graph_files(&with_past), GraphFiles { graph: with_past.clone(), with_past: None });
    }

    #[test]
    fn places_of_weights_are_files_inside_the_folder() {
        let field = |number: u8, value: &[u8]| [&[number << 3 | 2, value.len() as u8][..], value].concat();
        let weight =
            |place: &str| field(5, &field(13, &[field(1, b"location"), field(2, place.as_bytes())].concat()));
        let places =
            ["", "/", ".", "..", "../a", "/a", "a/", "a//b", "./a", "a\0", "a\\b", "part", "sub/part"];
        let graph = [field(1, &field(4, b"Add")), places.map(weight).concat()].concat();
        // It is longer than one byte of a length can say.
        let length = [graph.len() as u8 & 0x7f | 0x80, (graph.len() >> 7) as u8];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[&[7 << 3 | 2][..], &length, &graph].concat()).unwrap();
        assert_eq!(data_files(file.path()), ["part", "sub/part"]);
    }

    #[test]
    fn the_graph_that_genai_names_is_one_inside_the_folder() {
        let named = |name: &str| {
            genai_graph(format!(r#"{{"model": {{"decoder": {{"filename": {name}}}}}}}"#).as_bytes())
        };
        assert_eq!(named(r#""phi3/cpu.onnx""#), Ok(Some("phi3/cpu.onnx".to_owned())));
        assert_eq!(named(r#""""#), Ok(None));
        assert_eq!(genai_graph(b"{"), Ok(None));
        for evil in [
            "../model.onnx",
            "/etc/model.onnx",
            "a/../../b.onnx",
            "..\\\\b.onnx",
            "a//b.onnx",
            "./a.onnx",
            "a\\nb.onnx",
            "weights.bin",
        ] {
            let message = named(&format!("\"{evil}\"")).unwrap_err();
            assert!(message.contains("named by genai_config.json"), "{message}");
        }
    }
}
