//! Each layout on its whole way: listed by `pack`, copied or downloaded into the store, tried in a process of its own, served
//! by a list of models. It gives the tokens that it gives where it lies.

use inference_gateway::model::manifest::Manifest;
use serde_json::json;

use crate::harness::{Gateway, ModelsList};
use crate::layouts::{copy_of, in_ort_format};
use crate::tricky_server::{Page, Server};

const PROMPT: &str = "Once upon a time";
const LAYOUTS: [&str; 18] = [
    "gpt2",
    "gpt2-merged",
    "gpt2-no-cache",
    "llama",
    "layouts/pair",
    "layouts/pair-one-token",
    "layouts/pair-unmasked",
    "layouts/merged",
    "layouts/genai",
    "layouts/zoo",
    "layouts/zoo-flat",
    "layouts/one-row",
    "layouts/fp16",
    "layouts/grouped-fp16",
    "layouts/int32",
    "layouts/operator",
    IN_ORT_FORMAT,
    GENAI_AND_ANOTHER,
];
/// Made here, from `llama`: a name that says nothing.
const IN_ORT_FORMAT: &str = "llama.ort";
/// A folder of GenAI that also holds a graph of the usual name.
const GENAI_AND_ANOTHER: &str = "genai and model.onnx";

/// The tokens of a list entry's model once it serves.
async fn served(source: &str) -> Vec<u64> {
    let list = ModelsList::new(&format!("- {{name: tiny, spec: {{source: {source}}}}}\n"));
    let gateway = list
        .gateway(&[
            "--allowed-hosts=127.0.0.1",
            "--insecure-hosts=127.0.0.1",
            "--allowed-private-networks=127.0.0.0/8",
        ])
        .await;
    gateway.wait_ready().await;
    let (_, state) = gateway.readyz().await;
    assert_eq!(state["models"][0]["serving"], state["models"][0]["revision"], "{source}: {state}");
    gateway.greedy(PROMPT, 24).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_layout_goes_through_pack_and_store_and_trial_into_service() {
    for name in LAYOUTS {
        let folder = match name {
            IN_ORT_FORMAT => {
                let folder = in_ort_format("llama");
                std::fs::rename(folder.path().join("model.ort"), folder.path().join(name)).unwrap();
                folder
            }
            GENAI_AND_ANOTHER => {
                let folder = copy_of("layouts/genai", |_| false);
                std::fs::write(folder.path().join("model.onnx"), b"not this one").unwrap();
                folder
            }
            name => copy_of(name, |_| false),
        };
        let in_place = folder.path().to_str().unwrap();
        let expected = Gateway::serving(in_place, &[]).await.greedy(PROMPT, 24).await;
        let manifest = Manifest::of_folder(folder.path()).unwrap();
        let digest = manifest.write(folder.path()).unwrap();
        let path = in_place.strip_prefix('/').unwrap();
        let copied = served(&format!("{{path: {path}, digest: '{digest}'}}")).await;
        assert_eq!(copied, expected, "{name}: copied");

        let server = Server::start().await;
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            let body = std::fs::read(file.path()).unwrap();
            let name = file.file_name().into_string().unwrap();
            server.put(&format!("/m/{name}"), Page::file(&body, &name));
        }
        let source = json!({"url": server.url("/m/manifest.json"), "digest": digest.to_string()});
        assert_eq!(served(&source.to_string()).await, expected, "{name}: downloaded");
    }
}
