//! Places in an engine, in a row or in the queue: how many there are can change while it runs, and no lane has them all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Those whose requests wait in one line: a client, as far as clients are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Which one.
    pub id: u64,
    /// Percent of all places that it may have at once, 1 to 100; one place it may always have.
    pub most_percent: u8,
}

impl Lane {
    /// The one of everybody, where clients are not told apart.
    pub const COMMON: Self = Self { id: 0, most_percent: 100 };
}

/// The places of one engine.
#[derive(Debug)]
pub(super) struct Places(Mutex<State>);

#[derive(Debug)]
struct State {
    total: usize,
    taken: usize,
    /// Of each lane that has one.
    by_lane: BTreeMap<u64, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// So many are taken, which are all.
    Full(usize),
    /// The lane has so many, which is what it may have.
    LaneFull(usize),
}

/// A place in the engine, taken before the work of preparing a request begins; given back on drop.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    lane: u64,
}

impl Places {
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { total, taken: 0, by_lane: BTreeMap::new() })))
    }

    /// Not held over anything that waits, and not taken by the worker but when a sequence leaves.
    fn lock(&self) -> MutexGuard<'_, State> {
        // The numbers are whole whatever happened to another holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As many as a lane may have.
    pub(super) fn total(&self, lane: Lane) -> usize {
        most(self.lock().total, lane)
    }

    /// Takes a place for a lane.
    pub(super) fn take(self: &Arc<Self>, lane: Lane) -> Result<Place, NoPlace> {
        let mut all = self.lock();
        let mine = all.by_lane.get(&lane.id).copied().unwrap_or_default();
        if all.taken >= all.total {
            return Err(NoPlace::Full(all.taken));
        }
        if mine >= most(all.total, lane) {
            return Err(NoPlace::LaneFull(mine));
        }
        all.taken += 1;
        all.by_lane.insert(lane.id, mine + 1);
        Ok(Place { places: Arc::clone(self), lane: lane.id })
    }

    /// Places that are taken stay so, also when there are fewer now.
    pub(super) fn set_total(&self, total: usize) {
        self.lock().total = total;
    }
}

fn most(total: usize, lane: Lane) -> usize {
    (total * usize::from(lane.most_percent) / 100).max(1).min(total)
}

#[cfg(test)]
impl Places {
    pub(super) fn taken(&self) -> usize {
        self.lock().taken
    }
}

impl Place {
    /// The lane that it was taken for.
    pub(super) fn lane(&self) -> u64 {
        self.lane
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.places.lock();
        all.taken -= 1;
        if let Some(mine) = all.by_lane.get_mut(&self.lane) {
            *mine -= 1;
            if *mine == 0 {
                all.by_lane.remove(&self.lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u8 = 50;

    #[test]
    fn places_come_back_and_their_number_changes_live() {
        let places = Places::new(2);
        let (first, second) = (places.take(Lane::COMMON).unwrap(), places.take(Lane::COMMON).unwrap());
        assert_eq!(places.take(Lane::COMMON).unwrap_err(), NoPlace::Full(2));
        places.set_total(1);
        drop(first);
        assert_eq!(places.take(Lane::COMMON).unwrap_err(), NoPlace::Full(1), "one is taken of one");
        drop(second);
        drop(places.take(Lane::COMMON).unwrap());
        places.set_total(3);
        let all: Vec<Place> = (0..3).map(|_| places.take(Lane::COMMON).unwrap()).collect();
        assert_eq!(places.take(Lane::COMMON).unwrap_err(), NoPlace::Full(all.len()));
    }

    #[test]
    fn a_lane_leaves_places_for_others() {
        let places = Places::new(5);
        let [one, other] = [1, 2].map(|id| Lane { id, most_percent: HALF });
        let mut mine = vec![places.take(one).unwrap(), places.take(one).unwrap()];
        assert_eq!(places.take(one).unwrap_err(), NoPlace::LaneFull(2));
        let theirs = [places.take(other).unwrap(), places.take(other).unwrap()];
        assert_eq!(places.take(other).unwrap_err(), NoPlace::LaneFull(theirs.len()));
        mine.pop();
        mine.push(places.take(one).unwrap());
        drop((mine, theirs));
        assert!(places.lock().by_lane.is_empty(), "nothing is kept of a lane that is gone");
    }

    #[test]
    fn a_lane_may_always_have_one_place() {
        let places = Places::new(1);
        let lane = Lane { id: 1, most_percent: 1 };
        assert_eq!((places.total(lane), Places::new(0).total(lane)), (1, 0));
        let _only = places.take(lane).unwrap();
        assert_eq!(places.take(lane).unwrap_err(), NoPlace::Full(1));
    }
}
