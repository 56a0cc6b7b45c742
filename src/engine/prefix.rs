//! Beginnings of prompts that were computed before: their caches, to be copied into a row instead of computed again.
//!
//! A *block* is the cache of one whole chunk of a prompt. Its key is a hash over its tokens and the key of the block
//! before it, so a chain of blocks stands for one beginning; the tokens are compared too, so a hit is exact. Blocks are
//! as long as chunks and lie at the same borders: what is copied has the very bits that computing would give.
//!
//! Bounded in bytes; the block that was used the longest ago goes first. Using a chain marks its first block as the
//! newest, so that chains lose their ends before their beginnings. One store belongs to one loaded model.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::request::TokenId;

/// Names a chain of blocks by its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

struct Block {
    parent: Option<Key>,
    tokens: Box<[TokenId]>,
    cache: Box<[u8]>,
    used: u64,
}

/// The store of one engine.
pub(super) struct PrefixStore {
    blocks: HashMap<Key, Block>,
    /// Keys by the time of their last use.
    by_use: BTreeMap<u64, Key>,
    /// Seeded at random, so that nobody can prepare prompts that collide.
    hasher: RandomState,
    block_tokens: usize,
    capacity_bytes: usize,
    used_bytes: usize,
    clock: u64,
}

impl PrefixStore {
    /// Blocks of `block_tokens` tokens, `capacity_bytes` in all; 0 keeps nothing.
    pub(super) fn new(block_tokens: usize, capacity_bytes: usize) -> Self {
        Self {
            blocks: HashMap::new(),
            by_use: BTreeMap::new(),
            hasher: RandomState::new(),
            block_tokens,
            capacity_bytes,
            used_bytes: 0,
            clock: 0,
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.capacity_bytes > 0
    }

    /// Bytes of all blocks.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// The longest known beginning of `prompt` that leaves at least one token to compute, block by block.
    pub(super) fn find(&mut self, prompt: &[TokenId]) -> Vec<Key> {
        let mut chain: Vec<Key> = Vec::new();
        let computed = &prompt[..prompt.len().saturating_sub(1)];
        for tokens in computed.chunks_exact(self.block_tokens) {
            let parent = chain.last().copied();
            let key = self.key(parent, tokens);
            if !self.holds(key, parent, tokens) {
                break;
            }
            chain.push(key);
        }
        for key in chain.iter().rev() {
            self.touch(*key);
        }
        chain
    }

    /// The cache of a block of a found chain.
    pub(super) fn cache(&self, key: Key) -> &[u8] {
        &self.blocks[&key].cache
    }

    /// Keeps the cache of a block that follows `parent`; `read` brings it, if it is not known yet.
    pub(super) fn keep(
        &mut self,
        parent: Option<Key>,
        tokens: &[TokenId],
        read: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Key> {
        // A chain without its beginning can never be found.
        if !self.is_enabled() || parent.is_some_and(|parent| !self.blocks.contains_key(&parent)) {
            return None;
        }
        let key = self.key(parent, tokens);
        if self.blocks.contains_key(&key) {
            return self.holds(key, parent, tokens).then_some(key);
        }
        let mut cache = Vec::new();
        read(&mut cache);
        let bytes = cache.len();
        if bytes > self.capacity_bytes {
            return None;
        }
        let chain = self.chain_of(parent);
        // The beginning of a chain is worth more than its end.
        self.touch_all(&chain);
        while self.used_bytes + bytes > self.capacity_bytes {
            if self.by_use.first_key_value().is_none_or(|(_, oldest)| chain.contains(oldest)) {
                return None;
            }
            self.drop_oldest();
        }
        self.used_bytes += bytes;
        self.clock += 1;
        self.by_use.insert(self.clock, key);
        let block = Block { parent, tokens: tokens.into(), cache: cache.into(), used: self.clock };
        self.blocks.insert(key, block);
        self.touch_all(&chain);
        Some(key)
    }

    /// A block and those before it, the last first.
    fn chain_of(&self, last: Option<Key>) -> Vec<Key> {
        std::iter::successors(last, |key| self.blocks.get(key)?.parent).collect()
    }

    fn key(&self, parent: Option<Key>, tokens: &[TokenId]) -> Key {
        Key(self.hasher.hash_one((parent, tokens)))
    }

    fn holds(&self, key: Key, parent: Option<Key>, tokens: &[TokenId]) -> bool {
        self.blocks.get(&key).is_some_and(|block| block.parent == parent && *block.tokens == *tokens)
    }

    /// Marks blocks as used, each newer than the one before it.
    fn touch_all(&mut self, chain: &[Key]) {
        for key in chain {
            self.touch(*key);
        }
    }

    fn touch(&mut self, key: Key) {
        self.clock += 1;
        if let Some(block) = self.blocks.get_mut(&key) {
            self.by_use.remove(&block.used);
            block.used = self.clock;
            self.by_use.insert(self.clock, key);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.by_use.pop_first()
            && let Some(block) = self.blocks.remove(&key)
        {
            self.used_bytes -= size_of_val(&*block.cache);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes of a block in these tests: one byte a token.
    const BLOCK: usize = 4;

    fn store(blocks: usize) -> PrefixStore {
        PrefixStore::new(4, blocks * BLOCK)
    }

    /// Keeps all whole blocks of a prompt, as the worker does; the cache of a token is the token.
    fn keep_all(store: &mut PrefixStore, prompt: &[TokenId]) {
        let mut parent = None;
        for tokens in prompt.chunks_exact(4) {
            let read = |cache: &mut Vec<u8>| cache.extend(tokens.iter().map(|token| *token as u8));
            match store.keep(parent, tokens, read) {
                Some(key) => parent = Some(key),
                None => return,
            }
        }
    }

    fn found_tokens(store: &mut PrefixStore, prompt: &[TokenId]) -> Vec<TokenId> {
        let chain = store.find(prompt);
        chain.iter().flat_map(|key| store.cache(*key).iter().copied().map(TokenId::from)).collect()
    }

    #[test]
    fn the_longest_common_beginning_in_whole_blocks_is_found() {
        let mut store = store(100);
        keep_all(&mut store, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(found_tokens(&mut store, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(found_tokens(&mut store, &[1, 2, 3, 4, 5, 6, 0, 8, 9]), [1, 2, 3, 4]);
        assert_eq!(found_tokens(&mut store, &[0, 2, 3, 4, 5, 6, 7, 8]), [0; 0]);
    }

    #[test]
    fn a_token_is_always_left_to_compute() {
        let mut store = store(100);
        keep_all(&mut store, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(found_tokens(&mut store, &[1, 2, 3, 4, 5, 6, 7, 8]), [1, 2, 3, 4]);
    }

    #[test]
    fn the_same_block_behind_another_beginning_is_another_block() {
        let mut store = store(100);
        keep_all(&mut store, &[1, 1, 1, 1, 9, 9, 9, 9]);
        assert_eq!(found_tokens(&mut store, &[2, 2, 2, 2, 9, 9, 9, 9, 0]), [0; 0]);
        assert_eq!(found_tokens(&mut store, &[9, 9, 9, 9, 0]), [0; 0]);
    }

    #[test]
    fn what_was_used_the_longest_ago_goes_first_and_ends_before_beginnings() {
        let mut store = store(3);
        keep_all(&mut store, &[1, 1, 1, 1, 2, 2, 2, 2]);
        keep_all(&mut store, &[3, 3, 3, 3]);
        assert_eq!(found_tokens(&mut store, &[1, 1, 1, 1, 2, 2, 2, 2, 0]).len(), 8);
        keep_all(&mut store, &[4, 4, 4, 4]);
        assert_eq!(found_tokens(&mut store, &[3, 3, 3, 3, 0]), [0; 0]);
        keep_all(&mut store, &[5, 5, 5, 5]);
        assert_eq!(found_tokens(&mut store, &[1, 1, 1, 1, 2, 2, 2, 2, 0]), [1, 1, 1, 1]);
    }

    #[test]
    fn without_room_nothing_is_kept_and_nothing_is_read() {
        let mut store = PrefixStore::new(4, 0);
        assert!(store.keep(None, &[1, 2, 3, 4], |_| panic!("read for nothing")).is_none());
        assert!(!store.is_enabled());
        let mut tiny = PrefixStore::new(4, BLOCK - 1);
        keep_all(&mut tiny, &[1, 2, 3, 4]);
        assert_eq!(tiny.used_bytes(), 0);
    }

    proptest! {
        #[test]
        fn hits_are_exact_and_the_bound_holds(prompts in prop::collection::vec(prop::collection::vec(0u32..3, 1..30), 1..40)) {
            let mut store = store(7);
            for prompt in prompts {
                let found = found_tokens(&mut store, &prompt);
                prop_assert!(prompt.starts_with(&found) && found.len() < prompt.len());
                keep_all(&mut store, &prompt);
                prop_assert!(store.used_bytes() <= 7 * BLOCK);
                prop_assert_eq!(store.used_bytes(), store.blocks.len() * BLOCK);
                prop_assert_eq!(store.by_use.len(), store.blocks.len());
            }
        }
    }
}
