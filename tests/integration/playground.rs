//! The playground as it is served; what it does in a browser is tried by `make browser-test`.

use serde_json::Value;

use crate::harness::{Gateway, tiny};

/// What the page names of its own, beside itself.
const FILES: [(&str, &str); 3] = [
    ("playground/page.css", "text/css; charset=utf-8"),
    ("playground/page.js", "text/javascript; charset=utf-8"),
    ("playground/icon.svg", "image/svg+xml"),
];

#[tokio::test]
async fn the_page_and_its_files_are_served_and_may_load_nothing_else() {
    let gateway = Gateway::tiny().await;
    let all = FILES.iter().chain(&[("", "text/html; charset=utf-8")]);
    for (path, content_type) in all {
        let response = gateway.get(&format!("/{path}")).await;
        assert_eq!(response.status(), 200, "/{path}");
        let headers = response.headers().clone();
        assert_eq!(headers["content-type"], *content_type);
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-cache");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let text = response.text().await.unwrap();
        // The name of SVG is an address that nobody asks.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("//cdn"), "/{path}");
    }
    let page = gateway.get("/").await.text().await.unwrap();
    for (path, _) in FILES {
        assert!(page.contains(&format!("\"{path}\"")), "the page names {path}, relative to itself");
    }
}

#[tokio::test]
async fn an_operator_can_turn_it_off_and_other_paths_stay_as_they_are() {
    let with = Gateway::tiny().await;
    let without = Gateway::serving(&tiny("llama"), &["--playground=false"]).await;
    let unknown: Value = with.get("/playground").await.json().await.unwrap();
    assert_eq!(unknown["error"]["code"], "not_found");
    let script = without.get("/playground/page.js").await;
    assert_eq!(script.status(), 404);
    let script: Value = script.json().await.unwrap();
    assert_eq!(script["error"]["message"], unknown["error"]["message"]);
    // `POST /` is TGI's, whose errors these are.
    let page = without.get("/").await;
    assert_eq!((page.status().as_u16(), page.headers()["allow"].to_str().unwrap()), (405, "POST"));
    let page: Value = page.json().await.unwrap();
    assert!(page["error"].as_str().unwrap().contains("GET is not allowed here"), "{page}");
}
