//! Folders and files of this machine: what is copied, what is refused, what is noticed later.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Bench, Digest, Progress, Source, WEIGHTS, Wanted, flip_bit, graph, prepare, refused, text};
use crate::model::manifest::Manifest;

#[tokio::test]
async fn a_folder_is_copied_whole_and_named_by_its_digest() {
    let bench = Bench::new();
    let model = bench.model("chat");
    fs::write(model.join("README.md"), b"not read").unwrap();
    let prepared = bench.prepare(text(&model)).await.unwrap();
    let digest = prepared.digest.clone().unwrap();
    assert_eq!(prepared.folder, bench.cache().join("models").join(digest.digits()));
    assert_eq!(prepared.graph, prepared.folder.join("model.onnx"));
    assert_eq!(prepared.tokenizer, prepared.folder.join("tokenizer.json"));
    let files = ["config.json", "manifest.json", "model.onnx", "tokenizer.json", "weights.bin"];
    assert_eq!(bench.names(&format!("models/{}", digest.digits())), files);
    assert!(prepared.bytes > WEIGHTS as u64);
    fs::remove_file(model.join("README.md")).unwrap();
    let packed = Digest::of(&Manifest::of_folder(&model).unwrap().to_bytes());
    assert_eq!(digest, packed, "what `pack` would print");
    assert_eq!(bench.prepare(text(&model)).await.unwrap().digest, Some(packed));
    bench.assert_clean();
}

#[tokio::test]
async fn a_graph_in_a_folder_of_its_own_and_a_separate_tokenizer_become_one_flat_model() {
    let bench = Bench::new();
    let (model, other) = (bench.model("chat"), bench.model("other"));
    fs::create_dir(model.join("onnx")).unwrap();
    fs::write(model.join("onnx/special.onnx"), graph(&[])).unwrap();
    fs::write(other.join("tokenizer_config.json"), b"{\"a\":1}").unwrap();
    fs::write(other.join("config.json"), b"{\"other\":1}").unwrap();
    let prepared = bench.prepare(text(&model.join("onnx/special.onnx"))).await.unwrap();
    assert_eq!(prepared.graph.file_name().unwrap(), "special.onnx");
    assert_eq!(fs::read(&prepared.tokenizer).unwrap(), b"chat");
    let sources = [model.as_path(), &other].map(|path| Source::Path(path.to_owned()));
    let wanted = Wanted { source: &sources[0], tokenizer: Some(&sources[1]), digest: None, in_place: false };
    let mixed = bench.store().prepare(&wanted, &Progress::default()).await.unwrap();
    assert_eq!(fs::read(&mixed.tokenizer).unwrap(), b"other");
    assert_eq!(fs::read(mixed.folder.join("config.json")).unwrap(), b"{}", "the model's own");
    assert_eq!(fs::read(mixed.folder.join("tokenizer_config.json")).unwrap(), b"{\"a\":1}");
    bench.assert_clean();
}

/// Row 2: ONNX Runtime would load it.
#[tokio::test]
async fn a_flipped_bit_is_refused_where_a_digest_or_a_manifest_says_what_it_was() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let digest = bench.prepare(text(&model)).await.unwrap().digest.unwrap();
    fs::remove_dir_all(bench.cache()).unwrap();
    flip_bit(&model.join("weights.bin"));
    let (reason, permanent, message) = refused(prepare(&bench.store(), text(&model), Some(&digest)).await);
    assert_eq!((reason, permanent), ("DigestMismatch", true), "{message}");
    assert!(message.contains(&digest.to_string()), "{message}");
    flip_bit(&model.join("weights.bin"));
    Manifest::of_folder(&model).unwrap().write(&model).unwrap();
    flip_bit(&model.join("weights.bin"));
    for in_place in [false, true] {
        let source = Source::Path(model.clone());
        let wanted = Wanted { source: &source, tokenizer: None, digest: None, in_place };
        let outcome = bench.store().prepare(&wanted, &Progress::default()).await;
        let (reason, permanent, message) = refused(outcome);
        assert_eq!((reason, permanent), ("DigestMismatch", true), "{message}");
        assert!(message.contains("weights.bin"), "{message}");
    }
    assert_eq!(bench.names("models"), Vec::<String>::new());
    bench.assert_clean();
}

/// Row 3.
#[tokio::test]
async fn a_path_whose_bytes_change_later_is_refused_with_both_digests() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let first = bench.prepare(text(&model)).await.unwrap().digest.unwrap();
    flip_bit(&model.join("weights.bin"));
    let (reason, permanent, message) = refused(bench.prepare(text(&model)).await);
    assert_eq!((reason, permanent), ("DigestMismatch", true));
    let second = Digest::of(&Manifest::of_folder(&model).unwrap().to_bytes());
    assert!(message.contains(&first.to_string()) && message.contains(&second.to_string()), "{message}");
    let asked = prepare(&bench.store(), text(&model), Some(&second)).await.unwrap();
    assert_eq!(asked.digest, Some(second), "what is named is what is wanted");
    assert_eq!(bench.names("models").len(), 2);
    bench.assert_clean();
}

#[tokio::test]
async fn damage_in_the_store_is_seen_by_the_next_process_and_mended() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let store = bench.store();
    let first = prepare(&store, text(&model), None).await.unwrap();
    flip_bit(&first.folder.join("weights.bin"));
    let digest = first.digest.clone().unwrap();
    let again = prepare(&bench.store(), text(&model), Some(&digest)).await.unwrap();
    assert_eq!(again.digest, first.digest);
    assert_eq!(bench.names("quarantine"), [digest.digits()]);
    bench.assert_clean();
    // A file that is missing or cut is seen in the same process too.
    for damage in [
        |path: &Path| fs::write(path, b"short").unwrap(),
        |path: &Path| fs::remove_file(path).unwrap(),
        |path: &Path| fs::write(path.with_file_name("manifest.json"), b"[]").unwrap(),
    ] {
        damage(&first.folder.join("config.json"));
        assert_eq!(prepare(&store, text(&model), None).await.unwrap().digest, first.digest);
        bench.assert_clean();
    }
    assert!(bench.store().prune(&[]).await.unwrap() > WEIGHTS as u64);
    assert_eq!(bench.names("quarantine"), Vec::<String>::new());
}

#[tokio::test]
async fn a_digest_that_is_here_needs_no_source_and_neither_does_a_path_that_is_gone() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let digest = bench.prepare(text(&model)).await.unwrap().digest.unwrap();
    fs::remove_dir_all(&model).unwrap();
    for source in [text(&model), "http://127.0.0.1:9/model.onnx", "hf://nobody/nothing"] {
        let prepared = prepare(&bench.store(), source, Some(&digest)).await.unwrap();
        assert_eq!(prepared.digest.as_ref(), Some(&digest));
    }
    assert_eq!(bench.prepare(text(&model)).await.unwrap().digest, Some(digest));
    let (reason, permanent, _) = refused(bench.prepare("/nowhere/model").await);
    assert_eq!((reason, permanent), ("SourceNotFound", false), "a volume may come later");
}

/// Row 6, as far as files are copied.
#[tokio::test]
async fn links_devices_and_names_that_lead_outside_are_refused() {
    let bench = Bench::new();
    let outside = bench.folder.path().join("secret");
    fs::write(&outside, b"secret").unwrap();
    for (index, make) in [
        |target: &Path, name: &Path| symlink(target, name).unwrap(),
        |target: &Path, name: &Path| fs::hard_link(target, name).unwrap(),
        |_: &Path, name: &Path| fs::create_dir(name).unwrap(),
        |_: &Path, name: &Path| drop(std::os::unix::net::UnixListener::bind(name).unwrap()),
    ]
    .into_iter()
    .enumerate()
    {
        let model = bench.model(&format!("m{index}"));
        fs::remove_file(model.join("weights.bin")).unwrap();
        make(&outside, &model.join("weights.bin"));
        let (reason, _, message) = refused(bench.prepare(text(&model)).await);
        assert!(matches!(reason, "ExternalDataUnsafe" | "SourceNotFound"), "{index}: {reason} {message}");
    }
    let long = "a".repeat(201);
    let names = [
        "../secret",
        "/etc/passwd",
        "a/b",
        "*/_ORT_MEM_ADDR_/*",
        "..",
        ".hidden",
        "",
        "manifest.json",
        &long,
    ];
    for location in names {
        let model = bench.model("named");
        fs::write(model.join("model.onnx"), graph(&[location])).unwrap();
        let (reason, permanent, message) = refused(bench.prepare(text(&model)).await);
        assert_eq!((reason, permanent), ("ExternalDataUnsafe", true), "{location}: {message}");
    }
    assert_eq!(bench.names("models"), Vec::<String>::new());
    bench.assert_clean();
}

/// Row 1 and row 7, for paths.
#[tokio::test]
async fn what_is_no_model_and_what_is_an_archive_is_refused_by_name() {
    let bench = Bench::new();
    let model = bench.model("chat");
    for (bytes, expected) in [
        (b"<!DOCTYPE html><html>404</html>".as_slice(), "InvalidOnnx"),
        (b"".as_slice(), "InvalidOnnx"),
        (b"PK\x03\x04archive".as_slice(), "ArchiveUnsafe"),
        (b"\x1f\x8b\x08archive".as_slice(), "ArchiveUnsafe"),
        ([[0; 257].as_slice(), b"ustar"].concat().as_slice(), "ArchiveUnsafe"),
        (&graph(&["weights.bin"])[..20], "InvalidOnnx"),
    ] {
        fs::write(model.join("model.onnx"), bytes).unwrap();
        let (reason, permanent, message) = refused(bench.prepare(text(&model)).await);
        assert_eq!((reason, permanent), (expected, true), "{message}");
    }
    for name in ["m.tar", "m.tar.gz", "m.tgz", "M.ZIP", "m.onnx.gz"] {
        fs::write(model.join(name), b"x").unwrap();
        let (reason, permanent, message) = refused(bench.prepare(text(&model.join(name))).await);
        assert_eq!((reason, permanent), ("ArchiveUnsafe", true), "{message}");
        assert!(message.contains("manifest.json"), "says what to do: {message}");
    }
    bench.assert_clean();
}

/// Row 8: a sparse file costs nothing until it is copied.
#[tokio::test]
async fn files_that_are_too_large_together_are_not_copied() {
    let bench = Bench::new();
    let model = bench.model("chat");
    fs::File::options().write(true).open(model.join("weights.bin")).unwrap().set_len(1 << 40).unwrap();
    let store = bench.store().with_most_model_bytes(1 << 30);
    let (reason, permanent, message) = refused(prepare(&store, text(&model), None).await);
    assert_eq!((reason, permanent), ("ArtifactTooLarge", true), "{message}");
    assert!(message.contains("INFERENCE_MAX_MODEL_BYTES"), "{message}");
    bench.assert_clean();
}

#[tokio::test]
async fn files_that_are_used_in_place_stay_where_they_are() {
    let bench = Bench::new();
    let model = bench.model("chat");
    let source = Source::Path(model.clone());
    let mut wanted = Wanted { source: &source, tokenizer: None, digest: None, in_place: true };
    let bare = bench.store().prepare(&wanted, &Progress::default()).await.unwrap();
    assert_eq!((bare.graph, bare.digest), (model.join("model.onnx"), None));
    assert!(!bench.cache().exists());
    let digest = Digest::of(&Manifest::of_folder(&model).unwrap().to_bytes());
    wanted.digest = Some(&digest);
    let checked = bench.store().prepare(&wanted, &Progress::default()).await.unwrap();
    assert_eq!((checked.folder, checked.digest), (model.clone(), Some(digest.clone())));
    flip_bit(&model.join("weights.bin"));
    let (reason, ..) = refused(bench.store().prepare(&wanted, &Progress::default()).await);
    assert_eq!(reason, "DigestMismatch");
}

#[tokio::test]
async fn the_digest_of_a_folder_that_was_listed_elsewhere_is_understood() {
    let bench = Bench::new();
    let model = bench.model("chat");
    fs::write(model.join("vocab.json"), b"listed, not read").unwrap();
    let digest = Digest::of(&Manifest::of_folder(&model).unwrap().to_bytes());
    let prepared = prepare(&bench.store(), text(&model), Some(&digest)).await.unwrap();
    assert_eq!(prepared.digest, Some(digest));
    assert!(prepared.folder.join("vocab.json").is_file());
}
