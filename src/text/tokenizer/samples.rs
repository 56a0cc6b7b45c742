//! Small tokenizers of both families, for the tests of this folder and for the fuzz targets.

use serde_json::{Value, json};

use super::Tokenizer;

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
    Tokenizer::from_bytes(file.to_string().as_bytes()).expect("a tokenizer")
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
    char::from_u32(0x100 + rank).expect("a character")
}
