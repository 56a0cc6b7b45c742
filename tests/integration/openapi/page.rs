//! `/docs`, as a browser under a strict policy would get it.

use crate::harness::Gateway;

#[tokio::test]
async fn the_page_needs_nothing_but_the_gateway() {
    let gateway = Gateway::tiny().await;
    let response = gateway.get("/docs").await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for directive in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"] {
        assert!(policy.split("; ").any(|one| one == directive), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    let page = response.text().await.unwrap();
    // Neither needs the policy to be loosened.
    for inline in ["<style", " style=", " onclick=", "javascript:", "<script>"] {
        assert!(!page.contains(inline), "{inline}");
    }
    let named = page.split(['"', '\'']).filter(|part| part.starts_with("docs/"));
    let assets: Vec<&str> = named.collect();
    assert_eq!(assets, ["docs/page.css", "docs/page.js"]);
    let mut all = page.clone();
    for (asset, kind) in assets.iter().zip(["text/css", "text/javascript"]) {
        let response = gateway.get(&format!("/{asset}")).await;
        assert!(response.status().is_success(), "{asset}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with(kind), "{asset}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        all += &response.text().await.unwrap();
    }
    for elsewhere in ["http://", "https://", "src=\"//", "@import", "url(", "eval(", "innerHTML", ".style"] {
        assert!(!all.contains(elsewhere), "{elsewhere}");
    }
}

/// What the script looks for is there: a browser would show an empty page otherwise.
#[tokio::test]
async fn the_script_and_the_page_name_the_same_elements() {
    let gateway = Gateway::tiny().await;
    let page = gateway.get("/docs").await.text().await.unwrap();
    let script = gateway.get("/docs/page.js").await.text().await.unwrap();
    let ids: Vec<&str> =
        script.split("getElementById(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(ids.len() >= 5, "{ids:?}");
    for id in ids {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    let selectors = script.split("querySelector(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    for class in selectors.flat_map(|selector| selector.split(' ')).filter_map(|part| part.strip_prefix('.'))
    {
        let is_there = page
            .split("class=\"")
            .skip(1)
            .any(|rest| rest.split('"').next().unwrap().split(' ').any(|one| one == class));
        assert!(is_there, "{class}");
    }
}
