//! What the program generates is committed, and is what it generates.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::project;

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_inference-gateway")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn assert_committed(path: &str, generated: &str) {
    let committed = fs::read_to_string(project().join(path)).unwrap();
    assert!(committed == generated, "{path} is not what the program prints: run `make generate`");
}

#[test]
fn the_definitions_of_the_objects_are_those_of_the_types() {
    for kind in ["models", "modelreplicas"] {
        assert_committed(&format!("crd/{kind}.yaml"), &printed(&["crd", kind]));
    }
}

#[test]
fn the_reference_of_the_settings_is_that_of_the_flags() {
    assert_committed("docs/settings.md", &printed(&["config", "--markdown"]));
}

#[test]
fn the_reference_of_the_metrics_is_that_of_the_declarations() {
    assert_committed("docs/metrics.md", &printed(&["metrics"]));
}

#[test]
fn the_description_of_the_api_is_that_of_the_types() {
    assert_committed("docs/openapi.json", &printed(&["openapi"]));
}

/// The pages name no metric that does not exist.
#[test]
fn documents_name_metrics_that_exist() {
    let reference = printed(&["metrics"]);
    let known: Vec<&str> = reference.split('`').collect();
    for page in
        ["README.md", "docs/alerts.md", "docs/model-updates.md", "docs/kubernetes.md", "docs/reliability.md"]
    {
        let text = fs::read_to_string(project().join(page)).unwrap();
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("inference_gateway_")) {
            assert!(known.contains(&name), "{page} names {name}, which is no metric");
        }
    }
}

/// The pages name no setting that does not exist.
#[test]
fn documents_name_settings_that_exist() {
    let reference = printed(&["config", "--markdown"]);
    let known: Vec<&str> = reference.split('`').collect();
    for page in [
        "README.md",
        "docs/alerts.md",
        "docs/model-updates.md",
        "docs/models.md",
        "docs/openai.md",
        "docs/operations.md",
        "docs/kubernetes.md",
        "ARCHITECTURE.md",
    ] {
        let text = fs::read_to_string(project().join(page)).unwrap();
        let named = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        for name in named.filter(|name| name.starts_with("INFERENCE_") && !name.ends_with('_')) {
            assert!(known.contains(&name), "{page} names {name}, which is no setting");
        }
    }
}

/// Every source file below a folder.
fn sources(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| {
        if path.is_dir() {
            return sources(&path);
        }
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        is_source.then(|| fs::read_to_string(&path).unwrap()).into_iter().collect()
    });
    files.collect()
}

/// What the page promises is what a test commits.
#[test]
fn the_page_of_what_is_survived_names_tests_that_exist() {
    let page = fs::read_to_string(project().join("docs/reliability.md")).unwrap();
    let code = [sources(&project().join("src")), sources(&project().join("tests"))].concat();
    let is_test = |name: &str| code.iter().any(|text| text.contains(&format!("fn {name}()")));
    let named = page.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 3);
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 50, "{} names", named.len());
    for name in named {
        assert!(is_test(name), "docs/reliability.md names {name}, which is no test");
    }
}
