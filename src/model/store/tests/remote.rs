//! Sources behind servers: how often they are asked, what is believed, what is used without them.

use std::fs;

use super::{Bench, Digest, graph, prepare, refused};
use crate::model::manifest::Manifest;
use crate::model::source::tests::server::{Page, Server, Trick};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A model on a server, at `/m/`.
async fn served() -> (Server, Bench, String) {
    let server = Server::start().await;
    server.put("/m/model.onnx", Page::file(&graph(&["weights.bin"]), "v1"));
    server.put("/m/weights.bin", Page::file(&vec![7; 50_000], "w1"));
    server.put("/m/tokenizer.json", Page::file(b"{}", "t1"));
    let bench = Bench::with_hub(&server.address);
    let url = server.url("/m/model.onnx");
    (server, bench, url)
}

#[tokio::test]
async fn an_address_is_fetched_once_and_then_served_from_the_store() {
    let (server, bench, url) = served().await;
    let first = bench.prepare(&url).await.unwrap();
    assert_eq!(fs::read(first.folder.join("weights.bin")).unwrap(), vec![7; 50_000]);
    assert_eq!(bench.names("downloads"), Vec::<String>::new(), "moved, not copied");
    let downloads = server.downloads().len();
    assert_eq!(downloads, 3);
    // The server has another version by now, and then is gone.
    server.put("/m/model.onnx", Page::file(&graph(&[]), "v2"));
    assert_eq!(bench.prepare(&url).await.unwrap().digest, first.digest);
    assert_eq!(server.downloads().len(), downloads);
    drop(server);
    assert_eq!(bench.prepare(&url).await.unwrap().digest, first.digest);
    bench.assert_clean();
}

#[tokio::test]
async fn nothing_stays_in_the_download_area_of_a_model_that_the_store_has() {
    let (server, bench, url) = served().await;
    // Beside the graph, which does not name it.
    server.put("/m/model.onnx_data", Page::file(&[3; 5000], "d1"));
    let first = bench.prepare(&url).await.unwrap();
    assert_eq!(bench.names("downloads"), Vec::<String>::new());
    assert!(!first.folder.join("model.onnx_data").exists());
    for (record, again) in [(true, format!("{url}?another=address")), (false, url)] {
        if !record {
            // As a process leaves it that dies between the rename and the record.
            fs::remove_dir_all(bench.cache().join("sources")).unwrap();
        }
        assert_eq!(bench.prepare(&again).await.unwrap().digest, first.digest);
        assert_eq!(bench.names("downloads"), Vec::<String>::new(), "{again}");
    }
    bench.assert_clean();
}

#[tokio::test]
async fn an_address_whose_copy_is_gone_means_what_it_means_now() {
    let (server, bench, url) = served().await;
    let first = bench.prepare(&url).await.unwrap();
    fs::remove_dir_all(&first.folder).unwrap();
    server.put("/m/model.onnx", Page::file(&graph(&[]), "v2"));
    let second = bench.prepare(&url).await.unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(bench.prepare(&url).await.unwrap().digest, second.digest);
}

#[tokio::test]
async fn a_change_of_the_source_is_asked_for_until_it_has_been_told_once() {
    let (server, bench, url) = served().await;
    let store = bench.store();
    let asked = async || {
        let before = server.seen().len();
        prepare(&store, &url, None).await.unwrap();
        server.seen().len() - before
    };
    asked().await;
    assert_eq!(asked().await, 1, "one HEAD, and it says the same version");
    server.put("/m/model.onnx", Page::file(&graph(&[]), "v2"));
    assert_eq!((asked().await, asked().await), (1, 0));
}

/// Rows 1 and 7: an error page, an archive, another digest than the wanted one.
#[tokio::test]
async fn what_a_server_sends_instead_of_the_model_is_refused() {
    let (server, bench, url) = served().await;
    server.put("/m/page.onnx", Page::file(b"<!DOCTYPE html><html>please log in</html>", "v"));
    server.put("/m/zip.onnx", Page::file(b"PK\x03\x04archive", "v"));
    for (name, expected) in
        [("page.onnx", "InvalidOnnx"), ("zip.onnx", "ArchiveUnsafe"), ("m.tar.gz", "ArchiveUnsafe")]
    {
        let (reason, permanent, message) = refused(bench.prepare(&server.url(&format!("/m/{name}"))).await);
        assert_eq!((reason, permanent), (expected, true), "{message}");
    }
    let other = Digest::of(b"another");
    let (reason, permanent, message) = refused(prepare(&bench.store(), &url, Some(&other)).await);
    assert_eq!((reason, permanent), ("DigestMismatch", true), "{message}");
    assert_eq!(bench.names("models"), Vec::<String>::new());
    bench.assert_clean();
}

#[tokio::test]
async fn more_files_of_weights_than_a_model_has_are_not_asked_for() {
    let (server, bench, url) = served().await;
    let names: Vec<String> = (0..2000).map(|number| format!("part-{number}")).collect();
    let graph = graph(&names.iter().map(String::as_str).collect::<Vec<_>>());
    server.put("/m/model.onnx", Page::file(&graph, "v2"));
    server.put_small(COMMIT, "model.onnx", &graph);
    for source in [&url, "hf://o/r"] {
        let (reason, permanent, message) = refused(bench.prepare(source).await);
        assert_eq!((reason, permanent), ("InvalidOnnx", true), "{message}");
        assert!(message.contains("weights in 2000 files"), "{message}");
    }
    let asked = server.seen().iter().filter(|seen| seen.path.contains("part-")).count();
    assert_eq!(asked, 1024, "by the hub alone, which looks for what may be there");
    assert_eq!(bench.names("models"), Vec::<String>::new());
}

/// Row 13: what a line does in the middle of a model.
#[tokio::test]
async fn a_model_arrives_whole_over_a_line_that_breaks() {
    let (server, bench, url) = served().await;
    // The tokenizer's and the graph's companions are 404; each file that exists fails once or twice.
    server.play([
        Trick::Status(500, ""),
        Trick::CutAfter(10),
        Trick::WrongRange,
        Trick::CutAfter(25_000),
        Trick::OtherVersionRange,
        Trick::Status(503, ""),
    ]);
    let mut failures = 0;
    let prepared = loop {
        match bench.prepare(&url).await {
            Ok(prepared) => break prepared,
            Err(error) => {
                assert!(!error.is_permanent(), "{error}");
                failures += 1;
                assert!(failures < 10, "{error}");
            }
        }
        assert_eq!(bench.names("models"), Vec::<String>::new());
    };
    assert!(failures >= 3, "{failures}");
    assert_eq!(fs::read(prepared.folder.join("weights.bin")).unwrap(), vec![7; 50_000]);
    bench.assert_clean();
}

/// Row 17, within a process; `tests/integration/store.rs` has it with two.
#[tokio::test]
async fn two_stores_on_one_folder_download_once() {
    let (server, bench, url) = served().await;
    let (one, two) = (bench.store(), bench.store());
    let (one, two) = tokio::join!(prepare(&one, &url, None), prepare(&two, &url, None));
    assert_eq!(one.unwrap().digest, two.unwrap().digest);
    assert_eq!(server.downloads().len(), 3);
    bench.assert_clean();
}

#[tokio::test]
async fn a_repository_is_copied_from_the_hubs_cache_with_the_weights_that_the_graph_names() {
    let (hub, store) = (Server::start().await, Server::start().await);
    for (path, body) in [
        ("onnx/model.onnx", graph(&["model.onnx_data_1"])),
        ("onnx/model.onnx_data_1", vec![3; 1000]),
        ("tokenizer.json", b"{}".to_vec()),
        ("config.json", b"{}".to_vec()),
    ] {
        hub.put_large(COMMIT, path, &body, &store);
    }
    let bench = Bench::with_hub(&hub.address);
    let first = bench.prepare("hf://o/r").await.unwrap();
    let digits = first.digest.clone().unwrap().digits().to_owned();
    let files = ["config.json", "manifest.json", "model.onnx", "model.onnx_data_1", "tokenizer.json"];
    assert_eq!(bench.names(&format!("models/{digits}")), files);
    for name in files {
        assert!(!first.folder.join(name).is_symlink(), "{name}");
    }
    // The branch means another commit by now: the recorded one is used.
    hub.put_large(&COMMIT.replace('0', "f"), "onnx/model.onnx", &graph(&[]), &store);
    assert_eq!(bench.prepare("hf://o/r").await.unwrap().digest, first.digest);
    drop((hub, store));
    assert_eq!(bench.prepare("hf://o/r").await.unwrap().digest, first.digest);
    bench.assert_clean();
}

/// The manifest of `files` and a server that has both at `/l/`.
async fn listed(files: &[(&str, &[u8])]) -> (Server, Bench, Manifest) {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    for (name, body) in files {
        fs::write(folder.path().join(name), body).unwrap();
        server.put(&format!("/l/{name}"), Page::file(body, "v"));
    }
    let manifest = Manifest::of_folder(folder.path()).unwrap();
    server.put("/l/manifest.json", Page::file(&manifest.to_bytes(), "m"));
    let bench = Bench::with_hub(&server.address);
    (server, bench, manifest)
}

#[tokio::test]
async fn a_manifest_behind_an_address_brings_exactly_its_files() {
    let graph = graph(&["w"]);
    let (server, bench, manifest) =
        listed(&[("model.onnx", &graph), ("w", &[1; 9000]), ("tokenizer.json", b"{}"), ("NOTICE", b"x")])
            .await;
    let digest = Digest::of(&manifest.to_bytes());
    let (reason, _, message) =
        refused(prepare(&bench.store(), &server.url("/l/"), Some(&Digest::of(b"other"))).await);
    assert_eq!(reason, "DigestMismatch", "{message}");
    let store = bench.store().with_most_model_bytes(9000);
    let (reason, ..) = refused(prepare(&store, &server.url("/l/"), None).await);
    assert_eq!(reason, "ArtifactTooLarge");
    assert!(server.downloads().iter().all(|seen| seen.path == "/l/manifest.json"), "refused by the list");
    // Cut on its way, then resumed.
    server.play([Trick::None, Trick::None, Trick::None, Trick::None, Trick::CutAfter(5000)]);
    let source = server.url("/l/manifest.json");
    let prepared = loop {
        match prepare(&bench.store(), &source, Some(&digest)).await {
            Ok(prepared) => break prepared,
            Err(error) => assert!(!error.is_permanent(), "{error}"),
        }
    };
    assert_eq!(prepared.digest, Some(digest));
    assert_eq!(manifest.files().len() + 1, fs::read_dir(&prepared.folder).unwrap().count());
    let of_weights: Vec<usize> =
        server.downloads().iter().filter(|seen| seen.path == "/l/w").map(|seen| seen.sent_bytes).collect();
    assert_eq!(of_weights.iter().sum::<usize>(), 9000, "{of_weights:?}");
    assert_eq!(bench.names("downloads"), Vec::<String>::new());
    bench.assert_clean();
}

#[tokio::test]
async fn a_listed_file_of_other_bytes_or_another_size_is_refused() {
    let graph = graph(&[]);
    let (server, bench, _) = listed(&[("model.onnx", &graph), ("tokenizer.json", b"{}")]).await;
    server.put("/l/tokenizer.json", Page::file(b"[]", "v"));
    let (reason, permanent, message) = refused(bench.prepare(&server.url("/l/manifest.json")).await);
    assert_eq!((reason, permanent), ("DigestMismatch", true), "{message}");
    server.put("/l/tokenizer.json", Page::file(b"a longer one", "v"));
    let (reason, _, message) = refused(bench.prepare(&server.url("/l/manifest.json")).await);
    assert_eq!(reason, "SourceUnreachable", "{message}");
    for text in [r#"[{"name": "../x", "size": 1, "sha256": ""}]"#, "<html>", "[]"] {
        server.put("/l/manifest.json", Page::file(text.as_bytes(), "m"));
        let (reason, permanent, message) = refused(bench.prepare(&server.url("/l/")).await);
        assert_eq!((reason, permanent), ("ArchiveUnsafe", true), "{message}");
    }
    bench.assert_clean();
}
