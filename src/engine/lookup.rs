//! Drafts by prompt lookup: where the text repeats itself, what followed the first time is drafted for the next time.
//!
//! ```text
//! … the quick brown fox … the quick ▏        expected: the token after the earlier "the quick"
//!                 ▲                          run: tokens in a row that came as expected
//! ```
//!
//! Looking up costs nothing to speak of, verifying a draft does: a run over a few tokens takes up to twice as long as a
//! run over one. So expectations are first watched for a while, and tokens are drafted once some in a row came true;
//! how many it takes grows with every draft that did not pay. A text that does not repeat itself is never drafted.
//!
//! Pure: no clock, no I/O, no model. A draft is a guess about the text, never a part of it until it is verified.
//!
//! From: Saxena, "Prompt Lookup Decoding" (2023); the rule when to draft is our own.

use std::collections::HashMap;

use super::request::TokenId;

/// Tokens that came as expected before the first draft.
const LEAST_RUN: usize = 2;
/// After many drafts that did not pay only long copies are drafted, but those are.
const MOST_RUN: usize = 64;

/// The text of one sequence, and what is expected to follow it.
pub(super) struct Lookup {
    /// Prompt and output.
    text: Vec<TokenId>,
    /// Tokens of `text` that have been read into the fields below; the others wait for the next draft.
    read: usize,
    /// Position after the last occurrence of three and of two tokens.
    after_three: HashMap<[TokenId; 3], usize>,
    after_two: HashMap<[TokenId; 2], usize>,
    /// Position in `text` of the token that is expected next.
    expected: Option<usize>,
    /// Tokens in a row that came as expected.
    run: usize,
    /// The run that it takes to draft.
    needed_run: usize,
}

impl Lookup {
    pub(super) fn new(prompt: &[TokenId]) -> Self {
        Self {
            text: prompt.to_vec(),
            read: 0,
            after_three: HashMap::new(),
            after_two: HashMap::new(),
            expected: None,
            run: 0,
            needed_run: LEAST_RUN,
        }
    }

    /// The text goes on with `token`.
    pub(super) fn push(&mut self, token: TokenId) {
        self.text.push(token);
    }

    /// Appends to `draft` at most `most` tokens that may follow the text; none when that is not likely to pay.
    pub(super) fn draft(&mut self, most: usize, draft: &mut Vec<TokenId>) {
        while self.read < self.text.len() {
            self.read_next();
        }
        let Some(expected) = self.expected.filter(|_| self.run >= self.needed_run) else {
            return;
        };
        // A text that repeats its end has less behind that place than is wanted: then it goes round.
        let known = &self.text[expected..];
        draft.extend(known.iter().cycle().take(most.min(self.run)));
    }

    /// Of a draft of `drafted` tokens, `accepted` were right.
    pub(super) fn judge(&mut self, drafted: usize, accepted: usize) {
        self.needed_run = if 2 * accepted >= drafted {
            (self.needed_run / 2).max(LEAST_RUN)
        } else {
            (self.needed_run * 2).min(MOST_RUN)
        };
    }

    fn read_next(&mut self) {
        let token = self.text[self.read];
        self.read += 1;
        let text = &self.text[..self.read];
        // Looked up first: an occurrence does not count as its own repetition.
        let (three, two) = (text.last_chunk::<3>(), text.last_chunk::<2>());
        self.expected = match self.expected {
            Some(position) if self.text[position] == token => {
                self.run += 1;
                Some(position + 1)
            }
            _ => {
                self.run = 0;
                let after_three = three.and_then(|tokens| self.after_three.get(tokens));
                after_three.or_else(|| self.after_two.get(two?)).copied()
            }
        };
        if let Some(tokens) = three {
            self.after_three.insert(*tokens, self.read);
        }
        if let Some(tokens) = two {
            self.after_two.insert(*tokens, self.read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [TokenId; 0] = [];

    /// What is drafted after `text`, which was a prompt up to `prompt`.
    fn draft(text: &[TokenId], prompt: usize, most: usize) -> Vec<TokenId> {
        let mut lookup = Lookup::new(&text[..prompt]);
        for token in &text[prompt..] {
            lookup.push(*token);
        }
        let mut draft = Vec::new();
        lookup.draft(most, &mut draft);
        draft
    }

    #[test]
    fn a_text_that_does_not_repeat_itself_is_not_drafted() {
        let text: Vec<TokenId> = (0..100).collect();
        for prompt in [0, 1, 2, 50, 100] {
            assert_eq!(draft(&text, prompt, 8), NOTHING);
        }
        assert_eq!(draft(&[1, 2, 1, 3, 1, 4, 1, 5], 8, 8), NOTHING, "single tokens are no evidence");
    }

    #[test]
    fn a_repetition_is_drafted_once_two_tokens_came_as_expected() {
        let text: Vec<TokenId> = (0..20).chain(3..10).collect();
        assert_eq!(draft(&text[..23], 10, 8), NOTHING, "3, 4 and 5 alone: one came as expected");
        assert_eq!(draft(&text[..24], 10, 8), [7, 8], "as many as came as expected");
        assert_eq!(draft(&text, 10, 8), [10, 11, 12, 13, 14]);
        assert_eq!(draft(&text, 10, 3), [10, 11, 12]);
        assert_eq!(draft(&text, 10, 0), NOTHING);
    }

    #[test]
    fn the_latest_occurrence_counts() {
        let text = [1, 2, 3, 4, 5, 70, 1, 2, 3, 4, 5, 80, 1, 2, 3, 4, 5];
        assert_eq!(draft(&text, 0, 1), [80]);
    }

    #[test]
    fn a_text_that_goes_round_is_drafted_beyond_its_end() {
        let text: Vec<TokenId> = [1, 2, 3].into_iter().cycle().take(20).collect();
        assert_eq!(draft(&text, 2, 8), [3, 1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn after_wrong_drafts_it_takes_a_longer_run_and_after_right_ones_a_shorter() {
        let text: Vec<TokenId> = (0..20).chain(3..10).collect();
        let mut lookup = Lookup::new(&text);
        let drafted = |lookup: &mut Lookup| {
            let mut draft = Vec::new();
            lookup.draft(8, &mut draft);
            draft.len()
        };
        assert_eq!(drafted(&mut lookup), 5);
        lookup.judge(5, 0);
        assert_eq!(drafted(&mut lookup), 5, "a run of five is more than four");
        lookup.judge(5, 2);
        assert_eq!(drafted(&mut lookup), 0);
        lookup.judge(4, 2);
        assert_eq!(drafted(&mut lookup), 5);
    }
}
