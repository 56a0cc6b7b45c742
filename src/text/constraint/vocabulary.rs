//! A model's vocabulary as the grammar library wants it: a tree of bytes, and a way to tokenise what is forced.

use std::sync::Arc;

use llguidance::toktrie::{INVALID_TOKEN, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::text::tokenizer::Tokenizer;

/// Texts that a tokenizer must split into tokens of exactly their bytes if forced text is to be tokenised by it: some
/// tokenizers begin every text with a space.
const PROBES: [&str; 5] = ["{", "a", " a", "\n  \"x\": 1", "é"];

/// The vocabulary of one tokenizer.
pub(super) struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    tree: TokTrie,
    /// Whether the tokenizer splits any text into tokens of exactly its bytes.
    exact: bool,
}

impl Vocabulary {
    /// # Errors
    /// The tokens have no bytes of their own.
    pub(super) fn new(tokenizer: &Arc<Tokenizer>, end_tokens: &[u32]) -> Result<Self, String> {
        let mut words = tokenizer.vocabulary_bytes().map_err(|error| error.to_string())?;
        let exact = PROBES.iter().all(|probe| splits_exactly(tokenizer, &words, probe));
        for (token, bytes) in words.iter_mut().enumerate() {
            if tokenizer.is_special(token as u32) {
                bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
            } else if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
                // No character has this byte, so no text needs the token; it would be taken for a special one.
                bytes.clear();
            }
        }
        let first_end = end_tokens.first().copied().unwrap_or(INVALID_TOKEN);
        let mut tree = TokTrie::from(&TokRxInfo::new(words.len() as u32, first_end), &words);
        if end_tokens.len() > 1 {
            tree = tree.with_eos_tokens(end_tokens);
        }
        Ok(Self { tokenizer: Arc::clone(tokenizer), tree, exact })
    }
}

fn splits_exactly(tokenizer: &Tokenizer, words: &[Vec<u8>], text: &str) -> bool {
    let tokens = tokenizer.encode(text, false).unwrap_or_default();
    tokens.iter().flat_map(|token| &words[*token as usize]).eq(text.as_bytes())
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.tree
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if !self.exact {
            return self.tree.greedy_tokenize(bytes);
        }
        self.tree.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer
                .encode(text, false)
                .unwrap_or_else(|_refused| self.tree.greedy_tokenize(text.as_bytes()))
        })
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.exact
    }
}
