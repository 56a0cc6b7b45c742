//! Text ↔ token ids, by the `tokenizer.json` that came with the model.
//!
//! The request flow encodes the rendered prompt with it, and [`crate::text::decoder`] turns generated ids back into
//! text. This file owns the outside crate: nobody else names a type of it. It must never drop or add a token without
//! being told to, so the truncation and padding that a file may ask for are switched off when it is read.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod samples;
mod spelling;

use thiserror::Error;

/// A step between text and token ids that failed.
#[derive(Debug, Error)]
pub enum TextError {
    /// The tokenizer file could not be read.
    #[error("failed to read tokenizer {file}")]
    Read {
        /// The file that was asked for.
        file: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are no tokenizer in the `tokenizer.json` format.
    #[error("failed to parse tokenizer")]
    Parse(#[source] tokenizers::Error),
    /// A text could not be turned into tokens.
    #[error("failed to encode a text of {length_bytes} bytes")]
    Encode {
        /// Length of the text; the text itself is never part of an error.
        length_bytes: usize,
        /// What the tokenizer said.
        #[source]
        source: tokenizers::Error,
    },
    /// Tokens could not be turned into text.
    #[error("failed to decode {length_tokens} tokens")]
    Decode {
        /// Number of tokens; the tokens themselves are never part of an error.
        length_tokens: usize,
        /// What the tokenizer said.
        #[source]
        source: tokenizers::Error,
    },
}

/// What a single token brings to a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Nothing: it is not in the vocabulary, or special and to be skipped.
    Nothing,
    /// One byte of a character (a byte-fallback token, `<0x9F>`).
    Byte(u8),
    /// Text, complete or not.
    Text,
}

/// A token of a text, and where it stands in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpan {
    /// The token.
    pub token: u32,
    /// Bytes of the text; none for a token that the tokenizer adds.
    pub bytes: Range<usize>,
}

/// The tokenizer of one model. Immutable and shared by all its requests.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
    /// The same with their contents, the longest first.
    special_contents: Vec<(String, u32)>,
    vocabulary_size: usize,
    byte_fallback: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` file.
    ///
    /// # Errors
    /// [`TextError::Read`] when the file cannot be read, [`TextError::Parse`] when it is no tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, TextError> {
        let bytes =
            std::fs::read(path).map_err(|source| TextError::Read { file: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Reads the content of a `tokenizer.json` file.
    ///
    /// # Errors
    /// [`TextError::Parse`] when it is no tokenizer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(TextError::Parse)?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(TextError::Parse)?;

        let vocabulary = inner.get_vocab(true);
        let added = inner.get_added_tokens_decoder();
        let contents: HashSet<&str> =
            added.values().filter(|token| token.special).map(|token| token.content.as_str()).collect();
        let special = vocabulary.iter().filter(|(content, _)| contents.contains(content.as_str()));
        let mut special_contents: Vec<_> = special.map(|(content, id)| (content.clone(), *id)).collect();
        special_contents.sort_by_key(|(content, _)| std::cmp::Reverse(content.len()));
        let special = special_contents.iter().map(|(_, id)| *id).collect();
        let vocabulary_size = vocabulary.values().max().map_or(0, |highest| *highest as usize + 1);
        let byte_fallback = decodes_byte_tokens(&inner);
        Ok(Self { inner, special, special_contents, vocabulary_size, byte_fallback })
    }

    /// Turns a text into token ids. `add_special_tokens` lets the file's post-processor add what it wants, such as a
    /// begin-of-text token; a prompt rendered by a chat template has them already.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        self.inner
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|source| TextError::Encode { length_bytes: text.len(), source })
    }

    /// As [`Self::encode`] with special tokens, with the place of each token in the text.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the tokenizer cannot represent the text.
    pub fn spans(&self, text: &str) -> Result<Vec<TokenSpan>, TextError> {
        let encoding = self
            .inner
            .encode(text, true)
            .map_err(|source| TextError::Encode { length_bytes: text.len(), source })?;
        let spans = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(spans.map(|(&token, &(start, end))| TokenSpan { token, bytes: start..end }).collect())
    }

    /// Turns token ids into text, all at once. Ids outside the vocabulary give no text; bytes that are not UTF-8
    /// become U+FFFD. A stream is decoded by [`crate::text::decoder::Decoder`].
    ///
    /// # Errors
    /// [`TextError::Decode`] when the file's decoder fails.
    pub fn decode(&self, tokens: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        self.inner
            .decode(tokens, skip_special_tokens)
            .map_err(|source| TextError::Decode { length_tokens: tokens.len(), source })
    }

    /// The highest token id plus one, added tokens included. The model's own vocabulary may be larger (padding of the
    /// output layer), never smaller.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The id of a token given by its exact content, such as `<|im_end|>`.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The content of a token as the vocabulary spells it, which for ordinary tokens is not its text.
    pub fn id_to_token(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// Whether the file marks this token as special (a control token, not text).
    pub fn is_special(&self, token: u32) -> bool {
        self.special.contains(&token)
    }

    /// The longest special token that this text begins with, and its length in bytes.
    pub fn special_at_start(&self, text: &str) -> Option<(u32, usize)> {
        let is_there =
            |(content, _): &&(String, u32)| !content.is_empty() && text.starts_with(content.as_str());
        self.special_contents.iter().find(is_there).map(|(content, id)| (*id, content.len()))
    }

    /// What this token brings to a text.
    pub(crate) fn piece(&self, token: u32, skip_special_tokens: bool) -> Piece {
        if skip_special_tokens && self.is_special(token) {
            return Piece::Nothing;
        }
        match self.inner.id_to_token(token) {
            None => Piece::Nothing,
            Some(content) if self.byte_fallback => byte_of(&content).map_or(Piece::Text, Piece::Byte),
            Some(_) => Piece::Text,
        }
    }
}

/// Whether the decoder of the file reads `<0x41>` as a byte, which only the byte-fallback decoder does.
fn decodes_byte_tokens(inner: &tokenizers::Tokenizer) -> bool {
    let decode = |token| inner.decode(&[token], false).ok();
    inner.token_to_id("<0x41>").and_then(decode).is_some_and(|text| text == "A")
}

/// The byte that a byte-fallback token stands for, read as the decoder reads it.
fn byte_of(content: &str) -> Option<u8> {
    let digits = content.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests;
