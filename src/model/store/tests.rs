//! The store against folders, servers that misbehave, damage, and other processes (which are other stores on
//! the same folder: locks do not tell them apart).

mod graphs;
mod locks;
mod paths;
mod remote;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{PrepareError, Prepared, Store, StoreSettings, Wanted};
use crate::model::manifest::{Digest, Manifest};
use crate::model::source::{CaBundle, FetchSettings, Fetcher, Guard, GuardRules, Progress};
use crate::model::spec::{HttpUrl, Source};

/// Bytes of the weights of [`Bench::model`].
const WEIGHTS: usize = 50_000;

/// A cache folder and a place for models.
struct Bench {
    folder: TempDir,
    hub: String,
    limit_bytes: Option<u64>,
}

impl Bench {
    fn new() -> Self {
        Self::with_hub("http://127.0.0.1:9")
    }

    fn with_hub(hub: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), hub: hub.to_owned(), limit_bytes: None }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// A new store on the same folder, as after a restart or in another process.
    fn store(&self) -> Store {
        let trusted_hosts = ["127.0.0.1", "localhost"].map(str::to_owned).into();
        let fetcher = Fetcher::new(FetchSettings {
            hub_endpoint: HttpUrl::parse(&self.hub).unwrap(),
            guard: Guard::new(GuardRules { trusted_hosts, ..GuardRules::default() }),
            hub_token: None,
            ca_bundle: CaBundle::default(),
            hub_cache: self.folder.path().join("hub"),
            download_cache: self.cache().join("downloads"),
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(5),
            maximum_file_bytes: 10_000_000,
        });
        Store::new(StoreSettings { folder: self.cache(), limit_bytes: self.limit_bytes }, fetcher)
    }

    /// A folder with a model of this name.
    fn model(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.onnx"), graph(&["weights.bin"])).unwrap();
        fs::write(folder.join("weights.bin"), vec![7; WEIGHTS]).unwrap();
        fs::write(folder.join("tokenizer.json"), name).unwrap();
        fs::write(folder.join("config.json"), b"{}").unwrap();
        folder
    }

    async fn prepare(&self, source: &str) -> Result<Prepared, PrepareError> {
        prepare(&self.store(), source, None).await
    }

    /// The names in a folder of the cache, sorted; none when it is not there.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join(folder)).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Nothing is left but what is complete.
    fn assert_clean(&self) {
        assert_eq!(self.names("staging"), Vec::<String>::new());
        for name in self.names("models") {
            let folder = self.cache().join("models").join(&name);
            let (manifest, digest) = Manifest::read(&folder).unwrap().unwrap();
            assert_eq!(digest.digits(), name);
            manifest.verify(&folder).unwrap();
        }
    }
}

async fn prepare(store: &Store, source: &str, digest: Option<&Digest>) -> Result<Prepared, PrepareError> {
    let source = Source::parse(source).unwrap();
    let wanted = Wanted { source: &source, tokenizer: None, digest, in_place: false };
    assert_send(store.prepare(&wanted, &Progress::default())).await
}

/// What runs on a task must be able to move between threads.
fn assert_send<T: Send>(future: T) -> T {
    future
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Changes one bit in the middle.
fn flip_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The error's word, and whether it is for good.
fn refused(outcome: Result<Prepared, PrepareError>) -> (&'static str, bool, String) {
    let error = outcome.unwrap_err();
    (error.reason().label(), error.is_permanent(), error.to_string())
}

/// An ONNX file with a node, and a weight in each of these files.
fn graph(locations: &[&str]) -> Vec<u8> {
    let field = |number: u64, value: &[u8]| {
        let mut encoded = Vec::new();
        for mut varint in [number << 3 | 2, value.len() as u64] {
            while varint >= 0x80 {
                encoded.push(varint as u8 | 0x80);
                varint >>= 7;
            }
            encoded.push(varint as u8);
        }
        encoded.extend_from_slice(value);
        encoded
    };
    let entry =
        |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
    let tensor =
        |location: &str| [field(8, b"weight"), entry("offset", "0"), entry("location", location)].concat();
    let weights: Vec<u8> = locations.iter().flat_map(|location| field(5, &tensor(location))).collect();
    [vec![0x08, 9], field(7, &[field(1, &field(4, b"MatMul")), weights].concat())].concat()
}
