//! Turns on the compute threads, for the engines that share them: one step each, in the order of asking.
//!
//! All engines of a process run on one thread pool. Two runs at once would share every core and finish later together;
//! in turns each has the whole pool, and no engine waits for more than one step of each other.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A fair lock: whoever asked first is next.
#[derive(Debug, Default)]
pub struct Turns {
    queue: Mutex<Queue>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    /// Tickets in the order of asking; the first one has the turn.
    tickets: VecDeque<u64>,
}

/// A turn that was asked for; given up when it is dropped, whether it has come or not.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    ticket: u64,
}

impl Turns {
    /// Asks for a turn behind all who have asked before.
    ///
    /// An engine that goes on asks again before it ends its turn. If it asked afterwards, one with short steps would take
    /// turn after turn while the thread of this one waits for a core.
    pub(super) fn ask(&self) -> Turn<'_> {
        let mut queue = self.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.tickets.push_back(ticket);
        Turn { turns: self, ticket }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole whatever happened to another holder.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits until the turn has come.
    pub(super) fn wait(&self) {
        let mut queue = self.turns.lock();
        while queue.tickets.front() != Some(&self.ticket) {
            queue = self.turns.ended.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.lock().tickets.retain(|ticket| *ticket != self.ticket);
        self.turns.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn turns_alternate_between_those_who_ask_before_they_end() {
        let turns = Arc::new(Turns::default());
        let (sender, taken) = mpsc::channel();
        let before_all = turns.ask();
        let threads: Vec<_> = (0..2)
            .map(|name| {
                let (turns, sender) = (Arc::clone(&turns), sender.clone());
                std::thread::spawn(move || {
                    let mut turn = turns.ask();
                    for _ in 0..50 {
                        turn.wait();
                        sender.send(name).unwrap();
                        // Assigning ends the turn, after the next one was asked for.
                        turn = turns.ask();
                    }
                })
            })
            .collect();
        while turns.lock().tickets.len() < 3 {
            std::thread::yield_now();
        }
        drop(before_all);
        for thread in threads {
            thread.join().unwrap();
        }
        drop(sender);
        let order: Vec<i32> = taken.iter().collect();
        assert_eq!(order.len(), 100);
        assert!(order.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
    }

    #[test]
    fn a_turn_that_is_not_taken_holds_nobody_up() {
        let turns = Turns::default();
        let (first, given_up, last) = (turns.ask(), turns.ask(), turns.ask());
        drop(given_up);
        first.wait();
        drop(first);
        last.wait();
    }
}
