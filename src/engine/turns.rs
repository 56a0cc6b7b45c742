//! Turns on the compute threads, for the engines that share them: one step each, in the order of asking.
//!
//! All engines of a process run on one thread pool. Two runs at once would share every core and finish later together;
//! in turns each has the whole pool, and no engine waits for more than one step of each other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A fair lock: whoever asked first is next.
#[derive(Debug, Default)]
pub struct Turns {
    tickets: Mutex<Tickets>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    next: u64,
    serving: u64,
}

/// The right to run; given on when it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the turn.
    pub(super) fn take(&self) -> Turn<'_> {
        let mut tickets = self.lock();
        let ticket = tickets.next;
        tickets.next += 1;
        while tickets.serving != ticket {
            tickets = self.ended.wait(tickets).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }

    fn lock(&self) -> MutexGuard<'_, Tickets> {
        // Two counters are whole whatever happened to another holder.
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().serving += 1;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    impl Turns {
        /// How many have a turn or wait for one.
        fn asking(&self) -> u64 {
            let tickets = self.lock();
            tickets.next - tickets.serving
        }
    }

    #[test]
    fn turns_alternate_between_those_who_keep_asking() {
        let turns = Arc::new(Turns::default());
        let (sender, taken) = mpsc::channel();
        let first = turns.take();
        let threads: Vec<_> = (0..2)
            .map(|name| {
                let (turns, sender) = (Arc::clone(&turns), sender.clone());
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        let turn = turns.take();
                        sender.send(name).unwrap();
                        // The other one has asked before this turn ends, or has ended.
                        while turns.asking() < 2 && Arc::strong_count(&turns) > 2 {
                            std::thread::yield_now();
                        }
                        drop(turn);
                    }
                })
            })
            .collect();
        while turns.asking() < 3 {
            std::thread::yield_now();
        }
        drop(first);
        for thread in threads {
            thread.join().unwrap();
        }
        drop(sender);
        let order: Vec<i32> = taken.iter().collect();
        let repeats = order.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(order.len(), 100);
        assert!(repeats <= 2, "one took {repeats} turns in a row: {order:?}");
    }
}
