//! Formats → constraints, for one model.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{Matcher, ParserFactory};

use super::ahead::{Ahead, Constraint};
use super::format::{Format, FormatError, told};
use super::progress::{ConstraintError, Progress};
use super::vocabulary::Vocabulary;
use crate::text::tokenizer::Tokenizer;

/// Formats that are kept compiled.
const KEPT: usize = 32;

/// The library goes down the chain of a grammar's rules by recursion: 3000 rules overflow 2 MiB, and half as many fit into a
/// grammar. What is not used costs nothing.
const STACK_BYTES: usize = 64 << 20;

/// What a format may cost. A step's mask may use 50 000 units of the lexer and 20 000 items of the parser, some 5 ms; the
/// schemas in `tests/fixtures/schemas` use at most a tenth of each.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 1000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 50_000,
        step_max_items: 20_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// What the first format of a model makes for all of them.
struct Workshop {
    factory: ParserFactory,
    ahead: Ahead,
}

/// Compiles formats against the vocabulary of one tokenizer.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    /// Tokens that end a text.
    end_tokens: Arc<[u32]>,
    workshop: OnceLock<Result<Workshop, String>>,
    /// The formats compiled lately, the latest last.
    kept: Mutex<Vec<(Format, Matcher)>>,
}

impl Grammars {
    /// Costs nothing yet. End tokens that the tokenizer does not know are left out.
    pub fn new(tokenizer: Arc<Tokenizer>, end_tokens: &[u32]) -> Self {
        let known = |token: &u32| (*token as usize) < tokenizer.vocabulary_size();
        let end_tokens = end_tokens.iter().copied().filter(known).collect();
        Self { tokenizer, end_tokens, workshop: OnceLock::new(), kept: Mutex::default() }
    }

    /// Makes the constraint of one output; with `may_end` an end-of-text token may end it where the format lets it,
    /// otherwise it ends where nothing can follow.
    ///
    /// Computes for milliseconds, longer for the first format of all: call it off the async threads.
    ///
    /// # Errors
    /// The format is not understood, or too complex; or the tokenizer is of a kind that no format works with.
    pub fn compile(&self, format: &Format, may_end: bool) -> Result<Constraint, FormatError> {
        let progress = self.begin(format, may_end)?;
        Ok(Constraint::new(progress, self.workshop()?.ahead.clone()))
    }

    /// As [`Grammars::compile`], for a caller that has prepared what may follow when it likes.
    ///
    /// # Errors
    /// See [`Grammars::compile`].
    pub fn begin(&self, format: &Format, may_end: bool) -> Result<Progress, FormatError> {
        let matcher = match self.kept(format) {
            Some(matcher) => matcher,
            None => self.compiled(format)?,
        };
        let no_end = if may_end { Arc::default() } else { Arc::clone(&self.end_tokens) };
        Progress::new(matcher, no_end).map_err(|ConstraintError(message)| format.error(message))
    }

    fn compiled(&self, format: &Format) -> Result<Matcher, FormatError> {
        let factory = &self.workshop()?.factory;
        let compile = || {
            format.check()?;
            let grammar = format.grammar(|text| self.tokenizer.special_at_start(text));
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            // Some mistakes show only when an output begins.
            let begun = matcher.compute_mask();
            match matcher.get_error().or_else(|| begun.err().map(|error| error.to_string())) {
                Some(error) => Err(format.error(told(&error))),
                None => Ok(matcher),
            }
        };
        let matcher = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("format".to_owned()).stack_size(STACK_BYTES);
            let running = thread.spawn_scoped(scope, compile);
            let running =
                running.map_err(|error| format.error(format!("failed to start a thread: {error}")))?;
            running.join().unwrap_or_else(|_panicked| Err(format.error("it cannot be understood")))
        })?;
        self.keep(format, &matcher);
        Ok(matcher)
    }

    fn workshop(&self) -> Result<&Workshop, FormatError> {
        let made = self.workshop.get_or_init(|| Workshop::open(&self.tokenizer, &self.end_tokens));
        made.as_ref().map_err(|message| FormatError {
            part: "type",
            function: None,
            message: message.clone(),
        })
    }

    fn kept(&self, format: &Format) -> Option<Matcher> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().position(|(known, _)| known == format)?;
        let found = kept.remove(index);
        // Deep: rows of a batch share nothing that has a lock.
        let matcher = found.1.deep_clone();
        kept.push(found);
        Some(matcher)
    }

    fn keep(&self, format: &Format, matcher: &Matcher) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((format.clone(), matcher.deep_clone()));
    }
}

impl Workshop {
    fn open(tokenizer: &Arc<Tokenizer>, end_tokens: &[u32]) -> Result<Self, String> {
        let vocabulary: TokEnv = Arc::new(Vocabulary::new(tokenizer, end_tokens)?);
        let slices = SlicedBiasComputer::json_slices();
        let mut factory = ParserFactory::new(&vocabulary, InferenceCapabilities::default(), &slices)
            .map_err(|error| error.to_string())?;
        *factory.limits_mut() = limits();
        factory.quiet();
        let ahead = Ahead::start().map_err(|error| format!("failed to start a thread: {error}"))?;
        Ok(Self { factory, ahead })
    }
}
