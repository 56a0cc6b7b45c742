//! From a source to the files that a model consists of: which, under which name, and where the fetch has left
//! them.
//!
//! Names are flat: `onnx/model.onnx` becomes `model.onnx`, whatever file is the tokenizer becomes
//! `tokenizer.json`. A folder with a `manifest.json` consists of what that lists; of any other source come
//! the graph, the files that it names for its weights, the tokenizer, and the JSON files that are read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::error::PrepareError;
use super::{Wanted, blocking};
use crate::engine::ort::GraphFiles;
use crate::engine::ort::inspect::{GraphFault, external_files};
use crate::model::layout::{
    GENAI_CONFIG, GRAPH_CANDIDATES, graph_files, is_graph, named_by_genai, only_graph,
};
use crate::model::manifest::{self, Digest, MANIFEST_FILE, MOST_FILES, Manifest, ManifestError};
use crate::model::source::{FetchError, Fetcher, Progress, TOKENIZER_COMPANIONS, Version, Wish, file_names};
use crate::model::spec::Source;

/// The name of the tokenizer among a model's files.
pub(super) const TOKENIZER: &str = "tokenizer.json";
/// What a separate tokenizer brings even where the model has a file of the same name.
const OF_TOKENIZER: [&str; 4] =
    [TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// The files of a model, where the fetch has left them.
pub(super) struct Gathered {
    /// Flat name → place.
    pub(super) files: BTreeMap<String, PathBuf>,
    /// The manifest that came with the graph's folder.
    pub(super) own: Option<OwnManifest>,
    /// Whether that lists them all, so that its digest is theirs.
    pub(super) covered: bool,
    /// The graph and the tokenizer, where a model that is used in place is loaded from.
    pub(super) graph: PathBuf,
    pub(super) tokenizer: PathBuf,
    /// Whether nobody else misses files of our download area when they are moved.
    pub(super) movable: bool,
    /// What the source calls this version of the graph.
    pub(super) version: Option<Version>,
}

/// A manifest that was made elsewhere.
pub(super) struct OwnManifest {
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
    /// As its digest was taken.
    pub(super) bytes: Vec<u8>,
}

/// Fetches what is not here and finds all files.
pub(super) async fn gather(
    fetcher: &Fetcher,
    wanted: &Wanted<'_>,
    limit_bytes: u64,
    progress: &Progress,
) -> Result<Gathered, PrepareError> {
    let Wanted { source, tokenizer, digest, in_place } = *wanted;
    let place = source.to_string();
    // The wished digest may be that of the list, or of the list together with a separate tokenizer.
    let wish = Wish { digest: digest.filter(|_| tokenizer.is_none()), limit_bytes: Some(limit_bytes) };
    let listed = fetcher.listed_files(source, wish, progress).await?;
    let (graph, mut version) = if let Some(listed) = &listed {
        let graph = listed.folder.join(graph_name(&listed.manifest, &listed.folder, wanted).await?);
        (graph, Some(Version { name: listed.digest.to_string(), path: None }))
    } else {
        let graph = fetcher.model_files(source, progress).await?.graph;
        let version = fetcher.version_of(source, &graph).await;
        (graph, version)
    };
    version = version.filter(|_| is_mutable(source));
    let (read, expected) = (graph.clone(), digest.filter(|_| matches!(source, Source::Path(_))).cloned());
    // A manifest in the hub's cache was put there by others, and is not known to be one of ours.
    let has_own = listed.is_some() || matches!(source, Source::Path(_));
    let own = if has_own { blocking(move || own_manifest(&read, expected.as_ref())).await? } else { None };
    if let Some(own) = &own
        && own.manifest.file(&file_name(&graph)?).is_none()
    {
        return Err(PrepareError::Incomplete { wanted: "graph that the path names", place });
    }
    let mut files = BTreeMap::new();
    if let Some(own) = &own {
        let folder = graph.parent().unwrap_or(Path::new("."));
        files.extend(own.manifest.files().iter().map(|file| (file.name.clone(), folder.join(&file.name))));
        check_sum(&place, &files, limit_bytes)?;
    } else {
        let GraphFiles { graph: first, with_past } = graph_files(&graph);
        for graph in std::iter::once(first).chain(with_past) {
            files.insert(file_name(&graph)?, graph.clone());
            let read = graph.clone();
            for name in blocking(move || data_files(&read, in_place)).await? {
                let path = fetcher.beside(source, &graph, &name, progress).await?;
                files.insert(name, path);
                check_sum(&place, &files, limit_bytes)?;
            }
        }
        if let Source::Path(_) = source {
            files.extend(companions(&graph, &TOKENIZER_COMPANIONS));
        }
    }
    let tokenizer_path = match (tokenizer, files.get(TOKENIZER)) {
        (None, Some(path)) => path.clone(),
        (None, None) if listed.is_some() => {
            return Err(PrepareError::Incomplete { wanted: TOKENIZER, place });
        }
        (separate, _) => fetcher.tokenizer_files(separate.unwrap_or(source), progress).await?.tokenizer,
    };
    let covered = files.get(TOKENIZER) == Some(&tokenizer_path);
    if !covered {
        for (name, path) in companions(&tokenizer_path, &TOKENIZER_COMPANIONS) {
            if tokenizer.is_some() && OF_TOKENIZER.contains(&name.as_str()) {
                files.insert(name, path);
            } else {
                files.entry(name).or_insert(path);
            }
        }
        files.insert(TOKENIZER.to_owned(), tokenizer_path.clone());
    }
    check_sum(&place, &files, limit_bytes)?;
    let covered = covered && own.is_some();
    let movable = ![Some(source), tokenizer].into_iter().flatten().any(|one| matches!(one, Source::Path(_)));
    Ok(Gathered { files, own, covered, movable, graph, tokenizer: tokenizer_path, version })
}

/// Whether what a source means can change: branches, tags and addresses, but neither commits nor digests.
pub(super) fn is_mutable(source: &Source) -> bool {
    match source {
        Source::Path(_) => false,
        Source::Url(_) => true,
        Source::Hub(hub) => {
            let revision = hub.revision();
            revision.len() != 40 || !revision.bytes().all(|digit| digit.is_ascii_hexdigit())
        }
        Source::Oci(oci) => oci.digest().is_none(),
    }
}

/// The graph among the files of a manifest, which lie in `folder`: the one that the source names, else what
/// `genai_config.json` names and no other, else one of the usual name, else the only one.
pub(super) async fn graph_name(
    manifest: &Manifest,
    folder: &Path,
    wanted: &Wanted<'_>,
) -> Result<String, PrepareError> {
    let source = wanted.source;
    let last = |path: &str| vec![path.rsplit('/').next().unwrap_or_default().to_owned()];
    let named = match source {
        Source::Path(path) => last(&path.to_string_lossy()),
        Source::Hub(hub) => last(hub.path().unwrap_or_default()),
        Source::Url(url) => file_names(url),
        Source::Oci(_) => Vec::new(),
    };
    // An address may name a graph by anything, such as `download`; elsewhere only these endings do not mean a folder.
    let may_be = |name: &str| match source {
        Source::Url(_) => Path::new(name).extension().is_none_or(|extension| extension != "json"),
        Source::Path(_) | Source::Hub(_) | Source::Oci(_) => is_graph(name),
    };
    let mut named = named.into_iter().filter(|name| may_be(name) && manifest.file(name).is_some());
    if let Some(name) = named.next() {
        return Ok(name);
    }
    if let Some(name) = genai_name(manifest, folder, wanted).await? {
        return Ok(name);
    }
    let mut usual = GRAPH_CANDIDATES.iter().copied().filter(|name| !name.contains('/'));
    let found = usual.find(|name| manifest.file(name).is_some());
    let all = manifest.files().iter().map(|file| file.name.as_str());
    let missing = || PrepareError::Incomplete { wanted: "model.onnx", place: source.to_string() };
    found.or_else(|| only_graph(all)).map(str::to_owned).ok_or_else(missing)
}

/// The file of a manifest that its `genai_config.json` names, by its flat name.
async fn genai_name(
    manifest: &Manifest,
    folder: &Path,
    wanted: &Wanted<'_>,
) -> Result<Option<String>, PrepareError> {
    if manifest.file(GENAI_CONFIG).is_none() {
        return Ok(None);
    }
    let missing = |what, looked_for| {
        let names: Vec<&str> = manifest.files().iter().map(|file| file.name.as_str()).collect();
        let (place, found) = (wanted.source.to_string(), names.join(", "));
        PrepareError::Fetch(FetchError::NotFound { wanted: what, place, looked_for, found })
    };
    let config = folder.join(GENAI_CONFIG);
    let named = blocking(move || Ok(named_by_genai(&config))).await?;
    let Some(path) = named.map_err(|named| missing("ONNX graph", named))? else { return Ok(None) };
    let name = path.rsplit('/').next().unwrap_or_default();
    match manifest.file(name) {
        Some(file) => Ok(Some(file.name.clone())),
        // It may be that of a separate tokenizer, which names a graph of its own folder.
        None if wanted.tokenizer.is_some() => Ok(None),
        None => Err(missing("graph named by genai_config.json", path)),
    }
}

/// The manifest beside a graph; without one, that of the whole folder if it has the digest that is wanted, as
/// for a folder that was listed elsewhere.
fn own_manifest(graph: &Path, expected: Option<&Digest>) -> Result<Option<OwnManifest>, PrepareError> {
    let folder = graph.parent().unwrap_or(Path::new("."));
    let Some((manifest, digest)) = Manifest::read(folder)? else {
        let whole = expected.and_then(|expected| Some((expected, Manifest::of_folder(folder).ok()?)));
        return Ok(whole.and_then(|(expected, manifest)| {
            let (bytes, digest) = (manifest.to_bytes(), expected.clone());
            (Digest::of(&bytes) == digest).then_some(OwnManifest { manifest, digest, bytes })
        }));
    };
    let path = folder.join(MANIFEST_FILE);
    let bytes = fs::read(&path).map_err(|source| ManifestError::Storage { action: "read", path, source })?;
    Ok(Some(OwnManifest { manifest, digest, bytes }))
}

/// The names of the files that a graph keeps its weights in. What is used in place is judged when it is
/// loaded.
fn data_files(graph: &Path, in_place: bool) -> Result<Vec<String>, PrepareError> {
    let file = manifest::open_plain(&resolved(graph)?)?;
    if graph.extension().is_some_and(|extension| extension == "ort") {
        // These keep their weights themselves.
        return Ok(Vec::new());
    }
    let found = match external_files(file) {
        Err(_) if in_place => return Ok(Vec::new()),
        found => found.map_err(|fault| PrepareError::Graph { path: graph.to_owned(), fault })?,
    };
    let found = found.into_iter();
    if in_place {
        return Ok(found.filter(|name| manifest::is_file_name(name)).take(MOST_FILES).collect());
    }
    // Before the first is fetched: no manifest could list them.
    if found.len() > MOST_FILES {
        let message = format!("it keeps weights in {} files, a model has at most {MOST_FILES}", found.len());
        return Err(PrepareError::Graph { path: graph.to_owned(), fault: GraphFault::Invalid(message) });
    }
    let outside = |location| PrepareError::Data { path: graph.to_owned(), location };
    let checked = |name: String| if manifest::is_file_name(&name) { Ok(name) } else { Err(outside(name)) };
    found.map(checked).collect()
}

/// Where the bytes of a file are: itself, but for what the hub's cache links to its `blobs`.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, ManifestError> {
    let storage = |source| ManifestError::Storage { action: "read", path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_err(storage)?.is_symlink() {
        return Ok(path.to_owned());
    }
    let target = fs::canonicalize(path).map_err(storage)?;
    let snapshots = path.ancestors().find(|folder| folder.ends_with("snapshots"));
    let blobs =
        snapshots.and_then(Path::parent).and_then(|folder| fs::canonicalize(folder.join("blobs")).ok());
    // Another link stays what it is, and is refused when it is opened.
    Ok(blobs.filter(|blobs| target.parent() == Some(blobs)).map_or(path.to_owned(), |_| target))
}

/// Those of `names` that lie beside `file`.
fn companions(file: &Path, names: &[&str]) -> Vec<(String, PathBuf)> {
    let places = names.iter().map(|name| ((*name).to_owned(), file.with_file_name(name)));
    places.filter(|(_, path)| path.is_file()).collect()
}

fn file_name(path: &Path) -> Result<String, PrepareError> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let error = ManifestError::Unsafe { path: path.to_owned(), what: "named with bytes that are no UTF-8" };
    name.ok_or(PrepareError::Manifest(error))
}

fn check_sum(place: &str, files: &BTreeMap<String, PathBuf>, limit_bytes: u64) -> Result<(), PrepareError> {
    let sizes = files.values().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len());
    let bytes = sizes.fold(0u64, u64::saturating_add);
    if bytes <= limit_bytes {
        return Ok(());
    }
    Err(PrepareError::TooLarge { place: place.to_owned(), bytes, limit_bytes })
}
