//! What somebody sends who means no good, or whose program is broken: in all dialects, each answered in its own words.

mod amounts;
mod logs;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Gateway, tiny};

/// A route that generates.
struct Route {
    path: &'static str,
    /// The name of the field that holds the prompt.
    prompt: &'static str,
    /// A request: `@` stands for the value of that field, `#` for options.
    body: &'static str,
    /// Statuses of what is no JSON, and of JSON that is no request.
    refused: [u16; 2],
    /// What the limit of tokens and the number of answers are called; none where there are no several answers.
    max_tokens: &'static str,
    choices: Option<&'static str>,
    has_bias: bool,
}

const ROUTES: [Route; 5] = [
    Route {
        path: "/api/v1/inference",
        prompt: "text",
        body: r#"{"text": @#}"#,
        refused: [400, 422],
        max_tokens: "max_tokens",
        choices: None,
        has_bias: true,
    },
    Route {
        path: "/v1/chat/completions",
        prompt: "messages",
        body: r#"{"messages": [{"role": "user", "content": @}]#}"#,
        refused: [400, 400],
        max_tokens: "max_tokens",
        choices: Some("n"),
        has_bias: true,
    },
    Route {
        path: "/v1/completions",
        prompt: "prompt",
        body: r#"{"prompt": @#}"#,
        refused: [400, 400],
        max_tokens: "max_tokens",
        choices: Some("n"),
        has_bias: true,
    },
    Route {
        path: "/v2/models/tiny/generate",
        prompt: "text_input",
        body: r#"{"text_input": @, "parameters": {"details": null#}}"#,
        refused: [422, 422],
        max_tokens: "max_tokens",
        choices: None,
        has_bias: true,
    },
    Route {
        path: "/generate",
        prompt: "inputs",
        body: r#"{"inputs": @, "parameters": {"details": null#}}"#,
        refused: [422, 422],
        max_tokens: "max_new_tokens",
        choices: Some("best_of"),
        has_bias: false,
    },
];

impl Route {
    /// A request with this prompt, as JSON, and these options.
    fn request(&self, prompt: &str, options: &[(&str, &str)]) -> String {
        let options: Vec<String> =
            options.iter().map(|(name, value)| format!(r#", "{name}": {value}"#)).collect();
        let options = options.concat();
        self.body.replace('#', &options).replacen('@', prompt, 1)
    }

    async fn ask(&self, gateway: &Gateway, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let url = format!("http://{}{}", gateway.api, self.path);
        let response = gateway.client.post(url).body(body).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}: {text}", self.path)))
    }

    /// What says which field is at fault, and the message, of an error that is whole.
    fn told<'a>(&self, answer: &'a Value) -> (Option<&'a str>, &'a str) {
        let has = |error: &Value, fields: &[&str]| {
            let mut names: Vec<&str> = error.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, fields, "{}: {answer}", self.path);
        };
        let error = &answer["error"];
        match self.path {
            "/api/v1/inference" => {
                has(answer, &["error"]);
                has(error, &["code", "field", "message", "request_id"]);
                (error["field"].as_str(), error["message"].as_str().unwrap())
            }
            "/v1/chat/completions" | "/v1/completions" => {
                has(answer, &["error"]);
                has(error, &["code", "message", "param", "type"]);
                assert_eq!(error["type"], "invalid_request_error");
                (error["param"].as_str(), error["message"].as_str().unwrap())
            }
            "/generate" => {
                has(answer, &["error", "error_type"]);
                (None, error.as_str().unwrap())
            }
            _ => {
                has(answer, &["error"]);
                (None, error.as_str().unwrap())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_json_is_refused_in_each_dialects_own_shape() {
    let gateway = Gateway::tiny().await;
    for route in &ROUTES {
        let with = |prompt: &str| route.request(prompt, &[]).into_bytes();
        let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
        let field = route.prompt;
        let digits = "9".repeat(100_000);
        let no_json = [
            ("nothing", Vec::new()),
            ("no JSON", b"not json".to_vec()),
            ("a byte order mark", [b"\xef\xbb\xbf", &*with(r#""a""#)].concat()),
            ("a list, 10 000 deep", deep("[", "]").into_bytes()),
            (
                "an object, 10 000 deep",
                format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000)).into_bytes(),
            ),
            ("a prompt, 10 000 deep", with(&deep("[", "]"))),
            ("brackets that do not end", b"[".repeat(10_000)),
            (
                "bytes that are no UTF-8",
                with(r#""@""#).iter().map(|b| if *b == b'@' { 0xff } else { *b }).collect(),
            ),
            ("half a pair of surrogates", with(r#""\ud800""#)),
            ("the wrong half of one", with(r#""\udc00\ud800""#)),
            ("a line break in a text", with("\"a\nb\"")),
            ("a NUL in a text", with("\"a\0b\"")),
            ("no number", route.request(r#""a""#, &[("temperature", "NaN")]).into_bytes()),
            ("a number beyond all", route.request(r#""a""#, &[("temperature", "1e400")]).into_bytes()),
            ("a number of 100 000 digits", route.request(r#""a""#, &[("temperature", &digits)]).into_bytes()),
            ("a body that is cut", with(r#""a""#)[..10].to_vec()),
            ("more than one", [with(r#""a""#), b"{}".to_vec()].concat()),
        ];
        let no_request = [
            ("a list", b"[]".to_vec()),
            ("a text", b"\"a\"".to_vec()),
            ("null", b"null".to_vec()),
            ("no fields", b"{}".to_vec()),
            ("a prompt twice", format!(r#"{{"{field}": "a", "{field}": "b"}}"#).into_bytes()),
            ("a number for a prompt", with("5")),
            ("null for a prompt", with("null")),
            ("an unknown field", route.request(r#""a""#, &[("temprature", "1")]).into_bytes()),
            ("a field twice", route.request(r#""a""#, &[("top_p", "1"), ("top_p", "1")]).into_bytes()),
        ];
        let [malformed, misshapen] = route.refused;
        let cases = no_json.into_iter().map(|case| (case, malformed));
        for ((what, body), expected) in cases.chain(no_request.into_iter().map(|case| (case, misshapen))) {
            let (status, answer) = route.ask(&gateway, body).await;
            let (field, message) = route.told(&answer);
            // Where the form is wrong already, nobody looks at the end.
            let is_wrong_before = what.ends_with("deep") || what.starts_with("brackets");
            let is_expected = status == expected || (is_wrong_before && status == misshapen);
            assert!(is_expected, "{} {what}: {status} {answer}", route.path);
            let is_placed = field.is_some() || message.contains(" at line ") || message.contains('`');
            assert!(is_placed && message.len() < 2000, "{} {what}: {answer}", route.path);
        }
        // Whatever that was, the next one is answered.
        let (status, answer) = route.ask(&gateway, route.request(r#""a""#, &[(route.max_tokens, "1")])).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
}

#[tokio::test]
async fn a_nul_that_is_written_as_json_has_it_is_a_character_like_any_other() {
    let gateway = Gateway::tiny().await;
    for route in &ROUTES {
        let request = route.request(r#""a\u0000b""#, &[(route.max_tokens, "1")]);
        let (status, answer) = route.ask(&gateway, request).await;
        assert_eq!(status, StatusCode::OK, "{}: {answer}", route.path);
    }
    let (_, answer) = gateway.infer(&json!({"text": "a\0b", "max_tokens": 1})).await;
    assert!(answer["generated_text"].as_str().unwrap().starts_with("a\0b"), "{answer}");
    assert_eq!(answer["metadata"]["prompt_tokens"], 3);
}

/// Options that no dialect takes.
const NEVER: &[(&str, &str)] = &[
    ("temperature", "1e39"),
    ("temperature", "1e-60"),
    ("temperature", "-1"),
    ("temperature", "\"1\""),
    ("temperature", "2.0000001"),
    ("top_p", "2"),
    ("top_p", "-1e-30"),
    ("top_p", "1e-60"),
    ("top_k", "-2"),
    ("top_k", "4294967296"),
    ("top_k", "1.5"),
    ("repetition_penalty", "0"),
    ("repetition_penalty", "1e39"),
    ("frequency_penalty", "-2.1"),
    ("seed", "18446744073709551616"),
    ("seed", "0.5"),
    ("seed", "\"1\""),
    ("stop", "[\"\"]"),
    ("stop", "[1]"),
];

/// Numbers of tokens that no dialect takes; the last are more than any context has.
const NO_LIMITS: &[&str] = &[
    "-1",
    "0",
    "1.5",
    "2147483648",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_lists_beyond_their_bounds_are_named_in_each_dialect() {
    let gateway = Gateway::serving(&tiny("llama"), &["--max-body-bytes=4000000"]).await;
    let many: Vec<String> = (0..100_000).map(|number| format!("s{number}")).collect();
    let many = json!(many).to_string();
    let long = json!(["s".repeat(1025)]).to_string();
    let biases = |count: u32| {
        let entries: Vec<String> = (0..count).map(|token| format!("\"{token}\": 1")).collect();
        format!("{{{}}}", entries.join(", "))
    };
    let (more, most) = (biases(1025), "{\"5\": 100.5}".to_owned());
    for route in &ROUTES {
        let mut cases: Vec<(&str, &str)> = NEVER.to_vec();
        cases.extend(NO_LIMITS.iter().map(|value| (route.max_tokens, *value)));
        cases.extend([("stop", many.as_str()), ("stop", long.as_str())]);
        if let Some(choices) = route.choices {
            cases.extend(["0", "-1", "65", "1000000", "18446744073709551615"].map(|value| (choices, value)));
        }
        if route.has_bias {
            let outside = [
                "{\"1000000\": 1}",
                "{\"-1\": 1}",
                "{\"4294967296\": 1}",
                "{\"5\": 1, \"5\": 2}",
                "{\"5\": 1e39}",
            ];
            cases.extend(outside.map(|value| ("logit_bias", value)));
            cases.extend([("logit_bias", more.as_str()), ("logit_bias", most.as_str())]);
        }
        for (field, value) in cases {
            let (status, answer) = route.ask(&gateway, route.request(r#""a""#, &[(field, value)])).await;
            let shown: String = value.chars().take(40).collect();
            assert!([400, 422].contains(&status.as_u16()), "{} {field} {shown}: {answer}", route.path);
            let (at, message) = route.told(&answer);
            // A number of tokens that is a number, and too large for the context, is told of the prompt, with both.
            let is_context = field == route.max_tokens && message.contains("exceed the context");
            let is_named = at.is_some_and(|at| at.ends_with(field)) || message.contains(field);
            assert!(is_named || is_context, "{} {field} {shown}: {answer}", route.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_lists_at_their_bounds_are_taken_in_each_dialect() {
    let gateway = Gateway::tiny().await;
    let stops: Vec<String> = (0..16).map(|number| format!("{number:01024}")).collect();
    let stops = json!(stops).to_string();
    for route in &ROUTES {
        let mut cases = vec![
            ("temperature", "2"),
            ("temperature", "1e-30"),
            ("top_p", "1"),
            ("top_p", "1e-30"),
            ("repetition_penalty", "0.01"),
            ("repetition_penalty", "100"),
            ("frequency_penalty", "-2"),
            ("seed", "0"),
            ("seed", "9223372036854775807"),
            ("seed", "18446744073709551615"),
            ("stop", stops.as_str()),
        ];
        if route.has_bias {
            cases.extend([("logit_bias", "{\"5\": 100, \"6\": -100}"), ("logit_bias", "{}")]);
        }
        if route.path.starts_with("/v1/") {
            cases.push(("seed", "-9223372036854775808"));
        }
        for (field, value) in cases {
            let options = [(field, value), (route.max_tokens, "1")];
            let (status, answer) = route.ask(&gateway, route.request(r#""a""#, &options)).await;
            let shown: String = value.chars().take(40).collect();
            assert_eq!(status, StatusCode::OK, "{} {field} {shown}: {answer}", route.path);
        }
    }
}
