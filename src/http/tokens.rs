//! Tokens with what each brings to the text, as the Open Inference Protocol and TGI tell them: one by one, and the last known
//! to be the last.

use std::time::Instant;

use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::{EngineError, TokenId};
use crate::generate::{Delta, GenerateError, Generation, Generations, LikelyToken, PickedToken, Whole};

/// What is told of a token that the model rules out: JSON has no infinity.
pub(super) const LEAST: f32 = -9999.0;

/// A token and the natural logarithm of its probability, as the model sees it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = GeneratedToken)]
pub(super) struct Token {
    #[schema(value_type = u32)]
    pub(super) id: TokenId,
    /// What it brings to the text, so that the texts of all tokens are the text: empty where it is a part of a character, or
    /// of what may become a stop text, which comes with a later one. That of a special token is its name.
    pub(super) text: String,
    pub(super) logprob: f32,
    /// Whether it is no part of the text
    pub(super) special: bool,
}

/// A token of the output, or the one that ended it.
#[derive(Debug)]
pub(super) struct ToldToken {
    pub(super) token: Token,
    /// What it brings to the text: nothing if it is special.
    pub(super) added: String,
    /// The most likely tokens in its place.
    pub(super) top: Vec<Token>,
}

/// The tokens of a generation as its pieces come. The generation has to ask for log-probabilities; otherwise there are none.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// The last one, if it is not sure that another comes.
    held: Option<ToldToken>,
    /// Text without a token.
    pending: String,
}

impl Tokens {
    /// The tokens that a piece of text brings.
    pub(super) fn piece(&mut self, generation: &mut Generation, text: &str) -> Vec<ToldToken> {
        let mut told = self.taken(generation, text);
        if generation.may_be_over() {
            self.held = told.pop();
        }
        told
    }

    /// Those that are left at the end, also at that of a generation that failed. The last one is the last of all.
    pub(super) fn end(&mut self, generation: &mut Generation) -> Vec<ToldToken> {
        let mut told = self.taken(generation, "");
        if let Some(picked) = generation.take_end_token() {
            let mut token = ToldToken::new(picked, generation);
            token.add(&std::mem::take(&mut self.pending));
            told.push(token);
        }
        told
    }

    /// A piece of text comes with the last token that it took.
    fn taken(&mut self, generation: &mut Generation, text: &str) -> Vec<ToldToken> {
        self.pending.push_str(text);
        let picked = generation.take_logprobs();
        let new = picked.into_iter().map(|picked| ToldToken::new(picked, generation));
        let mut told: Vec<ToldToken> = self.held.take().into_iter().chain(new).collect();
        if let Some(last) = told.last_mut() {
            last.add(&std::mem::take(&mut self.pending));
        }
        told
    }
}

impl ToldToken {
    fn new(picked: PickedToken, generation: &Generation) -> Self {
        let PickedToken { token, top } = picked;
        let told = |token: LikelyToken| {
            let LikelyToken { id, text, logprob } = token;
            let special = generation.model().tokenizer.is_special(id);
            Token { id, text, logprob: logprob.max(LEAST), special }
        };
        let mut token = told(token);
        if !token.special {
            token.text.clear();
        }
        Self { token, added: String::new(), top: top.into_iter().map(told).collect() }
    }

    fn add(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.token.special, false) {
            self.token.text.clear();
        }
        self.token.text.push_str(text);
        self.added.push_str(text);
    }
}

/// Waits for the end of all generations, as [`Generations::whole`], with the tokens of each.
///
/// # Errors
/// The first failure of any of them.
pub(super) async fn whole(
    generations: &mut Generations,
) -> Result<Vec<(Whole, Vec<ToldToken>)>, GenerateError> {
    let mut all: Vec<(Tokens, String, Vec<ToldToken>)> = Vec::new();
    all.resize_with(generations.all().len(), Default::default);
    let mut ends = vec![None; all.len()];
    while let Some((index, delta)) = generations.next().await {
        let (tokens, text, told) = &mut all[index];
        match delta? {
            Delta::Text(piece) => {
                told.extend(tokens.piece(generations.get_mut(index), &piece));
                text.push_str(&piece);
            }
            Delta::End(reason) => {
                told.extend(tokens.end(generations.get_mut(index)));
                ends[index] = Some((reason, Instant::now()));
            }
        }
    }
    let whole = |((_, text, told), end): ((Tokens, String, Vec<ToldToken>), Option<_>)| {
        let (reason, ended) = end.ok_or(EngineError::Stopped)?;
        Ok((Whole { text, reason, ended }, told))
    };
    all.into_iter().zip(ends).map(whole).collect()
}
