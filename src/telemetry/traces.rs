//! Spans on their way: which are kept, and the queue to whatever sends them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks};
use tokio::sync::mpsc;

use super::TraceContext;
use crate::metrics::{Metrics, SpanOutcome};

/// Takes spans and never waits. Cheap to clone; by default nobody wants any, and whatever is told costs nothing.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Sink>>);

struct Sink {
    sampler: Sampler,
    queue: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
    scope: InstrumentationScope,
}

/// A piece of work that is over.
pub(super) struct Span {
    pub(super) place: TraceContext,
    pub(super) parent: Option<Parent>,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) begin: SystemTime,
    pub(super) end: SystemTime,
    pub(super) attributes: Vec<KeyValue>,
    /// What failed, in one word.
    pub(super) error: Option<Cow<'static, str>>,
}

/// What a span is a part of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parent {
    /// Work of this process.
    Here(TraceContext),
    /// Work of whoever sent the request.
    Caller(TraceContext),
}

impl Traces {
    pub(super) fn to(sampler: Sampler, queue: mpsc::Sender<SpanData>, metrics: Arc<Metrics>) -> Self {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self(Some(Arc::new(Sink { sampler, queue, metrics, scope })))
    }

    /// The place of new work: in the caller's trace, if there is one. Whether it is kept is the sampler's to say; where nobody
    /// wants spans here, the caller's.
    pub(super) fn begin(&self, caller: Option<TraceContext>) -> TraceContext {
        let place = caller.map_or_else(|| TraceContext::random(false), TraceContext::child);
        match &self.0 {
            None => place,
            Some(sink) => TraceContext { sampled: sink.samples(caller, place.trace_id), ..place },
        }
    }

    /// Puts a span into the queue, if it is kept and there is room.
    pub(super) fn record(&self, span: Span) {
        let Some(sink) = self.0.as_ref().filter(|_| span.place.sampled) else { return };
        if sink.queue.try_send(span.data(&sink.scope)).is_err() {
            sink.metrics.spans(SpanOutcome::Dropped, 1);
        }
    }
}

impl Sink {
    fn samples(&self, caller: Option<TraceContext>, trace_id: u128) -> bool {
        let parent = caller.map(|caller| Context::new().with_remote_span_context(span_context(caller, true)));
        let trace_id = TraceId::from_bytes(trace_id.to_be_bytes());
        let sampled = self.sampler.should_sample(parent.as_ref(), trace_id, "", &SpanKind::Server, &[], &[]);
        sampled.decision == SamplingDecision::RecordAndSample
    }
}

impl Span {
    fn data(self, scope: &InstrumentationScope) -> SpanData {
        let Self { place, parent, name, kind, begin, end, mut attributes, error } = self;
        let (parent_span_id, parent_span_is_remote) = match parent {
            None => (SpanId::INVALID, false),
            Some(Parent::Here(parent)) => (span_id(parent), false),
            Some(Parent::Caller(parent)) => (span_id(parent), true),
        };
        let status = match error {
            None => Status::Unset,
            Some(error) => {
                attributes.push(KeyValue::new("error.type", error.clone()));
                Status::error(error)
            }
        };
        SpanData {
            span_context: span_context(place, false),
            parent_span_id,
            parent_span_is_remote,
            span_kind: kind,
            name,
            start_time: begin,
            // Whoever set the clock back meanwhile has not made the work end before it began.
            end_time: end.max(begin),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: scope.clone(),
        }
    }
}

fn span_id(context: TraceContext) -> SpanId {
    SpanId::from_bytes(context.span_id.to_be_bytes())
}

fn span_context(context: TraceContext, is_remote: bool) -> SpanContext {
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let trace_id = TraceId::from_bytes(context.trace_id.to_be_bytes());
    SpanContext::new(trace_id, span_id(context), flags, is_remote, TraceState::default())
}

/// Turns moments of the clock that nobody sets into times of day. All moments of one piece of work keep their distances.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Instant,
    time: SystemTime,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { began: Instant::now(), time: SystemTime::now() }
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn time_of(&self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.began) {
            Some(after) => self.time + after,
            None => self.time - (self.began - moment),
        }
    }
}
