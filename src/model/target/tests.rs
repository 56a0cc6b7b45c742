//! Documents that hold and documents that do not.

use super::*;

pub(in crate::model) fn target() -> Target {
    Target::from_document(&document("name: chat\nspec: {source: {path: chat}}"), &Defaults::small()).unwrap()
}

fn document(yaml: &str) -> ModelDocument {
    serde_yaml::from_str(yaml).unwrap()
}

fn spec(yaml: &str) -> Result<Target, SpecError> {
    let indented = yaml.replace('\n', "\n  ");
    Target::from_document(&document(&format!("name: chat\nspec:\n  {indented}")), &Defaults::small())
}

#[test]
fn the_smallest_document_takes_the_rest_from_the_settings() {
    let target = target();
    assert_eq!(target.source, Source::Path("/models/chat".into()));
    assert_eq!((target.served_name().as_str(), target.revision.len()), ("chat", 10));
    assert_eq!((target.live, target.load.rows), (Defaults::small().live, 4));
    assert!(!target.in_place && !target.paused);
}

#[test]
fn a_full_document_is_understood() {
    let target = spec(
        "servedName: smollm2
aliases: [gpt-3.5-turbo]
source:
  hf: {repo: owner/name, revision: refs/pr/1, subfolder: onnx}
  digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
runtime: {contextLength: 2048, maxBatchSize: 8, memory: 900Mi, cacheMemory: 1Gi, prefixMemory: 0, chatTemplate: 'x'}
promptTemplate: 'Q: {{ text }}'
promptTemplates: [{name: summarise, template: '{{ document }}'}]
limits: {maxConcurrent: 3, maxQueue: 64, maxOutputTokens: 512, requestTimeoutSeconds: 120, unloadAfterIdleSeconds: 600}
verify:
  isolation: InProcess
  timeoutSeconds: 30
  probes: [{prompt: 'The capital of France is', maxTokens: 8, expectContains: Paris}]
rollout: {swapPolicy: UnloadBeforeLoad, drainSeconds: 5, afterDrain: Wait, watch: {windowSeconds: 10, maxTokenMilliseconds: 50}}
paused: true",
    )
    .unwrap();
    assert_eq!(target.names.iter().map(ModelName::as_str).collect::<Vec<_>>(), ["smollm2", "gpt-3.5-turbo"]);
    assert_eq!(target.source.to_string(), "hf://owner/name@refs%2Fpr%2F1/onnx");
    assert_eq!((target.load.rows, target.live.concurrent, target.live.queue), (8, 3, 64));
    assert_eq!(target.memory_bytes, Some(900 << 20));
    assert_eq!(target.load.memory.prefix_bytes, Some(0));
    assert_eq!(target.live.unload_after_idle, Some(Duration::from_mins(10)));
    assert!(target.paused && target.digest.is_some());
    assert_eq!(target.templates.prompts.names().collect::<Vec<_>>(), ["summarise"]);
    assert!(target.templates.prompts.unnamed().is_some() && target.templates.chat.is_some());
}

#[test]
fn a_document_that_does_not_hold_names_field_and_remedy() {
    let digest = "digest: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    for (yaml, told) in [
        ("source: {}", "spec.source: has 0 of path, url, hf and oci; give exactly one"),
        ("source: {path: a, url: 'https://x/y'}", "spec.source.digest: is required with url"),
        (&format!("source: {{path: a, url: 'https://x/y', {digest}}}"), "has 2 of path"),
        ("source: {path: ../a}", "not a relative path"),
        ("source: {path: /a}", "not a relative path"),
        ("source: {path: a/./b}", "not a relative path"),
        ("source: {path: ''}", "not a relative path"),
        (&format!("source: {{url: 'file:///etc/passwd', {digest}}}"), "scheme"),
        (&format!("source: {{url: 'https://u:p@x/y', {digest}}}"), "user name"),
        ("source: {hf: {repo: ../x}}", "spec.source: "),
        ("source: {path: a, digest: md5:1}", "spec.source.digest: \"md5:1\" is not a digest"),
        ("source: {hf: {repo: a/b}, inPlace: true}", "inPlace is for path sources only"),
        ("source: {path: a}\nservedName: 'a b'", "spec.servedName: a model name has"),
        ("source: {path: a}\naliases: [x, x]", "spec.aliases: `x` is there twice"),
        ("source: {path: a}\naliases: [a, b, c, d, e, f, g, h, i]", "has 9 names, at most 8"),
        ("source: {path: a}\nruntime: {contextLength: 0}", "spec.runtime.contextLength: is 0"),
        (
            "source: {path: a}\nlimits: {maxConcurrent: 5}",
            "and there are 4 rows: raise spec.runtime.maxBatchSize",
        ),
        ("source: {path: a}\nlimits: {requestTimeoutSeconds: 0}", "spec.limits.requestTimeoutSeconds: is 0"),
        ("source: {path: a}\nverify: {timeoutSeconds: 0}", "spec.verify: verify.timeoutSeconds is 0"),
        ("source: {path: a}\nverify: {probes: [{prompt: ''}]}", "spec.verify: "),
        (
            "source: {path: a}\nverify: {probes: [{prompt: x, expectContains: y, expectTokens: [1]}]}",
            "spec.verify: ",
        ),
        ("source: {path: a}\nrollout: {watch: {maxErrorPercent: 101}}", "from 0 to 100"),
        (
            "source: {path: a}\nrollout: {maxUnavailable: 1}",
            "spec.rollout.maxUnavailable: is for Model objects",
        ),
        ("source: {path: a}\ngatewayRef: {name: x}", "spec.gatewayRef: is for Model objects"),
        (
            "source: {path: a}\nruntime: {chatTemplate: '{% for %}'}",
            "spec.runtime.chatTemplate: the chat template does not compile: ",
        ),
        ("source: {path: a}\npromptTemplate: Hi", "spec.promptTemplate: does not use the variable `text`"),
        (
            "source: {path: a}\npromptTemplates: [{name: a, template: x}, {name: b, template: \"x\\n{{ y\"}]",
            "spec.promptTemplates: `b` does not compile: syntax error: unexpected end of input, expected end of variable block (in b:2)",
        ),
    ] {
        let error = spec(yaml).unwrap_err().to_string();
        assert!(error.starts_with("chat: ") && error.contains(told), "{yaml}: {error}");
    }
}

#[test]
fn fields_that_do_not_exist_are_refused() {
    for yaml in [
        "name: a\nspec: {source: {path: a}, replicas: 3}",
        "name: a\nspec: {source: {path: a, md5: x}}",
        "name: a\nspec: {source: {path: a}, limits: {maxConcurent: 3}}",
        "name: a\nspec: {source: {path: a}}\nstatus: {}",
        "name: a",
    ] {
        assert!(serde_yaml::from_str::<ModelDocument>(yaml).is_err(), "{yaml}");
    }
}

#[test]
fn only_what_makes_another_model_makes_another_revision() {
    let revision = |yaml: &str| spec(yaml).unwrap().revision;
    let first = revision("source: {path: a}");
    assert_eq!(first, revision("source: {path: a, inPlace: false}"), "a default is no change");
    assert_eq!(first, revision("source: {path: a}\nlimits: {maxConcurrent: 2}\naliases: [x]\npaused: true"));
    assert_eq!(
        first,
        revision("source: {path: a}\nverify: {probes: [{prompt: x}]}\nrollout: {drainSeconds: 1}")
    );
    let templates = "promptTemplate: '{{ text }}'\npromptTemplates: [{name: a, template: x}]";
    assert_eq!(first, revision(&format!("source: {{path: a}}\n{templates}")), "they change while it serves");
    for other in [
        "source: {path: b}",
        "source: {path: a}\nruntime: {chatTemplate: x}",
        "source: {path: a}\nruntime: {contextLength: 64}",
        "source: {path: a}\nservedName: x",
        "source: {path: a}\ntokenizer: {path: b}",
    ] {
        assert_ne!(first, revision(other), "{other}");
    }
}

#[test]
fn no_name_is_there_twice_in_a_list() {
    let list =
        |yaml: &str| desired(&serde_yaml::from_str::<Vec<ModelDocument>>(yaml).unwrap(), &Defaults::small());
    let all = list("[{name: a, spec: {source: {path: a}}}, {name: b, spec: {source: {path: a}}}]").unwrap();
    assert_eq!(all.len(), 2);
    for yaml in [
        "[{name: a, spec: {source: {path: a}}}, {name: a, spec: {source: {path: b}}}]",
        "[{name: a, spec: {source: {path: a}}}, {name: b, spec: {source: {path: b}, servedName: a}}]",
        "[{name: a, spec: {source: {path: a}, aliases: [b]}}, {name: b, spec: {source: {path: b}}}]",
    ] {
        assert!(list(yaml).unwrap_err().to_string().contains("another model of this list"), "{yaml}");
    }
}

#[test]
fn the_document_is_written_without_what_was_left_out() {
    let document = document("name: a\nspec: {source: {path: a}, limits: {maxQueue: 3}}");
    let text = serde_yaml::to_string(&document).unwrap();
    assert_eq!(text, "name: a\nspec:\n  source:\n    path: a\n  limits:\n    maxQueue: 3\n");
}
