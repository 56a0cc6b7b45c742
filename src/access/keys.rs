//! The keys in force: found in constant time, read again when their file changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::Denied;
use super::caller::Caller;
use super::key_file::{self, Entry, KeyDigest, KeyFileError, MOST_FILE_BYTES};
use super::quota::Quota;
use crate::followed::{self, Followed, LastGood, Offered, ReadError};
use crate::metrics::{FollowedFile, Metrics};

/// The keys of a file, for as long as the process runs.
pub struct KeyRing {
    path: PathBuf,
    /// Percent of an engine's places that one key may have at once, where there are others.
    share_percent: u8,
    metrics: Arc<Metrics>,
    keys: LastGood<Keys>,
}

/// Keys and what they may do.
#[derive(Default)]
pub struct Keys {
    /// Of each key, with the caller's place among `callers`.
    digests: Vec<(KeyDigest, u64)>,
    callers: Vec<Caller>,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Content(#[from] KeyFileError),
}

impl Keys {
    /// Reads keys. What the callers of `before` have used stays used, where their limits are the same.
    ///
    /// # Errors
    /// The first thing that is wrong with the text.
    fn parse(
        bytes: &[u8],
        before: Option<&Self>,
        share: u8,
        metrics: &Metrics,
    ) -> Result<Self, KeyFileError> {
        let entries = key_file::parse(bytes)?;
        // Alone there is nobody to leave places to.
        let share = if entries.len() == 1 { 100 } else { share };
        let mut keys = Self::default();
        for entry in entries {
            let caller = keys.callers.len() as u64;
            keys.digests.extend(entry.digests.iter().map(|digest| (*digest, caller)));
            let quota = before.and_then(|before| before.quota(&entry));
            let quota = quota.unwrap_or_else(|| Arc::new(Quota::new(entry.limits, Instant::now())));
            keys.callers.push(Caller::key(&entry, quota, share, metrics.caller(&entry.name)));
        }
        Ok(keys)
    }

    /// What is left for an entry, if it was here with the same limits.
    fn quota(&self, entry: &Entry) -> Option<Arc<Quota>> {
        let caller = self.callers.iter().find(|caller| caller.name() == Some(&entry.name))?;
        (caller.quota().limits() == entry.limits).then(|| Arc::clone(caller.quota()))
    }

    /// Whose a key is. Takes the same time whichever it is, and whether it is there or not.
    fn find(&self, key: &str) -> Option<&Caller> {
        let wanted = key_file::digest_of(key);
        let mut found = 0;
        for (digest, caller) in &self.digests {
            found.conditional_assign(&(caller + 1), digest.ct_eq(&wanted));
        }
        self.callers.get(usize::try_from(found.checked_sub(1)?).ok()?)
    }
}

impl KeyRing {
    /// The keys of a file, read once. One that does not hold lets nobody in until it does.
    pub async fn open(path: PathBuf, share_percent: u8, metrics: Arc<Metrics>) -> Self {
        let ring = Self { path, share_percent, metrics, keys: LastGood::default() };
        ring.look().await;
        ring
    }

    /// Whose a key is.
    ///
    /// # Errors
    /// There is none, nobody has it, or the file was never read.
    pub(super) fn find(&self, key: Option<&str>) -> Result<Caller, Denied> {
        let keys = self.keys.get().ok_or(Denied::NotKnown)?;
        key.and_then(|key| keys.find(key)).cloned().ok_or(Denied::Unauthenticated)
    }

    /// Why nobody is let in, if that is so because the file was never read.
    pub(super) fn trouble(&self) -> Option<String> {
        self.keys.trouble()
    }

    /// Reads the file again whenever it changes, for as long as the process serves.
    pub async fn follow(&self) -> std::convert::Infallible {
        let mut file = Followed::new(vec![self.path.clone()]);
        loop {
            file.changed().await;
            self.look().await;
        }
    }

    /// Reads the file, and applies what is new.
    async fn look(&self) {
        let read = followed::read(&self.path, MOST_FILE_BYTES).await;
        let content = read.as_ref().map(Clone::clone).map_err(ToString::to_string);
        let offered = self.keys.offer(&content, |before| {
            let bytes = read?;
            Ok::<_, Trouble>(Keys::parse(&bytes, before, self.share_percent, &self.metrics)?)
        });
        let path = self.path.display();
        let applied = match offered {
            Offered::Known => return,
            Offered::Applied(keys) => {
                tracing::info!(%path, names = keys.callers.len(), keys = keys.digests.len(), "keys applied");
                true
            }
            Offered::Kept(error) => {
                tracing::error!(%path, %error, "the file of keys is refused; the last good keys stay in force");
                false
            }
            Offered::Nothing(error) => {
                tracing::error!(%path, %error, "the file of keys is refused; nobody is let in until it holds");
                false
            }
        };
        self.metrics.file_read(FollowedFile::Keys, applied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str, before: Option<&Keys>) -> Keys {
        Keys::parse(text.as_bytes(), before, 50, &Metrics::new()).unwrap()
    }

    const TWO: &str = "keys:\n- {name: a, key: [aaaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbb], models: ['*']}\n\
                       - {name: c, key: cccccccccccccccccccc, models: [x], requestsPerMinute: 1}\n";

    #[test]
    fn a_key_is_found_whole_and_in_its_own_case_only() {
        let keys = keys(TWO, None);
        let name = |key: &str| keys.find(key).and_then(|caller| caller.name().map(str::to_owned));
        assert_eq!(name("aaaaaaaaaaaaaaaaaaaa").as_deref(), Some("a"));
        assert_eq!(name("bbbbbbbbbbbbbbbbbbbb").as_deref(), Some("a"));
        assert_eq!(name("cccccccccccccccccccc").as_deref(), Some("c"));
        for wrong in ["", "a", "aaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaa", "AAAAAAAAAAAAAAAAAAAA", " "] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
        assert!(Keys::default().find("aaaaaaaaaaaaaaaaaaaa").is_none());
    }

    #[test]
    fn what_was_used_stays_used_over_a_change_of_the_file_unless_the_limits_change() {
        let before = keys(TWO, None);
        let enter = |keys: &Keys| keys.find("cccccccccccccccccccc").unwrap().enter(Instant::now()).is_ok();
        assert!(enter(&before) && !enter(&before));
        assert!(!enter(&keys(&TWO.replace("[x]", "[y]"), Some(&before))));
        assert!(enter(&keys(&TWO.replace("PerMinute: 1", "PerMinute: 2"), Some(&before))));
    }

    #[test]
    fn a_key_leaves_places_to_others_where_there_are_others() {
        let one = "keys: [{name: a, key: aaaaaaaaaaaaaaaaaaaa, models: ['*']}]";
        let share = |text| keys(text, None).find("aaaaaaaaaaaaaaaaaaaa").unwrap().share_percent();
        assert_eq!((share(one), share(TWO)), (100, 50));
    }
}
