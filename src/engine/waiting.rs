//! Who waits for a row: first come, first served within a lane, and the lanes in turn.
//!
//! ```text
//! lanes in turn ──▶ a: a1 a2 a3
//!                   b: b1              taken: a1 b1 c1 a2 c2 a3
//!                   c: c1 c2
//! ```
//!
//! With one lane this is a queue. Whoever is next stays next until it is taken, so nobody is passed over for ever.

use std::collections::VecDeque;

use super::sequence::Sequence;

/// The sequences that wait. No lane is empty.
#[derive(Default)]
pub(super) struct Waiting {
    /// Each with its number; the first one has the turn.
    lanes: VecDeque<(u64, VecDeque<Sequence>)>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(|(_, sequences)| sequences.len()).sum()
    }

    /// Adds one behind those of its lane; a lane that is new comes behind the others.
    pub(super) fn push(&mut self, sequence: Sequence) {
        let wanted = sequence.lane();
        match self.lanes.iter_mut().find(|(lane, _)| *lane == wanted) {
            Some((_, sequences)) => sequences.push_back(sequence),
            None => self.lanes.push_back((wanted, VecDeque::from([sequence]))),
        }
    }

    /// Who is next.
    pub(super) fn first(&self) -> Option<&Sequence> {
        self.lanes.front()?.1.front()
    }

    /// Takes who is next; its lane has had its turn.
    pub(super) fn take_first(&mut self) -> Option<Sequence> {
        let (lane, mut sequences) = self.lanes.pop_front()?;
        let first = sequences.pop_front();
        if !sequences.is_empty() {
            self.lanes.push_back((lane, sequences));
        }
        first
    }

    /// Takes out those that are `unwanted`, lane by lane in order of arrival.
    pub(super) fn remove(&mut self, unwanted: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        let mut removed = Vec::new();
        // Most of the time there is none, and nothing is moved.
        if !self.lanes.iter().flat_map(|(_, sequences)| sequences).any(&unwanted) {
            return removed;
        }
        for (_, sequences) in &mut self.lanes {
            let (out, kept): (VecDeque<_>, VecDeque<_>) = sequences.drain(..).partition(&unwanted);
            *sequences = kept;
            removed.extend(out);
        }
        self.lanes.retain(|(_, sequences)| !sequences.is_empty());
        removed
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Sequence> + '_ {
        self.lanes.drain(..).flat_map(|(_, sequences)| sequences)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::places::{Lane, Places};
    use crate::engine::request::{Request, Sampling};

    /// A sequence of a lane, whose prompt is its number.
    fn sequence(lane: u64, number: u32) -> Sequence {
        let request = Request {
            prompt: vec![number],
            sampling: Sampling::greedy(),
            max_tokens: 1,
            stop_tokens: Vec::new(),
            logprobs: None,
            deadline: None,
        };
        let place = Places::new(1).take(Lane { id: lane, most_percent: 100 }).unwrap();
        Sequence::new(request, mpsc::channel(3).0, place, false)
    }

    fn waiting(arrivals: &[u64]) -> Waiting {
        let mut waiting = Waiting::default();
        for (number, lane) in arrivals.iter().enumerate() {
            waiting.push(sequence(*lane, number as u32));
        }
        waiting
    }

    fn order(mut waiting: Waiting) -> Vec<u32> {
        std::iter::from_fn(|| waiting.take_first()).map(|sequence| sequence.prompt()[0]).collect()
    }

    #[test]
    fn lanes_take_turns_however_many_wait_in_one() {
        assert_eq!(order(waiting(&[7, 7, 7, 7, 8, 9])), [0, 4, 5, 1, 2, 3]);
        assert_eq!(order(waiting(&[0, 0, 0])), [0, 1, 2]);
    }

    #[test]
    fn a_lane_that_comes_back_waits_for_its_turn() {
        let mut all = waiting(&[1, 2, 2]);
        assert_eq!(all.take_first().map(|first| first.prompt()[0]), Some(0));
        all.push(sequence(1, 9));
        assert_eq!(order(all), [1, 9, 2]);
    }

    #[test]
    fn those_that_leave_hold_nobody_up() {
        let mut all = waiting(&[1, 1, 2, 2, 3]);
        let removed = all.remove(|sequence| sequence.prompt()[0] < 3);
        assert_eq!(removed.len(), 3);
        assert_eq!((all.len(), all.first().map(|first| first.prompt()[0])), (2, Some(3)));
        assert_eq!(order(all), [3, 4]);
    }

    proptest! {
        #[test]
        fn nobody_of_another_lane_is_taken_twice_while_one_waits(arrivals in prop::collection::vec(0u64..4, 1..40)) {
            let taken = order(waiting(&arrivals));
            let lanes: Vec<u64> = taken.iter().map(|number| arrivals[*number as usize]).collect();
            for lane in 0..4 {
                let mine: Vec<usize> = (0..lanes.len()).filter(|at| lanes[*at] == lane).collect();
                let numbers: Vec<u32> = mine.iter().map(|at| taken[*at]).collect();
                prop_assert!(numbers.is_sorted(), "a lane is served in order of arrival");
                // Between two of mine each other lane has at most one.
                for pair in mine.windows(2) {
                    let between = &lanes[pair[0] + 1..pair[1]];
                    for other in 0..4 {
                        prop_assert!(between.iter().filter(|lane| **lane == other).count() <= 1);
                    }
                }
            }
        }
    }
}
