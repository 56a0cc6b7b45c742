//! Templates by configuration: applications send data, and the settings of the model make the prompt of it.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Gateway, ModelsList, PATIENCE, entry, prepared, settings, spawn, tiny};
use crate::streaming::events;

const SUMMARISE: &str =
    "Summarise in {{ language | default('English') }}: {{ document.title }}\n{{ document.text }}\nSummary:";

/// Fields of a spec with these templates, as JSON, which is YAML.
fn fields(unnamed: Option<&str>, named: &[(&str, &str)]) -> String {
    let named: Vec<Value> =
        named.iter().map(|(name, template)| json!({"name": name, "template": template})).collect();
    let unnamed = unnamed.map(|source| format!("promptTemplate: {}, ", json!(source))).unwrap_or_default();
    format!("{unnamed}promptTemplates: {}", json!(named))
}

/// A gateway with the model `plain` without templates, and `chat`, which has some.
async fn both(fields: &str) -> (ModelsList, Gateway) {
    let list = ModelsList::new(&lists(fields));
    let gateway = list.gateway(&[]).await;
    gateway.wait_ready().await;
    (list, gateway)
}

fn lists(fields: &str) -> String {
    entry("chat", &tiny("llama"), fields) + &entry("plain", &tiny("llama"), "")
}

/// A greedy request to a model, with its prompt in tokens.
fn greedy(model: &str, more: &Value) -> Value {
    let mut request = json!({"model": model, "max_tokens": 6, "temperature": 0, "ignore_eos": true, "return_token_ids": true});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

async fn answer(gateway: &Gateway, request: &Value) -> Value {
    let (status, body) = gateway.infer(request).await;
    assert_eq!(status, StatusCode::OK, "{request}: {body}");
    body
}

/// What the model without templates makes of a prompt: its continuation and the prompt's tokens.
async fn continued(gateway: &Gateway, prompt: &str) -> (String, Value) {
    let request = greedy("plain", &json!({"text": prompt, "return_full_text": false}));
    let body = answer(gateway, &request).await;
    (body["generated_text"].as_str().unwrap().to_owned(), body["metadata"]["prompt_token_ids"].clone())
}

#[tokio::test]
async fn a_named_template_makes_the_prompt_of_the_variables() {
    let (_list, gateway) =
        both(&fields(None, &[("summarise", SUMMARISE), ("ask", "Q: {{ text }} ({{ tone }})\nA:")])).await;
    let document = json!({"title": "Äpfel", "text": "They {{ fall }}."});
    let prompt = "Summarise in English: Äpfel\nThey {{ fall }}.\nSummary:";
    let (expected, tokens) = continued(&gateway, prompt).await;
    let mut request = greedy("chat", &json!({"template": "summarise", "variables": {"document": document}}));
    let body = answer(&gateway, &request).await;
    assert_eq!(body["generated_text"], expected, "who sends data gets what was made of it");
    assert_eq!(body["metadata"]["prompt_token_ids"], tokens);
    request["return_full_text"] = json!(true);
    let body = answer(&gateway, &request).await;
    assert_eq!(body["generated_text"], format!("{prompt}{expected}"), "the prompt that the model has seen");
    request["stream"] = json!(true);
    let pieces: String = events(gateway.post(request.to_string()).send().await.unwrap())
        .await
        .iter()
        .filter_map(|event| event["text"].as_str())
        .collect();
    assert_eq!(pieces, format!("{prompt}{expected}"));
    // The text of a request is a variable of the template; a list of texts makes a prompt of each.
    let request =
        greedy("chat", &json!({"template": "ask", "text": ["why?", "how?"], "variables": {"tone": "dry"}}));
    let body = answer(&gateway, &request).await;
    for (result, text) in body["results"].as_array().unwrap().iter().zip(["why?", "how?"]) {
        let (expected, _) = continued(&gateway, &format!("Q: {text} (dry)\nA:")).await;
        assert_eq!(result["generated_text"], expected, "{text}");
    }
    let request = greedy("chat", &json!({"text": "Q", "return_full_text": false}));
    assert_eq!(answer(&gateway, &request).await["generated_text"], continued(&gateway, "Q").await.0);
}

#[tokio::test]
async fn a_model_with_one_template_puts_every_text_through_it() {
    let path = format!("--default-model-path={}", tiny("llama"));
    let flags = [
        path.as_str(),
        "--default-prompt-template=Q: {{ text }}\nA:",
        "--default-prompt-templates=[{name: other, template: 'x {{ y }}'}]",
        "--default-chat-template={% for message in messages %}<{{ message.content }}>{% endfor %}",
    ];
    let gateway = Gateway::start(settings(&flags)).await;
    gateway.wait_ready().await;
    let raw = Gateway::tiny().await;
    let (_, expected) = raw
        .infer(&json!({"text": "Q: why?\nA:", "max_tokens": 6, "temperature": 0, "ignore_eos": true}))
        .await;
    let request = json!({"text": "why?", "max_tokens": 6, "temperature": 0, "ignore_eos": true});
    let body = answer(&gateway, &request).await;
    let full = expected["generated_text"].as_str().unwrap();
    assert_eq!(body["generated_text"], full.strip_prefix("Q: why?\nA:").unwrap());
    let list = json!({"text": ["why?"], "max_tokens": 6, "temperature": 0, "ignore_eos": true, "return_full_text": true});
    assert_eq!(answer(&gateway, &list).await["results"][0]["generated_text"], full);
    let named = answer(&gateway, &json!({"template": "other", "variables": {"y": 1}, "max_tokens": 1})).await;
    assert_eq!(named["metadata"]["prompt_tokens"], "x 1".len(), "{named}");
    // Completions take prompts as they are, chats the template for chats.
    let post = async |path: &str, request: Value| -> Value {
        let url = format!("http://{}{path}", gateway.api);
        gateway.client.post(url).body(request.to_string()).send().await.unwrap().json().await.unwrap()
    };
    let body = post("/v1/completions", json!({"model": "tiny", "prompt": "why?", "max_tokens": 1})).await;
    assert_eq!(body["usage"]["prompt_tokens"], "why?".len(), "{body}");
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "why?"}], "max_tokens": 1});
    let body = post("/v1/chat/completions", chat).await;
    assert_eq!(body["usage"]["prompt_tokens"], "<why?>".len(), "{body}");
}

#[tokio::test]
async fn a_request_that_does_not_fit_its_template_is_told_what_would() {
    let templates = [
        ("summarise", SUMMARISE),
        ("ask", "Q: {{ text }}"),
        ("picky", "{{ raise_exception('no such tone') if tone != 'dry' }}x"),
    ];
    let (_list, gateway) = both(&fields(None, &templates)).await;
    let document = json!({"title": "a", "text": "b"});
    for (request, code, field, told) in [
        (
            json!({"template": "sumarise", "variables": {}}),
            "invalid_value",
            "template",
            "there is no template `sumarise`; this model has `ask`, `picky`, `summarise`",
        ),
        (
            json!({"template": "summarise"}),
            "invalid_value",
            "variables",
            "the template `summarise` needs what is not given: `document` is undefined (line 1)",
        ),
        (
            json!({"template": "summarise", "variables": {"document": {"title": "a"}}}),
            "invalid_value",
            "variables",
            "`document.text` is undefined (line 2)",
        ),
        (
            json!({"template": "summarise", "variables": {"document": document, "lang": "de"}}),
            "invalid_value",
            "variables",
            "the template `summarise` does not use `lang`; it takes `document`, `language`",
        ),
        (
            json!({"template": "summarise", "text": "a", "variables": {"document": document}}),
            "invalid_value",
            "text",
            "the template `summarise` does not use `text`: leave it out",
        ),
        (
            json!({"template": "ask", "text": "a", "variables": {"text": "b"}}),
            "invalid_value",
            "variables",
            "`text` is given twice",
        ),
        (json!({"template": "ask", "text": ""}), "invalid_value", "text", "text must not be empty"),
        (
            json!({"template": "picky", "variables": {"tone": "warm"}}),
            "invalid_value",
            "variables",
            "the template `picky` refuses the variables: no such tone",
        ),
        (json!({"text": "a", "variables": {}}), "invalid_value", "variables", "name it in `template`"),
        (json!({"template": "ask", "variables": ["a"]}), "invalid_value", "variables", "invalid type"),
        (json!({}), "missing_field", "text", "missing field `text`, or `template`"),
    ] {
        let (status, body) = gateway.infer(&greedy("chat", &request)).await;
        let error = &body["error"];
        assert_eq!(
            (status.as_u16(), error["code"].as_str(), error["field"].as_str()),
            (422, Some(code), Some(field)),
            "{body}"
        );
        assert!(error["message"].as_str().unwrap().contains(told), "{body}");
    }
    let (status, body) = gateway.infer(&greedy("plain", &json!({"template": "ask", "text": "a"}))).await;
    assert_eq!(status.as_u16(), 422);
    assert_eq!(body["error"]["message"], "there is no template `ask`; this model has none");
    let long = json!({"title": "a", "text": "b".repeat(400)});
    let request = greedy("chat", &json!({"template": "summarise", "variables": {"document": long}}));
    let (status, body) = gateway.infer(&request).await;
    assert_eq!((status.as_u16(), body["error"]["field"].as_str()), (400, Some("variables")), "{body}");
}

#[tokio::test]
async fn a_template_changes_while_the_model_serves_and_a_broken_one_changes_nothing() {
    let (list, gateway) = both(&fields(None, &[("ask", "Q: {{ text }}\nA:")])).await;
    let request = greedy("chat", &json!({"template": "ask", "text": "why?"}));
    let tokens =
        async |request: &Value| answer(&gateway, request).await["metadata"]["prompt_token_ids"].clone();
    assert_eq!(tokens(&request).await, continued(&gateway, "Q: why?\nA:").await.1);
    let loads = "inference_gateway_model_load_duration_seconds_count{model=\"chat\",phase=\"load\"}";
    let revision = async || {
        let response = gateway.post(request.to_string()).send().await.unwrap();
        response.headers()["x-model-revision"].to_str().unwrap().to_owned()
    };
    let (loaded, before) = (gateway.sample(loads).await, revision().await);

    list.write(&lists(&fields(None, &[("ask", "Frage: {{ text }}\nAntwort:")])));
    gateway.reload();
    let expected = continued(&gateway, "Frage: why?\nAntwort:").await.1;
    let began = std::time::Instant::now();
    while tokens(&request).await != expected {
        assert!(began.elapsed() < PATIENCE, "the template does not change");
    }
    assert_eq!(
        (gateway.sample(loads).await, revision().await),
        (loaded, before.clone()),
        "nothing is loaded"
    );

    for broken in ["{{ text", "{{ text | shorten }}"] {
        list.write(&lists(&fields(None, &[("ask", broken)])));
        gateway.reload();
        gateway.wait_sample("inference_gateway_config_reload_success", 0.0).await;
        assert_eq!(tokens(&request).await, expected, "what serves goes on");
        let view = gateway.client.get(format!("http://{}/admin/models", gateway.admin)).send().await.unwrap();
        let view: Value = view.json().await.unwrap();
        let told = view["models_file"]["error"].as_str().unwrap().to_owned();
        assert!(told.contains("chat: spec.promptTemplates: `ask` does not compile: "), "{told}");
        assert!(told.contains("(in ask:1)"), "{told}");
        list.write(&lists(&fields(None, &[("ask", "Frage: {{ text }}\nAntwort:")])));
        gateway.reload();
        gateway.wait_sample("inference_gateway_config_reload_success", 1.0).await;
    }
    assert_eq!((gateway.sample(loads).await, revision().await), (loaded, before));
}

#[tokio::test]
async fn a_gateway_whose_settings_have_a_broken_template_does_not_start() {
    let path = format!("--default-model-path={}", tiny("llama"));
    for (flag, told) in [
        (
            "--default-prompt-template={{ text",
            "INFERENCE_DEFAULT_PROMPT_TEMPLATE does not hold: does not compile",
        ),
        (
            "--default-prompt-template=Hi",
            "INFERENCE_DEFAULT_PROMPT_TEMPLATE does not hold: does not use the variable `text`",
        ),
        (
            "--default-prompt-templates=[{name: a, template: '{% for %}'}]",
            "INFERENCE_DEFAULT_PROMPT_TEMPLATES does not hold: `a` does not compile: ",
        ),
        (
            "--default-chat-template={% if %}",
            "INFERENCE_DEFAULT_CHAT_TEMPLATE does not hold: the chat template does not compile: ",
        ),
    ] {
        let gateway = Gateway::start(settings(&[path.as_str(), flag])).await;
        let error = gateway.ended().await.unwrap_err();
        assert!(format!("{error:#}").starts_with(told), "{error:#}");
    }
}

#[tokio::test]
async fn a_real_model_follows_a_template() {
    let model = prepared("models/smollm2-135m-instruct-w8a8").display().to_string();
    let template = "<|im_start|>user\nWhat is the capital of {{ country }}? One word.<|im_end|>\n<|im_start|>assistant\n";
    let named = json!([{"name": "capital", "template": template}]);
    let gateway = Gateway::serving(&model, &[&format!("--default-prompt-templates={named}")]).await;
    let request = json!({"template": "capital", "variables": {"country": "France"}, "max_tokens": 12, "temperature": 0});
    let body = answer(&gateway, &request).await;
    assert!(body["generated_text"].as_str().unwrap().contains("Paris"), "{body}");
    // As many requests as are wanted, all at once, each with its own data.
    let gateway = std::sync::Arc::new(gateway);
    let asked = ["France", "Italy", "Japan"].map(|country| {
        let gateway = std::sync::Arc::clone(&gateway);
        let request = json!({"template": "capital", "variables": {"country": country}, "max_tokens": 12, "temperature": 0});
        spawn(async move { answer(&gateway, &request).await["generated_text"].as_str().unwrap().to_owned() })
    });
    for (task, capital) in asked.into_iter().zip(["Paris", "Rome", "Tokyo"]) {
        let text = task.await.unwrap();
        assert!(text.contains(capital), "{capital}: {text}");
    }
}
