//! The generations of one request, side by side.

use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Instant;

use super::{Delta, EndReason, GenerateError, Generation};
use crate::engine::EngineError;
use crate::model::LoadedModel;

/// Running generations of one request, those of a prompt behind each other, at least one. Dropping them cancels all.
pub struct Generations {
    all: Vec<Generation>,
    /// Who is looked at first: nobody waits for another who always has something.
    turn: usize,
}

/// The text of a generation that has ended.
#[derive(Debug, Clone)]
pub struct Whole {
    /// All of it, without the prompt.
    pub text: String,
    /// Why it ended.
    pub reason: EndReason,
    /// When.
    pub ended: Instant,
}

impl Generations {
    pub(super) fn new(all: Vec<Generation>) -> Self {
        Self { all, turn: 0 }
    }

    /// The model that answers.
    pub fn model(&self) -> &LoadedModel {
        self.all[0].model()
    }

    /// All of them.
    pub fn all(&self) -> &[Generation] {
        &self.all
    }

    /// One of them.
    pub fn get_mut(&mut self, index: usize) -> &mut Generation {
        &mut self.all[index]
    }

    /// The next piece of any of them, with its number; `None` after the end of all.
    ///
    /// # Errors
    /// As [`Generation::next`]. The failure of one ends all: an answer that lacks a part is none.
    pub async fn next(&mut self) -> Option<(usize, Result<Delta, GenerateError>)> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Waits for the end of all.
    ///
    /// # Errors
    /// The first failure of any of them.
    pub async fn whole(&mut self) -> Result<Vec<Whole>, GenerateError> {
        let mut texts = vec![String::new(); self.all.len()];
        let mut ends = vec![None; self.all.len()];
        while let Some((index, delta)) = self.next().await {
            match delta? {
                Delta::Text(text) => texts[index].push_str(&text),
                Delta::End(reason) => ends[index] = Some((reason, Instant::now())),
            }
        }
        let whole = |(text, end): (String, Option<(EndReason, Instant)>)| {
            let (reason, ended) = end.ok_or(EngineError::Stopped)?;
            Ok(Whole { text, reason, ended })
        };
        texts.into_iter().zip(ends).map(whole).collect()
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<(usize, Result<Delta, GenerateError>)>> {
        let count = self.all.len();
        let mut some_run = false;
        for index in (self.turn..self.turn + count).map(|index| index % count) {
            let polled = pin!(self.all[index].next()).poll(context);
            match polled {
                Poll::Ready(Some(delta)) => {
                    self.turn = index + 1;
                    if delta.is_err() {
                        self.all.iter_mut().for_each(Generation::cancel);
                    }
                    return Poll::Ready(Some((index, delta)));
                }
                Poll::Ready(None) => {}
                Poll::Pending => some_run = true,
            }
        }
        if some_run { Poll::Pending } else { Poll::Ready(None) }
    }
}
