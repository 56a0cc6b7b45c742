//! The time of day, for what people read, and how long something takes, for what is decided.
//!
//! Clocks of machines are set, and differ: no decision compares the clocks of two, or the same clock before and after
//! somebody has set it.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

use crate::failpoint;

/// The time of day.
pub(super) fn time_of_day() -> Timestamp {
    let now = Timestamp::now();
    let shift = failpoint::number("time-of-day").map(SignedDuration::from_secs);
    shift.and_then(|shift| now.checked_add(shift).ok()).unwrap_or(now)
}

/// The time of day as it was at the start, and what has passed since.
#[derive(Debug, Clone, Copy)]
pub(super) struct SteadyClock {
    started: Timestamp,
    at: Instant,
}

impl SteadyClock {
    pub(super) fn start() -> Self {
        Self { started: time_of_day(), at: Instant::now() }
    }

    /// Never goes back and never jumps, whatever somebody sets the clock to.
    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.at.elapsed()).unwrap_or(SignedDuration::MAX);
        self.started.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}
