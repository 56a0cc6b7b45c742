use serde_json::json;

use super::*;

fn prompts(named: &[(&str, &str)]) -> Prompts {
    Prompts::compile(None, named.iter().copied()).unwrap()
}

fn variables(of: &Value) -> Map<String, Value> {
    of.as_object().unwrap().clone()
}

/// What a request that names the template gets.
fn ask(source: &str, given: &Value) -> Result<String, PromptError> {
    let prompts = prompts(&[("letter", source)]);
    let template = prompts.named("letter").unwrap();
    template.check(&variables(given))?;
    template.render(&variables(given))
}

#[test]
fn a_prompt_is_made_of_the_variables() {
    let source = "Summarise in {{ language | default('English') }}:\n{% for part in parts %}\n- {{ part.title }} ({{ loop.index }})\n\
        {% endfor %}\n{% if short is defined %}Be short.{% endif %}";
    let given = json!({"parts": [{"title": "Äpfel <b>"}, {"title": "{{ 7 * 7 }}"}], "short": true});
    assert_eq!(
        ask(source, &given).unwrap(),
        "Summarise in English:\n- Äpfel <b> (1)\n- {{ 7 * 7 }} (2)\nBe short."
    );
    assert_eq!(ask("{{ a | tojson }} {{ a.b }}", &json!({"a": {"b": 1}})).unwrap(), r#"{"b": 1} 1"#);
    assert_eq!(
        ask("{{ text }}\n", &json!({"text": "x"})).unwrap(),
        "x",
        "one line feed at the end is not meant"
    );
}

#[test]
fn what_is_missing_is_named_with_its_line() {
    let missing = |source: &str, given: &Value| match ask(source, given).unwrap_err() {
        PromptError::Missing { template, what } => {
            assert_eq!(template, "letter");
            what
        }
        other => panic!("{other}"),
    };
    assert_eq!(missing("Dear\n{{ name }}", &json!({})), "`name` is undefined (line 2)");
    assert_eq!(missing("{{ user.name }}", &json!({"user": {}})), "`user.name` is undefined (line 1)");
    assert_eq!(missing("{% for a in list %}{{ a }}{% endfor %}", &json!({})), "`list` is undefined (line 1)");
    assert_eq!(missing("{% if tone %}x{% endif %}y", &json!({})), "`tone` is undefined (line 1)");
    assert_eq!(missing("{{ (name ~ '!') | upper }}", &json!({})), "`name` is undefined (line 1)");
    assert_eq!(missing("{{ name | upper }}", &json!({})), "`name` is undefined (line 1)");
}

#[test]
fn what_has_no_effect_is_named() {
    let unused = |source: &str, given: &Value| ask(source, given).unwrap_err().to_string();
    assert_eq!(
        unused("{{ document }} {{ language }}", &json!({"dokument": "x", "language": "de"})),
        "the template `letter` does not use `dokument`; it takes `document`, `language`"
    );
    assert_eq!(
        unused("x{% set a = 1 %}{{ a }}", &json!({"a": 2})),
        "the template `letter` does not use `a`; it takes none"
    );
    assert!(
        unused("{% for a in b %}{{ a }}{% endfor %}", &json!({"b": [], "a": 1})).contains("does not use `a`")
    );
    // These are read, one way or the other.
    for source in [
        "x{% set a = a | default('y') %}{{ a }}",
        "x{% if false %}{{ a }}{% endif %}",
        "x{% macro m() %}{{ a }}{% endmacro %}{{ m() }}",
        "x{% block b %}{{ a }}{% endblock %}",
        "x{{ range(3) | map('string') | join(a) }}",
        "x{{ [1] | sum if a is defined }}",
    ] {
        assert_eq!(
            ask(source, &json!({"a": "z"})).map(|prompt| prompt.starts_with('x')),
            Ok(true),
            "{source}"
        );
    }
    let there = prompts(&[("one", "1"), ("two", "2")]);
    let unknown = there.named("three").unwrap_err().to_string();
    assert_eq!(unknown, "there is no template `three`; this model has `one`, `two`");
    assert!(Prompts::default().named("x").unwrap_err().to_string().ends_with("this model has none"));
}

#[test]
fn what_can_only_go_wrong_does_not_compile() {
    for (source, told) in [
        ("a\n{% for x in %}", "`letter` does not compile: syntax error: unexpected end of block"),
        ("a\n{{ b", "(in letter:2)"),
        ("a\nb {{ text | sumarise }}", "there is no filter `sumarise` (in letter:2)"),
        ("{% if a is odder %}{% endif %}", "there is no test `odder` (in letter:1)"),
        ("\n\n{{ summarise(text) }}", "there is no function `summarise` (in letter:3)"),
        ("{{ debug() }}", "there is no function `debug`"),
        ("{% include '/etc/passwd' %}", "include, import and extends are not possible"),
        ("{% import 'x' as y %}", "include, import and extends are not possible"),
        ("{% extends 'x' %}", "include, import and extends are not possible"),
        (&"x".repeat(MOST_OVERRIDE_BYTES + 1), "`letter` has 16385 bytes, at most 16384 are taken"),
    ] {
        let error = Prompts::compile(None, [("letter", source)]).unwrap_err();
        assert!(error.message.contains(told) && !error.unnamed, "{source}: {error}");
    }
    for name in ["", "a b", "-a", "a.", "ä", &"a".repeat(65)] {
        let error = Prompts::compile(None, [(name, "x")]).unwrap_err();
        assert!(error.message.contains("is no name of a template"), "{name}: {error}");
    }
    assert!(Prompts::compile(None, [("A.b-c_9", "x")]).is_ok());
    let twice = Prompts::compile(None, [("a", "x"), ("a", "y")]).unwrap_err();
    assert_eq!(twice.message, "`a` is there twice");
    let names: Vec<String> = (0..=MOST_TEMPLATES).map(|number| number.to_string()).collect();
    assert!(Prompts::compile(None, names.iter().map(|name| (name.as_str(), "x"))).is_err());
}

#[test]
fn the_template_without_a_name_takes_the_text_alone() {
    let unnamed = |source| Prompts::compile(Some(source), []);
    let template = unnamed("Q: {{ text }}\nA:").unwrap();
    let rendered = template.unnamed().unwrap().render(&variables(&json!({"text": "why?"})));
    assert_eq!(rendered.unwrap(), "Q: why?\nA:");
    for (source, told) in [
        ("always the same", "does not use the variable `text`"),
        ("{{ text }} {{ language }}", "uses the variable `language`"),
        ("{{ text", "does not compile"),
    ] {
        let error = unnamed(source).unwrap_err();
        assert!(error.message.starts_with(told) && error.unnamed, "{error}");
    }
    assert_ne!(unnamed("{{ text }}a").unwrap(), unnamed("{{ text }}b").unwrap());
    assert_eq!(unnamed("{{ text }}").unwrap(), unnamed("{{ text }}").unwrap());
}

#[test]
fn a_template_that_refuses_fails_or_does_not_end_says_so() {
    let told = |source: &str| ask(source, &json!({})).unwrap_err().to_string();
    assert_eq!(
        told("{{ raise_exception('no such tone') }}"),
        "the template `letter` refuses the variables: no such tone"
    );
    let endless = "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}";
    assert!(told(endless).starts_with("the template `letter` does not come to an end"));
    assert!(told("{{ 1 / 'a' }}").starts_with("the template `letter` failed: "));
    assert_eq!(
        told("{% if false %}x{% endif %}"),
        "the template `letter` makes an empty prompt of these variables"
    );
}
