//! Token ids → text, one token at a time.
//!
//! The last but one station of a stream: the engine yields ids, this file yields the text that is final now, and
//! [`crate::text::stop`] looks for stop strings in it. A token cannot be decoded alone: it may be a part of a character,
//! and many decoders drop the space before the first token. So the newest tokens are decoded together, and what is new
//! in their text is returned:
//!
//! ```text
//!   tokens   … dropped │ window: the newest tokens                 │ bytes: byte-fallback tokens that
//!   text               │ known: returned before │ new │ held U+FFFD │ are not yet a character
//! ```
//!
//! A U+FFFD at the end of the text may be a character whose bytes are still coming, so it is held until the next token
//! decides. Byte-fallback tokens (`<0x9F>`) are held until they are a character: their decoder would turn a whole run of
//! them into U+FFFD as soon as one byte of it is wrong; here the good characters of such a run stay and each wrong byte
//! becomes one U+FFFD. Apart from that all pushes and the finish together give what decoding everything at once gives.
//!
//! It must never return half a character, decode more than a bounded number of tokens per push, or wait for ever for a
//! character that cannot be completed.

use std::sync::Arc;

use crate::text::tokenizer::{Piece, TextError, Tokenizer};

/// What decoders write for bytes that are not, or not yet, a character.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Tokens kept when the window is shortened. A held character has at most three byte tokens, and a decoder that starts
/// inside a character is in step again after three more.
const CONTEXT_TOKENS: usize = 8;

/// The longest window. Reached only while no token ends where a character ends.
const WINDOW_TOKENS: usize = 16;

/// Decodes one sequence. Costs about two short decodes per token.
#[derive(Debug)]
pub struct Decoder {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    window: Vec<u32>,
    /// Beginning of the window's text that was returned, or belongs to the prompt.
    known: String,
    /// Byte-fallback tokens that are not yet a character, and their bytes.
    byte_tokens: Vec<u32>,
    bytes: Vec<u8>,
}

impl Decoder {
    /// A decoder that goes on behind `prompt_tail`, the last tokens of the prompt: 16 are used, all may be given. Without
    /// any the text is decoded like the start of a text. If the prompt ends inside a character that the sequence
    /// completes, the character belongs to the sequence.
    ///
    /// # Errors
    /// [`TextError::Decode`] when the file's decoder fails on the prompt.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        prompt_tail: &[u32],
        skip_special_tokens: bool,
    ) -> Result<Self, TextError> {
        let mut decoder = Self {
            tokenizer,
            skip_special_tokens,
            window: Vec::new(),
            known: String::new(),
            byte_tokens: Vec::new(),
            bytes: Vec::new(),
        };
        let with_text = |token: &&u32| decoder.piece(**token) != Piece::Nothing;
        let tail: Vec<u32> =
            prompt_tail.iter().rev().filter(with_text).take(WINDOW_TOKENS).copied().collect();
        for token in tail.into_iter().rev() {
            decoder.push(token)?;
        }
        decoder.known = decoder.decode(&decoder.window)?;
        Ok(decoder)
    }

    /// Takes the next token and returns the text that is final now, which may be empty.
    ///
    /// # Errors
    /// [`TextError::Decode`] when the file's decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String, TextError> {
        match self.piece(token) {
            Piece::Nothing => Ok(String::new()),
            Piece::Byte(byte) => {
                self.byte_tokens.push(token);
                self.bytes.push(byte);
                self.push_bytes()
            }
            Piece::Text => {
                let broken = self.drop_bytes(self.bytes.len())?;
                Ok(broken + &self.push_tokens(&[token])?)
            }
        }
    }

    /// Returns what was held back: U+FFFD for an incomplete character, if the sequence ended inside one.
    ///
    /// # Errors
    /// [`TextError::Decode`] when the file's decoder fails.
    pub fn finish(mut self) -> Result<String, TextError> {
        let held = self.flush()?;
        Ok(held + &self.drop_bytes(self.bytes.len())?)
    }

    fn piece(&self, token: u32) -> Piece {
        self.tokenizer.piece(token, self.skip_special_tokens)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, TextError> {
        self.tokenizer.decode(tokens, self.skip_special_tokens)
    }

    /// Moves the held bytes on, once they are a character or cannot become one.
    fn push_bytes(&mut self) -> Result<String, TextError> {
        let mut out = String::new();
        while !self.bytes.is_empty() {
            match std::str::from_utf8(&self.bytes).map_err(|error| error.error_len()) {
                Ok(_) => {
                    self.bytes.clear();
                    let tokens = std::mem::take(&mut self.byte_tokens);
                    out += &self.push_tokens(&tokens)?;
                }
                Err(Some(wrong)) => out += &self.drop_bytes(wrong)?,
                Err(None) => break,
            }
        }
        Ok(out)
    }

    /// Gives up the first of the held bytes: one U+FFFD each, behind what the window holds.
    fn drop_bytes(&mut self, count: usize) -> Result<String, TextError> {
        if count == 0 {
            return Ok(String::new());
        }
        let held = self.flush()?;
        self.bytes.drain(..count);
        self.byte_tokens.drain(..count);
        Ok(held + &REPLACEMENT.to_string().repeat(count))
    }

    /// Adds tokens to the window and returns the new part of its text, without a U+FFFD at the end.
    fn push_tokens(&mut self, tokens: &[u32]) -> Result<String, TextError> {
        self.window.extend_from_slice(tokens);
        let text = self.decode(&self.window)?;
        let complete = text.strip_suffix(REPLACEMENT).unwrap_or(&text);
        let new = self.new_text(complete).to_owned();
        if complete.len() == text.len() {
            self.shorten()?;
        } else if !new.is_empty() {
            complete.clone_into(&mut self.known);
        }
        if self.window.len() > WINDOW_TOKENS {
            self.cut()?;
        }
        Ok(new)
    }

    /// The part of a text of the window that is not known. Compared by characters, because the U+FFFD at the end of a
    /// prompt may have become a character.
    fn new_text<'text>(&self, text: &'text str) -> &'text str {
        let same = text.chars().zip(self.known.chars()).take_while(|(new, known)| new == known);
        &text[same.map(|(character, _)| character.len_utf8()).sum()..]
    }

    /// Everything of the window is returned: keeps the fewest newest tokens that are a sound context. They have text
    /// (else the next token would lose its leading space), and it does not begin inside a character.
    fn shorten(&mut self) -> Result<(), TextError> {
        let earliest = self.window.len().saturating_sub(CONTEXT_TOKENS);
        for start in (earliest..self.window.len()).rev() {
            self.known = self.decode(&self.window[start..])?;
            if start == earliest || !(self.known.is_empty() || self.known.starts_with(REPLACEMENT)) {
                self.window.drain(..start);
                break;
            }
        }
        Ok(())
    }

    /// The end of the window is held and the window is full: keeps the newest tokens and goes on holding.
    fn cut(&mut self) -> Result<(), TextError> {
        self.window.drain(..self.window.len() - CONTEXT_TOKENS);
        self.known = self.decode(&self.window)?;
        if self.known.ends_with(REPLACEMENT) {
            self.known.pop();
        }
        Ok(())
    }

    /// Returns what the window holds.
    fn flush(&mut self) -> Result<String, TextError> {
        let text = self.decode(&self.window)?;
        let new = self.new_text(&text).to_owned();
        self.known = text;
        Ok(new)
    }
}

#[cfg(test)]
mod tests;
