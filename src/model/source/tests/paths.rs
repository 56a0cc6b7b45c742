//! Sources on this machine.

use std::fs;

use super::super::GRAPH_CANDIDATES;
use super::{FetchError, Place};

#[tokio::test]
async fn the_graph_of_a_folder_is_found_in_the_documented_order() {
    let place = Place::without_hub();
    let folder = place.folder.path().join("model");
    fs::create_dir_all(folder.join("onnx")).unwrap();
    let source = folder.to_str().unwrap();
    for name in GRAPH_CANDIDATES.iter().rev() {
        fs::write(folder.join(name), b"x").unwrap();
        assert_eq!(place.graph(source).await.unwrap(), folder.join(name));
    }
}

#[tokio::test]
async fn the_graph_that_genai_names_is_taken_and_no_other() {
    let place = Place::without_hub();
    let folder = place.folder.path();
    let source = folder.to_str().unwrap();
    fs::write(folder.join("model.onnx"), b"x").unwrap();
    let config = r#"{"model": {"decoder": {"filename": "decoder.onnx"}}}"#;
    fs::write(folder.join("genai_config.json"), config).unwrap();
    let message = place.graph(source).await.unwrap_err().to_string();
    assert!(message.contains("genai_config.json") && message.contains("decoder.onnx"), "{message}");
    fs::write(folder.join("decoder.onnx"), b"x").unwrap();
    assert_eq!(place.graph(source).await.unwrap(), folder.join("decoder.onnx"));
}

#[tokio::test]
async fn a_graph_can_be_named_itself() {
    let place = Place::without_hub();
    let graph = place.folder.path().join("my model.onnx");
    fs::write(&graph, b"x").unwrap();
    assert_eq!(place.graph(graph.to_str().unwrap()).await.unwrap(), graph);
}

#[tokio::test]
async fn a_lone_graph_of_any_name_is_found_and_of_two_it_is_said_which() {
    let place = Place::without_hub();
    let folder = place.folder.path();
    let source = folder.to_str().unwrap();
    fs::create_dir(folder.join("folder.onnx")).unwrap();
    place.graph(source).await.unwrap_err();
    for name in ["gpt2.ort", "._gpt2.onnx"] {
        fs::write(folder.join(name), b"x").unwrap();
    }
    assert_eq!(place.graph(source).await.unwrap(), folder.join("gpt2.ort"));
    fs::write(folder.join("gpt3.onnx"), b"x").unwrap();
    let text = place.graph(source).await.unwrap_err().to_string();
    assert!(text.contains("gpt2.ort, gpt3.onnx"), "{text}");
}

#[tokio::test]
async fn a_folder_without_graph_says_what_was_looked_for_and_what_is_there() {
    let place = Place::without_hub();
    fs::write(place.folder.path().join("weights.gguf"), b"x").unwrap();
    let error = place.graph(place.folder.path().to_str().unwrap()).await.unwrap_err();
    let text = error.to_string();
    assert!(error.is_permanent());
    assert!(text.contains("decoder_model_merged.onnx") && text.contains("found weights.gguf"), "{text}");
}

#[tokio::test]
async fn a_path_that_is_missing_or_no_graph_is_named() {
    let place = Place::without_hub();
    let file = place.folder.path().join("model.bin");
    let missing = place.graph(file.to_str().unwrap()).await.unwrap_err();
    assert!(missing.to_string().contains("model.bin"), "{missing}");
    assert_eq!(
        (missing.reason().label(), missing.is_permanent()),
        ("SourceNotFound", false),
        "a volume may come later"
    );
    fs::write(&file, b"x").unwrap();
    let other = place.graph(file.to_str().unwrap()).await.unwrap_err();
    assert!(matches!(other, FetchError::NotFound { .. }), "{other:?}");
}

#[tokio::test]
async fn a_pipe_is_neither_a_graph_nor_a_tokenizer_and_nobody_waits_for_it() {
    let place = Place::without_hub();
    for name in ["model.onnx", "tokenizer.json", "genai_config.json"] {
        let path = place.folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    }
    let folder = place.folder.path();
    for path in [folder.to_owned(), folder.join("model.onnx")] {
        let error = place.graph(path.to_str().unwrap()).await.unwrap_err();
        assert!(matches!(error, FetchError::NotFound { .. }), "{error:?}");
    }
    for path in [folder.to_owned(), folder.join("tokenizer.json")] {
        let error = place.tokenizer(path.to_str().unwrap()).await.unwrap_err();
        assert!(matches!(error, FetchError::NotFound { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_tokenizer_is_found_in_the_folder_beside_the_graph_or_above_onnx() {
    let place = Place::without_hub();
    let folder = place.folder.path().join("model");
    fs::create_dir_all(folder.join("onnx")).unwrap();
    for name in ["tokenizer.json", "onnx/model.onnx", "model.onnx"] {
        fs::write(folder.join(name), b"x").unwrap();
    }
    let tokenizer = folder.join("tokenizer.json");
    for path in ["", "onnx", "onnx/model.onnx", "model.onnx", "tokenizer.json"] {
        let source = folder.join(path);
        assert_eq!(place.tokenizer(source.to_str().unwrap()).await.unwrap(), tokenizer, "{path}");
    }
    fs::remove_file(&tokenizer).unwrap();
    let error = place.tokenizer(folder.to_str().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("no tokenizer.json in"), "{error}");
}
