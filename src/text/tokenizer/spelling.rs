//! Token ids → the bytes that each token brings to a text.
//!
//! The decoder of a file says how its vocabulary is spelled. Byte-level decoders write a byte as a character; those of
//! `SentencePiece` write a space as `▁` and a byte as `<0x41>`. Grammars work on bytes, so they need every token's own; a
//! token cannot simply be decoded alone, because a part of a character would come out as U+FFFD.

use std::borrow::Cow;

use super::{Tokenizer, byte_of};

/// How a file spells its tokens.
enum Spelling {
    /// A character for each byte, as GPT-2 chose them.
    ByteLevel,
    /// Text, in which some pieces stand for others; bytes alone as `<0x41>` where there is byte fallback.
    Text {
        /// What is written, and what it stands for.
        replaced: Vec<(String, String)>,
        byte_fallback: bool,
    },
}

/// A decoder whose tokens have no bytes of their own: what they become depends on their neighbours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tokens of this model have no bytes of their own: its tokenizer has {0}")]
pub(crate) struct NoBytes(String);

impl Tokenizer {
    /// The bytes of every token by its id, empty for ids that have none. Special tokens are control, not text: they have
    /// their content, too; see [`Tokenizer::is_special`].
    ///
    /// # Errors
    /// The decoder of the file is of a kind for which tokens have no bytes of their own.
    pub(crate) fn vocabulary_bytes(&self) -> Result<Vec<Vec<u8>>, NoBytes> {
        let spelling = self.spelling()?;
        let added = self.inner.get_added_tokens_decoder();
        let ids = 0..self.vocabulary_size as u32;
        let bytes_of = |id| match added.get(&id) {
            Some(token) => token.content.clone().into_bytes(),
            None => self.inner.id_to_token(id).map_or(Vec::new(), |content| spelling.bytes(&content)),
        };
        Ok(ids.map(bytes_of).collect())
    }

    fn spelling(&self) -> Result<Spelling, NoBytes> {
        let decoder = self.inner.get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok());
        let decoder = decoder.ok_or_else(|| NoBytes("no decoder".to_owned()))?;
        let steps = match decoder["decoders"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(&decoder),
        };
        let (mut replaced, mut byte_fallback) = (Vec::new(), false);
        for step in steps {
            let text = |field: &serde_json::Value| field.as_str().map(str::to_owned);
            match step["type"].as_str() {
                Some("ByteLevel") => return Ok(Spelling::ByteLevel),
                Some("ByteFallback") => byte_fallback = true,
                Some("Metaspace") => {
                    replaced.extend(text(&step["replacement"]).map(|from| (from, " ".to_owned())));
                }
                Some("Replace") => {
                    replaced.extend(text(&step["pattern"]["String"]).zip(text(&step["content"])));
                }
                // These work on the whole text, at its beginning and its end.
                Some("Fuse" | "Strip") => {}
                other => return Err(NoBytes(format!("a decoder of type {}", other.unwrap_or("unknown")))),
            }
        }
        Ok(Spelling::Text { replaced, byte_fallback })
    }
}

impl Spelling {
    fn bytes(&self, content: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> = content.chars().map(byte_of_character).collect();
                bytes.unwrap_or_else(|| content.as_bytes().to_vec())
            }
            Self::Text { replaced, byte_fallback } => {
                if let Some(byte) = byte_of(content).filter(|_| *byte_fallback) {
                    return vec![byte];
                }
                let written = replaced.iter().fold(Cow::Borrowed(content), |text, (from, to)| {
                    if text.contains(from.as_str()) { Cow::Owned(text.replace(from, to)) } else { text }
                });
                written.into_owned().into_bytes()
            }
        }
    }
}

/// The byte that a character of a byte-level vocabulary stands for: printable bytes stand for themselves, the others are
/// numbered from U+0100 on.
fn byte_of_character(character: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(character) {
        code @ 0..=0xFF => Some(code as u8).filter(|byte| printable(*byte)),
        code => (0..=0xFF_u8).filter(|byte| !printable(*byte)).nth(code.checked_sub(0x100)? as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{AWKWARD_TOKENS, END, byte_level, parsed, sentence_piece};

    #[test]
    fn byte_level_tokens_have_their_bytes() {
        let bytes = byte_level().vocabulary_bytes().unwrap();
        for byte in 0..=255_u8 {
            assert_eq!(bytes[usize::from(byte)], [byte]);
        }
        for (index, awkward) in AWKWARD_TOKENS.iter().enumerate() {
            assert_eq!(bytes[256 + index], *awkward);
        }
        assert_eq!(bytes[END as usize], b"<|end|>");
        assert_eq!(bytes[END as usize + 1], b"<tool>");
    }

    #[test]
    fn sentence_piece_tokens_have_spaces_and_bytes() {
        for metaspace in [false, true] {
            let tokenizer = sentence_piece(metaspace);
            let bytes = tokenizer.vocabulary_bytes().unwrap();
            let expected: &[u8] = if metaspace { b"<0x0A>" } else { b"\n" };
            assert_eq!(bytes[10], expected, "byte fallback is a matter of the decoder");
            for token in 256..tokenizer.vocabulary_size() as u32 {
                let spelled = tokenizer.id_to_token(token).unwrap();
                assert_eq!(bytes[token as usize], spelled.replace('▁', " ").as_bytes());
            }
        }
    }

    #[test]
    fn a_decoder_that_looks_at_neighbours_is_named() {
        let file = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
        });
        let error = parsed(&file).vocabulary_bytes().unwrap_err();
        assert!(error.to_string().ends_with("its tokenizer has a decoder of type WordPiece"), "{error}");
    }
}
