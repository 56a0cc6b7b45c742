//! Files of the hub, in its own cache: what its Python library has downloaded is used, and the other way round.
//!
//! ```text
//! {hub_cache}/models--{owner}--{name}/
//!   blobs/{etag}                      the bytes; a 64-digit etag is their sha256
//!   snapshots/{commit}/{path}         symbolic link to ../../blobs/{etag}
//!   refs/{revision}                   the commit that a branch or tag meant last time
//! ```
//!
//! A fetch is pinned to the commit that its first answer names, so files of two commits are never mixed. If the hub
//! cannot be reached at the first question, the whole fetch is served from the cache. Files that need not exist come
//! before the one that was asked for, and the ref is written last: what the cache offers offline is a whole set.
//!
//! From: `file_download.py` of the `huggingface_hub` package (cache layout, headers), and `list_repo_tree` of its
//! `hf_api.py`.

use std::path::{Path, PathBuf};

use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, LINK};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use tracing::{debug, warn};
use url::Url;

use super::download::{RemoteFile, download};
use super::error::FetchError;
use super::http::{Http, MAXIMUM_REDIRECTS, error_code, redirect_target};
use super::hub_cache::{HubCache, is_commit, is_etag};
use super::partial::{Identity, blocking, is_file};
use super::progress::Progress;
use super::{FetchSettings, TOKENIZER_COMPANIONS, TOKENIZER_FILE, has_extension, tokenizer_folders};
use crate::model::hexadecimal::is_sha256;
use crate::model::layout::{
    GENAI_CONFIG, GRAPH_CANDIDATES, companions, data_files, is_graph, named_by_genai, only_graph,
};
use crate::model::spec::{HubSource, without_query};

/// A page of a listing: a thousand files at most, some hundred bytes for each.
const MOST_LISTING_BYTES: u64 = 1 << 20;

/// One fetch from one repository.
pub(super) struct Snapshot<'a> {
    http: &'a Http,
    endpoint: &'a Url,
    source: &'a HubSource,
    progress: &'a Progress,
    cache: HubCache,
    /// The commit all files come from, once it is known.
    commit: Option<String>,
    /// Why the rest of this fetch is served from the cache.
    unreachable: Option<FetchError>,
    /// Whether the hub has answered in this fetch.
    answered: bool,
}

/// A file that exists in the repository.
enum Found {
    Cached(PathBuf),
    Remote(String, Metadata),
}

/// A file or folder in a listing of the hub.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    /// From the root of the repository.
    path: String,
}

/// What the hub tells about a file before its bytes.
struct Metadata {
    commit: String,
    etag: String,
    bytes: Option<u64>,
}

impl<'a> Snapshot<'a> {
    pub(super) fn new(
        http: &'a Http,
        settings: &'a FetchSettings,
        source: &'a HubSource,
        progress: &'a Progress,
    ) -> Self {
        let revision = source.revision();
        let commit = is_commit(revision).then(|| revision.to_owned());
        let cache = HubCache::new(&settings.hub_cache, source.repository());
        let endpoint = settings.hub_endpoint.as_url();
        Self { http, endpoint, source, progress, cache, commit, unreachable: None, answered: false }
    }

    /// The graph at `path` (a file, a folder, or the whole repository), with what belongs to it beside it.
    pub(super) async fn graph(mut self, path: Option<&str>) -> Result<PathBuf, FetchError> {
        let (graph, found) = match path {
            Some(file) if is_graph(file) => self.first_of(vec![file.to_owned()], "ONNX graph").await?,
            folder => self.graph_in(folder.unwrap_or_default()).await?,
        };
        for name in companions(&graph) {
            if let Some(found) = self.look(&name).await? {
                if is_graph(&name) {
                    self.weights(&name, &found).await?;
                }
                self.obtain(found).await?;
            }
        }
        self.weights(&graph, &found).await?;
        self.finish(found).await
    }

    /// Gets the files that a graph names as places of its weights, before the graph itself has its name.
    async fn weights(&mut self, graph: &str, found: &Found) -> Result<(), FetchError> {
        let file = self.bytes(found).await?;
        for name in blocking(&file.clone(), move || Ok(data_files(&file))).await? {
            self.optional(&inside(split(graph).0, &name)).await?;
        }
        Ok(())
    }

    /// The graph of a folder: at the place that its `genai_config.json` names, or at a usual one, or its only one.
    async fn graph_in(&mut self, folder: &str) -> Result<(String, Found), FetchError> {
        let named = match self.look(&inside(folder, GENAI_CONFIG)).await? {
            Some(found) => {
                let file = self.obtain(found).await?;
                blocking(&file.clone(), move || Ok(named_by_genai(&file))).await?
            }
            None => Ok(None),
        };
        let candidates = match named {
            Ok(Some(name)) => return self.first_of(vec![inside(folder, &name)], "ONNX graph").await,
            Ok(None) => GRAPH_CANDIDATES.map(|name| inside(folder, name)),
            Err(looked_for) => {
                let (wanted, place) = ("ONNX graph", self.source.to_string());
                let found = "no other name in it".to_owned();
                return Err(FetchError::NotFound { wanted, place, looked_for, found });
            }
        };
        if let Some(found) = self.find(&candidates).await? {
            return Ok(found);
        }
        let all = self.names_in(folder).await?;
        let only = only_graph(all.iter().map(String::as_str)).map(|name| inside(folder, name));
        let found = self.find(only.as_slice()).await?;
        found.ok_or_else(|| self.missing(&candidates, "ONNX graph"))
    }

    /// The names of the files in a folder of the repository; none where the hub lists no folders, or too many files.
    async fn names_in(&self, folder: &str) -> Result<Vec<String>, FetchError> {
        if self.unreachable.is_some() {
            let Some(commit) = &self.commit else { return Ok(Vec::new()) };
            return self.cache.names_in(commit, folder).await;
        }
        let url = self.listing_url(folder);
        let response = match self.http.check_status(self.http.get(&url, &HeaderMap::new()).await?) {
            Err(error) if error.is_permanent() => return Ok(Vec::new()),
            response => response?,
        };
        // Of the first page alone nobody can tell which graph is the only one.
        if response.headers().contains_key(LINK) {
            return Ok(Vec::new());
        }
        let body = self.http.read(response, MOST_LISTING_BYTES).await?;
        let entries: Vec<Entry> = serde_json::from_slice(&body).unwrap_or_default();
        let files = entries.into_iter().filter(|entry| entry.kind == "file");
        Ok(files.map(|file| split(&file.path).1.to_owned()).collect())
    }

    /// The tokenizer at `path` if that names a `.json` file, else the one of the folder or graph at `path`, with its
    /// companions.
    pub(super) async fn tokenizer(mut self, path: Option<&str>) -> Result<PathBuf, FetchError> {
        let candidates = match path {
            Some(file) if has_extension(file, "json") => vec![file.to_owned()],
            Some(graph) if is_graph(graph) => tokenizers_in(split(graph).0),
            Some(folder) => tokenizers_in(folder),
            None => tokenizers_in(""),
        };
        let (tokenizer, found) = self.first_of(candidates, TOKENIZER_FILE).await?;
        let folder = split(&tokenizer).0;
        for name in TOKENIZER_COMPANIONS {
            self.optional(&inside(folder, name)).await?;
        }
        self.finish(found).await
    }

    /// Another file of the commit and folder of `graph`, which [`Self::graph`] gave.
    pub(super) async fn beside(mut self, graph: &Path, name: &str) -> Result<PathBuf, FetchError> {
        let parts = self.cache.parts(graph).map(|(commit, path)| (commit.to_owned(), path.to_owned()));
        let (commit, path) = parts.unwrap_or_default();
        self.commit = Some(commit).filter(|commit| is_commit(commit)).or(self.commit);
        let wanted = inside(split(&path).0, name);
        let (_, found) = self.first_of(vec![wanted], "file that the graph keeps its weights in").await?;
        self.obtain(found).await
    }

    /// The commit of `graph`, which [`Self::graph`] gave, and its path in the repository.
    pub(super) fn origin(&self, graph: &Path) -> Option<(String, String)> {
        self.cache.parts(graph).map(|(commit, path)| (commit.to_owned(), path.to_owned()))
    }

    /// The commit that the revision means now, asked by a file of it.
    pub(super) async fn commit_now(self, path: &str) -> Result<Option<String>, FetchError> {
        Ok(self.metadata(path).await?.map(|metadata| metadata.commit))
    }

    /// The first of `candidates` that exists.
    async fn first_of(
        &mut self,
        candidates: Vec<String>,
        wanted: &'static str,
    ) -> Result<(String, Found), FetchError> {
        let found = self.find(&candidates).await?;
        found.ok_or_else(|| self.missing(&candidates, wanted))
    }

    async fn find(&mut self, candidates: &[String]) -> Result<Option<(String, Found)>, FetchError> {
        for path in candidates {
            if let Some(found) = self.look(path).await? {
                return Ok(Some((path.clone(), found)));
            }
        }
        Ok(None)
    }

    /// Why none of `candidates` was found.
    fn missing(&mut self, candidates: &[String], wanted: &'static str) -> FetchError {
        // Not in the cache, and the hub could not be asked.
        if let Some(error) = self.unreachable.take() {
            return error;
        }
        let (place, looked_for) = (self.source.to_string(), candidates.join(", "));
        let found = format!("none of them on {}", without_query(self.endpoint));
        FetchError::NotFound { wanted, place, looked_for, found }
    }

    async fn optional(&mut self, path: &str) -> Result<(), FetchError> {
        if let Some(found) = self.look(path).await? {
            self.obtain(found).await?;
        }
        Ok(())
    }

    /// Gets the file that was asked for and remembers what the revision meant.
    async fn finish(self, found: Found) -> Result<PathBuf, FetchError> {
        let pointer = self.obtain(found).await?;
        if let Some(commit) = self.commit.as_ref().filter(|_| self.answered)
            && let Err(error) = self.cache.remember(self.source.revision(), commit).await
        {
            // A cache that was filled beforehand and mounted read-only is fine.
            debug!(%error, "failed to note the commit of a revision");
        }
        Ok(pointer)
    }

    /// Looks for a file without fetching it; `None` if the repository has none of that name.
    async fn look(&mut self, path: &str) -> Result<Option<Found>, FetchError> {
        if let Some(pointer) = self.cached(path).await {
            return Ok(Some(Found::Cached(pointer)));
        }
        if self.unreachable.is_some() {
            return Ok(None);
        }
        match self.metadata(path).await {
            Ok(metadata) => {
                self.answered = true;
                let Some(metadata) = metadata else { return Ok(None) };
                self.commit.get_or_insert_with(|| metadata.commit.clone());
                let cached = self.cached(path).await.map(Found::Cached);
                Ok(Some(cached.unwrap_or_else(|| Found::Remote(path.to_owned(), metadata))))
            }
            Err(error) if !error.is_permanent() && !self.answered => {
                if self.commit.is_none() {
                    self.commit = self.cache.commit_of(self.source.revision()).await;
                }
                let pointer = self.cached(path).await;
                let source = self.source;
                let cause: &dyn std::error::Error = &error;
                warn!(%source, error = cause, "the hub cannot be reached; looking in its cache");
                self.unreachable = Some(error);
                Ok(pointer.map(Found::Cached))
            }
            Err(error) => Err(error),
        }
    }

    async fn cached(&self, path: &str) -> Option<PathBuf> {
        let pointer = self.cache.pointer(self.commit.as_deref()?, path);
        is_file(&pointer).await.then_some(pointer)
    }

    /// Brings a file into the cache and returns its place in the snapshot.
    async fn obtain(&self, found: Found) -> Result<PathBuf, FetchError> {
        self.bytes(&found).await?;
        match found {
            Found::Cached(pointer) => Ok(pointer),
            Found::Remote(path, metadata) => self.cache.link(&metadata.commit, &path, &metadata.etag).await,
        }
    }

    /// Brings the bytes of a file into the cache and returns where they are.
    async fn bytes(&self, found: &Found) -> Result<PathBuf, FetchError> {
        let (path, metadata) = match found {
            Found::Cached(pointer) => return Ok(pointer.clone()),
            Found::Remote(path, metadata) => (path, metadata),
        };
        let blob = self.cache.blob(&metadata.etag);
        let seen = Identity::of(&blob).await;
        if !self.cache.has_blob(&metadata.etag, metadata.bytes).await {
            let file = RemoteFile {
                url: &self.url(&metadata.commit, path),
                target: &blob,
                seen,
                expected_bytes: metadata.bytes,
                // Files of git have a 40-digit etag: the hash of a git object, not of the bytes.
                sha256: Some(metadata.etag.as_str()).filter(|etag| is_sha256(etag)),
                authorization: None,
            };
            download(self.http, &file, self.progress).await?;
        }
        Ok(blob)
    }

    /// Asks the hub about a file: commit, etag and size. `None` if the repository has none of that name.
    ///
    /// The answer may be a redirect to a store elsewhere: what the hub tells in the redirect itself is enough.
    async fn metadata(&self, path: &str) -> Result<Option<Metadata>, FetchError> {
        let mut url = self.url(self.commit.as_deref().unwrap_or(self.source.revision()), path);
        let mut commit = None;
        for _ in 0..=MAXIMUM_REDIRECTS {
            let response = self.http.send(Method::HEAD, &url, &HeaderMap::new()).await?;
            commit = commit.or_else(|| header(&response, "x-repo-commit"));
            let linked = header(&response, "x-linked-etag");
            let size = header(&response, "x-linked-size");
            match redirect_target(&response)? {
                Some(target) if linked.is_none() || commit.is_none() => url = target,
                Some(_) => return checked(&url, commit, linked, size).map(Some),
                None if is_missing_file(&response) => return Ok(None),
                None => {
                    let response = self.http.check_status(response)?;
                    let etag = linked.or_else(|| header(&response, ETAG.as_str()));
                    let size = size.or_else(|| header(&response, CONTENT_LENGTH.as_str()));
                    return checked(&url, commit, etag, size).map(Some);
                }
            }
        }
        Err(FetchError::Redirect { url: without_query(&url), reason: "it redirects more than 10 times" })
    }

    fn url(&self, revision: &str, path: &str) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend(self.source.repository().split('/'))
            .push("resolve")
            .push(revision)
            .extend(path.split('/'));
        url
    }

    /// Where the hub lists a folder.
    fn listing_url(&self, folder: &str) -> Url {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .expect("an http address has a path")
            .pop_if_empty()
            .extend(["api", "models"])
            .extend(self.source.repository().split('/'))
            .push("tree")
            .push(self.commit.as_deref().unwrap_or(self.source.revision()))
            .extend(folder.split('/').filter(|part| !part.is_empty()));
        url
    }
}

/// Headers → [`Metadata`]; commit and etag become names in the cache, so they are checked here.
fn checked(
    url: &Url,
    commit: Option<String>,
    etag: Option<String>,
    size: Option<String>,
) -> Result<Metadata, FetchError> {
    let refuse = |reason| FetchError::Response { url: without_query(url), reason };
    let commit = commit.filter(|commit| is_commit(commit));
    let commit = commit.ok_or_else(|| refuse("it names no commit (x-repo-commit): is this a hub?"))?;
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
    let etag = etag.filter(|etag| is_etag(etag));
    let etag = etag.ok_or_else(|| refuse("it names no usable etag (x-linked-etag, etag)"))?;
    Ok(Metadata { commit, etag, bytes: size.and_then(|size| size.parse().ok()) })
}

/// A 404 about the file; one about the repository or the revision is an error.
fn is_missing_file(response: &Response) -> bool {
    let about = error_code(response);
    response.status() == StatusCode::NOT_FOUND && !matches!(about, Some("RepoNotFound" | "RevisionNotFound"))
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// The places of `tokenizer.json` for a graph in `folder`.
fn tokenizers_in(folder: &str) -> Vec<String> {
    tokenizer_folders(folder).into_iter().map(|folder| inside(folder, TOKENIZER_FILE)).collect()
}

/// A path of the repository → folder (empty for the root) and name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// `name` in `folder`, which may be the root.
fn inside(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}
