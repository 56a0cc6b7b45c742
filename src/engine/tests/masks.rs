//! Masks: who may say what, how a masked text ends, and that nobody else notices.

use super::super::mask::{Mask, MaskError};
use super::*;

/// Allows what a function of the tokens so far allows; complete after so many.
struct Rule {
    output: Vec<TokenId>,
    bits: Vec<u32>,
    allow: fn(&[TokenId], TokenId) -> bool,
    complete: usize,
}

fn rule(complete: usize, allow: fn(&[TokenId], TokenId) -> bool) -> Box<dyn Mask> {
    Box::new(Rule { output: Vec::new(), bits: Vec::new(), allow, complete })
}

impl Mask for Rule {
    fn allowed(&mut self) -> Result<&[u32], MaskError> {
        self.bits = vec![0; VOCABULARY / 32];
        for token in (0..VOCABULARY as TokenId).filter(|token| (self.allow)(&self.output, *token)) {
            self.bits[token as usize / 32] |= 1 << (token % 32);
        }
        Ok(&self.bits)
    }

    fn accept(&mut self, token: TokenId) -> Result<bool, MaskError> {
        assert!((self.allow)(&self.output, token), "token {token} was not allowed");
        self.output.push(token);
        Ok(self.output.len() == self.complete)
    }
}

fn submit_masked(engine: &Engine, request: Request, mask: Box<dyn Mask>) -> TokenStream {
    engine.submit_masked(engine.reserve().unwrap(), request, Some(mask)).unwrap()
}

fn even(_output: &[TokenId], token: TokenId) -> bool {
    token.is_multiple_of(2)
}

#[tokio::test]
async fn a_mask_rules_out_tokens_and_says_when_the_output_is_complete() {
    let engine = start(Fake::new(2, 64), LIMITS);
    let greedy = request(&[1, 2], 40);
    let sampled = Request {
        sampling: Sampling { temperature: 2.0, seed: 7, frequency_penalty: 1.0, ..Sampling::greedy() },
        ..greedy.clone()
    };
    for request in [greedy, sampled] {
        let (tokens, finish) = collect(submit_masked(&engine, request, rule(12, even))).await.unwrap();
        assert_eq!((tokens.len(), finish), (12, Finish::Complete));
        assert!(tokens.iter().all(|token| token.is_multiple_of(2)), "{tokens:?}");
    }
}

#[tokio::test]
async fn an_output_that_is_complete_with_its_last_token_is_not_cut_off() {
    let engine = start(Fake::new(1, 64), LIMITS);
    let cases = [(3, Finish::Complete), (4, Finish::Length)];
    for (complete, expected) in cases {
        let (tokens, finish) =
            collect(submit_masked(&engine, request(&[1], 3), rule(complete, even))).await.unwrap();
        assert_eq!((tokens.len(), finish), (3, expected));
    }
}

#[tokio::test]
async fn a_stop_token_ends_a_masked_text_and_is_not_told_to_the_mask() {
    let engine = start(Fake::new(1, 64), LIMITS);
    let stopping = Request { stop_tokens: vec![9], ..request(&[1], 40) };
    // Told, it would be refused: nothing is allowed after it.
    let nine_third = |output: &[TokenId], token: TokenId| (token == 9) == (output.len() == 2);
    let (tokens, finish) = collect(submit_masked(&engine, stopping, rule(100, nine_third))).await.unwrap();
    assert_eq!((tokens.len(), finish), (2, Finish::StopToken(9)));
}

#[tokio::test]
async fn rows_without_a_mask_say_what_they_say_alone() {
    let engine = start(Fake::new(4, 256), EngineLimits { prefix_bytes: 1 << 20, ..LIMITS });
    let prompts: [&[TokenId]; 4] = [&[1, 2, 3, 4, 5], &[6], &[1, 2, 3, 4, 6], &[8, 9]];
    let streams: Vec<TokenStream> = prompts
        .iter()
        .enumerate()
        .map(|(row, prompt)| match row % 2 {
            0 => submit(&engine, request(prompt, 50)),
            _ => submit_masked(&engine, request(prompt, 50), rule(20, even)),
        })
        .collect();
    for (row, (stream, prompt)) in streams.into_iter().zip(prompts).enumerate() {
        let (tokens, finish) = collect(stream).await.unwrap();
        if row % 2 == 0 {
            assert_eq!((tokens, finish), (continuation(prompt, 50), Finish::Length));
        } else {
            assert_eq!((tokens.len(), finish), (20, Finish::Complete));
        }
    }
}

#[tokio::test]
async fn log_probabilities_are_those_before_the_mask() {
    let engine = start(Fake::new(1, 64), LIMITS);
    let telling = Request { logprobs: Some(1), ..request(&[1, 2], 1) };
    let likeliest = continuation(&[1, 2], 1)[0];
    let mut stream = submit_masked(&engine, telling, rule(9, even));
    assert!(matches!(stream.next().await, Some(Ok(Event::Prefilled { .. }))));
    let Event::Token { token, logprobs } = stream.next().await.unwrap().unwrap() else {
        panic!("a token comes first")
    };
    let logprobs = logprobs.unwrap();
    assert_eq!(logprobs.top[0].0, likeliest);
    assert!(token == likeliest || logprobs.picked < logprobs.top[0].1, "{logprobs:?}");
}

#[tokio::test]
async fn a_mask_that_fails_fails_its_own_sequence() {
    struct Failing;
    impl Mask for Failing {
        fn allowed(&mut self) -> Result<&[u32], MaskError> {
            Ok(&[1, 0])
        }

        fn accept(&mut self, _token: TokenId) -> Result<bool, MaskError> {
            Err(MaskError("too complex".to_owned()))
        }
    }
    let engine = start(Fake::new(2, 64), LIMITS);
    let other = submit(&engine, request(&[5], 30));
    let failing = submit_masked(&engine, request(&[1], 30), Box::new(Failing));
    let nothing = submit_masked(&engine, request(&[1], 30), rule(9, |_, _| false));
    assert!(matches!(collect(failing).await, Err(EngineError::Mask(_))));
    assert!(collect(nothing).await.is_err());
    assert_eq!(collect(other).await.unwrap(), (continuation(&[5], 30), Finish::Length));
}

#[tokio::test]
async fn drafts_are_verified_through_the_mask() {
    let texts = [0, 7].map(|draft_tokens| {
        let fake = Fake::new(1, 512).remembering(1);
        let engine = start(fake, EngineLimits { draft_tokens, ..LIMITS });
        submit_masked(
            &engine,
            request(&[1, 2, 3, 1, 2, 3], 200),
            rule(150, |output, token| {
                // Changes with every token, so that drafts from the text so far are often wrong.
                (token as usize + output.len() / 10).is_multiple_of(3)
            }),
        )
    });
    let [without, with] = texts;
    let expected = collect(without).await.unwrap();
    assert_eq!(expected.1, Finish::Complete);
    assert_eq!(collect(with).await.unwrap(), expected);
}
