//! The gateway in a cluster: a real etcd and kube-apiserver, gateways as processes, and a stand-in for the kubelet. No
//! node, no containers, no network of pods.
//!
//! ```text
//! folders ── processes, ports        a place, programs and ports that end with the tests
//! certificates ── access             who may speak with the apiserver
//! plane ── namespace                 etcd, kube-apiserver; what a test has for itself
//! program ── node                   the project's own programs, as a cluster would run them
//! traffic                            clients that must never notice anything
//! proxy ── proxied                   an apiserver that answers badly
//! helm                               releases of the charts
//! ```
//!
//! `scripts/prepare.py kubernetes` makes the programs. Tests share one control plane, each in its own namespace; those that
//! stop it have their own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "stages of rollouts, for whoever reads along")]
#![expect(clippy::disallowed_methods, reason = "a test is told by variables how long or large it is to be")]

mod access;
mod bad_answers;
mod bad_watches;
mod bed;
mod callers;
mod certificates;
mod chart;
mod clocks;
mod config_map;
mod converging;
mod definitions;
mod fleet;
mod folders;
mod helm;
mod namespace;
mod node;
mod node_status;
mod odd_objects;
mod older_definitions;
mod plane;
mod pods;
mod ports;
mod power;
mod processes;
mod program;
mod proxied;
mod proxied_watch;
mod proxy;
mod refused_writes;
mod rollouts;
mod room;
mod scale;
mod schema;
mod templates;
mod thousand;
mod tokens;
mod traffic;
mod verdict;

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// Long enough for a busy machine; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Looks again and again until there is what is waited for; `what` is said when it never comes.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Tests own their runtime, which ends their tasks; the tracker is the application's.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}
