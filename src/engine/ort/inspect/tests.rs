use std::io::Write;

use proptest::prelude::*;

use super::super::protobuf::{write_bytes, write_number};
use super::*;

fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, value) in fields {
        write_bytes(&mut bytes, *number, value);
    }
    bytes
}

fn node(operator: &str, domain: &str) -> Vec<u8> {
    message(&[(1, b"x"), (2, b"y"), (4, operator.as_bytes()), (7, domain.as_bytes())])
}

/// An f32 tensor `[2, 3]` outside of the graph.
fn tensor(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_number(&mut bytes, 1, 2);
    write_number(&mut bytes, 1, 3);
    write_number(&mut bytes, 2, 1);
    for (key, value) in entries {
        write_bytes(&mut bytes, 13, &message(&[(1, key.as_bytes()), (2, value.as_bytes())]));
    }
    write_number(&mut bytes, 14, 1);
    bytes
}

fn model(graph: &[u8], more: &[(u64, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_number(&mut bytes, 1, 9);
    bytes.extend(message(&[(7, graph), (8, &[0x10, 17])]));
    bytes.extend(message(more));
    bytes
}

fn inspected(content: &[u8]) -> Result<Inspection, GraphFault> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    inspect(file.path())
}

fn with_tensor(entries: &[(&str, &str)]) -> Result<Inspection, GraphFault> {
    inspected(&model(&message(&[(1, &node("Add", "")), (5, &tensor(entries))]), &[]))
}

#[test]
fn external_data_are_found_with_the_bytes_that_they_need() {
    let found = with_tensor(&[("location", "a.data"), ("offset", "8"), ("length", "24")]).unwrap();
    assert_eq!(found.external, BTreeMap::from([("a.data".to_owned(), 32)]));
    let found = with_tensor(&[("location", "sub/a.data")]).unwrap();
    assert_eq!(found.external, BTreeMap::from([("sub/a.data".to_owned(), 24)]));
}

#[test]
fn external_data_anywhere_but_in_the_folder_are_unsafe() {
    for location in [
        "../a",
        "/etc/passwd",
        "a/../../b",
        "*/_ORT_MEM_ADDR_/*",
        "",
        "C:\\a",
        "a\\..\\b",
        "./a",
        "a//b",
        "~/a",
    ] {
        let error = with_tensor(&[("location", location)]).unwrap_err();
        assert!(matches!(error, GraphFault::Unsafe(_)), "{location}: {error}");
    }
    for (key, value) in
        [("offset", "-1"), ("length", "-4"), ("offset", "9223372036854775807"), ("length", "x")]
    {
        let places = [("location", "a"), ("length", "24"), (key, value)];
        assert!(matches!(with_tensor(&places), Err(GraphFault::Unsafe(_))) || value.len() > 18, "{value}");
    }
    assert!(matches!(with_tensor(&[]), Err(GraphFault::Unsafe(_))));
}

#[test]
fn tensors_are_found_wherever_they_hide() {
    let unsafe_tensor = tensor(&[("location", "../a")]);
    let graph = message(&[(1, &node("Add", "")), (5, &unsafe_tensor)]);
    let if_node = |attribute: &[u8]| message(&[(4, b"If"), (5, attribute)]);
    let sparse = message(&[(1, &unsafe_tensor)]);
    let harmless = message(&[(1, &node("Add", ""))]);
    let places = [
        model(&message(&[(1, &if_node(&message(&[(6, &graph)])))]), &[]),
        model(&message(&[(1, &if_node(&message(&[(11, &graph)])))]), &[]),
        model(&message(&[(1, &if_node(&message(&[(5, &unsafe_tensor)])))]), &[]),
        model(&message(&[(1, &if_node(&message(&[(10, &unsafe_tensor)])))]), &[]),
        model(&message(&[(1, &if_node(&message(&[(22, &sparse)])))]), &[]),
        model(&message(&[(1, &node("Add", "")), (15, &sparse)]), &[]),
        model(&harmless, &[(20, &message(&[(2, &graph)]))]),
        model(&harmless, &[(25, &message(&[(7, &if_node(&message(&[(5, &unsafe_tensor)])))]))]),
    ];
    for (index, bytes) in places.iter().enumerate() {
        assert!(matches!(inspected(bytes), Err(GraphFault::Unsafe(_))), "place {index}");
    }
}

#[test]
fn operators_of_others_are_named_unless_the_model_defines_them() {
    let graph = message(&[(1, &node("Attention2", "com.example"))]);
    let error = inspected(&model(&graph, &[])).unwrap_err();
    assert!(
        matches!(&error, GraphFault::Unsupported(text) if text.contains("com.example::Attention2")),
        "{error}"
    );
    let function = message(&[(1, b"Attention2"), (7, &node("Add", "")), (10, b"com.example")]);
    assert!(inspected(&model(&graph, &[(25, &function)])).is_ok());
}

#[test]
fn names_that_are_not_utf8_and_graphs_without_end_are_refused() {
    let graph = message(&[(1, &message(&[(1, b"\xff\xfe"), (4, b"Add")]))]);
    assert!(inspected(&model(&graph, &[])).unwrap_err().to_string().contains("UTF-8"));
    let mut deep = message(&[(1, &node("Add", ""))]);
    for _ in 0..100 {
        deep = message(&[(1, &message(&[(4, b"If"), (5, &message(&[(6, &deep)]))]))]);
    }
    assert!(inspected(&model(&deep, &[])).unwrap_err().to_string().contains("nested"));
}

#[test]
fn what_is_no_model_is_called_by_its_name() {
    for (content, name) in [
        (&b""[..], "empty"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"PK\x03\x04abc", "ZIP"),
        (b"{\"error\": 1}", "JSON"),
        (b"not found\n", "text"),
        (&[0; 100], "zeros"),
        (b"GGUF\x03\x00", "GGUF"),
    ] {
        let error = inspected(content).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}

#[test]
fn names_and_dimensions_without_end_are_refused() {
    let refusal = |graph: &[u8]| match inspected(&model(graph, &[])) {
        Err(GraphFault::Invalid(message)) => message,
        other => panic!("{:?}", other.map(drop)),
    };
    let harmless = (1, &node("Add", "")[..]);
    let long = node(&"a".repeat(LONGEST_NAME as usize + 1), "");
    assert!(refusal(&message(&[(1, &long)])).contains("a name in it has more than 4096 bytes"));
    let dimensions = message(&[(1, &[1; 1000])]);
    assert!(refusal(&message(&[harmless, (5, &dimensions)])).contains("dimensions"));
    let padding = "a".repeat(LONGEST_NAME as usize - 8);
    let count = MOST_KEPT_BYTES / padding.len();
    let nodes: Vec<u8> =
        (0..=count).flat_map(|number| message(&[(1, &node("Op", &format!("{padding}{number}")))])).collect();
    assert!(refusal(&nodes).contains("more names"));
    let weights = (0..=count).flat_map(|number| {
        message(&[(5, &tensor(&[("location", &format!("{padding}{number}")), ("length", "24")]))])
    });
    let weights: Vec<u8> = weights.collect();
    assert!(refusal(&[message(&[harmless]), weights].concat()).contains("more names"));
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let large = external_files(file.reopen().unwrap()).unwrap_err().to_string();
    assert!(large.contains("no ONNX file has more than"), "{large}");
}

#[test]
fn entries_that_say_nothing_of_a_place_are_passed_over() {
    let entries = [("location", "a"), ("length", "24"), ("checksum", "x"), ("other", "y")];
    assert_eq!(with_tensor(&entries).unwrap().external, BTreeMap::from([("a".to_owned(), 24)]));
    assert!(matches!(with_tensor(&[("checksum", "x")]), Err(GraphFault::Unsafe(_))));
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(inspected(&bytes));
        drop(inspected(&model(&bytes, &[(25, &bytes)])));
    }
}
