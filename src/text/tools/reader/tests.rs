use super::*;

fn marked() -> CallSyntax {
    CallSyntax {
        begin: "<tool_call>\n".to_owned(),
        between: Some("\n</tool_call>\n<tool_call>\n".to_owned()),
        end: "\n</tool_call>".to_owned(),
        ..CallSyntax::plain()
    }
}

fn listed() -> CallSyntax {
    CallSyntax {
        begin: "[TOOL_CALLS] [".to_owned(),
        between: Some(", ".to_owned()),
        end: "]".to_owned(),
        ..CallSyntax::plain()
    }
}

fn bare() -> CallSyntax {
    CallSyntax { arguments: "parameters".to_owned(), ..CallSyntax::plain() }
}

fn reader(syntax: &CallSyntax) -> CallReader {
    CallReader::new(syntax.clone(), vec!["f".to_owned(), "g".to_owned()], 8)
}

fn calls(all: &[(&str, &str)]) -> Vec<ReadCall> {
    let call = |(name, arguments): &(&str, &str)| ReadCall {
        name: (*name).to_owned(),
        arguments: (*arguments).to_owned(),
    };
    all.iter().map(call).collect()
}

/// Reads a text whole and in pieces of every length; all must be the same.
fn read(syntax: &CallSyntax, text: &str) -> (String, Vec<ReadCall>) {
    let whole = reader(syntax).read(text);
    let chars: Vec<char> = text.chars().collect();
    for length in 1..=chars.len() {
        let mut reader = reader(syntax);
        let mut pieces = Vec::new();
        for chunk in chars.chunks(length) {
            pieces.extend(reader.push(&chunk.iter().collect::<String>()));
        }
        pieces.extend(reader.finish());
        let (mut text, mut calls): (String, Vec<ReadCall>) = Default::default();
        for piece in pieces {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Call(name) => calls.push(ReadCall { name, arguments: String::new() }),
                Piece::Arguments(more) => calls.last_mut().unwrap().arguments.push_str(&more),
            }
        }
        assert_eq!((&text, &calls), (&whole.0, &whole.1), "in pieces of {length}");
    }
    whole
}

#[test]
fn prose_without_calls_stays_as_it_is() {
    for text in
        ["", "Hi", " two\n\n", "a <tool", "a <tool_calling", "a < b \n", "[TOOL_CALLS", "x {\"name\": \"f\"}"]
    {
        for syntax in [marked(), listed(), bare()] {
            assert_eq!(read(&syntax, text), (text.to_owned(), Vec::new()), "{text:?}");
        }
    }
}

#[test]
fn calls_between_marks_are_read_with_any_white_space() {
    let one = calls(&[("f", r#"{"a": "}\"", "b": [{}]}"#)]);
    for text in [
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"\", \"b\": [{}]}}\n</tool_call>",
        "<tool_call>{ \"name\" :\"f\",\"arguments\":{\"a\": \"}\\\"\", \"b\": [{}]} , \"x\": 1}</tool_call>\n",
    ] {
        assert_eq!(read(&marked(), text), (String::new(), one.clone()), "{text}");
    }
    let text = "Let me see.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n\
        {\"name\": \"g\", \"arguments\": {\"x\": 1}}\n</tool_call> Done";
    let expected = ("Let me see. Done".to_owned(), calls(&[("f", "{}"), ("g", r#"{"x": 1}"#)]));
    assert_eq!(read(&marked(), text), expected);
}

#[test]
fn calls_in_a_list_are_read() {
    let text = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"x\": 1}, \"id\": \"123456789\"} ,\n{\"name\": \"g\", \"arguments\": {}}]";
    assert_eq!(read(&listed(), text), (String::new(), calls(&[("f", r#"{"x": 1}"#), ("g", "{}")])));
}

#[test]
fn bare_json_is_a_call_only_at_the_beginning_and_of_a_known_name() {
    let text = "{\"name\": \"g\", \"parameters\": {\"x\": 1}}";
    assert_eq!(read(&bare(), text), (String::new(), calls(&[("g", r#"{"x": 1}"#)])));
    for text in [
        "{\"name\": \"h\", \"parameters\": {}}",
        "{\"a\": 1}",
        "{\"name\": 1",
        "{",
        "So {\"name\": \"f\", \"parameters\": {}}",
    ] {
        assert_eq!(read(&bare(), text), (text.to_owned(), Vec::new()));
    }
}

#[test]
fn a_name_that_comes_late_is_told_at_the_end_and_arguments_may_be_a_text() {
    let text = "<tool_call>{\"arguments\": {\"x\": {\"y\": 1}}, \"name\": \"f\"}</tool_call>\
        <tool_call>{\"name\": \"g\", \"arguments\": \"{\\\"z\\\": 2}\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>";
    let expected = calls(&[("f", r#"{"x":{"y":1}}"#), ("g", r#"{"z": 2}"#), ("f", "{}")]);
    assert_eq!(read(&marked(), text), (String::new(), expected));
}

#[test]
fn arguments_are_told_as_they_come() {
    let mut reader = reader(&marked());
    assert_eq!(reader.push("Hm <tool_call>{\"name\": \"f\", \"arg"), [Piece::Text("Hm".to_owned())]);
    let begun = [Piece::Call("f".to_owned()), Piece::Arguments("{\"x\": \"a".to_owned())];
    assert_eq!(reader.push("uments\": {\"x\": \"a"), begun);
    assert_eq!(reader.push("b\"}"), [Piece::Arguments("b\"}".to_owned())]);
    assert_eq!(reader.push("}</tool_call>"), []);
    assert!(reader.has_calls());
    assert_eq!(reader.finish(), []);
}

#[test]
fn what_is_cut_off_or_no_call_is_not_lost() {
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"cut";
    assert_eq!(read(&marked(), text), (String::new(), calls(&[("f", "{\"x\": \"cut")])));
    for text in [
        "<tool_call>\n{\"name\": \"f",
        "<tool_call>\n",
        "a <tool_call> b",
        "<tool_call>{\"a\": 1}</tool_call>x",
    ] {
        assert_eq!(read(&marked(), text), (text.to_owned(), Vec::new()));
    }
}

#[test]
fn more_calls_than_are_wanted_are_dropped() {
    let text = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let mut reader = CallReader::new(marked(), Vec::new(), 1);
    assert_eq!(
        reader.push(&text.repeat(2)),
        [Piece::Call("f".to_owned()), Piece::Arguments("{}".to_owned())]
    );
    assert_eq!(reader.finish(), []);
}
