//! Answers that hold for a while, and no more of them than there is room for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What an answer is remembered under: a digest, so that no token is kept.
pub(super) type Under = [u8; 32];

/// Remembered answers.
pub(super) struct Memory<V> {
    entries: Mutex<HashMap<Under, (V, Instant)>>,
    most: usize,
}

impl<V: Clone> Memory<V> {
    pub(super) fn new(most: usize) -> Self {
        Self { entries: Mutex::default(), most }
    }

    /// The answer, while it holds.
    pub(super) fn get(&self, under: &Under, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(under).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    /// Remembers an answer for a while. Where there is no room the one goes that would have been forgotten first.
    pub(super) fn put(&self, under: Under, value: V, now: Instant, holds: Duration) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.most && !entries.contains_key(&under) {
            entries.retain(|_, (_, until)| now < *until);
        }
        if entries.len() >= self.most && !entries.contains_key(&under) {
            let first = entries.iter().min_by_key(|(_, (_, until))| *until).map(|(under, _)| *under);
            first.and_then(|first| entries.remove(&first));
        }
        entries.insert(under, (value, now + holds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn answers_are_forgotten_in_time_and_for_lack_of_room() {
        let memory = Memory::new(2);
        let (now, [a, b, c]) = (Instant::now(), [1, 2, 3].map(|byte| [byte; 32]));
        memory.put(a, "a", now, SECOND * 60);
        assert_eq!((memory.get(&a, now + SECOND * 59), memory.get(&a, now + SECOND * 60)), (Some("a"), None));
        memory.put(b, "b", now, SECOND * 30);
        memory.put(c, "c", now, SECOND * 30);
        assert_eq!(
            (memory.get(&a, now), memory.get(&b, now), memory.get(&c, now)),
            (Some("a"), None, Some("c"))
        );
        memory.put(b, "b", now + SECOND * 100, SECOND);
        assert_eq!(memory.entries.lock().unwrap().len(), 1, "what is over makes room first");
    }
}
