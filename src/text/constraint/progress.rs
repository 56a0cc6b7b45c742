//! How far an output is in its format, and which tokens may follow.

use std::collections::VecDeque;
use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::format::told;

/// A format met something in an output that it cannot go on from: it became too complex, or contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConstraintError(pub(super) String);

/// The place of one output in its format. Nothing of it is shared with others, so nothing is locked for long.
///
/// The order of calls: [`Progress::allowed`] any number of times, [`Progress::accept`] once, [`Progress::prepare`] once, and
/// so on. The first is prepared when it is made.
pub struct Progress {
    matcher: Matcher,
    /// Tokens that must come, in order, before there is a choice again.
    forced: VecDeque<u32>,
    /// A bit for each token.
    allowed: SimpleVob,
    /// Tokens that end a text, and may not do so while anything else may follow.
    no_end: Arc<[u32]>,
}

impl Progress {
    /// At the beginning of the format. `no_end` are end-of-text tokens that come only where nothing else may.
    pub(super) fn new(matcher: Matcher, no_end: Arc<[u32]>) -> Result<Self, ConstraintError> {
        let mut progress = Self { matcher, forced: VecDeque::new(), allowed: SimpleVob::new(), no_end };
        progress.prepare()?;
        Ok(progress)
    }

    /// Whether a token may come next: bit `token % 32` of word `token / 32`. Tokens beyond the last word may not.
    pub fn allowed(&self) -> &[u32] {
        self.allowed.as_slice()
    }

    /// Takes a token into the output, in microseconds. Returns whether the output is complete: nothing but an end may
    /// follow.
    ///
    /// # Errors
    /// The token is not allowed, or the format became too complex.
    pub fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        if self.forced.pop_front().is_some_and(|forced| forced != token) {
            self.forced.clear();
        }
        self.matcher.consume_token(token).map_err(|error| failed(&error))?;
        Ok(self.matcher.is_stopped())
    }

    /// Computes what may follow, in microseconds to milliseconds.
    ///
    /// # Errors
    /// Nothing may follow, or the format became too complex.
    pub fn prepare(&mut self) -> Result<(), ConstraintError> {
        if self.forced.is_empty() {
            self.forced.extend(self.matcher.compute_ff_tokens());
        }
        if let Some(forced) = self.forced.front() {
            self.allowed = SimpleVob::alloc(*forced as usize + 1);
            self.allowed.allow_token(*forced);
            return Ok(());
        }
        self.allowed = self.matcher.compute_mask().map_err(|error| failed(&error))?;
        let mut unended = self.allowed.clone();
        self.no_end.iter().for_each(|token| unended.disallow_token(*token));
        if !unended.is_zero() {
            self.allowed = unended;
        }
        Ok(())
    }
}

fn failed(error: &dyn std::fmt::Display) -> ConstraintError {
    ConstraintError(told(&error.to_string()))
}
