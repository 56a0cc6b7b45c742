//! From a [`Source`] to files on this machine.
//!
//! ```text
//!                    ┌─ Path ─▶ file.rs ────────────────────────────┐
//! Source ─▶ Fetcher ─┼─ Url ──▶ web.rs ─┐                           ├─▶ ModelFiles, TokenizerFiles
//!                    ├─ Hub ──▶ hub.rs ─┼▶ download.rs ▶ partial.rs ┘
//!                    └─ listed.rs, oci.rs ┘   └▶ http.rs
//! ```
//!
//! What holds here: a file under its final name is complete; one writer per file, across tasks and processes; a
//! download that was interrupted goes on where it stopped; secrets appear in no message. The caller repeats a fetch
//! that failed in passing ([`FetchError::is_permanent`]), with its own waiting times. Nothing in here reads the
//! environment; which files make a model is written down in `layout.rs`, which looks into a graph for the names of others.

mod archive;
mod ca_bundle;
mod download;
mod error;
mod file;
mod guard;
mod http;
mod hub;
mod hub_cache;
mod listed;
mod oci;
mod partial;
mod progress;
mod version;
mod web;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

pub use self::ca_bundle::{CaBundle, CaBundleError};
pub use self::error::FetchError;
pub use self::guard::{Guard, GuardRules, HostPattern, InvalidHostPattern, Network, Refusal};
use self::http::Http;
pub use self::http::HubToken;
pub use self::listed::ListedFiles;
pub use self::progress::{Progress, ProgressReading};
pub(in crate::model) use self::version::Version;
pub(in crate::model) use self::web::file_names;
pub use crate::model::layout::GRAPH_CANDIDATES;
use crate::model::manifest::Digest;
use crate::model::spec::{HttpUrl, HubSource, OciSource, Source, without_query};

/// The tokenizer itself.
const TOKENIZER_FILE: &str = "tokenizer.json";

/// Files that may lie beside `tokenizer.json` and are fetched with it; a model without one of them is whole.
pub const TOKENIZER_COMPANIONS: [&str; 6] = [
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "genai_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// How remote sources are reached and where their files are kept.
#[derive(Debug, Clone)]
pub struct FetchSettings {
    /// Address of the hub (`HF_ENDPOINT`).
    pub hub_endpoint: HttpUrl,
    /// Token of the hub (`HF_TOKEN`), sent to the origin of `hub_endpoint` only.
    pub hub_token: Option<HubToken>,
    /// The hub's own cache (`$HF_HOME/hub`), in the layout that its Python library uses.
    pub hub_cache: PathBuf,
    /// Which hosts may be reached.
    pub guard: Guard,
    /// Authorities that are trusted beside the system's.
    pub ca_bundle: CaBundle,
    /// Where files of `http(s)` sources are kept.
    pub download_cache: PathBuf,
    /// Longest time for name resolution, connect and TLS together.
    pub connect_timeout: Duration,
    /// Longest time without an answer, or without a reasonable number of bytes of a body.
    pub stall_timeout: Duration,
    /// Largest file that is accepted, in bytes.
    pub maximum_file_bytes: u64,
}

/// The files of a model, ready to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The ONNX graph. In the hub's cache this is a symbolic link into `blobs`, and so are the weights beside it.
    pub graph: PathBuf,
    /// The folder of the graph; weights kept outside of the graph lie here.
    pub folder: PathBuf,
}

/// The files of a tokenizer, ready to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// The `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Its folder; those of [`TOKENIZER_COMPANIONS`] that exist lie here.
    pub folder: PathBuf,
}

/// Gets the files of sources. Cheap to clone; all clones share connections.
#[derive(Clone)]
pub struct Fetcher {
    settings: Arc<FetchSettings>,
    http: Http,
}

impl Fetcher {
    /// A fetcher with these settings. Touches neither disk nor network.
    pub fn new(settings: FetchSettings) -> Self {
        let settings = Arc::new(settings);
        Self { http: Http::new(Arc::clone(&settings)), settings }
    }

    /// The files of the model behind `source`; downloads what is not there yet.
    ///
    /// A path or repository without a file name is searched for what its `genai_config.json` names, else for
    /// [`GRAPH_CANDIDATES`]. Dropping the future stops the
    /// download; the next call goes on from there.
    ///
    /// # Errors
    /// See [`FetchError`]; nothing incomplete is left under a final name.
    pub async fn model_files(&self, source: &Source, progress: &Progress) -> Result<ModelFiles, FetchError> {
        let graph = match self.resolve(source)? {
            Resolved::Path(path) => file::graph(path).await?,
            Resolved::Url(url) => self.web(progress).graph(url).await?,
            Resolved::Hub(hub) => self.hub(&hub, progress).graph(hub.path()).await?,
            Resolved::Listed(list) => {
                file::graph(&self.listed(list, Wish::none(), progress).await?.folder).await?
            }
        };
        let (place, path) = (source.to_string(), graph.clone());
        partial::blocking(&graph, move || archive::refuse_file(&place, &path)).await?;
        let folder = folder_of(&graph);
        Ok(ModelFiles { graph, folder })
    }

    /// The `tokenizer.json` behind `source` and what lies beside it; downloads what is not there yet.
    ///
    /// `source` may also be that of a model: the folder of its graph is searched, then (for `onnx/model.onnx`) the
    /// one above.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn tokenizer_files(
        &self,
        source: &Source,
        progress: &Progress,
    ) -> Result<TokenizerFiles, FetchError> {
        let tokenizer = match self.resolve(source)? {
            Resolved::Path(path) => file::tokenizer(path).await?,
            Resolved::Url(url) => self.web(progress).tokenizer(url).await?,
            Resolved::Hub(hub) => self.hub(&hub, progress).tokenizer(hub.path()).await?,
            Resolved::Listed(list) => {
                file::tokenizer(&self.listed(list, Wish::none(), progress).await?.folder).await?
            }
        };
        let folder = folder_of(&tokenizer);
        Ok(TokenizerFiles { tokenizer, folder })
    }

    /// Another file beside a graph that [`Self::model_files`] gave for `source`; downloads it if need be.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub(in crate::model) async fn beside(
        &self,
        source: &Source,
        graph: &Path,
        name: &str,
        progress: &Progress,
    ) -> Result<PathBuf, FetchError> {
        let here = graph.with_file_name(name);
        if partial::is_file(&here).await {
            return Ok(here);
        }
        match self.resolve(source)? {
            Resolved::Url(url) => self.web(progress).beside(url, graph, name).await,
            Resolved::Hub(hub) => self.hub(&hub, progress).beside(graph, name).await,
            // Whatever it is, it is judged when it is opened.
            Resolved::Path(_) if here.symlink_metadata().is_ok() => Ok(here),
            Resolved::Path(_) | Resolved::Listed(_) => Err(FetchError::NotFound {
                wanted: "file that the graph keeps its weights in",
                place: source.to_string(),
                looked_for: name.to_owned(),
                found: "none of that name".to_owned(),
            }),
        }
    }

    /// All files of a source that lists them with their hashes (a `manifest.json` behind an address, an OCI
    /// artifact); `None` for any other source.
    ///
    /// # Errors
    /// See [`FetchError`]; nothing is fetched when the list is not the wished one.
    pub(in crate::model) async fn listed_files(
        &self,
        source: &Source,
        wish: Wish<'_>,
        progress: &Progress,
    ) -> Result<Option<ListedFiles>, FetchError> {
        match self.resolve(source)? {
            Resolved::Listed(list) => self.listed(list, wish, progress).await.map(Some),
            Resolved::Path(_) | Resolved::Url(_) | Resolved::Hub(_) => Ok(None),
        }
    }

    async fn listed(
        &self,
        list: List<'_>,
        wish: Wish<'_>,
        progress: &Progress,
    ) -> Result<ListedFiles, FetchError> {
        let (listing, place) = match list {
            List::Url(url) => (listed::at_url(&self.http, &url).await?, without_query(&url)),
            List::Oci(oci) => (oci::listing(&self.http, oci).await?, oci.to_string()),
        };
        let (found, bytes) = (listing.digest(), listing.manifest.bytes());
        if let Some(expected) = wish.digest.filter(|wanted| **wanted != found) {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(FetchError::Digest { url: place, expected, found });
        }
        if let Some(limit_bytes) = wish.limit_bytes.filter(|limit_bytes| bytes > *limit_bytes) {
            return Err(FetchError::ModelTooLarge { place, bytes, limit_bytes });
        }
        listing.fetch(&self.http, &self.settings.download_cache, progress).await
    }

    /// Sees through addresses of files on the configured hub and through those of manifests; refuses archives.
    fn resolve<'a>(&self, source: &'a Source) -> Result<Resolved<'a>, FetchError> {
        Ok(match source {
            Source::Path(path) => {
                if !path.is_dir() {
                    archive::refuse_name(&source.to_string(), &path.to_string_lossy())?;
                }
                Resolved::Path(path)
            }
            Source::Hub(hub) => Resolved::Hub(hub.clone()),
            Source::Oci(oci) => Resolved::Listed(List::Oci(oci)),
            Source::Url(url) => {
                archive::refuse_name(&source.to_string(), url.as_url().path())?;
                match (HubSource::from_url(url, &self.settings.hub_endpoint)?, listed::manifest_url(url)) {
                    (Some(hub), _) => Resolved::Hub(hub),
                    (None, Some(manifest)) => Resolved::Listed(List::Url(manifest)),
                    (None, None) => Resolved::Url(url),
                }
            }
        })
    }

    fn web<'a>(&'a self, progress: &'a Progress) -> web::Web<'a> {
        web::Web { http: &self.http, cache: &self.settings.download_cache, progress }
    }

    fn hub<'a>(&'a self, source: &'a HubSource, progress: &'a Progress) -> hub::Snapshot<'a> {
        hub::Snapshot::new(&self.http, &self.settings, source, progress)
    }
}

/// A source as this fetcher reaches it.
enum Resolved<'a> {
    Path(&'a Path),
    Url(&'a HttpUrl),
    Hub(HubSource),
    Listed(List<'a>),
}

/// A source that lists its files.
enum List<'a> {
    Url(Url),
    Oci(&'a OciSource),
}

/// What a list of files must be.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::model) struct Wish<'a> {
    /// Its digest.
    pub(in crate::model) digest: Option<&'a Digest>,
    /// Most bytes of all files together.
    pub(in crate::model) limit_bytes: Option<u64>,
}

impl Wish<'_> {
    fn none() -> Self {
        Self::default()
    }
}

/// Where a `tokenizer.json` may lie for a graph in `folder`: there, and above it if the folder is called `onnx`, as
/// exporters do. Names are separated by `/`; the root is empty.
fn tokenizer_folders(folder: &str) -> Vec<&str> {
    let above = if folder == "onnx" { Some("") } else { folder.strip_suffix("/onnx") };
    std::iter::once(folder).chain(above).collect()
}

fn has_extension(path: &str, wanted: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == wanted)
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(PathBuf::from).unwrap_or_default()
}

#[cfg(test)]
pub(in crate::model) mod tests;
