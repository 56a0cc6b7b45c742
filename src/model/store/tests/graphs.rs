//! Which of several graphs a model is: the same one, wherever its files come from and however they are kept.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{Bench, Progress, Source, Wanted, graph, prepare, refused, text};
use crate::model::manifest::Manifest;
use crate::model::source::tests::registry::Registry;
use crate::model::source::tests::server::{Page, Server};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn genai(name: &str) -> Vec<u8> {
    json!({"model": {"decoder": {"filename": name}}}).to_string().into_bytes()
}

/// A folder with these files and a tokenizer.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), b"{}").unwrap();
    for (name, body) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }
    folder
}

/// The name of the graph of a folder: as it lies there, packed, behind an address, and in a registry; each time as it was
/// prepared first, and as the store has it.
async fn chosen(files: &Path) -> Vec<String> {
    let (server, registry) = (Server::start().await, Registry::start().await);
    let mut names = Vec::new();
    let mut layers = Vec::new();
    let mut prepared = async |source: &str| {
        let bench = Bench::new();
        for _ in 0..2 {
            let graph = bench.prepare(source).await.unwrap().graph;
            names.push(graph.file_name().unwrap().to_str().unwrap().to_owned());
        }
        bench.assert_clean();
    };
    prepared(text(files)).await;
    let manifest = Manifest::of_folder(files).unwrap();
    manifest.write(files).unwrap();
    prepared(text(files)).await;
    for entry in fs::read_dir(files).unwrap() {
        let entry = entry.unwrap();
        let (name, body) = (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        server.put(&format!("/m/{name}"), Page::file(&body, "v"));
        layers.push(registry.layer(&name, &body));
    }
    registry.tag("v1", &json!({"schemaVersion": 2, "layers": layers}));
    prepared(&server.url("/m/manifest.json")).await;
    prepared(&format!("oci://{}/a/b:v1", registry.host)).await;
    names
}

#[tokio::test]
async fn the_graph_that_genai_names_goes_before_one_of_the_usual_name() {
    let files = folder(&[
        ("model.onnx", &graph(&[])),
        ("decoder.onnx", &graph(&[])),
        ("genai_config.json", &genai("decoder.onnx")),
    ]);
    assert_eq!(chosen(files.path()).await, ["decoder.onnx"; 8]);
}

#[tokio::test]
async fn a_lone_graph_of_any_name_is_found() {
    // The head of a file in ONNX Runtime's own format.
    let ort = [&[8, 0, 0, 0][..], b"ORTM", &[0; 8]].concat();
    for (name, body) in [("gpt2.ort", ort), ("gpt2.onnx", graph(&[]))] {
        let files = folder(&[(name, &body), ("config.json", b"{}")]);
        assert_eq!(chosen(files.path()).await, [name; 8]);
    }
    let pair = ["decoder_model_int8.onnx", "decoder_with_past_model_int8.onnx"];
    let files =
        folder(&pair.map(|name| (name, graph(&[]))).each_ref().map(|(name, body)| (*name, body.as_slice())));
    assert_eq!(chosen(files.path()).await, [pair[0]; 8]);
}

#[tokio::test]
async fn a_source_that_names_the_second_graph_of_a_pair_brings_the_first() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let names = ["decoder_model.onnx", "decoder_with_past_model.onnx", "tokenizer.json", "w"];
    for name in names {
        let body = if name == "w" { vec![7; 9] } else { graph(&["w"]) };
        hub.put(&format!("/m/{name}"), Page::file(&body, "v"));
        hub.put_large(COMMIT, name, &body, &store);
    }
    let bench = Bench::with_hub(&hub.address);
    for source in
        [hub.url("/m/decoder_with_past_model.onnx"), "hf://o/r/decoder_with_past_model.onnx".to_owned()]
    {
        let prepared = bench.prepare(&source).await.unwrap();
        assert_eq!(prepared.graph.file_name().unwrap(), "decoder_with_past_model.onnx");
        for name in names {
            assert!(prepared.folder.join(name).is_file(), "{source}: {name}");
        }
    }
}

#[tokio::test]
async fn the_graph_that_a_source_names_goes_before_the_one_that_genai_names() {
    let files = folder(&[
        ("model.onnx", &graph(&[])),
        ("decoder.onnx", &graph(&[])),
        ("genai_config.json", &genai("decoder.onnx")),
    ]);
    Manifest::of_folder(files.path()).unwrap().write(files.path()).unwrap();
    let bench = Bench::new();
    for _ in 0..2 {
        let prepared = bench.prepare(text(&files.path().join("model.onnx"))).await.unwrap();
        assert_eq!(prepared.graph.file_name().unwrap(), "model.onnx");
    }
}

#[tokio::test]
async fn an_address_names_its_graph_however_it_is_written() {
    let (hub, store) = (Server::start().await, Server::start().await);
    hub.put("/m/my%20model.onnx", Page::file(&graph(&[]), "v"));
    hub.put("/m/phi-3.5", Page::file(&graph(&[]), "v"));
    hub.put("/m/tokenizer.json", Page::file(b"{}", "v"));
    hub.put("/m/genai_config.json", Page::file(&genai("decoder.onnx"), "v"));
    hub.put_large(COMMIT, "my%20model.onnx", &graph(&[]), &store);
    hub.put_small(COMMIT, "genai_config.json", &genai("decoder.onnx"));
    hub.put_small(COMMIT, "tokenizer.json", b"{}");
    for (path, name) in [
        ("/m/my%20model.onnx", "my_model.onnx"),
        ("/m/phi-3.5", "phi-3.5"),
        ("/o/r/resolve/main/my%20model.onnx", "my model.onnx"),
    ] {
        let bench = Bench::with_hub(&hub.address);
        for _ in 0..2 {
            let prepared = bench.prepare(&hub.url(path)).await.unwrap();
            assert_eq!(prepared.graph, prepared.folder.join(name));
        }
    }
}

#[tokio::test]
async fn a_graph_that_is_named_and_not_listed_is_refused_and_not_another_one_served() {
    let files = folder(&[("model.onnx", &graph(&[]))]);
    Manifest::of_folder(files.path()).unwrap().write(files.path()).unwrap();
    fs::write(files.path().join("special.onnx"), graph(&[])).unwrap();
    let source = Source::Path(files.path().join("special.onnx"));
    for in_place in [false, true] {
        let wanted = Wanted { source: &source, tokenizer: None, digest: None, in_place };
        let (reason, _, message) = refused(Bench::new().store().prepare(&wanted, &Progress::default()).await);
        assert_eq!(reason, "SourceNotFound", "{message}");
        assert!(message.contains("no graph that the path names among the files of"), "{message}");
    }
}

#[tokio::test]
async fn a_manifest_that_others_put_into_the_hubs_cache_is_no_list_of_the_model() {
    let (hub, store) = (Server::start().await, Server::start().await);
    hub.put_large(COMMIT, "model.onnx", &graph(&[]), &store);
    hub.put_small(COMMIT, "tokenizer.json", b"{}");
    let bench = Bench::with_hub(&hub.address);
    // As the Python library leaves what a whole repository holds.
    let repository = bench.folder.path().join("hub/models--o--r");
    let snapshot = repository.join("snapshots").join(COMMIT);
    for folder in [repository.join("blobs"), snapshot.clone()] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repository.join("blobs/b10b"), b"{\"of\": \"another kind\"}").unwrap();
    std::os::unix::fs::symlink("../../blobs/b10b", snapshot.join("manifest.json")).unwrap();
    let prepared = bench.prepare("hf://o/r").await.unwrap();
    assert_eq!(prepared.graph.file_name().unwrap(), "model.onnx");
    bench.assert_clean();
}

#[tokio::test]
async fn a_manifest_without_the_graph_that_genai_names_is_refused_as_its_folder_is() {
    let files = folder(&[("model.onnx", &graph(&[])), ("genai_config.json", &genai("gone.onnx"))]);
    let unpacked = refused(Bench::new().prepare(text(files.path())).await);
    let manifest = Manifest::of_folder(files.path()).unwrap();
    let server = Server::start().await;
    server.put("/m/manifest.json", Page::file(&manifest.to_bytes(), "m"));
    for file in manifest.files() {
        let body = fs::read(files.path().join(&file.name)).unwrap();
        server.put(&format!("/m/{}", file.name), Page::file(&body, "v"));
    }
    let listed = refused(Bench::new().prepare(&server.url("/m/")).await);
    for (reason, permanent, message) in [unpacked, listed] {
        assert_eq!((reason, permanent), ("SourceNotFound", true), "{message}");
        assert!(message.contains("no graph named by genai_config.json in"), "{message}");
        assert!(
            message.contains("looked for gone.onnx; found") && message.contains("model.onnx"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_graph_that_genai_names_in_a_folder_below_is_found_again_in_the_store() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let config = genai("cpu/phi.onnx");
    let files = folder(&[("cpu/phi.onnx", &graph(&[])), ("genai_config.json", &config)]);
    hub.put_large(COMMIT, "cpu/phi.onnx", &graph(&[]), &store);
    hub.put_small(COMMIT, "genai_config.json", &config);
    hub.put_small(COMMIT, "tokenizer.json", b"{}");
    let bench = Bench::with_hub(&hub.address);
    for source in ["hf://o/r", text(files.path())] {
        for _ in 0..2 {
            let prepared = bench.prepare(source).await.unwrap();
            assert_eq!(prepared.graph.file_name().unwrap(), "phi.onnx", "{source}");
            assert_eq!(fs::read(prepared.folder.join("genai_config.json")).unwrap(), config, "{source}");
        }
    }
}

#[tokio::test]
async fn the_genai_config_of_a_separate_tokenizer_names_no_graph_of_the_model() {
    let files = folder(&[("model.onnx", &graph(&[]))]);
    let other = folder(&[("genai_config.json", &genai("decoder.onnx"))]);
    let sources = [files.path(), other.path()].map(|path| Source::Path(path.to_owned()));
    let wanted = Wanted { source: &sources[0], tokenizer: Some(&sources[1]), digest: None, in_place: false };
    let prepared = Bench::new().store().prepare(&wanted, &Progress::default()).await.unwrap();
    assert_eq!(prepared.graph.file_name().unwrap(), "model.onnx");
}

/// The rest of such a file would be read into memory to find a name that it may not have.
#[tokio::test]
async fn a_genai_config_without_end_is_not_read_for_the_name_of_a_graph() {
    let files = folder(&[("model.onnx", &graph(&[])), ("genai_config.json", b"{")]);
    let config = fs::File::options().write(true).open(files.path().join("genai_config.json")).unwrap();
    config.set_len(1 << 40).unwrap();
    let outcome = prepare(&Bench::new().store(), text(files.path()), None).await;
    let (reason, _, message) = refused(outcome);
    assert_eq!(reason, "SourceNotFound", "{message}");
    assert!(message.contains("genai_config.json of more than"), "{message}");
}
