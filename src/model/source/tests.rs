//! Real HTTP against a server that misbehaves on demand. What every test of a failure also checks: no file under its
//! final name unless it is whole.

mod downloads;
mod hub;
mod hub_offline;
mod oci;
mod paths;
pub(in crate::model) mod registry;
mod safety;
#[path = "../../../tests/fixtures/tricky_server.rs"]
pub(in crate::model) mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{CaBundle, FetchError, FetchSettings, Fetcher, Guard, GuardRules, HubToken, Progress};
use crate::model::spec::{HttpUrl, Source};

const TOKEN: &str = "hf_secret_of_the_test";

fn trusting(hosts: &[&str]) -> Guard {
    let trusted_hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    Guard::new(GuardRules { trusted_hosts, ..GuardRules::default() })
}

/// A fetcher with caches of its own and short limits.
struct Place {
    folder: TempDir,
    settings: FetchSettings,
}

impl Place {
    /// `hub` is the address of the hub; nothing may be asked of it in tests that pass a dead one.
    fn new(hub: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = FetchSettings {
            hub_endpoint: HttpUrl::parse(hub).unwrap(),
            guard: trusting(&["127.0.0.1", "localhost"]),
            hub_token: Some(HubToken::parse(TOKEN).unwrap()),
            ca_bundle: CaBundle::default(),
            hub_cache: folder.path().join("hub"),
            download_cache: folder.path().join("downloads"),
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(5),
            maximum_file_bytes: 10_000_000,
        };
        Self { folder, settings }
    }

    /// Where nothing listens.
    fn without_hub() -> Self {
        Self::new("http://127.0.0.1:9")
    }

    /// A new fetcher, as after a restart of the process.
    fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.settings.clone())
    }

    async fn graph(&self, source: &str) -> Result<PathBuf, FetchError> {
        let source = Source::parse(source).unwrap();
        let (fetcher, progress) = (self.fetcher(), Progress::default());
        let files = Self::assert_send(fetcher.model_files(&source, &progress)).await?;
        assert_eq!(files.folder, files.graph.parent().unwrap());
        Ok(files.graph)
    }

    /// What runs on a task must be able to move between threads.
    fn assert_send<T: Send>(future: T) -> T {
        future
    }

    async fn tokenizer(&self, source: &str) -> Result<PathBuf, FetchError> {
        let source = Source::parse_tokenizer(source).unwrap();
        let (fetcher, progress) = (self.fetcher(), Progress::default());
        let files = Self::assert_send(fetcher.tokenizer_files(&source, &progress)).await?;
        assert_eq!(files.folder, files.tokenizer.parent().unwrap());
        Ok(files.tokenizer)
    }

    /// Names of all files in the caches that are not partial ones, sorted, relative.
    fn final_files(&self) -> Vec<String> {
        let mut names = self.all_files();
        names.retain(|name| !name.contains(".partial"));
        names
    }

    fn all_files(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    names.push(path.strip_prefix(self.folder.path()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        names.sort();
        names
    }

    fn partial_bytes(&self) -> usize {
        let names = self.all_files();
        let partial = names.iter().find(|name| name.ends_with(".partial")).expect("a partial file");
        std::fs::read(self.folder.path().join(partial)).unwrap().len()
    }
}

/// Bytes that differ everywhere, so that a piece in the wrong place shows.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at / 251 + at).wrapping_mul(31).wrapping_add(usize::from(seed)) as u8).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
