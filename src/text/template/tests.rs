use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

static NO_VARIABLES: LazyLock<serde_json::Map<String, serde_json::Value>> = LazyLock::new(Default::default);

fn conversation(messages: &[serde_json::Value]) -> Conversation<'_> {
    Conversation {
        messages,
        tools: None,
        bos_token: Some("<s>"),
        eos_token: Some("</s>"),
        add_generation_prompt: true,
        variables: &NO_VARIABLES,
    }
}

fn render(source: &str) -> Result<String, ProgramError> {
    let messages = [json!({"role": "user", "content": " Hi <b> "})];
    let rendered = Template::compile(source).and_then(|template| template.render(&conversation(&messages)));
    rendered.map_err(|TemplateError(error)| error)
}

#[test]
fn a_common_template_renders_as_in_python() {
    let source = "{{ bos_token }}{% for message in messages %}\n  {% if message['role'] == 'user' %}\n\
        [{{ message.content.strip() }}]{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}A:{% endif %}";
    assert_eq!(render(source).unwrap(), "<s>[Hi <b>]A:");
}

#[test]
fn what_transformers_gives_is_there() {
    assert_eq!(render("{{ nothing }}{{ messages[0].missing }}{{ tools is none }}").unwrap(), "True");
    assert_eq!(render("{{ messages | tojson }}").unwrap(), r#"[{"role": "user", "content": " Hi <b> "}]"#);
    assert_eq!(
        render(r#"{{ {"a": "\\u003c'"} | tojson(indent=1) }}"#).unwrap(),
        "{\n \"a\": \"\\\\u003c'\"\n}"
    );
    assert_eq!(render("{% generation %}x{%- endgeneration -%} y").unwrap(), "xy");
    assert_eq!(render("{{ strftime_now('%Y') | length }}").unwrap(), "4");
    assert_eq!(
        render(
            "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}\
        {% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
        )
        .unwrap(),
        "3"
    );
    assert_eq!(render("{{ 'a,b'.split(',')[-1].upper() ~ 'ab'[::-1] }}").unwrap(), "Bba");
}

#[test]
fn a_template_refuses_with_its_own_words() {
    let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!(error, ProgramError::Refused("roles must alternate".to_owned()));
}

#[test]
fn a_template_that_loops_recurses_or_is_huge_is_stopped() {
    let began = Instant::now();
    for endless in [
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'a' * 999999999 }}",
        "{{ 'a'.replace('a', 'b' * 9999999).replace('b', 'c' * 9999999) }}",
        "{{ '%0999999999d' | format(1) }}",
        "{{ 'a'.join(range(99999999)) }}",
    ] {
        let error = render(endless).unwrap_err();
        assert!(matches!(error, ProgramError::Endless | ProgramError::Failed(_)), "{endless}: {error}");
    }
    // A list that is its own half, sixty times over.
    let shared =
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for written in
        ["{{ ns.x }}", "{{ ns.x | string }}", "{{ ns.x | tojson }}", "{{ ns.x | tojson(indent=4) }}"]
    {
        let error = render(&format!("{shared}{written}")).unwrap_err();
        assert!(matches!(error, ProgramError::Endless | ProgramError::Failed(_)), "{written}: {error}");
    }
    assert!(
        render("{{ 1 | tojson(indent=999999999) }}").is_err()
            && render("{{ '1'.zfill(999999999) }}").is_err()
    );
    let recursion = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(render(recursion), Err(ProgramError::Failed(_) | ProgramError::Endless)));
    let both = "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(render(both), Err(ProgramError::Failed(_) | ProgramError::Endless)));
    assert!(matches!(render(&"x".repeat(MOST_BYTES + 1)), Err(ProgramError::TooLarge { .. })));
    let many = "{{ bos_token }}".repeat(MOST_BYTES / 15);
    assert!(render(&many).is_ok_and(|prompt| prompt.len() == 3 * (MOST_BYTES / 15)));
    let TemplateError(override_error) =
        Template::compile_override(&"x".repeat(MOST_OVERRIDE_BYTES + 1)).unwrap_err();
    assert!(matches!(override_error, ProgramError::TooLarge { .. }));
    // Not a measurement: without a limit the first of these takes minutes.
    assert!(began.elapsed() < Duration::from_mins(1));
}

#[test]
fn nesting_without_end_overflows_no_stack() {
    let nest = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for source in [nest.to_owned(), format!("{nest}{{{{ ns.x }}}}"), format!("{nest}{{{{ ns.x | tojson }}}}")]
    {
        drop(render(&source));
    }
    for open in ["(", "[", "{{", "{% if a %}", "{% for a in b %}", "not ", "-"] {
        let deep = format!("{{{{ {} }}}}", open.repeat(100_000));
        assert!(render(&deep).is_err());
        assert!(render(&open.repeat(50_000)).is_err() || open.len() < 5);
    }
}

#[test]
fn what_does_not_compile_is_a_syntax_error() {
    assert!(matches!(render("{% for %}"), Err(ProgramError::Syntax(_))));
    assert!(matches!(render("{% include 'other' %}"), Err(ProgramError::Failed(_))));
}
