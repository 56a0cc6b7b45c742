//! The description of the API: that it is served, is all of what is served, and says what is true.

mod bounds;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::harness::{Gateway, prepared, project, tiny};

/// The document that a gateway serves.
async fn document(gateway: &Gateway) -> Value {
    let response = gateway.get("/openapi.json").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    response.json().await.unwrap()
}

/// A tiny model with places for all choices that a request may want. Without the playground, whose path `POST /` of TGI shares: a
/// page for people is not described.
async fn roomy() -> Gateway {
    Gateway::serving(&tiny("llama"), &["--queue-limit=128", "--playground=false"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_made_of_the_document_are_answered_as_it_says() {
    let gateway = roomy().await;
    let output = tokio::process::Command::new(prepared("venv/bin/python"))
        .args(["-m", "unittest", "discover", "--start-directory", "tests/openapi"])
        .current_dir(project())
        .env("GATEWAY_URL", format!("http://{}", gateway.api))
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        // The report, which is written where somebody has asked for so many requests.
        .stdout(Stdio::inherit())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    // A folder without tests would succeed as well.
    assert!(told.contains("Ran ") && !told.contains("Ran 0 tests"), "{told}");
}

#[tokio::test]
async fn what_is_served_is_what_is_printed() {
    let gateway = Gateway::tiny().await;
    let served = gateway.get("/openapi.json").await.text().await.unwrap();
    let printed = Command::new(env!("CARGO_BIN_EXE_inference-gateway")).arg("openapi").output().unwrap();
    assert!(printed.status.success());
    assert_eq!(served, String::from_utf8(printed.stdout).unwrap());
}

#[tokio::test]
async fn metrics_that_are_not_served_are_not_described() {
    let gateway = Gateway::serving(&tiny("llama"), &["--metrics-on-api=false"]).await;
    assert_eq!(gateway.get("/metrics").await.status(), StatusCode::NOT_FOUND);
    let served = document(&gateway).await;
    assert!(served["paths"].get("/metrics").is_none() && served["paths"].get("/healthz").is_some());
}

#[tokio::test]
async fn every_path_of_the_document_takes_its_methods_and_no_others() {
    let gateway = Gateway::tiny().await;
    let served = document(&gateway).await;
    let model: Value = gateway.get("/v2/models/tiny").await.json().await.unwrap();
    let version = model["versions"][0].as_str().unwrap();
    for (path, item) in served["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "tiny").replace("{name}", "tiny").replace("{version}", version);
        let url = format!("http://{}{path}", gateway.api);
        for method in ["get", "put", "post", "delete", "patch", "options"] {
            // The playground, which is for people.
            if (method, path.as_str()) == ("get", "/") {
                continue;
            }
            let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let response = gateway.client.request(verb, &url).send().await.unwrap();
            let status = response.status();
            let is_known = status != StatusCode::METHOD_NOT_ALLOWED;
            if !is_known {
                let allowed = response.headers()["allow"].to_str().unwrap().to_lowercase();
                let mut allowed: BTreeSet<&str> = allowed.split(',').collect();
                // `GET` brings it along.
                allowed.remove("head");
                // The playground.
                if path == "/" {
                    allowed.remove("get");
                }
                let described = item.as_object().unwrap().keys().map(String::as_str).collect();
                assert_eq!(allowed, described, "{method} {path}");
            }
            assert_eq!(is_known, item.get(method).is_some(), "{method} {path}: {status}");
            assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
}

/// Routes of the API listener describe themselves, except files that only pages of ours ask for, and the one route for all of a
/// model, whose descriptions are at what it comes to (`oip/operations.rs`).
#[test]
fn no_route_of_the_api_is_made_without_a_description() {
    const UNDESCRIBED: [&str; 3] = ["/docs/page.css", "/docs/page.js", "/v2/models/{*path}"];
    let mut found = BTreeSet::new();
    let mut folders = vec![project().join("src/http")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
            // Those serve on listeners of their own.
            if ["admin.rs", "admin", "controller.rs"].contains(&name.as_str()) {
                continue;
            }
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&entry).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap();
                for route in text.split(".route(").skip(1) {
                    match route.strip_prefix('"') {
                        Some(path) => _ = found.insert(path.split('"').next().unwrap().to_owned()),
                        // The page and its files, of which one has a path that TGI's `POST /` has as well.
                        None => assert_eq!(name, "playground.rs", "a path that this test does not see"),
                    }
                }
                for other in [".route_service(", ".nest(", ".nest_service("] {
                    assert!(!text.contains(other), "{name} has a route that this test does not see");
                }
            }
        }
    }
    assert_eq!(
        found,
        BTreeSet::from(UNDESCRIBED.map(str::to_owned)),
        "make it with `routes!`, see CONTRIBUTING.md"
    );
}

/// Codes of errors by status, as in a table of a page: `| 400, 413 | … | `one`, `other` |`.
fn codes_of_table(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(project().join(page)).unwrap();
    let mut codes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| 4") || line.starts_with("| 5")) {
        let cells: Vec<&str> = line.split('|').collect();
        for status in cells[1].split(", ") {
            let words = cells[cells.len() - 2].split('`').skip(1).step_by(2);
            let words = words.filter(|word| *word != "Retry-After").map(str::to_owned);
            codes.entry(status.trim().to_owned()).or_default().extend(words);
        }
    }
    codes
}

#[tokio::test]
async fn the_document_names_the_codes_of_errors_that_the_pages_name() {
    let served = document(&Gateway::tiny().await).await;
    for (page, path) in [("README.md", "/api/v1/inference"), ("docs/openai.md", "/v1/chat/completions")] {
        let responses = served["paths"][path]["post"]["responses"].as_object().unwrap();
        let of_table = codes_of_table(page);
        let all_of_table: BTreeSet<String> = of_table.values().flatten().cloned().collect();
        let mut described = BTreeSet::new();
        for (status, response) in responses.iter().filter(|(status, _)| *status != "200") {
            let words = response["description"].as_str().unwrap().split('`').skip(1).step_by(2);
            let codes = words.filter(|word| word.contains('_') || all_of_table.contains(*word));
            for code in codes.filter(|code| *code != "max_tokens") {
                assert!(of_table[status].contains(code), "{page} has no {code} for {status}");
                described.insert(code.to_owned());
            }
        }
        // Those are not of an operation.
        described.extend(["not_found", "method_not_allowed"].map(str::to_owned));
        assert_eq!(described, all_of_table, "{page}");
    }
}
