//! Whose a request is: what it may use, what it has used, and where it waits.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use super::Denied;
use super::key_file::{Entry, Models};
use super::quota::{Permit, Quota};
use super::reviews::{Action, Known, Reviewer};
use crate::metrics::{CallerMetrics, Refusal};

/// Longest name of an object of a cluster.
const MOST_NAME_BYTES: usize = 253;

/// Whose a request is. Cheap to clone.
#[derive(Clone)]
pub struct Caller(Arc<Who>);

struct Who {
    /// Of the key or of the user; `None` where nobody is told apart.
    name: Option<String>,
    lane: u64,
    share_percent: u8,
    models: MayUse,
    quota: Arc<Quota>,
    metrics: Option<CallerMetrics>,
}

enum MayUse {
    All,
    Listed(BTreeSet<String>),
    /// What the cluster says.
    Reviewed(Arc<Reviewer>, Arc<Known>),
}

/// Which tokens are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Of a prompt.
    Prompt,
    /// Of an output.
    Generated,
}

impl TokenKind {
    /// Value of the label `kind`.
    fn label(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Generated => "generated",
        }
    }
}

impl Caller {
    /// Where nobody is told apart.
    pub fn anybody() -> Self {
        Self(Arc::new(Who {
            name: None,
            lane: 0,
            share_percent: 100,
            models: MayUse::All,
            quota: Arc::default(),
            metrics: None,
        }))
    }

    pub(super) fn key(entry: &Entry, quota: Arc<Quota>, share_percent: u8, metrics: CallerMetrics) -> Self {
        Self(Arc::new(Who {
            name: Some(entry.name.clone()),
            lane: lane_of(&entry.name),
            share_percent,
            models: match &entry.models {
                Models::All => MayUse::All,
                Models::Listed(names) => MayUse::Listed(names.clone()),
            },
            quota,
            metrics: Some(metrics),
        }))
    }

    pub(super) fn user(
        reviewer: Arc<Reviewer>,
        user: Arc<Known>,
        share_percent: u8,
        metrics: CallerMetrics,
    ) -> Self {
        Self(Arc::new(Who {
            name: Some(user.name().to_owned()),
            lane: lane_of(user.name()),
            share_percent,
            models: MayUse::Reviewed(reviewer, user),
            quota: Arc::default(),
            metrics: Some(metrics),
        }))
    }

    pub(super) fn quota(&self) -> &Arc<Quota> {
        &self.0.quota
    }

    /// The name of the key or of the user, never the key; `None` where nobody is told apart.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// The line in which its requests wait for an engine.
    pub fn lane(&self) -> u64 {
        self.0.lane
    }

    /// Percent of an engine's places that its requests may have at once.
    pub fn share_percent(&self) -> u8 {
        self.0.share_percent
    }

    /// Whether every model may be used, also one that is not there.
    pub fn may_use_all(&self) -> bool {
        matches!(self.0.models, MayUse::All)
    }

    /// Whether a model may be used, by the name that requests call it.
    ///
    /// # Errors
    /// The cluster does not say.
    pub async fn may_use(&self, model: &str) -> Result<bool, Denied> {
        match &self.0.models {
            MayUse::All => Ok(true),
            MayUse::Listed(names) => Ok(names.contains(model)),
            // The cluster is not asked about what can be no name.
            MayUse::Reviewed(..) if model.len() > MOST_NAME_BYTES => Ok(false),
            MayUse::Reviewed(reviewer, user) => {
                reviewer.may(user, &Action::Generate { model: model.to_owned() }).await
            }
        }
    }

    /// That this model may be used, by the name that requests call it.
    ///
    /// # Errors
    /// It may not, or the cluster does not say.
    pub async fn must_be_allowed(&self, model: &str) -> Result<(), Denied> {
        if self.may_use(model).await? {
            return Ok(());
        }
        self.refused(Refusal::Model);
        Err(Denied::Model { model: model.to_owned() })
    }

    /// That there are tokens left to use. What a request then uses is charged as it comes, so that the last one may use more
    /// than is left; the debt is waited off.
    ///
    /// # Errors
    /// They are used up.
    pub fn must_have_tokens(&self) -> Result<(), Denied> {
        self.0.quota.check_tokens(Instant::now()).map_err(|retry_after| {
            self.refused(Refusal::Tokens);
            Denied::Tokens { retry_after }
        })
    }

    /// Counts tokens.
    pub fn charge(&self, kind: TokenKind, tokens: usize) {
        self.0.quota.charge(tokens, Instant::now());
        if let Some(metrics) = &self.0.metrics {
            metrics.tokens(kind.label(), tokens);
        }
    }

    /// Counts a request.
    pub(super) fn enter(&self, now: Instant) -> Result<Permit, Denied> {
        let permit = self.0.quota.enter(now).inspect_err(|denied| {
            self.refused(match denied {
                Denied::Concurrent { .. } => Refusal::Concurrent,
                _ => Refusal::Requests,
            });
        })?;
        if let Some(metrics) = &self.0.metrics {
            metrics.entered();
        }
        Ok(permit)
    }

    fn refused(&self, why: Refusal) {
        if let Some(metrics) = &self.0.metrics {
            metrics.refused(why);
        }
    }
}

/// The same for a name in all its lives. Two names may come to share one, which costs them a turn and nothing else.
fn lane_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // 0 is the lane of those who are not told apart.
    hasher.finish().max(1)
}
