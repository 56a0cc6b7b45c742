//! What can be said of a model's files without ONNX Runtime.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::super::files::ModelFacts;
use super::super::layout::graph_files;
use super::super::load;
use super::{StaticReport, VerifyError, VerifyRequest};
use crate::engine::ort::GraphFiles;
use crate::engine::ort::inspect::{GraphFault, inspect};
use crate::text::template::{Conversation, Template};
use crate::text::tokenizer::Tokenizer;

/// Largest graph file: protobuf has no larger ones, and weights beyond it lie beside it.
const MOST_GRAPH_BYTES: u64 = 2 << 30;
/// Largest `tokenizer.json`; a vocabulary of 256 thousand tokens takes 35 million bytes.
const MOST_TOKENIZER_BYTES: u64 = 128 << 20;
/// Memory of a process with the library, before any weights: measured 60 MiB.
const BASE_BYTES: u64 = 96 << 20;

/// Checks everything about a model's files that needs no ONNX Runtime: what they are, what they ask for, tokenizer and
/// chat template. Blocking, for a second at most: call it off the async threads.
///
/// # Errors
/// The first fault; nothing outside of the model's folders was opened.
pub fn check_files(request: &VerifyRequest) -> Result<StaticReport, VerifyError> {
    request.verify.validate()?;
    let GraphFiles { graph, with_past } = graph_files(&request.graph);
    let mut weights_bytes = 0_u64;
    for graph in std::iter::once(&graph).chain(&with_past) {
        weights_bytes = weights_bytes.saturating_add(graph_size(graph)?);
        let inspection = inspect(graph).map_err(|fault| graph_fault(graph, fault))?;
        for (location, needed) in &inspection.external {
            weights_bytes = weights_bytes.saturating_add(external_size(graph, location, *needed)?);
        }
    }
    let tokenizer_bytes = plain_file(&request.tokenizer, folder_of(&request.tokenizer))?;
    if tokenizer_bytes > MOST_TOKENIZER_BYTES {
        let what = format!("has {tokenizer_bytes} bytes: no tokenizer has more than {MOST_TOKENIZER_BYTES}");
        return Err(VerifyError::TokenizerMismatch(format!("{} {what}", request.tokenizer.display())));
    }
    let tokenizer = Tokenizer::from_file(&request.tokenizer)?;
    let folders = load::folders(&request.graph, &request.tokenizer);
    let facts = ModelFacts::read(&folders)?;
    check_special_tokens(&facts, &tokenizer)?;
    let own_template = facts.chat_template(&folders)?;
    Ok(StaticReport {
        weights_bytes,
        memory_estimate_bytes: weights_bytes.saturating_mul(8) / 5 + BASE_BYTES,
        context_tokens: load::context_tokens(facts.context_tokens(), request.limits.context_tokens)?,
        template: template(request, own_template.as_deref(), &facts)?,
    })
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn graph_fault(path: &Path, fault: GraphFault) -> VerifyError {
    VerifyError::Graph { path: path.to_owned(), fault }
}

fn graph_size(graph: &Path) -> Result<u64, VerifyError> {
    let bytes = plain_file(graph, folder_of(graph))?;
    if bytes > MOST_GRAPH_BYTES {
        let message = format!("it has {bytes} bytes, and no ONNX file has more than {MOST_GRAPH_BYTES}");
        return Err(graph_fault(graph, GraphFault::Invalid(message)));
    }
    Ok(bytes)
}

/// The size of a file of weights, which has at least `needed` bytes.
fn external_size(graph: &Path, location: &str, needed: u64) -> Result<u64, VerifyError> {
    let path = folder_of(graph).join(location);
    let bytes = plain_file(&path, folder_of(graph))?;
    if bytes < needed {
        let what = format!("has {bytes} bytes, and the graph has weights up to byte {needed} of it");
        return Err(VerifyError::Unsafe { path, what });
    }
    Ok(bytes)
}

/// The size of a plain file with no other name, which lies in `folder`, wherever links lead, or in the `blobs` of the
/// hub's cache that this folder belongs to.
fn plain_file(path: &Path, folder: &Path) -> Result<u64, VerifyError> {
    let refuse = |what: String| VerifyError::Unsafe { path: path.to_owned(), what };
    let real = path.canonicalize().map_err(|error| refuse(format!("cannot be opened: {error}")))?;
    let folder = folder.canonicalize().map_err(|error| refuse(format!("cannot be opened: {error}")))?;
    if !real.starts_with(&folder) && !blobs_of(&folder).is_some_and(|blobs| real.starts_with(blobs)) {
        return Err(refuse("is a link to a place outside of the model's folder".to_owned()));
    }
    let metadata =
        fs::symlink_metadata(&real).map_err(|error| refuse(format!("cannot be opened: {error}")))?;
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_dir() => "is a folder",
        () if kind.is_fifo() || kind.is_socket() => "is a pipe or socket",
        () if kind.is_block_device() || kind.is_char_device() => "is a device",
        () if !kind.is_file() => "is no plain file",
        () if metadata.nlink() > 1 => "has more than one name (hard links)",
        () => return Ok(metadata.len()),
    };
    Err(refuse(format!("{what}: a model's files are plain files, each with one name")))
}

/// `…/models--owner--name/blobs` for a folder in `…/models--owner--name/snapshots/COMMIT`.
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.ancestors().find(|ancestor| ancestor.ends_with("snapshots"))?;
    let repository = snapshots.parent()?;
    let is_hub = repository.file_name()?.to_str()?.starts_with("models--");
    is_hub.then(|| repository.join("blobs"))
}

/// What the JSON files say of special tokens has to be what the tokenizer says.
fn check_special_tokens(facts: &ModelFacts, tokenizer: &Tokenizer) -> Result<(), VerifyError> {
    for (id, content) in facts.listed_special_tokens() {
        let found = tokenizer.token_to_id(content);
        if found != Some(id) {
            let found = found.map_or("no token".to_owned(), |id| format!("token {id}"));
            return Err(VerifyError::TokenizerMismatch(format!(
                "tokenizer_config.json says that {content:?} is token {id}, for the tokenizer it is {found}"
            )));
        }
    }
    let known = |id: &u32| tokenizer.id_to_token(*id).is_some();
    if facts.names_an_end() && !facts.end_tokens(tokenizer).iter().any(known) {
        let message = "it knows none of the tokens that end a text, as the model's files name them";
        return Err(VerifyError::TokenizerMismatch(message.to_owned()));
    }
    Ok(())
}

/// Compiles the template and renders a conversation of one message.
fn template(
    request: &VerifyRequest,
    own: Option<&str>,
    facts: &ModelFacts,
) -> Result<Option<Arc<Template>>, VerifyError> {
    let template = match (&request.chat_template, own) {
        (Some(given), _) => Template::compile_override(given)?,
        (None, Some(own)) => Template::compile(own)?,
        (None, None) => return Ok(None),
    };
    template.render(&Conversation {
        messages: &[json!({"role": "user", "content": "Hello"})],
        tools: None,
        bos_token: facts.special_token("bos_token"),
        eos_token: facts.special_token("eos_token"),
        add_generation_prompt: true,
        variables: &serde_json::Map::new(),
    })?;
    Ok(Some(Arc::new(template)))
}
