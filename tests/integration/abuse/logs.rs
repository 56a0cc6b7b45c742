//! What clients send and what of it reaches the log.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::cli::serve;
use crate::harness::{client, tiny};

/// What must be in no line: a word in the middle of what is sent.
const SECRET: &str = "very-private";

/// Head and body of the answer to a request that is sent as it stands.
fn answer_to(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Every text in a log line.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| [vec![name.as_str()], texts(value)].concat()).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

#[tokio::test]
async fn hostile_ids_names_and_prompts_leave_the_log_whole_and_are_not_in_it() {
    let served = serve(&tiny("llama"), &[]);
    let hostile = [
        format!("{SECRET}\u{1b}[31mred\u{1b}[0m\r\n{{\"message\":\"forged\"}}"),
        format!("{SECRET} \u{202e}é😀\u{2028}\0\u{9b}31m"),
        SECRET.repeat(1000),
    ];
    for text in &hostile {
        let http = client();
        for (path, body) in [
            ("/api/v1/inference", json!({"text": text, "max_tokens": 2})),
            ("/api/v1/inference", json!({"text": "a", "model": text})),
            ("/api/v1/inference", json!({"text": "a", text: 1})),
            ("/api/v1/inference", json!({"text": "a", "template": text})),
            ("/v1/chat/completions", json!({"messages": [{"role": text, "content": text}], "user": text})),
            (
                "/v1/chat/completions",
                json!({"messages": [{"role": "user", "content": text}], "max_tokens": 1}),
            ),
            (
                "/v1/completions",
                json!({"prompt": text, "stop": [text], "structured_outputs": {"regex": text}}),
            ),
            ("/v2/models/tiny/generate", json!({"text_input": text, "id": text, "max_tokens": 1})),
            ("/generate", json!({"inputs": text, "parameters": {"max_new_tokens": 1}})),
        ] {
            let response = http
                .post(format!("http://{}{path}", served.api))
                .body(body.to_string())
                .send()
                .await
                .unwrap();
            assert!(!response.status().is_server_error(), "{path}");
            response.bytes().await.unwrap();
        }
    }
    // As bytes, because clients refuse to send such heads.
    let ids: [&[u8]; 6] =
        [b"\x1b[31mred", b"a\rb", "é😀".as_bytes(), &[b'x'; 10_000], b"a b\"}", b"a\r\nx-forged: 1"];
    for id in ids {
        let head = b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: ";
        let answer = answer_to(&served.api, &[&head[..], id, b"\r\n\r\n"].concat());
        let status: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
        assert!([200, 400, 431].contains(&status), "{answer}");
        assert!(!answer.contains("x-forged") && !answer.contains('\u{1b}'), "{answer}");
        assert!(!answer.contains(&"x".repeat(200)), "{answer}");
    }
    // Names in paths, as they are escaped there.
    for path in
        ["/v2/models/%1b%5b31m%0d%0aa/ready", "/v1/models/%1b%5b31m%00", "/%0a%7b%7d", "/v2/models/%ff/ready"]
    {
        let response = client().get(format!("http://{}{path}", served.api)).send().await.unwrap();
        assert!(response.status().is_client_error(), "{path}: {}", response.status());
    }
    served.signal("TERM");
    // Each line was read as one JSON object.
    let (code, lines) = served.end();
    assert_eq!(code, Some(0));
    let requests = lines.iter().filter(|line| line["message"] == "response").count();
    assert!(requests >= 3 * 9 + 3 + 4, "{requests} requests are logged");
    for line in &lines {
        assert!(line.is_object() && line["message"] != "forged", "{line}");
        for text in texts(line) {
            assert!(!text.contains(SECRET), "{line}");
            assert!(!text.chars().any(char::is_control), "{line}");
            assert!(text.len() < 1000, "{line}");
        }
    }
}
