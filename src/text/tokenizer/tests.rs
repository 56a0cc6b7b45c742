//! Tests of the tokenizer wrapper, and the small tokenizers that the tests of this folder share.

use super::*;
use serde_json::{Value, json};

/// Tokens of several bytes that cut characters in awkward places, behind the 256 single bytes of [`byte_level`].
pub(crate) const AWKWARD_TOKENS: [&[u8]; 8] = [
    b"A\xf0",
    b"\x9f\x98",
    b"\xff\xff\xff\xff\xf0",
    b"\x98\x80\xf0",
    b"\x80\xe2",
    b"he",
    b" he",
    b"\xf0\x9f\x98\x80",
];

/// Id of the special token `<|end|>` of [`byte_level`]; the next id is the added, ordinary token `<tool>`.
pub(crate) const END: u32 = 256 + AWKWARD_TOKENS.len() as u32;

/// A byte-level BPE: ids 0..256 are the bytes, then [`AWKWARD_TOKENS`], then the added ones. It asks for truncation
/// to four tokens and for padding.
pub(crate) fn byte_level() -> Tokenizer {
    let spelled = |bytes: &[u8]| bytes.iter().map(|byte| spelling(*byte)).collect::<String>();
    let mut vocabulary: serde_json::Map<String, Value> =
        (0..=255u8).map(|byte| (spelling(byte).to_string(), json!(byte))).collect();
    for (index, bytes) in AWKWARD_TOKENS.iter().enumerate() {
        vocabulary.insert(spelled(bytes), json!(256 + index));
    }
    let file = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": END, "pad_type_id": 0, "pad_token": "<|end|>"},
        "added_tokens": [added(END, "<|end|>", true), added(END + 1, "<tool>", false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
                  "merges": [["h", "e"], ["Ġ", "he"]]}
    });
    parsed(&file)
}

/// A Llama-like tokenizer: ids 0..256 are the byte-fallback tokens, then the pieces, then `</s>` (special).
/// `metaspace` chooses the Metaspace decoder, which has no byte fallback, over the sequence that Llama files have.
pub(crate) fn sentence_piece(metaspace: bool) -> Tokenizer {
    let mut vocabulary: serde_json::Map<String, Value> =
        (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), json!(byte))).collect();
    for (index, piece) in PIECES.iter().enumerate() {
        vocabulary.insert((*piece).to_owned(), json!(256 + index));
    }
    let decoder = if metaspace {
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})
    } else {
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(256 + PIECES.len() as u32, "</s>", true)],
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false},
        "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocabulary,
                  "merges": []}
    });
    parsed(&file)
}

/// The pieces of [`sentence_piece`]; their ids begin at 256.
pub(crate) const PIECES: [&str; 8] = ["▁", "▁hello", "▁world", "wor", "ld", ".", "▁▁", "é"];

pub(crate) fn parsed(file: &Value) -> Tokenizer {
    Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": special})
}

/// How byte-level files spell a byte: printable ones as themselves, the others from U+0100 on, in order.
fn spelling(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|other| !printable(*other)).count() as u32;
    char::from_u32(0x100 + rank).unwrap()
}

#[test]
fn text_survives_encoding_and_decoding() {
    let tokenizer = byte_level();
    for text in ["", "he said hello", "naïve 😀\n\tend", "<tool>x"] {
        let tokens = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&tokens, true).unwrap(), text);
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_off() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.encode("abcdefgh", true).unwrap().len(), 8);
    assert_eq!(tokenizer.encode("a", true).unwrap().len(), 1);
}

#[test]
fn special_tokens_are_skipped_only_when_asked() {
    let tokenizer = byte_level();
    let tokens = tokenizer.encode("a<|end|>b<tool>", false).unwrap();
    assert_eq!(tokens, [97, END, 98, END + 1]);
    assert_eq!(tokenizer.decode(&tokens, true).unwrap(), "ab<tool>");
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "a<|end|>b<tool>");
    assert!(tokenizer.is_special(END) && !tokenizer.is_special(END + 1));
}

#[test]
fn the_vocabulary_ends_behind_the_highest_added_token() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.vocabulary_size(), END as usize + 2);
    assert_eq!(tokenizer.token_to_id("<|end|>"), Some(END));
    assert_eq!(tokenizer.token_to_id("<|none|>"), None);
    assert_eq!(tokenizer.id_to_token(END).as_deref(), Some("<|end|>"));
    assert_eq!(tokenizer.id_to_token(END + 2), None);
}

#[test]
fn ids_outside_the_vocabulary_give_no_text() {
    assert_eq!(byte_level().decode(&[97, 1_000_000, 98], true).unwrap(), "ab");
}

#[test]
fn a_file_is_read_and_what_is_wrong_with_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    let error = Tokenizer::from_file(&file).unwrap_err();
    assert_eq!(error.to_string(), format!("failed to read tokenizer {}", file.display()));

    std::fs::write(&file, "<html>").unwrap();
    assert_eq!(Tokenizer::from_file(&file).unwrap_err().to_string(), "failed to parse tokenizer");
}

#[test]
fn tokens_are_told_with_their_bytes_of_the_text() {
    let text = "né<|end|>";
    let tokenizer = byte_level();
    let spans = tokenizer.spans(text).unwrap();
    let tokens: Vec<u32> = spans.iter().map(|span| span.token).collect();
    assert_eq!(tokens, tokenizer.encode(text, true).unwrap());
    assert_eq!(spans[0].bytes, 0..1);
    assert_eq!(&text[spans.last().unwrap().bytes.clone()], "<|end|>");
    assert!(spans.windows(2).all(|pair| pair[0].bytes.start <= pair[1].bytes.start), "{spans:?}");
}
