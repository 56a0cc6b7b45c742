//! The metrics of who comes in and who does not.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntGauge};

use super::Declare;
use super::family::Family;

/// Names that have samples of their own; further ones add up under [`OTHER`]. Users of a cluster are as many as there are
/// service accounts.
const MOST_NAMES: usize = 256;
/// No key has this name.
const OTHER: &str = "(other)";

/// Why a request of a known caller is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The model is not for it.
    Model,
    /// Too many requests in a minute.
    Requests,
    /// Too many tokens in a minute.
    Tokens,
    /// Too many requests at once.
    Concurrent,
}

impl Refusal {
    /// Value of the label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrent => "concurrent",
        }
    }
}

/// Why a request is refused before it is known whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stranger {
    /// It brings no credential, or more than one.
    NoCredential,
    /// Nobody has its credential.
    BadCredential,
    /// Nobody can say.
    NotKnown,
}

impl Stranger {
    /// Value of the label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::BadCredential => "bad_credential",
            Self::NotKnown => "not_known",
        }
    }
}

/// What the cluster said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewOutcome {
    /// The token is somebody's, or they may.
    Yes,
    /// It is nobody's, or they may not.
    No,
    /// Nothing.
    Error,
}

impl ReviewOutcome {
    /// Value of the label `outcome`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Error => "error",
        }
    }
}

/// A file that is followed while the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowedFile {
    /// The keys of clients.
    Keys,
    /// Certificate, key and client authorities of the API listener.
    Tls,
}

impl FollowedFile {
    /// Value of the label `file`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Tls => "tls",
        }
    }
}

/// The families.
pub(super) struct AccessFamilies {
    names: Mutex<BTreeSet<String>>,
    requests: Family<IntCounter>,
    refusals: Family<IntCounter>,
    tokens: Family<IntCounter>,
    strangers: Family<IntCounter>,
    reviews: Family<IntCounter>,
    file_success: Family<IntGauge>,
    file_reads: Family<IntCounter>,
}

/// The metrics of one caller; looking up labels is done once.
#[derive(Clone)]
pub struct CallerMetrics {
    name: String,
    requests: IntCounter,
    refusals: Family<IntCounter>,
    tokens: Family<IntCounter>,
}

impl AccessFamilies {
    pub(super) fn new(on: &Declare) -> Self {
        Self {
            names: Mutex::default(),
            requests: on.counters(
                "caller_requests_total",
                "Requests that were let in, by the name of the key or user; beyond 256 names `(other)`.",
                &["caller"],
            ),
            refusals: on.counters(
                "caller_refusals_total",
                "Requests of a known key or user that were refused, by reason: model, requests, tokens, concurrent.",
                &["caller", "reason"],
            ),
            tokens: on.counters(
                "caller_tokens_total",
                "Tokens that a key or user has used, by kind: prompt, generated.",
                &["caller", "kind"],
            ),
            strangers: on.counters(
                "unauthenticated_requests_total",
                "Requests of nobody that is known, by reason: no_credential, bad_credential, not_known.",
                &["reason"],
            ),
            reviews: on.counters(
                "access_reviews_total",
                "Questions to the cluster, by kind (token, right) and outcome: yes, no, error.",
                &["kind", "outcome"],
            ),
            file_success: on.gauges(
                "file_reload_success",
                "1 while a followed file (keys, tls) holds, 0 while the last good one, if any, is in force.",
                &["file"],
            ),
            file_reads: on.counters(
                "file_reloads_total",
                "Followed files (keys, tls) that were read because they were new, by outcome: applied, refused.",
                &["file", "outcome"],
            ),
        }
    }

    /// The label of a name.
    fn label<'name>(&self, name: &'name str) -> &'name str {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(name) {
            return name;
        }
        if names.len() >= MOST_NAMES {
            return OTHER;
        }
        names.insert(name.to_owned());
        name
    }
}

impl super::Metrics {
    /// The metrics of a caller. `name` is one that the operator chose, or that the cluster knows.
    pub fn caller(&self, name: &str) -> CallerMetrics {
        let AccessFamilies { requests, refusals, tokens, .. } = &self.access;
        let label = self.access.label(name);
        CallerMetrics {
            name: label.to_owned(),
            requests: requests.with_label_values(&[label]),
            refusals: refusals.clone(),
            tokens: tokens.clone(),
        }
    }

    /// A request was refused before it was known whose it is.
    pub fn stranger(&self, why: Stranger) {
        self.access.strangers.with_label_values(&[why.label()]).inc();
    }

    /// The cluster was asked; `kind` is `token` or `right`.
    pub fn review(&self, kind: &'static str, outcome: ReviewOutcome) {
        self.access.reviews.with_label_values(&[kind, outcome.label()]).inc();
    }

    /// A followed file was read.
    pub fn file_read(&self, file: FollowedFile, applied: bool) {
        let outcome = if applied { "applied" } else { "refused" };
        self.access.file_reads.with_label_values(&[file.label(), outcome]).inc();
        self.access.file_success.with_label_values(&[file.label()]).set(i64::from(applied));
    }
}

impl CallerMetrics {
    /// A request was let in.
    pub fn entered(&self) {
        self.requests.inc();
    }

    /// A request was refused.
    pub fn refused(&self, why: Refusal) {
        self.refusals.with_label_values(&[self.name.as_str(), why.label()]).inc();
    }

    /// Tokens were used; `kind` is `prompt` or `generated`.
    pub fn tokens(&self, kind: &'static str, tokens: usize) {
        self.tokens.with_label_values(&[self.name.as_str(), kind]).inc_by(tokens as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use crate::openmetrics::Format;

    #[test]
    fn names_beyond_a_bound_add_up() {
        let metrics = Metrics::new();
        for number in 0..MOST_NAMES + 10 {
            metrics.caller(&format!("user-{number}")).entered();
        }
        metrics.caller("user-0").entered();
        let name = "inference_gateway_caller_requests_total";
        let text = metrics.exposition(Format::Prometheus);
        assert_eq!(text.matches(&format!("{name}{{")).count(), MOST_NAMES + 1);
        let value = |caller: &str| metrics.sample(&format!("{name}{{caller=\"{caller}\"}}"));
        assert_eq!((value(OTHER), value("user-0")), (Some(10.0), Some(2.0)));
    }
}
