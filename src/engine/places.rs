//! Places in an engine, in a row or in the queue: how many there are can change while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The places of one engine.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicUsize,
    total: AtomicUsize,
}

/// A place in the engine, taken before the work of preparing a request begins; given back on drop.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), total: AtomicUsize::new(total) })
    }

    pub(super) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Takes a place; when none is free, says how many are taken.
    pub(super) fn take(self: &Arc<Self>) -> Result<Place, usize> {
        let total = self.total.load(Ordering::Relaxed);
        let free = |taken: usize| (taken < total).then_some(taken + 1);
        self.taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, free)
            .map(|_before| Place(Arc::clone(self)))
    }

    /// Places that are taken stay so, also when there are fewer now.
    pub(super) fn set_total(&self, total: usize) {
        self.total.store(total, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Places {
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_their_number_changes_live() {
        let places = Places::new(2);
        let (first, second) = (places.take().unwrap(), places.take().unwrap());
        assert_eq!(places.take().unwrap_err(), 2);
        places.set_total(1);
        drop(first);
        assert_eq!(places.take().unwrap_err(), 1, "one is taken of one");
        drop(second);
        drop(places.take().unwrap());
        places.set_total(3);
        let all: Vec<Place> = (0..3).map(|_| places.take().unwrap()).collect();
        assert_eq!(places.take().unwrap_err(), all.len());
    }
}
