//! How the generations of a loaded model end, and whether that is good enough in the time after a swap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::spec::WatchSpec;

/// Counters of one loaded model, from its first request on.
#[derive(Debug, Default)]
pub struct Health {
    ended: AtomicU64,
    failed: AtomicU64,
    not_finite: AtomicU64,
    first_tokens: AtomicU64,
    first_token_micros: AtomicU64,
    tokens: AtomicU64,
    token_micros: AtomicU64,
}

impl Health {
    /// A generation ended by itself, or failed through the fault of the model or of its engine.
    pub fn generation_ended(&self, failed: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(failed.into(), Ordering::Relaxed);
    }

    /// The model gave numbers that are none.
    pub fn not_finite(&self) {
        self.not_finite.fetch_add(1, Ordering::Relaxed);
    }

    /// A first token came so long after its request.
    pub fn first_token(&self, waited: Duration) {
        self.first_tokens.fetch_add(1, Ordering::Relaxed);
        self.first_token_micros.fetch_add(waited.as_micros() as u64, Ordering::Relaxed);
    }

    /// `tokens` tokens came after their first one in `duration`.
    pub fn tokens(&self, tokens: u64, duration: Duration) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.token_micros.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }

    /// What is wrong, if anything: one line for a person. `step` is the age of the engine's running step.
    pub(super) fn judge(&self, bounds: &WatchSpec, step: Option<Duration>) -> Option<String> {
        let WatchSpec {
            window_seconds: _,
            minimum_requests,
            max_error_percent,
            max_first_token_milliseconds,
            max_token_milliseconds,
            max_step_seconds,
        } = bounds;
        if let Some(age) = step.filter(|age| *age > Duration::from_secs((*max_step_seconds).into())) {
            return Some(format!(
                "an engine step has run for {} s, allowed are {max_step_seconds} s",
                age.as_secs()
            ));
        }
        let not_finite = self.not_finite.load(Ordering::Relaxed);
        if not_finite > 0 {
            return Some(format!("{not_finite} generations met logits that are not finite"));
        }
        let (ended, failed) = (self.ended.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let enough = u64::from(*minimum_requests);
        if ended >= enough && failed * 100 > u64::from(*max_error_percent) * ended {
            return Some(format!(
                "{failed} of {ended} generations failed, allowed are {max_error_percent} %"
            ));
        }
        let first = mean_milliseconds(&self.first_token_micros, &self.first_tokens, enough);
        if let Some((found, allowed)) = above(first, *max_first_token_milliseconds) {
            return Some(format!("first tokens take {found} ms on average, allowed are {allowed} ms"));
        }
        let token = mean_milliseconds(&self.token_micros, &self.tokens, enough);
        if let Some((found, allowed)) = above(token, *max_token_milliseconds) {
            return Some(format!("tokens take {found} ms on average, allowed are {allowed} ms"));
        }
        None
    }
}

fn mean_milliseconds(micros: &AtomicU64, count: &AtomicU64, enough: u64) -> Option<u64> {
    let count = count.load(Ordering::Relaxed);
    (count >= enough).then(|| micros.load(Ordering::Relaxed) / count / 1000)
}

fn above(found: Option<u64>, allowed: Option<u32>) -> Option<(u64, u64)> {
    found.zip(allowed.map(u64::from)).filter(|(found, allowed)| found > allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> WatchSpec {
        WatchSpec {
            max_first_token_milliseconds: Some(100),
            max_token_milliseconds: Some(20),
            ..WatchSpec::default()
        }
    }

    #[test]
    fn few_failures_and_few_requests_are_no_reason() {
        let health = Health::default();
        (0..9).for_each(|_| health.generation_ended(true));
        assert_eq!(health.judge(&bounds(), None), None, "nine are too few to judge");
        (0..91).for_each(|_| health.generation_ended(false));
        assert_eq!(health.judge(&bounds(), Some(Duration::from_secs(14))), None);
        (0..3).for_each(|_| health.generation_ended(true));
        let told = health.judge(&bounds(), None).unwrap();
        assert_eq!(told, "12 of 103 generations failed, allowed are 10 %");
    }

    #[test]
    fn one_logit_that_is_no_number_is_a_reason() {
        let health = Health::default();
        health.not_finite();
        assert!(health.judge(&bounds(), None).unwrap().contains("not finite"));
    }

    #[test]
    fn slow_tokens_and_long_steps_are_reasons() {
        let health = Health::default();
        (0..10).for_each(|_| health.first_token(Duration::from_millis(90)));
        health.tokens(10, Duration::from_millis(190));
        assert_eq!(health.judge(&bounds(), None), None);
        health.tokens(90, Duration::from_millis(90 * 22));
        assert!(health.judge(&bounds(), None).unwrap().contains("tokens take 21 ms"));
        assert!(health.judge(&bounds(), Some(Duration::from_secs(16))).unwrap().contains("16 s"));
        (0..10).for_each(|_| health.first_token(Duration::from_millis(300)));
        assert!(health.judge(&bounds(), None).unwrap().contains("first tokens take 195 ms"));
    }
}
