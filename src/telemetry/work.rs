//! Work on a model: bringing a revision into service is one trace, its phases are spans of it.

use std::borrow::Cow;
use std::future::Future;
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::traces::{Clock, Parent, Span};
use super::{TraceContext, Traces};

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Work that others are a part of; recorded when it is dropped, as given up unless it said how it ended.
pub struct Work(Phase);

/// A part of the current work, or work of its own where there is none.
pub struct Phase {
    traces: Traces,
    place: TraceContext,
    parent: Option<TraceContext>,
    name: &'static str,
    clock: Clock,
    attributes: Vec<KeyValue>,
    error: Option<Cow<'static, str>>,
}

impl Traces {
    /// Work on a revision of a model begins.
    pub fn work(&self, name: &'static str, model: &str, revision: &str) -> Work {
        let mut whole = self.phase(name, model);
        whole.attributes.push(KeyValue::new("inference_gateway.model.revision", revision.to_owned()));
        Work(whole)
    }

    /// A part of the current work begins.
    pub fn phase(&self, name: &'static str, model: &str) -> Phase {
        let parent = CURRENT.try_with(|place| *place).ok();
        Phase {
            place: parent.map_or_else(|| self.begin(None), TraceContext::child),
            traces: self.clone(),
            parent,
            name,
            clock: Clock::start(),
            attributes: vec![KeyValue::new("inference_gateway.model.name", model.to_owned())],
            error: Some("given_up".into()),
        }
    }
}

impl Work {
    /// Makes this the work that `part` is a part of.
    pub async fn scope<F: Future>(&self, part: F) -> F::Output {
        CURRENT.scope(self.0.place, part).await
    }

    /// It ended well.
    pub fn done(self) {
        self.0.done();
    }

    /// It failed; `reason` is a word of ours.
    pub fn failed(mut self, reason: &'static str) {
        self.0.error = Some(reason.into());
    }
}

impl Phase {
    /// It ended well; returns how long it took.
    pub fn done(mut self) -> Duration {
        self.error = None;
        self.clock.began().elapsed()
    }

    /// There was nothing to do.
    pub fn forget(mut self) {
        self.place.sampled = false;
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        let end = self.clock.time_of(Instant::now());
        self.traces.record(Span {
            place: self.place,
            parent: self.parent.map(Parent::Here),
            name: self.name.into(),
            kind: SpanKind::Internal,
            begin: self.clock.time_of(self.clock.began()),
            end,
            attributes: std::mem::take(&mut self.attributes),
            error: self.error.take(),
        });
    }
}
