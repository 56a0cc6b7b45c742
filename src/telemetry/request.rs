//! A request as its trace and its log line tell it.
//!
//! `observe.rs` begins one around every request and ends it with the answer; whoever works for the request in between finds it by
//! [`RequestTrace::current`], so that no dialect has to hand it on.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::traces::{Clock, Parent, Span};
use super::{TraceContext, Traces};

tokio::task_local! {
    static CURRENT: RequestTrace;
}

/// The trace of a request; clones are of the same.
#[derive(Clone)]
pub struct RequestTrace(Arc<Shared>);

struct Shared {
    traces: Traces,
    place: TraceContext,
    caller: Option<TraceContext>,
    clock: Clock,
    told: Mutex<Told>,
}

/// What is known of the generations of a request, for its log line. Times of several generations: the longest.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// The model that answers.
    pub model: Option<String>,
    /// Tokens of its prompts, each counted once whatever is wanted of it.
    pub prompt_tokens: Option<usize>,
    /// Tokens generated.
    pub output_tokens: Option<usize>,
    /// How the last generation to end has ended.
    pub finish_reason: Option<&'static str>,
    /// Waiting for a row.
    pub queue: Option<Duration>,
    /// From the row to the first token.
    pub prefill: Option<Duration>,
    /// From the first token to the last.
    pub decode: Option<Duration>,
    /// When a generation was accepted.
    pub(super) accepted: Option<Instant>,
    /// When the last generation has ended.
    pub(super) ended: Option<Instant>,
}

/// How a request was answered.
pub struct Answered<'a> {
    /// A method of HTTP, or `other`.
    pub method: &'static str,
    /// The route that was taken, as the router writes it; `None` where there is none.
    pub route: Option<&'a str>,
    /// The path, without the query.
    pub path: &'a str,
    /// The status code; 499 where the client went away.
    pub status: u16,
    /// The request's id.
    pub request_id: &'a str,
}

impl RequestTrace {
    /// Begins now: a part of the caller's trace, if `traceparent` names one.
    pub fn begin(traces: &Traces, traceparent: Option<&str>) -> Self {
        let caller = traceparent.and_then(TraceContext::parse);
        let place = traces.begin(caller);
        let (clock, told) = (Clock::start(), Mutex::default());
        Self(Arc::new(Shared { traces: traces.clone(), place, caller, clock, told }))
    }

    /// The request that this task works for; outside of one, a request that nobody looks at.
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_else(|_outside| Self::begin(&Traces::default(), None))
    }

    /// Makes this the request that `work` is for.
    pub async fn scope<F: Future>(&self, work: F) -> F::Output {
        CURRENT.scope(self.clone(), work).await
    }

    /// The trace's id, for log lines.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.0.place.trace_id)
    }

    /// The trace's id, if it is kept, for exemplars.
    pub fn sampled_trace(&self) -> Option<u128> {
        self.0.place.sampled_trace()
    }

    /// The `traceparent` of the answer: the span of this request.
    pub fn header(&self) -> String {
        self.0.place.header()
    }

    /// What is known of its generations by now.
    pub fn told(&self) -> Told {
        self.locked().clone()
    }

    /// Ends now: the span of the request, and those before and behind its generations.
    pub fn end(&self, answered: &Answered<'_>) {
        let Shared { traces, place, caller, clock, told: _ } = &*self.0;
        if !place.sampled {
            return;
        }
        let (end, told) = (Instant::now(), self.told());
        if let Some(accepted) = told.accepted {
            self.child("receive", clock.began(), accepted);
        }
        if let Some(ended) = told.ended {
            self.child("respond", ended, end);
        }
        let Answered { method, route, path, status, request_id } = answered;
        let mut attributes = vec![
            KeyValue::new("http.request.method", *method),
            KeyValue::new("url.path", (*path).to_owned()),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("http.response.status_code", i64::from(*status)),
            KeyValue::new("inference_gateway.request_id", (*request_id).to_owned()),
        ];
        let name = route.map_or_else(|| (*method).to_owned(), |route| format!("{method} {route}"));
        attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
        traces.record(Span {
            place: *place,
            parent: caller.map(Parent::Caller),
            name: name.into(),
            kind: SpanKind::Server,
            begin: clock.time_of(clock.began()),
            end: clock.time_of(end),
            attributes,
            error: match status {
                499 => Some("client_gone".into()),
                500.. => Some(status.to_string().into()),
                _ => None,
            },
        });
    }

    fn child(&self, name: &'static str, begin: Instant, end: Instant) {
        self.record(self.place().child(), self.place(), (name.into(), begin, end), (Vec::new(), None));
    }

    pub(super) fn place(&self) -> TraceContext {
        self.0.place
    }

    /// Records work for this request.
    pub(super) fn record(
        &self,
        place: TraceContext,
        parent: TraceContext,
        (name, begin, end): (std::borrow::Cow<'static, str>, Instant, Instant),
        (attributes, error): (Vec<KeyValue>, Option<&'static str>),
    ) {
        let clock = &self.0.clock;
        self.0.traces.record(Span {
            place,
            parent: Some(Parent::Here(parent)),
            name,
            kind: SpanKind::Internal,
            begin: clock.time_of(begin),
            end: clock.time_of(end),
            attributes,
            error: error.map(Into::into),
        });
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, Told> {
        // Plain values are whole whatever happened to another holder.
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
