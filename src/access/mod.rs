//! Who may use the API: nobody is asked, keys from a file, or the cluster.
//!
//! ```text
//! request ─▶ http/access.rs: credential ─▶ Access::enter ─▶ Caller ─▶ may_use(model) ─▶ charge(tokens)
//!                                           keys: digests in constant time          quotas, the lane of the engine
//!                                           cluster: TokenReview, SubjectAccessReview, both remembered
//! ```
//!
//! What is not known lets nobody in: without a file that holds, or without an apiserver that answers, requests are refused.
//! Knows no HTTP and no Kubernetes.

mod caller;
mod key_file;
mod keys;
mod memory;
mod quota;
mod reviews;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use caller::{Caller, TokenKind};
pub use key_file::{KeyFileError, Limits};
pub use keys::{KeyRing, Keys};
pub use quota::Permit;
pub use reviews::{Action, ReviewError, Reviewer, Reviews, User};

use crate::metrics::{Metrics, Stranger};

/// Who is asked whether a request may come in.
pub struct Access {
    mode: Mode,
    metrics: Arc<Metrics>,
}

enum Mode {
    Open,
    Keys(Arc<KeyRing>),
    Cluster { reviewer: Arc<Reviewer>, share_percent: u8 },
}

/// Why a request may not come in, or not do what it wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no credential, or more than one, or nobody has it. Which of them is not told.
    #[error("a valid key is needed: send it as `Authorization: Bearer KEY`")]
    Unauthenticated,
    /// The credential is good, and the model is not for it. Whether there is such a model is not told.
    #[error("this key may not use the model `{model}`")]
    Model {
        /// As the request wrote it.
        model: String,
    },
    /// The user may not do this.
    #[error("this user may not do that here")]
    Forbidden,
    /// Too many requests in a minute.
    #[error("the requests per minute of this key are used up")]
    Requests {
        /// Time after which there is one again.
        retry_after: Duration,
    },
    /// Too many tokens in a minute.
    #[error("the tokens per minute of this key are used up")]
    Tokens {
        /// Time after which there are some again.
        retry_after: Duration,
    },
    /// Too many requests at once.
    #[error("{most} requests of this key are running, which is all that it may have at once")]
    Concurrent {
        /// As many as may run.
        most: usize,
    },
    /// The keys were never read.
    #[error("it is not known yet who may use this gateway")]
    NotKnown,
    /// The cluster does not say.
    #[error("it cannot be found out now who may use this gateway")]
    Unavailable,
}

/// A request that was let in.
pub struct Entered {
    /// Whose it is.
    pub caller: Caller,
    /// Held while the request is answered.
    pub permit: Permit,
}

impl Access {
    /// Everybody may do everything.
    pub fn open(metrics: Arc<Metrics>) -> Self {
        Self { mode: Mode::Open, metrics }
    }

    /// Whoever has a key of the ring may do what that says.
    pub fn keys(ring: Arc<KeyRing>, metrics: Arc<Metrics>) -> Self {
        Self { mode: Mode::Keys(ring), metrics }
    }

    /// Whoever the cluster knows may do what it allows, with `share_percent` of an engine's places at most.
    pub fn cluster(reviewer: Arc<Reviewer>, share_percent: u8, metrics: Arc<Metrics>) -> Self {
        Self { mode: Mode::Cluster { reviewer, share_percent }, metrics }
    }

    /// Lets a request in, by its one credential.
    ///
    /// # Errors
    /// The credential is missing or not known, its quota of requests is used up, or nobody can say.
    pub async fn enter(&self, credential: Option<&str>) -> Result<Entered, Denied> {
        let caller = match &self.mode {
            Mode::Open => return Ok(Entered { caller: Caller::anybody(), permit: Permit::default() }),
            Mode::Keys(ring) => ring.find(credential),
            Mode::Cluster { reviewer, share_percent } => {
                self.user(reviewer, *share_percent, credential).await
            }
        };
        let caller = caller.inspect_err(|denied| {
            self.metrics.stranger(match denied {
                Denied::NotKnown | Denied::Unavailable => Stranger::NotKnown,
                _ if credential.is_none() => Stranger::NoCredential,
                _ => Stranger::BadCredential,
            });
        })?;
        let permit = caller.enter(Instant::now())?;
        Ok(Entered { caller, permit })
    }

    /// What stands in the way of letting anybody in.
    pub fn trouble(&self) -> Option<String> {
        match &self.mode {
            Mode::Open | Mode::Cluster { .. } => None,
            Mode::Keys(ring) => ring.trouble(),
        }
    }

    async fn user(
        &self,
        reviewer: &Arc<Reviewer>,
        share_percent: u8,
        token: Option<&str>,
    ) -> Result<Caller, Denied> {
        let user = reviewer.who(token.ok_or(Denied::Unauthenticated)?).await?;
        let user = user.ok_or(Denied::Unauthenticated)?;
        let metrics = self.metrics.caller(user.name());
        Ok(Caller::user(Arc::clone(reviewer), user, share_percent, metrics))
    }
}
