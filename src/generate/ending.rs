//! What a dialect that tells single tokens has to know of a generation: which token is the last, and how long it took.

use std::time::{Duration, Instant};

use super::{Generation, PickedToken};

impl Generation {
    /// Whether the end, or text of tokens that are here, may come without another token: a stop string came or may be coming,
    /// the limit is reached, or the output may be all that its format takes. Where this is false, either a token comes before
    /// the end or [`Self::take_end_token`] has one.
    pub fn may_be_over(&self) -> bool {
        self.ended.is_some()
            || self.has_format
            || self.token_ids.len() == self.most_tokens
            || self.text.as_ref().is_some_and(|(_, stops)| stops.is_holding())
    }

    /// The token with which the model ended the text, if it did and the request asks for log-probabilities. It is no part of
    /// the text.
    pub fn take_end_token(&mut self) -> Option<PickedToken> {
        self.end_token.as_mut().and_then(|(_, picked)| picked.take())
    }

    /// Tokens that were picked so far: those of the output, and the one that ended it.
    pub fn picked_tokens(&self) -> usize {
        self.token_ids.len() + usize::from(self.end_token.is_some())
    }

    /// When the request was checked and handed to the engine.
    pub fn submitted(&self) -> Instant {
        self.times.submitted()
    }

    /// How long it waited for a row, known with the first piece.
    pub fn queued(&self) -> Duration {
        self.times.queued()
    }
}
