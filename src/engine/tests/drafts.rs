//! Drafts: what is generated stays the same, in fewer runs.

use super::*;
use crate::engine::fake::Record;

const DRAFTING: EngineLimits = EngineLimits { draft_tokens: 7, ..LIMITS };

/// A fake whose greedy texts soon go round: what follows depends on two tokens.
fn repeating(rows: usize, context_tokens: usize) -> Fake {
    Fake::new(rows, context_tokens).remembering(2)
}

/// Runs that gave a token or more each.
fn runs(record: &Record) -> usize {
    record.decoded_rows.len() + record.verified.len()
}

async fn generate(limits: EngineLimits, fake: Fake, request: &Request) -> (Vec<TokenId>, Finish) {
    collect(submit(&start(fake, limits), request.clone())).await.unwrap()
}

#[tokio::test]
async fn a_text_that_repeats_itself_takes_fewer_runs() {
    let request = request(&[1, 2, 3], 4000);
    let (with, without) = (repeating(1, 4096), repeating(1, 4096));
    let (drafted, plain) = (with.record(), without.record());
    let text = generate(DRAFTING, with, &request).await;
    assert_eq!(text, generate(LIMITS, without, &request).await);
    let (drafted, plain) = (drafted.lock().unwrap(), plain.lock().unwrap());
    assert_eq!(runs(&plain), 3999);
    assert!(runs(&drafted) < 1500, "{} runs", runs(&drafted));
    assert!(drafted.verified.iter().all(|tokens| (2..=8).contains(tokens)));
}

#[tokio::test]
async fn a_text_that_does_not_repeat_itself_takes_hardly_a_draft() {
    let fake = Fake::new(1, 4096);
    let record = fake.record();
    // So hot that nearly every token is drawn at random.
    let sampling = Sampling { temperature: 1000.0, seed: 7, ..Sampling::greedy() };
    let request = Request { sampling, ..request(&[1, 2, 3], 4000) };
    let text = generate(DRAFTING, fake, &request).await;
    assert_eq!(text, generate(LIMITS, Fake::new(1, 4096), &request).await);
    let record = record.lock().unwrap();
    assert!(record.verified.len() < 10, "{:?}", record.verified);
}

#[tokio::test]
async fn a_copied_prompt_is_drafted_from_the_first_tokens_on() {
    // The prompt holds what the fake says after two tokens, and then these two tokens once more.
    let text = generate(LIMITS, repeating(1, 4096), &request(&[1, 2], 1000)).await.0;
    let prompt: Vec<TokenId> = [1, 2].into_iter().chain(text.iter().copied()).chain([1, 2]).collect();
    let fake = repeating(1, 4096);
    let record = fake.record();
    let (copied, _) = generate(DRAFTING, fake, &request(&prompt, 100)).await;
    assert_eq!(copied, text[..100]);
    let runs = runs(&record.lock().unwrap());
    assert!(runs < 25, "{runs} runs for 100 tokens");
}

#[tokio::test]
async fn drafts_never_pass_the_token_limit_or_the_memory_of_their_sequence() {
    for max_tokens in 1..60 {
        let fake = repeating(1, 64);
        let record = fake.record();
        let limits = EngineLimits { cache_tokens: 4 + max_tokens, ..DRAFTING };
        let request = request(&[5, 5, 5, 5], max_tokens);
        let text = generate(limits, fake, &request).await;
        assert_eq!(text, generate(LIMITS, repeating(1, 64), &request).await);
        assert!(record.lock().unwrap().most_cached <= 4 + max_tokens);
    }
}

#[tokio::test]
async fn a_stop_token_within_a_draft_ends_the_text_where_it_stands() {
    let plain = generate(LIMITS, repeating(1, 4096), &request(&[1, 2], 2000)).await.0;
    for stop in 0..VOCABULARY as TokenId {
        // Asked for after the text has begun to go round, so that it comes within a draft.
        let mut request = request(&[1, 2], 2000);
        request.prompt.extend(&plain[..1500]);
        request.stop_tokens = vec![stop];
        let expected = generate(LIMITS, repeating(1, 4096), &request).await;
        assert_eq!(generate(DRAFTING, repeating(1, 4096), &request).await, expected, "stop token {stop}");
    }
}

#[tokio::test]
async fn a_backend_that_cannot_verify_gets_no_drafts() {
    let fake = repeating(1, 512).without_verification();
    let record = fake.record();
    let request = request(&[1, 2, 3], 500);
    let text = generate(DRAFTING, fake, &request).await;
    assert_eq!(text, generate(LIMITS, repeating(1, 512), &request).await);
    assert!(record.lock().unwrap().verified.is_empty());
}

#[tokio::test]
async fn a_stream_dropped_between_drafts_frees_its_row() {
    let fake = repeating(1, 4096);
    let record = fake.record();
    let engine = start(fake, DRAFTING);
    let mut stream = submit(&engine, request(&[1, 2, 3], 4000));
    for _ in 0..600 {
        stream.next().await.unwrap().unwrap();
    }
    drop(stream);
    wait_until(|| record.lock().unwrap().cached == [0]).await;
    let (tokens, _) = collect(submit(&engine, request(&[9], 5))).await.unwrap();
    assert_eq!(tokens, generate(LIMITS, repeating(1, 64), &request(&[9], 5)).await.0);
}

#[tokio::test]
async fn a_failed_verification_fails_its_sequence_alone() {
    let fake = repeating(1, 64).failing_on(63);
    let engine = start(fake, DRAFTING);
    // The draft holds a token at which runs fail.
    let prompt = [1, 2, 3, 4, 63];
    assert!(matches!(collect(submit(&engine, request(&prompt, 20))).await, Err(EngineError::Run(_))));
    assert_eq!(collect(submit(&engine, request(&[1], 3))).await.unwrap().0.len(), 3);
}

/// Anything that changes what is picked.
fn samplings() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0.0f32), 0.5f32..4.0];
    let penalty = prop_oneof![2 => Just(0.0f32), 1 => -1.0f32..1.0];
    let repetition = prop_oneof![2 => Just(1.0f32), 1 => 0.8f32..1.5];
    (temperature, 0.5f32..1.0, penalty.clone(), penalty, repetition, any::<u64>()).prop_map(
        |(temperature, top_p, presence_penalty, frequency_penalty, repetition_penalty, seed)| Sampling {
            temperature,
            top_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            seed,
            ..Sampling::greedy()
        },
    )
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let request =
        (prop::collection::vec(0..4u32, 1..40), 1usize..120, samplings(), prop::option::of(0..64u32))
            .prop_map(|(prompt, max_tokens, sampling, stop)| Request {
                sampling,
                stop_tokens: stop.into_iter().collect(),
                ..request(&prompt, max_tokens)
            });
    prop::collection::vec(request, 1..8)
}

/// The texts of some requests, each submitted when the one before it has given `head_start` tokens.
fn texts(engine: &Engine, requests: &[Request], head_start: usize) -> Vec<(Vec<TokenId>, Finish)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut begun = Vec::new();
        for request in requests {
            let mut stream = submit(engine, request.clone());
            let (mut tokens, mut end) = (Vec::new(), None);
            while tokens.len() < head_start && end.is_none() {
                match stream.next().await.unwrap().unwrap() {
                    Event::Prefilled { .. } => {}
                    Event::Token { token, .. } => tokens.push(token),
                    Event::Finished(finished) => end = Some(finished.reason),
                }
            }
            begun.push((stream, tokens, end));
        }
        let mut texts = Vec::new();
        for (stream, mut tokens, end) in begun {
            if let Some(end) = end {
                texts.push((tokens, end));
            } else {
                let (rest, end) = collect(stream).await.unwrap();
                tokens.extend(rest);
                texts.push((tokens, end));
            }
        }
        texts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the model remembers, whoever comes and goes, however tokens are picked: the same texts.
    #[test]
    fn drafts_do_not_change_a_text(
        requests in requests(),
        memory in 1usize..6,
        rows in 1usize..4,
        draft_tokens in 1usize..12,
        head_start in 0usize..60,
        prefix_bytes in 0usize..400,
    ) {
        let fake = || Fake::new(rows, 256).remembering(memory);
        let limits = EngineLimits { prefix_bytes, cache_tokens: 400, ..LIMITS };
        let plain = texts(&start(fake(), limits), &requests, 0);
        let fake = fake();
        let record = fake.record();
        let engine = start(fake, EngineLimits { draft_tokens, ..limits });
        prop_assert_eq!(texts(&engine, &requests, head_start), plain);
        engine.stop();
        let record = record.lock().unwrap();
        prop_assert!(record.verified.iter().all(|tokens| *tokens <= draft_tokens + 1));
        prop_assert!(record.most_cached <= 400, "more memory was used than there is");
        prop_assert!(record.cached.iter().all(|tokens| *tokens == 0), "a row was not released");
    }
}
