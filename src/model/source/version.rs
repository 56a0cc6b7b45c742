//! Which version of a source something was made from, and whether the source means another one by now.

use std::path::Path;

use super::error::FetchError;
use super::{Fetcher, List, Progress, Resolved, listed, oci};
use crate::model::spec::Source;

/// The version of a source at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct Version {
    /// A commit, the server's name for a file, or a digest.
    pub(in crate::model) name: String,
    /// The graph's path in a repository of the hub.
    pub(in crate::model) path: Option<String>,
}

impl Fetcher {
    /// Whether a source names all its files, with their hashes, beforehand.
    pub(in crate::model) fn is_listed(&self, source: &Source) -> Result<bool, FetchError> {
        Ok(matches!(self.resolve(source)?, Resolved::Listed(_)))
    }

    /// The version that `graph` belongs to, which [`Self::model_files`] gave for `source`; `None` for paths,
    /// and where nobody told.
    pub(in crate::model) async fn version_of(&self, source: &Source, graph: &Path) -> Option<Version> {
        let progress = Progress::default();
        match self.resolve(source).ok()? {
            Resolved::Path(_) | Resolved::Listed(_) => None,
            Resolved::Url(_) => {
                let name = self.web(&progress).version_of(graph).await?;
                Some(Version { name, path: None })
            }
            Resolved::Hub(hub) => {
                let (name, path) = self.hub(&hub, &progress).origin(graph)?;
                Some(Version { name, path: Some(path) })
            }
        }
    }

    /// The name of the version that the source means now; `None` when nobody tells.
    ///
    /// # Errors
    /// The source could not be asked.
    pub(in crate::model) async fn version_now(
        &self,
        source: &Source,
        recorded: &Version,
    ) -> Result<Option<String>, FetchError> {
        let progress = Progress::default();
        match (self.resolve(source)?, &recorded.path) {
            (Resolved::Url(url), _) => self.web(&progress).version_now(url).await,
            (Resolved::Hub(hub), Some(path)) => self.hub(&hub, &progress).commit_now(path).await,
            (Resolved::Listed(List::Url(url)), _) => {
                Ok(Some(listed::at_url(&self.http, &url).await?.digest().to_string()))
            }
            (Resolved::Listed(List::Oci(oci)), _) => {
                Ok(Some(oci::listing(&self.http, oci).await?.digest().to_string()))
            }
            (Resolved::Path(_) | Resolved::Hub(_), _) => Ok(None),
        }
    }
}
