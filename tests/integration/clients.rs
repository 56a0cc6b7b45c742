//! The clients that people have, in Python, against a gateway of this process: `tests/clients/`.

use std::process::Stdio;

use crate::harness::{ModelsList, entry, prepared, project, tiny};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_in_python_are_answered() {
    let chat = prepared("models/smollm2-135m-instruct-w8a8").display().to_string();
    let small = "runtime: {contextLength: 512, maxBatchSize: 4}";
    let template = serde_json::Value::from(include_str!("../clients/tools.jinja"));
    let with_tools = format!("{} , chatTemplate: {template}}}", small.trim_end_matches('}'));
    let list = entry("chat", &chat, small)
        + &entry("tools", &chat, &with_tools)
        + &entry("tiny", &tiny("llama"), "");
    let list = ModelsList::new(&list);
    let gateway = list.gateway(&[]).await;
    // Some clients name no model, or this one.
    let alone = ModelsList::new(&entry("chat", &chat, &format!("aliases: [dummy], {small}")));
    let tgi = alone.gateway(&[]).await;
    gateway.wait_ready().await;
    tgi.wait_ready().await;
    let output = tokio::process::Command::new(prepared("venv/bin/python"))
        .args(["-m", "unittest", "discover", "--start-directory", "tests/clients"])
        .current_dir(project())
        .env("GATEWAY_URL", format!("http://{}", gateway.api))
        .env("TGI_URL", format!("http://{}", tgi.api))
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    // A folder without tests would succeed as well.
    assert!(told.contains("Ran ") && !told.contains("Ran 0 tests"), "{told}");
}
