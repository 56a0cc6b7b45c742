//! The hub while it can be reached: layout of the cache, checks, what is asked for.

use serde_json::json;

use super::server::{Page, Server, Trick};
use super::{FetchError, Place, TOKEN, bytes, read};

const COMMIT: &str = "607a30d783dfa663caf39e06633721c8d4cfcd7e";
const LENGTH: usize = 200_000;

async fn hub_with_model() -> (Server, Server, Place, Vec<u8>) {
    let (hub, store) = (Server::start().await, Server::start().await);
    let body = bytes(LENGTH, 5);
    hub.put_large(COMMIT, "onnx/model.onnx", &body, &store);
    let place = Place::new(&hub.address);
    (hub, store, place, body)
}

#[tokio::test]
async fn files_lie_as_the_python_library_puts_them() {
    let (hub, _store, place, body) = hub_with_model().await;
    hub.put_small(COMMIT, "tokenizer.json", b"{}");
    let graph = place.graph("hf://o/r/onnx/model.onnx").await.unwrap();
    let repository = place.settings.hub_cache.join("models--o--r");
    assert_eq!(graph, repository.join("snapshots").join(COMMIT).join("onnx/model.onnx"));
    assert_eq!(read(&graph), body);
    let link = std::fs::read_link(&graph).unwrap();
    assert!(link.starts_with("../../../blobs"), "{}", link.display());
    assert_eq!(link.file_name().unwrap().len(), 64);
    assert_eq!(read(&repository.join("refs/main")), COMMIT.as_bytes());
    let tokenizer = place.tokenizer("o/r").await.unwrap();
    assert_eq!(tokenizer, repository.join("snapshots").join(COMMIT).join("tokenizer.json"));
    assert!(std::fs::read_link(&tokenizer).unwrap().starts_with("../../blobs"));
}

#[tokio::test]
async fn a_repository_is_searched_for_its_graph_and_weights() {
    let (hub, store, place, body) = hub_with_model().await;
    let weights = bytes(1000, 8);
    hub.put_large(COMMIT, "onnx/model.onnx_data", &weights, &store);
    for source in ["hf://o/r", "hf://o/r/onnx"] {
        let graph = place.graph(source).await.unwrap();
        assert_eq!(read(&graph), body);
        assert_eq!(read(&graph.with_file_name("model.onnx_data")), weights);
    }
    assert_eq!(store.downloads().len(), 2);
}

#[tokio::test]
async fn both_graphs_of_a_pair_come_with_their_weights() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let pair = [
        "onnx/decoder_model.onnx",
        "onnx/decoder_model.onnx_data",
        "onnx/decoder_with_past_model.onnx",
        "onnx/decoder_with_past_model.onnx_data",
    ];
    for (number, path) in pair.iter().enumerate() {
        hub.put_large(COMMIT, path, &bytes(1000, number as u8), &store);
    }
    for (source, found) in [("hf://o/r", pair[0]), ("hf://o/r/onnx/decoder_with_past_model.onnx", pair[2])] {
        let place = Place::new(&hub.address);
        let graph = place.graph(source).await.unwrap();
        assert!(graph.ends_with(found), "{}", graph.display());
        for (number, path) in pair.iter().enumerate() {
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(read(&graph.with_file_name(name)), bytes(1000, number as u8), "{source}: {path}");
        }
    }
}

#[tokio::test]
async fn weights_of_any_name_come_with_the_graph_that_names_them() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let place = Place::new(&hub.address);
    // ModelProto.graph: a node, and an initializer whose external data lie in "part-1".
    let field = |number: u8, value: &[u8]| [&[number << 3 | 2, value.len() as u8][..], value].concat();
    let entry = |value: &str| field(13, &[field(1, b"location"), field(2, value.as_bytes())].concat());
    let weights = ["part-1", "../part-2", ""].map(|place| field(5, &entry(place))).concat();
    let graph = field(7, &[field(1, &field(4, b"Add")), weights].concat());
    hub.put_large(COMMIT, "onnx/model.onnx", &graph, &store);
    hub.put_large(COMMIT, "onnx/part-1", b"one", &store);
    hub.put_large(COMMIT, "part-2", b"two", &store);
    let found = place.graph("hf://o/r").await.unwrap();
    assert_eq!((read(&found), read(&found.with_file_name("part-1"))), (graph, b"one".to_vec()));
    assert!(hub.seen().iter().all(|seen| !seen.path.contains("part-2")), "a name outside the folder");
    assert!(hub.seen().iter().all(|seen| !seen.path.ends_with('/')), "the folder itself");
}

#[tokio::test]
async fn a_repository_of_genai_is_searched_for_the_graph_that_it_names() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let place = Place::new(&hub.address);
    for folder in ["", "cpu/"] {
        hub.put_large(COMMIT, &format!("{folder}phi.onnx"), b"graph", &store);
        hub.put_large(COMMIT, &format!("{folder}phi.onnx.data"), b"weights", &store);
        let config = br#"{"model": {"decoder": {"filename": "phi.onnx"}}}"#;
        hub.put_small(COMMIT, &format!("{folder}genai_config.json"), config);
    }
    for source in ["hf://o/r", "hf://o/r/cpu"] {
        let graph = place.graph(source).await.unwrap();
        assert_eq!(read(&graph), b"graph");
        assert_eq!(read(&graph.with_file_name("phi.onnx.data")), b"weights");
    }
    let config = br#"{"model": {"decoder": {"filename": "../../phi.onnx"}}}"#;
    hub.put_small(COMMIT, "evil/genai_config.json", config);
    let message = place.graph("hf://o/r/evil").await.unwrap_err().to_string();
    assert!(message.contains("../../phi.onnx (named by genai_config.json)"), "{message}");
}

#[tokio::test]
async fn a_lone_graph_of_any_name_is_found_by_the_list_of_its_folder_and_later_without_the_hub() {
    let (hub, store) = (Server::start().await, Server::start().await);
    let place = Place::new(&hub.address);
    let list = |folder: &str, names: &[&str]| {
        let entry =
            |(kind, name): (&str, &str)| json!({"type": kind, "path": format!("{folder}{name}"), "size": 1});
        let files = names.iter().map(|name| entry(("file", name)));
        let entries: Vec<_> = files.chain([entry(("directory", "other.onnx"))]).collect();
        let body = serde_json::Value::from(entries).to_string().into_bytes();
        let path = format!("/api/models/o/r/tree/main/{folder}");
        hub.put(path.trim_end_matches('/'), Page { body, status: 200, ..Page::default() });
    };
    for folder in ["", "cpu/"] {
        hub.put_large(COMMIT, &format!("{folder}gpt2.ort"), b"graph", &store);
        list(folder, &["README.md", "gpt2.ort", "gpt2.ort.data"]);
    }
    for source in ["hf://o/r", "hf://o/r/cpu"] {
        let graph = place.graph(source).await.unwrap();
        assert_eq!(
            (graph.file_name().unwrap().to_str().unwrap(), read(&graph)),
            ("gpt2.ort", b"graph".to_vec())
        );
    }
    // Two are too many, and so is a list that goes on elsewhere.
    list("", &["gpt2.ort", "gpt3.onnx"]);
    let other = Place::new(&hub.address);
    let error = other.graph("hf://o/r").await.unwrap_err();
    assert!(matches!(&error, FetchError::NotFound { .. }), "{error:?}");
    let mut page = Page::file(br#"[{"type": "file", "path": "gpt2.ort"}]"#, "v");
    page.headers.push(("Link", r#"<http://127.0.0.1/next>; rel="next""#.to_owned()));
    hub.put("/api/models/o/r/tree/main", page);
    assert!(matches!(other.graph("hf://o/r").await, Err(FetchError::NotFound { .. })));
    drop((hub, store));
    for source in ["hf://o/r", "hf://o/r/cpu"] {
        assert_eq!(read(&place.graph(source).await.unwrap()), b"graph");
    }
}

#[tokio::test]
async fn a_repository_without_a_graph_says_what_was_looked_for() {
    let (_hub, _store, place, _) = hub_with_model().await;
    let error = place.graph("hf://o/other").await.unwrap_err();
    assert!(error.is_permanent());
    let text = error.to_string();
    assert!(text.contains("hf://o/other@main") && text.contains("onnx/decoder_model_merged.onnx"), "{text}");
}

#[tokio::test]
async fn a_missing_repository_or_revision_is_an_error_even_for_a_search() {
    let (hub, _store, place, _) = hub_with_model().await;
    let headers = vec![("X-Error-Code", "RevisionNotFound".to_owned())];
    hub.put("/o/r/resolve/none/model.onnx", Page { status: 404, headers, ..Page::default() });
    let error = place.graph("hf://o/r@none").await.unwrap_err();
    assert!(matches!(&error, FetchError::Status { .. }) && error.is_permanent(), "{error:?}");
}

#[tokio::test]
async fn a_resolve_address_of_the_configured_hub_is_a_hub_file() {
    let (hub, _store, place, _) = hub_with_model().await;
    let graph = place.graph(&hub.url("/o/r/resolve/main/onnx/model.onnx")).await.unwrap();
    assert!(graph.starts_with(&place.settings.hub_cache));
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_never_to_its_store() {
    let (hub, store, place, _) = hub_with_model().await;
    place.graph("hf://o/r").await.unwrap();
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.seen().iter().all(|seen| seen.headers.get("authorization") == Some(&bearer)));
    assert!(!store.seen().is_empty());
    assert!(store.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[tokio::test]
async fn a_large_file_is_resumed_and_its_digest_checked() {
    let (_hub, store, place, body) = hub_with_model().await;
    store.play([Trick::CutAfter(70_000)]);
    let error = place.graph("hf://o/r").await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    assert_eq!(place.final_files(), Vec::<String>::new());
    assert_eq!(read(&place.graph("hf://o/r").await.unwrap()), body);
    assert_eq!(store.downloads()[1].headers["range"], "bytes=70000-");
    assert_eq!(store.downloads()[1].headers["if-range"], "\"etag-of-the-store\"");
    assert_eq!(store.downloads()[1].sent_bytes, LENGTH - 70_000);
}

#[tokio::test]
async fn wrong_bytes_are_fetched_once_more_and_then_refused() {
    let (_hub, store, place, body) = hub_with_model().await;
    store.play([Trick::Corrupt, Trick::Corrupt]);
    let error = place.graph("hf://o/r").await.unwrap_err();
    assert!(matches!(error, FetchError::Digest { .. }) && error.is_permanent(), "{error:?}");
    assert_eq!((error.reason().label(), store.downloads().len()), ("DigestMismatch", 2));
    assert_eq!(place.all_files(), Vec::<String>::new(), "the wrong bytes are gone");
    store.play([Trick::Corrupt]);
    assert_eq!(read(&place.graph("hf://o/r").await.unwrap()), body, "one bad transfer is forgiven");
}

#[tokio::test]
async fn bytes_corrupted_before_a_resume_are_found() {
    let (_hub, store, place, body) = hub_with_model().await;
    store.play([Trick::CutAfter(70_000)]);
    place.graph("hf://o/r").await.unwrap_err();
    let partial = place.all_files().into_iter().find(|name| name.ends_with(".partial")).unwrap();
    std::fs::write(place.folder.path().join(partial), vec![0; 70_000]).unwrap();
    assert_eq!(read(&place.graph("hf://o/r").await.unwrap()), body);
    assert_eq!(store.downloads().last().unwrap().sent_bytes, LENGTH);
}

#[tokio::test]
async fn a_size_other_than_announced_is_refused_before_the_first_byte() {
    let (_hub, store, place, body) = hub_with_model().await;
    let digest = crate::model::hexadecimal::hexadecimal(&<sha2::Sha256 as sha2::Digest>::digest(&body));
    store.put(&format!("/store/{digest}"), Page::file(&body[1..], "short"));
    let error = place.graph("hf://o/r").await.unwrap_err();
    assert!(matches!(error, FetchError::Response { .. }) && !error.is_permanent(), "{error:?}");
    assert_eq!(place.final_files(), Vec::<String>::new());
}

#[tokio::test]
async fn two_fetches_of_one_large_file_are_one_download() {
    let (_hub, store, place, body) = hub_with_model().await;
    for graph in futures_util::future::join_all((0..4).map(|_| place.graph("hf://o/r"))).await {
        assert_eq!(read(&graph.unwrap()), body);
    }
    assert_eq!(store.downloads().len(), 1);
}

#[tokio::test]
async fn a_new_commit_downloads_only_what_changed() {
    let (hub, store, place, body) = hub_with_model().await;
    place.graph("hf://o/r").await.unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    hub.put_large(commit, "onnx/model.onnx", &body, &store);
    let graph = place.graph("hf://o/r").await.unwrap();
    assert!(graph.to_str().unwrap().contains(commit));
    assert_eq!(store.downloads().len(), 1);
    assert_eq!(read(&place.settings.hub_cache.join("models--o--r/refs/main")), commit.as_bytes());
}

#[tokio::test]
async fn a_tokenizer_comes_with_its_companions_and_is_found_above_onnx() {
    let (hub, _store, place, _) = hub_with_model().await;
    for name in ["tokenizer.json", "config.json", "chat_template.jinja"] {
        hub.put_small(COMMIT, name, name.as_bytes());
    }
    for source in ["o/r", "hf://o/r/onnx/model.onnx", "hf://o/r/tokenizer.json"] {
        let tokenizer = place.tokenizer(source).await.unwrap();
        assert_eq!(read(&tokenizer), b"tokenizer.json");
        assert_eq!(read(&tokenizer.with_file_name("config.json")), b"config.json");
        assert_eq!(read(&tokenizer.with_file_name("chat_template.jinja")), b"chat_template.jinja");
        assert!(!tokenizer.with_file_name("genai_config.json").exists());
    }
}

#[tokio::test]
async fn refusals_of_the_hub_name_the_token() {
    let (hub, _store, mut place, _) = hub_with_model().await;
    let path = "/o/gated/resolve/main/model.onnx";
    let answer = |status, code: &str| Page {
        status,
        headers: vec![("X-Error-Code", code.to_owned())],
        ..Page::default()
    };
    hub.put(path, answer(403, "GatedRepo"));
    let gated = place.graph("hf://o/gated").await.unwrap_err();
    assert!(gated.to_string().contains("accept the terms"), "{gated}");
    place.settings.hub_token = None;
    hub.put(path, answer(401, "RepoNotFound"));
    let private = place.graph("hf://o/gated").await.unwrap_err();
    assert!(private.to_string().contains("set HF_TOKEN"), "{private}");
    assert!(private.is_permanent() && gated.is_permanent());
}

#[tokio::test]
async fn names_from_the_hub_cannot_leave_the_cache() {
    let (hub, store, place, _) = hub_with_model().await;
    for (commit, etag) in
        [("../../evil", "abc"), (COMMIT, "../../evil"), (COMMIT, ""), ("", "abc"), (COMMIT, "a.partial")]
    {
        let mut page = Page::redirect(&store.url("/evil"));
        page.headers.extend([("X-Repo-Commit", commit.to_owned()), ("X-Linked-ETag", format!("\"{etag}\""))]);
        hub.put("/o/evil/resolve/main/model.onnx", page);
        store.put("/evil", Page { body: vec![1], status: 200, headers: vec![] });
        let error = place.graph("hf://o/evil").await.unwrap_err();
        assert!(matches!(error, FetchError::Response { .. }), "{error:?}");
        assert_eq!(place.all_files(), Vec::<String>::new());
    }
}
