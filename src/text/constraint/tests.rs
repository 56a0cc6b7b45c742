//! Formats over a small vocabulary: what is allowed, what is refused, and how an output ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::text::tokenizer::Tokenizer;
use crate::text::tokenizer::samples::{END, byte_level, sentence_piece};
use crate::text::tools::{CallFormat, CallSyntax, Function};

fn grammars_of(tokenizer: Tokenizer, end: u32) -> Grammars {
    Grammars::new(Arc::new(tokenizer), &[end])
}

fn grammars() -> Grammars {
    grammars_of(byte_level(), END)
}

fn tokens(bits: &[u32]) -> Vec<u32> {
    let words = bits.iter().zip(0u32..);
    words
        .flat_map(|(word, index)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 32 + bit)
        })
        .collect()
}

/// A text that the format allows, its tokens chosen by `choose` among those allowed; whether it came to its end.
fn written(
    grammars: &Grammars,
    format: &Format,
    most: usize,
    mut choose: impl FnMut(&[u32]) -> u32,
) -> (String, bool) {
    let mut constraint = grammars.compile(format, true).unwrap();
    let mut output = Vec::new();
    while output.len() < most {
        let token = choose(&tokens(constraint.allowed().unwrap()));
        if token == END {
            return (decoded(&output), true);
        }
        output.push(token);
        if constraint.accept(token).unwrap() {
            return (decoded(&output), true);
        }
    }
    (decoded(&output), false)
}

fn decoded(tokens: &[u32]) -> String {
    byte_level().decode(tokens, false).unwrap()
}

/// Whether the format takes the text, token by token, and may end there.
fn takes(grammars: &Grammars, format: &Format, text: &str) -> bool {
    let mut constraint = grammars.compile(format, true).unwrap();
    let all = byte_level().encode(text, false).unwrap();
    for (index, &token) in all.iter().enumerate() {
        if !tokens(constraint.allowed().unwrap()).contains(&token) {
            return false;
        }
        if constraint.accept(token).unwrap() {
            return index + 1 == all.len();
        }
    }
    tokens(constraint.allowed().unwrap()).contains(&END)
}

fn refused(format: &Format) -> FormatError {
    let error = grammars().compile(format, true).err();
    error.unwrap_or_else(|| panic!("{format:?} was taken"))
}

fn person() -> Format {
    Format::JsonSchema(json!({
        "type": "object",
        "properties": {"he": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["he", "age"], "additionalProperties": false
    }))
}

#[test]
fn each_kind_of_format_takes_what_holds_to_it_and_nothing_else() {
    let grammars = grammars();
    let choice = Format::Choice(vec!["yes".to_owned(), "yes, \"he\"\n".to_owned(), "né".to_owned()]);
    let cases: [(Format, &[&str], &[&str]); 5] = [
        (
            person(),
            &[r#"{"he": "a", "age": 7}"#, "{\"he\":\"😀\",\n  \"age\":0}"],
            &[r#"{"age": 7, "he": "a"}"#, "{}", " {"],
        ),
        (Format::JsonObject, &["{}", r#"{"a": [1, {"b": null}]}"#], &["[]", "1"]),
        (Format::Regex(r"[a-c]{2}/\d+".to_owned()), &["ab/1", "cc/123"], &["ab/", "abc/1", "ab/x"]),
        (choice, &["yes", "yes, \"he\"\n", "né"], &["no", "yes,", ""]),
        (Format::Lark("start: \"(\" start \")\" | \"he\"".to_owned()), &["he", "((he))"], &["(he", "he)"]),
    ];
    for (format, good, bad) in cases {
        for text in good {
            assert!(takes(&grammars, &format, text), "{format:?}: {text}");
        }
        for text in bad {
            assert!(!takes(&grammars, &format, text), "{format:?}: {text}");
        }
    }
}

#[test]
fn an_output_that_nothing_may_follow_is_complete() {
    let mut first = |allowed: &[u32]| allowed[0];
    let (text, complete) = written(&grammars(), &Format::Choice(vec!["he".to_owned()]), 10, &mut first);
    assert_eq!((text.as_str(), complete), ("he", true));
    // What the tokenizer makes one token is forced as one.
    assert_eq!(
        tokens(grammars().compile(&Format::Choice(vec!["he".to_owned()]), true).unwrap().allowed().unwrap()),
        [261]
    );
}

#[test]
fn an_end_token_that_may_not_end_comes_only_where_nothing_else_may() {
    let pattern = Format::Regex("a{1,2}".to_owned());
    for (may_end, second) in [(true, vec![u32::from(b'a'), END]), (false, vec![u32::from(b'a')])] {
        let mut constraint = grammars().compile(&pattern, may_end).unwrap();
        assert!(!constraint.accept(u32::from(b'a')).unwrap());
        assert_eq!(tokens(constraint.allowed().unwrap()), second);
        assert!(constraint.accept(u32::from(b'a')).unwrap(), "two are all");
    }
}

#[test]
fn special_tokens_are_never_text() {
    let any = Format::Regex("(?s:.)*".to_owned());
    let mut constraint = grammars().compile(&any, false).unwrap();
    let allowed = tokens(constraint.allowed().unwrap());
    assert!(!allowed.contains(&END) && allowed.contains(&(END + 1)), "`<tool>` is an ordinary one");
    assert!(takes(&grammars(), &any, "<|end|"), "its text alone is text");
}

#[test]
fn calls_of_tools_are_what_their_marks_and_schemas_say() {
    let function = |name: &str, parameters| Function { name: name.to_owned(), parameters };
    let functions = vec![
        function(
            "f",
            json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "required": ["x"],
            "additionalProperties": false, "$defs": {"x": {"enum": [1, 2]}}}),
        ),
        function("g", json!({"type": "object", "additionalProperties": false})),
    ];
    // `<tool>` is a token of its own but text, `<|end|>` is special.
    let marked = CallSyntax {
        begin: "<tool>\n".to_owned(),
        between: Some(", ".to_owned()),
        end: " \"<|end|>".to_owned(),
        ..CallSyntax::plain()
    };
    let format = |syntax: &CallSyntax, several| {
        Format::Calls(CallFormat { syntax: syntax.clone(), functions: functions.clone(), several })
    };
    let (f, g) = (r#"{"name": "f", "arguments": {"x": 2}}"#, r#"{"name": "g", "arguments": {}}"#);
    let unended = grammars_of(byte_level(), END + 2);
    for (syntax, several, text, taken) in [
        (&marked, true, format!("<tool>\n{f}, {g}, {f} \"<|end|>"), true),
        (&marked, false, format!("<tool>\n{g} \"<|end|>"), true),
        (&marked, false, format!("<tool>\n{f}, {g} \"<|end|>"), false),
        (&marked, true, format!("{f} \"<|end|>"), false),
        (&CallSyntax::plain(), true, f.to_owned(), true),
        (&CallSyntax::plain(), true, format!("{f}{g}"), false),
        (&CallSyntax::plain(), true, f.replace('2', "3"), false),
        (&CallSyntax::plain(), true, g.replace('g', "h"), false),
    ] {
        assert_eq!(takes(&unended, &format(syntax, several), &text), taken, "{text}");
    }
    let broken = vec![function("f", json!({"type": "object", "not": {}}))];
    let broken = CallFormat { syntax: marked, functions: broken, several: false };
    assert_eq!(refused(&Format::Calls(broken)).part, "tools");
}

#[test]
fn vocabularies_of_other_kinds_work_or_are_named() {
    let grammars = grammars_of(sentence_piece(false), 264);
    let mut constraint = grammars.compile(&Format::Choice(vec![" hello world".to_owned()]), true).unwrap();
    let mut output = Vec::new();
    loop {
        let token = *tokens(constraint.allowed().unwrap()).last().unwrap();
        output.push(token);
        if constraint.accept(token).unwrap() {
            break;
        }
    }
    assert_eq!(output, [257, 258], "the pieces with their spaces");
}

#[test]
fn what_is_no_format_is_refused_with_what_and_where() {
    let schema = |schema: Value| Format::JsonSchema(schema);
    let long = "a".repeat(200_000);
    let cases: [(Format, &str, &str); 17] = [
        (
            schema(json!({"properties": {"a/b": {"not": {}}}})),
            "schema",
            "`not` is not supported (at #/properties/a~1b/not)",
        ),
        (
            schema(json!({"items": {"uniqueItems": true}})),
            "schema",
            "`uniqueItems` is not supported (at #/items/uniqueItems)",
        ),
        (schema(json!({"type": "string", "pattern": "["})), "schema", "(at #/pattern)"),
        (schema(json!({"$ref": "#/$defs/missing"})), "schema", "missing"),
        (schema(json!({"$ref": "https://example.com/a.json"})), "schema", "https://example.com/a.json"),
        (schema(json!({"type": "robot"})), "schema", "robot"),
        (schema(json!({"type": "integer", "minimum": 3, "maximum": 2})), "schema", ""),
        (schema(json!(["a"])), "schema", "an object or `true`"),
        (schema(json!(false)), "schema", "no JSON holds"),
        (schema(json!({"const": long})), "schema", "at most 131072"),
        (Format::Regex("a(".to_owned()), "pattern", "unclosed group"),
        (schema(json!({"pattern": "a".repeat(5000)})), "schema", "at most 4096 are taken (at #/pattern)"),
        (Format::Regex("a".repeat(5000)), "pattern", "at most 4096"),
        (Format::Regex(String::new()), "pattern", "must not be empty"),
        (Format::Choice(Vec::new()), "choices", "1 to 4096"),
        (Format::Choice(vec![String::new()]), "choices", "choice 0 is empty"),
        (Format::Lark("start: \"a\" nowhere".to_owned()), "lark", "nowhere"),
    ];
    for (format, part, says) in cases {
        let error = refused(&format);
        assert_eq!(error.part, part);
        assert!(error.message.contains(says), "{}", error.message);
        assert!(error.message.len() < 2000 && !error.message.contains("backtrace"), "{}", error.message);
    }
}

#[test]
fn schemas_of_our_own_are_understood_and_options_of_the_library_are_not_the_clients() {
    let grammars = grammars();
    for schema in [json!(true), json!({}), json!({"title": "x", "unknown": 1})] {
        let compiled = grammars.compile(&Format::JsonSchema(schema), true);
        assert_eq!(compiled.err(), None);
    }
    let options =
        json!({"x-guidance": {"whitespace_pattern": "#*"}, "type": "array", "items": {"type": "null"}});
    assert!(!takes(&grammars, &Format::JsonSchema(options), "[#null]"));
}

#[test]
fn the_schemas_of_the_fixtures_are_understood() {
    let grammars = grammars();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schemas");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 40, "a varied list");
    for file in files {
        let schema = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let compiled = grammars.compile(&Format::JsonSchema(schema), true);
        assert_eq!(compiled.err(), None, "{}", file.display());
    }
}

/// Nests `inside` so many times.
fn nested(open: &str, inside: &str, close: &str, times: usize) -> String {
    format!("{}{inside}{}", open.repeat(times), close.repeat(times))
}

#[test]
fn a_hostile_format_costs_little() {
    let many = |count: usize, text: &dyn Fn(usize) -> String| (0..count).map(text).collect::<Vec<_>>();
    let chain: Value = (0..4000_usize)
        .map(|index| (format!("d{index}"), json!({"$ref": format!("#/$defs/d{}", index + 1)})))
        .chain([("d4000".to_owned(), json!({"type": "null"}))])
        .collect::<serde_json::Map<_, _>>()
        .into();
    let doubled: Value = (0..40_usize)
        .map(|index| {
            let next = json!({"$ref": format!("#/$defs/d{}", index + 1)});
            (format!("d{index}"), json!({"allOf": [next, next], "anyOf": [next, next]}))
        })
        .chain([("d40".to_owned(), json!({"type": "object"}))])
        .collect::<serde_json::Map<_, _>>()
        .into();
    let regexes = [
        nested("(", "a", ")", 2000),
        nested("(", "a", "?)?", 1000),
        "(a{1000}){1000}".to_owned(),
        "((a{0,100}){0,100}){0,100}".to_owned(),
        "(a|b)*a(a|b){60}".to_owned(),
        "a?".repeat(2000),
        many(500, &|index| format!("(.*{index})")).join("|"),
        r"[\w\W]{0,5000}x[\w\W]{0,5000}".to_owned(),
    ];
    let chain_of_rules = |rule: &dyn Fn(usize) -> String| {
        format!("start: r0\n{}r900: \"a\"", many(900, &|index| rule(index) + "\n").concat())
    };
    let grammars = [
        format!("start: {}", nested("(", "\"a\"", ")", 8000)),
        format!("start: {}", nested("[", "\"a\"", "]", 8000)),
        "start: start start | \"a\" | \"\"".to_owned(),
        "start: \"a\"{0,1000000000}".to_owned(),
        format!("start: {}", many(2000, &|index| format!("r{index}")).join(" ")),
        format!("start: /{}/", "a?".repeat(8000)),
        chain_of_rules(&|index| format!("r{index}: r{0}", index + 1)),
        chain_of_rules(&|index| format!("r{index}: r{0} \"b\" | r{0}", index + 1)),
        chain_of_rules(&|index| format!("r{index}: r{0} r{0}", index + 1)),
        format!(
            "start: R0\n{}R900: \"a\"",
            many(900, &|index| format!("R{index}: R{0}\n", index + 1)).concat()
        ),
        format!(
            "start: R0\n{}R400: \"a\"",
            many(400, &|index| format!("R{index}: R{0} R{0} | R{0}\n", index + 1)).concat()
        ),
        format!("start: %json {}", nested("{\"items\": ", "{}", "}", 1000)),
    ];
    let alike = vec![json!({"type": "object", "properties": {"a": {"type": "string"}}}); 300];
    let properties: serde_json::Map<_, _> = (0..5000).map(|index| (format!("p{index}"), json!({}))).collect();
    let schemas = [
        json!({"$ref": "#/$defs/d0", "$defs": chain}),
        json!({"$ref": "#/$defs/d0", "$defs": doubled}),
        json!({"$ref": "#"}),
        json!({"type": "string", "minLength": 1_000_000_000}),
        json!({"type": "array", "minItems": 1_000_000_000}),
        json!({"type": "integer", "multipleOf": 999_999_937}),
        json!({"oneOf": alike}),
        json!({"anyOf": vec![json!({"type": "string", "pattern": "a?".repeat(2000)}); 30]}),
        json!({"type": "object", "properties": properties}),
    ];
    let formats = regexes.into_iter().map(Format::Regex);
    let formats = formats.chain(grammars.into_iter().map(Format::Lark));
    let formats = formats.chain(schemas.into_iter().map(Format::JsonSchema));
    let formats = formats.chain([Format::Choice(many(4096, &|index| format!("{index:030}")))]);
    let compiler = self::grammars();
    for format in formats {
        let began = Instant::now();
        if let Ok(mut constraint) = compiler.compile(&format, true) {
            for _ in 0..200 {
                let Ok(allowed) = constraint.allowed().map(tokens) else { break };
                if constraint.accept(allowed[0]).unwrap_or(true) {
                    break;
                }
            }
        }
        // Not a measurement: without limits some of these take minutes, or overflow the stack.
        let debug: String = format!("{format:?}").chars().take(80).collect();
        assert!(began.elapsed() < Duration::from_secs(30), "{debug} took {:?}", began.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_allowed_tokens_are_picked_the_output_holds_to_its_format(picks in prop::collection::vec(any::<prop::sample::Index>(), 200)) {
        let grammars = grammars();
        let mut picks = picks.iter();
        let (text, complete) = written(&grammars, &person(), 200, |allowed| {
            // Towards an end where there is one: texts of random bytes are endless otherwise.
            if allowed.contains(&END) { END } else { *picks.next().unwrap().get(allowed) }
        });
        prop_assert!(complete, "a bounded schema ends: {text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert!(value["he"].as_str().unwrap().chars().count() <= 5);
        prop_assert!((0..=99).contains(&value["age"].as_i64().unwrap()));
        prop_assert_eq!(value.as_object().unwrap().len(), 2);
    }

    #[test]
    fn a_pattern_is_matched_whatever_is_picked(picks in prop::collection::vec(any::<prop::sample::Index>(), 64)) {
        let grammars = grammars();
        let mut picks = picks.iter();
        let pattern = Format::Regex("(he|[0-9]{2,3})(, (he|é))*!".to_owned());
        let (text, complete) = written(&grammars, &pattern, 64, |allowed| *picks.next().unwrap().get(allowed));
        let body = if complete { text.strip_suffix('!') } else { Some(text.as_str()) };
        prop_assert!(body.is_some_and(|body| body.starts_with("he") || body.starts_with(|first: char| first.is_ascii_digit())), "{}", text);
    }
}
