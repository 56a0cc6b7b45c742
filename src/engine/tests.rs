//! The engine over the deterministic fake: scheduling, rows, streams, cancellation, failures.

mod drafts;
mod masks;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::fake::{Fake, VOCABULARY, continuation};
use super::*;
use crate::metrics::Metrics;

const LIMITS: EngineLimits =
    EngineLimits { chunk_tokens: 4, queue: 64, cache_tokens: usize::MAX, prefix_bytes: 0, draft_tokens: 0 };

fn start(fake: Fake, limits: EngineLimits) -> Engine {
    Engine::start("test", Box::new(fake), limits, shared()).unwrap()
}

fn shared() -> Shared {
    Shared { turns: Arc::default(), metrics: Metrics::new().model("test") }
}

fn request(prompt: &[TokenId], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: Sampling::greedy(),
        max_tokens,
        stop_tokens: Vec::new(),
        logprobs: None,
        deadline: None,
    }
}

fn submit(engine: &Engine, request: Request) -> TokenStream {
    engine.submit(engine.reserve().unwrap(), request).unwrap()
}

/// Everything a stream says.
async fn collect(mut stream: TokenStream) -> Result<(Vec<TokenId>, Finish), EngineError> {
    let mut tokens = Vec::new();
    loop {
        match stream.next().await.expect("a stream ends with its end")? {
            Event::Prefilled { .. } => assert!(tokens.is_empty()),
            Event::Token { token, .. } => tokens.push(token),
            Event::Finished(finished) => return Ok((tokens, finished.reason)),
        }
    }
}

/// The next token of a stream that has one.
async fn next_token(stream: &mut TokenStream) -> TokenId {
    loop {
        match stream.next().await.unwrap().unwrap() {
            Event::Prefilled { .. } => {}
            Event::Token { token, .. } => return token,
            Event::Finished(finished) => panic!("the stream ended: {finished:?}"),
        }
    }
}

/// A number of permits for runs of a gated fake.
fn open(gate: &mpsc::Sender<()>, runs: usize) {
    for _ in 0..runs {
        gate.send(()).unwrap();
    }
}

#[tokio::test]
async fn the_stop_token_that_ends_a_generation_is_told_with_its_probability() {
    let engine = start(Fake::new(1, 64), LIMITS);
    let stop = continuation(&[1, 2], 3)[2];
    for logprobs in [None, Some(2)] {
        let asking = Request { stop_tokens: vec![stop], logprobs, ..request(&[1, 2], 9) };
        let mut stream = submit(&engine, asking);
        let finished = loop {
            if let Event::Finished(finished) = stream.next().await.unwrap().unwrap() {
                break finished;
            }
        };
        assert_eq!(finished.reason, Finish::StopToken(stop));
        assert_eq!(
            finished.logprobs.map(|told| told.top[0].0),
            logprobs.map(|_| stop),
            "it was the likeliest"
        );
    }
}

#[tokio::test]
async fn a_generation_continues_its_prompt_up_to_the_limit() {
    let engine = start(Fake::new(2, 64), LIMITS);
    let prompt = [1, 2, 3, 4, 5, 6, 7];
    let (tokens, reason) = collect(submit(&engine, request(&prompt, 20))).await.unwrap();
    assert_eq!(tokens, continuation(&prompt, 20));
    assert_eq!(reason, Finish::Length);
}

#[tokio::test]
async fn a_stop_token_ends_the_generation_and_is_not_part_of_it() {
    let engine = start(Fake::new(2, 64), LIMITS);
    let expected = continuation(&[9], 12);
    let stop = expected[7];
    let first = expected.iter().position(|token| *token == stop).unwrap();
    let mut request = request(&[9], 12);
    request.stop_tokens = vec![stop];
    let (tokens, reason) = collect(submit(&engine, request)).await.unwrap();
    assert_eq!(tokens, expected[..first]);
    assert_eq!(reason, Finish::StopToken(stop));
}

#[tokio::test]
async fn a_prompt_that_is_alone_is_fed_in_long_runs_with_a_rest_of_one_by_itself() {
    for (prompt, runs) in [(18, &[(0, 16), (16, 2)][..]), (17, &[(0, 16)]), (9, &[(0, 8)])] {
        let fake = Fake::new(1, 64);
        let record = fake.record();
        let engine = start(fake, LIMITS);
        collect(submit(&engine, request(&vec![1; prompt], 1))).await.unwrap();
        assert_eq!(record.lock().unwrap().chunks, runs);
    }
}

#[tokio::test]
async fn a_backend_that_cannot_take_chunks_gets_whole_prompts() {
    let fake = Fake::new(1, 64).without_chunks();
    let record = fake.record();
    let engine = start(fake, LIMITS);
    collect(submit(&engine, request(&[1; 10], 1))).await.unwrap();
    assert_eq!(record.lock().unwrap().chunks, [(0, 10)]);
}

#[tokio::test]
async fn sequences_decode_together_while_a_prompt_is_fed() {
    let (fake, gate) = Fake::new(4, 64).gated();
    let record = fake.record();
    let engine = start(fake, LIMITS);
    let first = submit(&engine, request(&[1, 2], 30));
    let second = submit(&engine, request(&[3, 4], 30));
    let long = submit(&engine, request(&[5; 20], 2));
    drop(gate);
    for (stream, prompt, count) in
        [(first, &[1, 2][..], 30), (second, &[3, 4][..], 30), (long, &[5; 20][..], 2)]
    {
        assert_eq!(collect(stream).await.unwrap().0, continuation(prompt, count));
    }
    assert!(record.lock().unwrap().decoded_rows.contains(&2), "two sequences never decoded in one run");
    assert!(record.lock().unwrap().decoded_rows.contains(&3), "three sequences never decoded in one run");
}

#[tokio::test]
async fn a_stream_gets_a_token_for_each_chunk_of_a_long_prompt() {
    let (fake, gate) = Fake::new(2, 64).gated();
    let record = fake.record();
    let engine = start(fake, LIMITS);
    let mut stream = submit(&engine, request(&[1, 2], 30));
    let long = submit(&engine, request(&[5; 40], 1));
    // The first prompt, then five chunks with a step of the stream each; the next run is not let in.
    open(&gate, 1 + 5 * 2);
    for token in continuation(&[1, 2], 6) {
        assert_eq!(next_token(&mut stream).await, token);
    }
    wait_until(|| record.lock().unwrap().chunks.len() >= 6).await;
    assert_eq!(record.lock().unwrap().chunks[1..], [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4)]);
    drop(gate);
    assert_eq!(collect(long).await.unwrap().0, continuation(&[5; 40], 1));
}

#[tokio::test]
async fn a_full_queue_refuses_and_a_place_is_given_back() {
    let (fake, gate) = Fake::new(1, 64).gated();
    let limits = EngineLimits { queue: 1, ..LIMITS };
    let engine = start(fake, limits);
    let running = submit(&engine, request(&[1], 3));
    let waiting = submit(&engine, request(&[2], 3));
    assert!(matches!(engine.reserve(), Err(EngineError::Overloaded { running: 2 })));
    drop(gate);
    collect(running).await.unwrap();
    collect(waiting).await.unwrap();
    wait_until(|| engine.reserve().is_ok()).await;
}

#[tokio::test]
async fn a_place_that_is_not_used_is_given_back() {
    let engine = start(Fake::new(1, 64), EngineLimits { queue: 0, ..LIMITS });
    drop(engine.reserve().unwrap());
    assert!(engine.reserve().is_ok());
}

#[tokio::test]
async fn a_dropped_stream_frees_its_row_within_one_step() {
    let (fake, gate) = Fake::new(2, 64).gated();
    let record = fake.record();
    let engine = start(fake, LIMITS);
    let mut leaving = submit(&engine, request(&[1, 2, 3], 40));
    let staying = submit(&engine, request(&[4, 5, 6], 40));
    open(&gate, 4);
    leaving.next().await.unwrap().unwrap();
    drop(leaving);
    // The run that is under way may end; the next step sees the closed stream.
    open(&gate, 2);
    wait_until(|| record.lock().unwrap().cached[1] == 0).await;
    drop(gate);
    assert_eq!(collect(staying).await.unwrap().0, continuation(&[4, 5, 6], 40));
}

#[tokio::test]
async fn a_dropped_stream_leaves_the_queue_and_the_middle_of_a_prompt() {
    let (fake, gate) = Fake::new(1, 4096).gated();
    let record = fake.record();
    let engine = start(fake, EngineLimits { queue: 1, ..LIMITS });
    let prompt = submit(&engine, request(&[7; 4000], 1));
    let queued = submit(&engine, request(&[8], 1));
    open(&gate, 2);
    drop(queued);
    drop(prompt);
    drop(gate);
    wait_until(|| engine.reserve().is_ok() && engine.inner.places.taken() == 0).await;
    assert!(record.lock().unwrap().chunks.len() < 10, "a prompt that nobody waits for was fed on");
}

#[tokio::test]
async fn a_failed_run_fails_its_batch_and_the_engine_goes_on() {
    let engine = start(Fake::new(2, 64).failing_on(63), LIMITS);
    let failed = collect(submit(&engine, request(&[63], 5))).await;
    assert!(matches!(failed, Err(EngineError::Run(message)) if message == "poisoned"));
    let (tokens, _) = collect(submit(&engine, request(&[1], 3))).await.unwrap();
    assert_eq!(tokens, continuation(&[1], 3));
}

#[tokio::test]
async fn an_engine_that_panics_is_seen_as_dead_and_gives_its_turn_up() {
    let shared = shared();
    let backend = Box::new(Fake::new(2, 64).panicking_on(63));
    let engine = Engine::start("test", backend, LIMITS, shared.clone()).unwrap();
    let other = Engine::start("test", Box::new(Fake::new(2, 64)), LIMITS, shared).unwrap();
    let mut stream = submit(&engine, request(&[63], 5));
    assert!(stream.next().await.is_none(), "a stream without an end is a failure");
    engine.alive().wait_for(|alive| !alive).await.unwrap();
    assert!(matches!(engine.reserve(), Err(EngineError::Stopped)));
    assert_eq!(collect(submit(&other, request(&[1], 3))).await.unwrap().0, continuation(&[1], 3));
}

#[tokio::test]
async fn logits_that_are_not_numbers_fail_their_sequence_alone() {
    let (fake, gate) = Fake::new(2, 64).not_a_number_on(63).gated();
    let engine = start(fake, LIMITS);
    let good = submit(&engine, request(&[1], 10));
    let bad = submit(&engine, request(&[63], 10));
    drop(gate);
    assert!(matches!(collect(bad).await, Err(EngineError::NotFinite)));
    assert_eq!(collect(good).await.unwrap().0, continuation(&[1], 10));
}

#[tokio::test]
async fn requests_that_cannot_fit_are_refused_before_they_take_a_row() {
    let engine = start(Fake::new(1, 16), LIMITS);
    let too_long = engine.submit(engine.reserve().unwrap(), request(&[1; 10], 7));
    assert!(matches!(too_long, Err(EngineError::ContextExceeded { prompt_tokens: 10, max_tokens: 7, .. })));
    let unknown = engine.submit(engine.reserve().unwrap(), request(&[VOCABULARY as u32], 1));
    assert!(matches!(unknown, Err(EngineError::UnknownToken { .. })));
    let (tokens, _) = collect(submit(&engine, request(&[1; 10], 6))).await.unwrap();
    assert_eq!(tokens.len(), 6);
}

#[tokio::test]
async fn stopping_fails_what_is_left_and_later_requests() {
    let (fake, gate) = Fake::new(1, 64).gated();
    let engine = start(fake, LIMITS);
    let running = submit(&engine, request(&[1], 40));
    let waiting = submit(&engine, request(&[2], 40));
    open(&gate, 3);
    // In the mailbox before the gate opens, so that nothing can end by itself first.
    engine.inner.mailbox.send(worker::Message::Stop(EngineError::ShuttingDown)).unwrap();
    drop(gate);
    engine.stop();
    for stream in [running, waiting] {
        assert!(matches!(collect(stream).await, Err(EngineError::ShuttingDown)));
    }
    assert!(matches!(engine.reserve(), Err(EngineError::Stopped)));
    assert!(!*engine.alive().borrow());
}

#[tokio::test]
async fn streams_outlive_the_last_handle() {
    let engine = start(Fake::new(1, 64), LIMITS);
    let stream = submit(&engine, request(&[5], 20));
    let mut alive = engine.alive();
    drop(engine);
    assert_eq!(collect(stream).await.unwrap().0, continuation(&[5], 20));
    alive.wait_for(|alive| !alive).await.unwrap();
}

#[tokio::test]
async fn a_known_beginning_is_copied_and_gives_the_same_tokens() {
    let fake = Fake::new(2, 64);
    let record = fake.record();
    let engine = start(fake, EngineLimits { prefix_bytes: 1 << 20, ..LIMITS });
    let first: Vec<TokenId> = (0..18).collect();
    let second: Vec<TokenId> = (0..14).chain([60, 61, 62]).collect();
    collect(submit(&engine, request(&first, 3))).await.unwrap();
    record.lock().unwrap().chunks.clear();
    let mut stream = submit(&engine, request(&second, 9));
    let begun = stream.next().await.unwrap().unwrap();
    assert!(matches!(begun, Event::Prefilled { cached_tokens: 12, .. }), "{begun:?}");
    assert_eq!(collect(stream).await.unwrap().0, continuation(&second, 9));
    assert_eq!(record.lock().unwrap().chunks[0], (12, 4), "only the rest is computed");
}

#[tokio::test]
async fn what_may_not_fit_into_memory_waits_and_what_never_fits_is_refused() {
    let (fake, gate) = Fake::new(4, 64).gated();
    let engine = start(fake, EngineLimits { cache_tokens: 30, ..LIMITS });
    let streams = [submit(&engine, request(&[1; 5], 15)), submit(&engine, request(&[2; 5], 15))];
    let refused = engine.submit(engine.reserve().unwrap(), request(&[3; 20], 11));
    assert!(matches!(refused, Err(EngineError::CacheExceeded { tokens: 31, available_tokens: 30 })));
    drop(gate);
    for (stream, token) in streams.into_iter().zip([1, 2]) {
        assert_eq!(collect(stream).await.unwrap().0, continuation(&[token; 5], 15));
    }
}

#[tokio::test]
async fn a_deadline_holds_in_the_queue_and_while_running() {
    let (fake, gate) = Fake::new(1, 64).gated();
    let engine = start(fake, LIMITS);
    let late = |prompt: &[TokenId]| Request { deadline: Some(Instant::now()), ..request(prompt, 40) };
    let deadline = Instant::now() + Duration::from_millis(200);
    let soon = Request { deadline: Some(deadline), ..request(&[1], 40) };
    let running = submit(&engine, soon);
    let queued = submit(&engine, late(&[2]));
    let patient = submit(&engine, request(&[3], 4));
    open(&gate, 1);
    assert!(matches!(collect(queued).await, Err(EngineError::DeadlineExceeded)));
    wait_until(|| Instant::now() > deadline).await;
    drop(gate);
    assert!(matches!(collect(running).await, Err(EngineError::DeadlineExceeded)));
    assert_eq!(collect(patient).await.unwrap().0, continuation(&[3], 4));
}

#[tokio::test]
async fn a_step_that_hangs_is_seen_from_outside() {
    let (fake, gate) = Fake::new(1, 64).gated();
    let engine = start(fake, LIMITS);
    assert_eq!(engine.running_step(), None);
    let stream = submit(&engine, request(&[1, 2, 3], 2));
    wait_until(|| engine.running_step().is_some_and(|step| step.age > Duration::from_millis(20))).await;
    assert_eq!(engine.running_step().map(|step| (step.rows, step.chunk_tokens)), Some((0, 3)));
    drop(gate);
    collect(stream).await.unwrap();
    wait_until(|| engine.running_step().is_none()).await;
}

#[tokio::test]
async fn two_engines_take_turns() {
    let shared = shared();
    let engines: Vec<Engine> = (0..2)
        .map(|_| Engine::start("test", Box::new(Fake::new(2, 4096)), LIMITS, shared.clone()).unwrap())
        .collect();
    let streams: Vec<_> = engines.iter().map(|engine| submit(engine, request(&[1], 3000))).collect();
    for stream in streams {
        assert_eq!(collect(stream).await.unwrap().0, continuation(&[1], 3000));
    }
}

/// Polls a condition that another thread will make true.
async fn wait_until(condition: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the condition became true");
}

/// A request of a random schedule.
#[derive(Debug, Clone)]
struct Arrival {
    prompt: Vec<TokenId>,
    max_tokens: usize,
    /// Tokens after which the client goes away.
    patience: Option<usize>,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival = (prop::collection::vec(0..3u32, 1..30), 1usize..20, prop::option::weighted(0.3, 0usize..8));
    prop::collection::vec(
        arrival.prop_map(|(prompt, max_tokens, patience)| Arrival { prompt, max_tokens, patience }),
        1..40,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes and goes: everybody gets exactly their own continuation, and no row or place is lost.
    #[test]
    fn nobody_is_mixed_up_or_starved_and_no_row_leaks(
        arrivals in arrivals(),
        rows in 1usize..6,
        chunk in 1usize..9,
        cache_tokens in 50usize..300,
        prefix_bytes in 0usize..400,
    ) {
        let fake = Fake::new(rows, 64);
        let record = fake.record();
        let limits = EngineLimits { chunk_tokens: chunk, cache_tokens, prefix_bytes, ..LIMITS };
        let engine = start(fake, limits);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let streams: Vec<_> = arrivals
                .iter()
                .map(|arrival| submit(&engine, request(&arrival.prompt, arrival.max_tokens)))
                .collect();
            for (arrival, mut stream) in arrivals.iter().zip(streams) {
                let expected = continuation(&arrival.prompt, arrival.max_tokens);
                match arrival.patience {
                    None => assert_eq!(collect(stream).await.unwrap(), (expected, Finish::Length)),
                    Some(patience) => {
                        for token in expected.iter().take(patience) {
                            assert_eq!(next_token(&mut stream).await, *token);
                        }
                    }
                }
            }
            wait_until(|| engine.inner.places.taken() == 0).await;
        });
        engine.stop();
        prop_assert!(record.lock().unwrap().most_cached <= cache_tokens, "more memory was used than there is");
        prop_assert!(record.lock().unwrap().cached.iter().all(|tokens| *tokens == 0), "a row was not released");
    }
}
