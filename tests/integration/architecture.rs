//! The direction of the modules, the owners of outside crates, and the length of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::project;

/// What each module may use of the others.
const MAY_USE: [(&str, &[&str]); 21] = [
    ("main", &["cli", "failpoint", "memory"]),
    ("lib", &[]),
    ("cli", &["app", "config", "http", "k8s", "metrics", "model", "shutdown", "telemetry"]),
    (
        "app",
        &[
            "access",
            "config",
            "engine",
            "http",
            "k8s",
            "memory",
            "metrics",
            "model",
            "models_file",
            "shutdown",
            "telemetry",
        ],
    ),
    ("access", &["followed", "metrics"]),
    ("followed", &[]),
    ("models_file", &["followed", "metrics", "model", "shutdown"]),
    ("config", &["model", "telemetry"]),
    (
        "http",
        &[
            "access",
            "engine",
            "failpoint",
            "followed",
            "generate",
            "memory",
            "metrics",
            "model",
            "models_file",
            "openmetrics",
            "shutdown",
            "telemetry",
        ],
    ),
    ("k8s", &["access", "failpoint", "metrics", "model", "shutdown"]),
    ("generate", &["access", "engine", "metrics", "model", "telemetry", "text"]),
    ("model", &["engine", "failpoint", "memory", "metrics", "telemetry", "text"]),
    ("engine", &["failpoint", "memory", "metrics"]),
    ("text", &[]),
    ("failpoint", &[]),
    // Drives the parsers and writers of all of them; nothing uses it.
    ("fuzzing", &["config", "engine", "generate", "http", "metrics", "model", "openmetrics", "text"]),
    ("memory", &[]),
    ("metrics", &["memory", "openmetrics"]),
    ("openmetrics", &[]),
    ("shutdown", &[]),
    ("telemetry", &["metrics"]),
];

/// Parts of a module that nobody outside it may name, except those listed.
const INTERNAL: [(&str, &[&str]); 2] =
    [("engine::ort", &["app", "fuzzing", "model"]), ("model::source", &["app", "cli", "config", "http"])];

/// Crates and the only places that may name them.
const OWNERS: [(&str, &[&str]); 24] = [
    ("kube", &["k8s"]),
    ("subtle", &["access/"]),
    ("hyper", &["http/server.rs"]),
    ("hyper_util", &["http/server.rs"]),
    ("tokio_rustls", &["http/server.rs"]),
    ("k8s_openapi", &["k8s"]),
    ("ort", &["engine/ort/"]),
    ("axum", &["http/", "app.rs"]),
    ("utoipa", &["http/"]),
    ("utoipa_axum", &["http/"]),
    ("tokenizers", &["text/"]),
    ("llguidance", &["text/constraint/"]),
    ("toktrie", &["text/constraint/"]),
    ("minijinja", &["text/template"]),
    ("fail", &["failpoint.rs"]),
    ("rustix", &["memory.rs", "failpoint.rs"]),
    ("reqwest", &["model/source/", "cli/check.rs", "telemetry/export.rs"]),
    ("clap", &["cli", "config", "fuzzing/", "telemetry/"]),
    ("prometheus", &["fuzzing/", "metrics", "openmetrics"]),
    ("anyhow", &["main.rs", "cli", "app"]),
    ("signal_hook", &["shutdown.rs"]),
    ("opentelemetry", &["telemetry/"]),
    ("opentelemetry_sdk", &["telemetry/"]),
    ("opentelemetry_otlp", &["telemetry/export.rs"]),
];

const LONGEST_FILE_LINES: usize = 500;

/// Every source file by its path below `src`, without comments.
fn sources() -> BTreeMap<String, String> {
    let root = project().join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                let text = fs::read_to_string(&path).unwrap();
                let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap()).collect();
                found.insert(name, code.join("\n"));
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn module_of(file: &str) -> &str {
    Path::new(file.split('/').next().unwrap()).file_stem().unwrap().to_str().unwrap()
}

fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs") || file.contains("/tests/") || file.ends_with("fake.rs")
}

/// Whether `code` names `path` as a whole word followed by `::` or nothing that continues a word.
fn names(code: &str, path: &str) -> bool {
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + path.len()..].chars().next();
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !word(before) && before != Some(':') && !word(after)
    })
}

#[test]
fn modules_use_each_other_in_one_direction() {
    let modules: Vec<&str> = MAY_USE.iter().map(|(module, _)| *module).collect();
    for (file, code) in sources() {
        let module = module_of(&file);
        if is_test(&file) {
            continue;
        }
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{file}: say in this test what the module `{module}` may use"));
        for other in &modules {
            let used = names(&code, &format!("crate::{other}"))
                || names(&code, &format!("inference_gateway::{other}"));
            assert!(*other == module || !used || allowed.contains(other), "{file} uses `{other}`");
        }
        for (part, users) in INTERNAL {
            let owner = part.split("::").next().unwrap();
            let used = names(&code, &format!("crate::{part}"));
            assert!(!used || module == owner || users.contains(&module), "{file} uses `{part}`");
        }
    }
}

#[test]
fn outside_crates_have_one_owner() {
    for (file, code) in sources() {
        for (krate, owners) in OWNERS {
            let used = names(&code, &format!("{krate}::")) || names(&code, &format!("use {krate}"));
            let used =
                used || code.contains(&format!("use {krate}::")) || code.contains(&format!(" {krate}::"));
            let owned = owners.iter().any(|owner| file.starts_with(owner)) || is_test(&file);
            assert!(!used || owned, "{file} names the crate `{krate}`, which belongs to {owners:?}");
        }
    }
}

/// A dialect that found its models by itself would let everybody use all of them.
#[test]
fn there_is_one_way_to_a_model_and_it_asks_who_comes() {
    let ways: Vec<String> = sources()
        .into_iter()
        .filter(|(_, code)| code.contains("registry.pin("))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(ways, ["http/pinning.rs"]);
}

#[test]
fn files_are_short_enough_to_be_one_idea() {
    for (file, code) in sources() {
        let lines = code.lines().count();
        assert!(lines <= LONGEST_FILE_LINES, "{file} has {lines} lines, more than {LONGEST_FILE_LINES}");
    }
}

#[test]
fn the_direction_test_sees_a_violation() {
    assert!(names("use crate::http::Api;", "crate::http"));
    assert!(names("let x = crate::http::f();", "crate::http"));
    assert!(!names("use crate::http_client::X;", "crate::http"));
}

#[test]
fn faults_are_in_no_build_that_does_not_ask_for_them() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(project())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let package = &metadata["packages"][0];
    assert_eq!(package["name"], "inference-gateway");
    assert!(package["features"]["failpoints"].is_array(), "the feature that the tests need");
    assert!(package["features"].get("default").is_none_or(|default| default == &serde_json::json!([])));
    let fail = package["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == "fail").unwrap();
    assert_eq!(fail["optional"], true);
    assert_eq!(fail["features"], serde_json::json!([]), "the points are on where the feature is, only there");
}
