//! What the cluster says of a token: who has it, and what they may do. Its answers are remembered, and where it gives none,
//! nobody is let in.
//!
//! ```text
//! token ─▶ who?  TokenReview          a user holds for 60 s, nobody for 30 s
//! user  ─▶ may?  SubjectAccessReview  yes holds for 5 minutes, no for 30 s
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::Denied;
use super::memory::{Memory, Under};
use crate::metrics::{Metrics, ReviewOutcome};

const TOKEN_GOOD: Duration = Duration::from_mins(1);
const TOKEN_BAD: Duration = Duration::from_secs(30);
const ALLOWED: Duration = Duration::from_mins(5);
const FORBIDDEN: Duration = Duration::from_secs(30);
/// Answers that are remembered of each kind.
const MOST_REMEMBERED: usize = 4096;
/// Questions at once: whoever sends tokens that nobody has cannot bury the apiserver.
const MOST_QUESTIONS: usize = 16;
/// Time for an answer, the wait to ask included.
const PATIENCE: Duration = Duration::from_secs(5);
/// The apiserver's own limit for what it takes as a token is near this.
const MOST_TOKEN_BYTES: usize = 64 << 10;

/// A user as the cluster knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// As `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// Not the same for two users of one name.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A user whose identity is remembered.
#[derive(Debug)]
pub struct Known {
    user: User,
    digest: Under,
}

/// What somebody wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Let a model generate.
    Generate {
        /// By the name that requests call it.
        model: String,
    },
    /// Read the metrics.
    Metrics,
}

/// Why the cluster did not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ReviewError(pub String);

/// Who asks the cluster.
pub trait Reviews: Send + Sync {
    /// Who has a token; `None`: nobody.
    fn who(&self, token: &str) -> BoxFuture<'_, Result<Option<User>, ReviewError>>;

    /// Whether a user may do something.
    fn may(&self, user: &User, action: &Action) -> BoxFuture<'_, Result<bool, ReviewError>>;
}

/// Asks the cluster, and remembers what it said.
pub struct Reviewer {
    reviews: Box<dyn Reviews>,
    users: Memory<Option<Arc<Known>>>,
    rights: Memory<bool>,
    questions: Semaphore,
    metrics: Arc<Metrics>,
    /// Whether the last question had no answer: told once.
    fails: AtomicBool,
}

impl Known {
    /// The user's name.
    pub fn name(&self) -> &str {
        &self.user.name
    }
}

impl Reviewer {
    /// A reviewer that remembers nothing yet.
    pub fn new(reviews: Box<dyn Reviews>, metrics: Arc<Metrics>) -> Self {
        Self {
            reviews,
            users: Memory::new(MOST_REMEMBERED),
            rights: Memory::new(MOST_REMEMBERED),
            questions: Semaphore::new(MOST_QUESTIONS),
            metrics,
            fails: AtomicBool::new(false),
        }
    }

    /// Who has a token; `None`: nobody.
    ///
    /// # Errors
    /// The cluster does not say.
    pub async fn who(&self, token: &str) -> Result<Option<Arc<Known>>, Denied> {
        if token.len() > MOST_TOKEN_BYTES {
            return Ok(None);
        }
        let under: Under = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.users.get(&under, Instant::now()) {
            return Ok(known);
        }
        let user = self.ask("token", self.reviews.who(token), Option::is_some).await?;
        let known = user.map(|user| Arc::new(Known { digest: digest(&user), user }));
        let holds = if known.is_some() { TOKEN_GOOD } else { TOKEN_BAD };
        self.users.put(under, known.clone(), Instant::now(), holds);
        Ok(known)
    }

    /// Whether a user may do something.
    ///
    /// # Errors
    /// The cluster does not say.
    pub async fn may(&self, user: &Known, action: &Action) -> Result<bool, Denied> {
        let under = right(user, action);
        if let Some(may) = self.rights.get(&under, Instant::now()) {
            return Ok(may);
        }
        let may = self.ask("right", self.reviews.may(&user.user, action), |may| *may).await?;
        self.rights.put(under, may, Instant::now(), if may { ALLOWED } else { FORBIDDEN });
        Ok(may)
    }

    /// That whoever has a token may do something.
    ///
    /// # Errors
    /// Nobody has it, they may not, or the cluster does not say.
    pub async fn must(&self, token: Option<&str>, action: &Action) -> Result<(), Denied> {
        let user = self.who(token.ok_or(Denied::Unauthenticated)?).await?;
        let user = user.ok_or(Denied::Unauthenticated)?;
        if self.may(&user, action).await? { Ok(()) } else { Err(Denied::Forbidden) }
    }

    async fn ask<T>(
        &self,
        kind: &'static str,
        question: BoxFuture<'_, Result<T, ReviewError>>,
        is_yes: impl Fn(&T) -> bool,
    ) -> Result<T, Denied> {
        let asked = async {
            // Nobody closes it.
            let _turn = self.questions.acquire().await;
            question.await
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer =
            answer.unwrap_or_else(|_elapsed| Err(ReviewError(format!("no answer within {PATIENCE:?}"))));
        let outcome = match &answer {
            Ok(answer) if is_yes(answer) => ReviewOutcome::Yes,
            Ok(_) => ReviewOutcome::No,
            Err(_) => ReviewOutcome::Error,
        };
        self.metrics.review(kind, outcome);
        let failed_before = self.fails.swap(answer.is_err(), Ordering::Relaxed);
        match &answer {
            Err(error) if !failed_before => {
                tracing::warn!(kind, %error, "the cluster does not say who may come in: who is not remembered is refused");
            }
            Ok(_) if failed_before => tracing::info!("the cluster says again who may come in"),
            _ => {}
        }
        answer.map_err(|_told| Denied::Unavailable)
    }
}

/// The parts of a user, each with its length, and how many there are, so that no two users have the same.
fn digest(user: &User) -> Under {
    let User { name, uid, groups, extra } = user;
    let mut hasher = Sha256::new();
    let mut part = |text: &str| {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(name);
    part(uid);
    part(&groups.len().to_string());
    for group in groups {
        part(group);
    }
    for (key, values) in extra {
        part(key);
        part(&values.len().to_string());
        for value in values {
            part(value);
        }
    }
    hasher.finalize().into()
}

fn right(user: &Known, action: &Action) -> Under {
    let mut hasher = Sha256::new();
    hasher.update(user.digest);
    match action {
        Action::Metrics => hasher.update(b"m"),
        Action::Generate { model } => {
            hasher.update(b"g");
            hasher.update(model.as_bytes());
        }
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A cluster that knows `TOKEN`, lets its user use `chat`, and counts questions.
    #[derive(Clone, Default)]
    struct Cluster(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        asked: usize,
        is_away: bool,
    }

    const TOKEN: &str = "a.good.token";

    impl Cluster {
        fn question<T: Send + 'static>(&self, answer: T) -> BoxFuture<'static, Result<T, ReviewError>> {
            let mut state = self.0.lock().unwrap();
            state.asked += 1;
            let answer = if state.is_away { Err(ReviewError("away".to_owned())) } else { Ok(answer) };
            Box::pin(async move { answer })
        }

        fn asked(&self) -> usize {
            self.0.lock().unwrap().asked
        }
    }

    impl Reviews for Cluster {
        fn who(&self, token: &str) -> BoxFuture<'_, Result<Option<User>, ReviewError>> {
            let user = User { name: "system:serviceaccount:apps:caller".to_owned(), ..User::default() };
            self.question((token == TOKEN).then_some(user))
        }

        fn may(&self, _user: &User, action: &Action) -> BoxFuture<'_, Result<bool, ReviewError>> {
            self.question(*action == Action::Generate { model: "chat".to_owned() })
        }
    }

    fn reviewer() -> (Reviewer, Cluster) {
        let cluster = Cluster::default();
        (Reviewer::new(Box::new(cluster.clone()), Arc::new(Metrics::new())), cluster)
    }

    #[tokio::test]
    async fn the_cluster_is_asked_once_for_each_answer() {
        let (reviewer, cluster) = reviewer();
        let user = reviewer.who(TOKEN).await.unwrap().unwrap();
        for _ in 0..3 {
            assert_eq!(reviewer.who(TOKEN).await.unwrap().unwrap().name(), user.name());
            assert!(reviewer.who("a.bad.token").await.unwrap().is_none());
            assert_eq!(reviewer.may(&user, &Action::Generate { model: "chat".to_owned() }).await, Ok(true));
            assert_eq!(reviewer.may(&user, &Action::Metrics).await, Ok(false));
        }
        assert_eq!(cluster.asked(), 4);
        assert_eq!(reviewer.must(Some(TOKEN), &Action::Metrics).await, Err(Denied::Forbidden));
        assert_eq!(reviewer.must(None, &Action::Metrics).await, Err(Denied::Unauthenticated));
    }

    #[tokio::test]
    async fn while_the_cluster_is_away_those_who_are_remembered_come_in_and_nobody_else() {
        let (reviewer, cluster) = reviewer();
        let user = reviewer.who(TOKEN).await.unwrap().unwrap();
        cluster.0.lock().unwrap().is_away = true;
        assert!(reviewer.who(TOKEN).await.unwrap().is_some());
        assert_eq!(reviewer.who("another").await.err(), Some(Denied::Unavailable));
        assert_eq!(reviewer.may(&user, &Action::Metrics).await, Err(Denied::Unavailable));
        cluster.0.lock().unwrap().is_away = false;
        assert!(reviewer.who("another").await.unwrap().is_none(), "what failed is not remembered");
    }

    #[test]
    fn two_users_never_share_a_right() {
        let user = |name: &str, uid: &str, groups: &[&str]| {
            digest(&User {
                name: name.to_owned(),
                uid: uid.to_owned(),
                groups: groups.iter().map(|group| (*group).to_owned()).collect(),
                extra: BTreeMap::new(),
            })
        };
        let all = [
            user("ab", "c", &[]),
            user("a", "bc", &[]),
            user("a", "b", &["c"]),
            user("a", "b", &["c", "d"]),
            user("a", "b", &["cd"]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
    }
}
