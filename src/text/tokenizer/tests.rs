//! Tests of the tokenizer wrapper.

use super::samples::*;
use super::*;

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
