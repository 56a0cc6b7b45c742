//! A deterministic backend for tests: the next token is a function of everything in the row's cache.
//!
//! A wrong position, a row that was moved to the wrong place or a cache that was not cleared changes what comes out.

use std::ops::Range;
use std::sync::{Arc, Mutex, mpsc};

use super::backend::{Backend, BackendError, Batch, Feeding, Geometry, Wanted};
use super::request::TokenId;

pub(super) const VOCABULARY: usize = 64;

/// What a test sees of a running fake.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Past and number of tokens of each run of one row, in order.
    pub(super) chunks: Vec<(usize, usize)>,
    /// Rows of each decode run.
    pub(super) decoded_rows: Vec<usize>,
    /// Tokens of each run whose logits were all wanted, in order.
    pub(super) verified: Vec<usize>,
    /// Tokens in each row after the last run.
    pub(super) cached: Vec<usize>,
    /// The most tokens in all rows after any run.
    pub(super) most_cached: usize,
}

pub(super) struct Fake {
    geometry: Geometry,
    rows: Vec<Vec<TokenId>>,
    logits: Vec<f32>,
    record: Arc<Mutex<Record>>,
    /// Tokens at the end of a text that say what follows; few of them make texts that repeat themselves.
    memory: usize,
    /// When there is one, each run takes a permit first.
    gate: Option<mpsc::Receiver<()>>,
    /// Runs that see this token fail.
    poison: Option<TokenId>,
    /// Runs that see this token panic.
    panics: Option<TokenId>,
    /// Rows that see this token get logits that are not numbers.
    not_a_number: Option<TokenId>,
}

impl Fake {
    pub(super) fn new(rows: usize, context_tokens: usize) -> Self {
        Self {
            geometry: Geometry {
                vocabulary_size: VOCABULARY,
                context_tokens,
                rows,
                feeding: Feeding::LongChunks,
                cache_bytes_per_token: size_of::<f32>(),
                keeps_prefixes: true,
                verifies_drafts: true,
            },
            rows: vec![Vec::new(); rows],
            logits: Vec::new(),
            record: Arc::default(),
            memory: usize::MAX,
            gate: None,
            poison: None,
            panics: None,
            not_a_number: None,
        }
    }

    /// Runs wait for permits from the returned sender; dropping it opens the gate for good.
    pub(super) fn gated(mut self) -> (Self, mpsc::Sender<()>) {
        let (sender, gate) = mpsc::channel();
        self.gate = Some(gate);
        (self, sender)
    }

    pub(super) fn failing_on(mut self, token: TokenId) -> Self {
        self.poison = Some(token);
        self
    }

    pub(super) fn panicking_on(mut self, token: TokenId) -> Self {
        self.panics = Some(token);
        self
    }

    pub(super) fn not_a_number_on(mut self, token: TokenId) -> Self {
        self.not_a_number = Some(token);
        self
    }

    pub(super) fn without_chunks(mut self) -> Self {
        self.geometry.feeding = Feeding::Whole;
        self
    }

    pub(super) fn remembering(mut self, tokens: usize) -> Self {
        self.memory = tokens;
        self
    }

    pub(super) fn without_verification(mut self) -> Self {
        self.geometry.verifies_drafts = false;
        self
    }

    pub(super) fn record(&self) -> Arc<Mutex<Record>> {
        Arc::clone(&self.record)
    }
}

/// The token that follows `tokens`.
pub(super) fn next_token(tokens: &[TokenId]) -> TokenId {
    let mixed = tokens
        .iter()
        .fold(0x9e37_79b9_u32, |state, token| (state ^ token).wrapping_mul(0x0100_0193).rotate_left(7));
    mixed % VOCABULARY as u32
}

/// The `count` tokens that follow `prompt`.
pub(super) fn continuation(prompt: &[TokenId], count: usize) -> Vec<TokenId> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        tokens.push(next_token(&tokens));
    }
    tokens.split_off(prompt.len())
}

/// A clear preference for the [`next_token`] of the last `memory` tokens; no numbers when `tokens` hold `broken`.
fn logits_after(tokens: &[TokenId], memory: usize, broken: Option<TokenId>) -> [f32; VOCABULARY] {
    let mut logits = [0.0; VOCABULARY];
    logits[next_token(&tokens[tokens.len().saturating_sub(memory)..]) as usize] = 10.0;
    if broken.is_some_and(|token| tokens.contains(&token)) { [f32::NAN; VOCABULARY] } else { logits }
}

impl Backend for Fake {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<&mut [f32], BackendError> {
        if let Some(gate) = &self.gate {
            // A closed gate is an open one.
            gate.recv().unwrap_or_default();
        }
        let mut record = self.record.lock().unwrap();
        match batch.inputs {
            [only] if batch.wanted == Wanted::All => record.verified.push(only.tokens.len()),
            [only] if only.tokens.len() > 1 || batch.wanted == Wanted::Nothing => {
                record.chunks.push((only.past, only.tokens.len()));
            }
            inputs => record.decoded_rows.push(inputs.len()),
        }
        self.logits.clear();
        for (offset, input) in batch.inputs.iter().enumerate() {
            let row = &mut self.rows[batch.first_row + offset];
            row.truncate(input.past);
            assert_eq!(row.len(), input.past, "row {} misses tokens", batch.first_row + offset);
            row.extend_from_slice(input.tokens);
            assert!(row.len() <= self.geometry.context_tokens, "a row is longer than the context");
            assert!(!self.panics.is_some_and(|token| input.tokens.contains(&token)), "told to panic");
            if self.poison.is_some_and(|poison| input.tokens.contains(&poison)) {
                return Err(BackendError("poisoned".to_owned()));
            }
            let first_wanted = match batch.wanted {
                Wanted::Nothing => row.len() + 1,
                Wanted::Last => row.len(),
                Wanted::All => input.past + 1,
            };
            for length in first_wanted..=row.len() {
                self.logits.extend(logits_after(&row[..length], self.memory, self.not_a_number));
            }
        }
        record.cached = self.rows.iter().map(Vec::len).collect();
        record.most_cached = record.most_cached.max(record.cached.iter().sum());
        Ok(&mut self.logits)
    }

    fn move_row(&mut self, from: usize, to: usize, tokens: usize) {
        let mut moved = std::mem::take(&mut self.rows[from]);
        moved.truncate(tokens);
        self.rows[to] = moved;
    }

    fn read_cache(&self, row: usize, tokens: Range<usize>, cache: &mut Vec<u8>) {
        cache.extend(self.rows[row][tokens].iter().flat_map(|token| token.to_ne_bytes()));
    }

    fn write_cache(&mut self, row: usize, tokens: Range<usize>, cache: &[u8]) {
        let row = &mut self.rows[row];
        row.truncate(tokens.start);
        assert_eq!(row.len(), tokens.start, "blocks are written in order");
        let tokens = cache.as_chunks().0.iter();
        row.extend(tokens.map(|bytes| TokenId::from_ne_bytes(*bytes)));
    }

    fn release_row(&mut self, row: usize, _give_back: bool) {
        self.rows[row].clear();
        self.record.lock().unwrap().cached = self.rows.iter().map(Vec::len).collect();
    }
}
