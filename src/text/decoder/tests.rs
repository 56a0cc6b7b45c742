//! Tests of incremental decoding: everything is compared with decoding at once.

use super::*;
use crate::text::tokenizer::samples::{AWKWARD_TOKENS, END, PIECES, byte_level, sentence_piece};
use proptest::prelude::*;

const END_OF_SENTENCE: u32 = 256 + PIECES.len() as u32;

/// The pieces that come out token by token, the finish last.
fn pieces(tokenizer: &Arc<Tokenizer>, prompt: &[u32], tokens: &[u32], skip: bool) -> Vec<String> {
    let mut decoder = Decoder::new(Arc::clone(tokenizer), prompt, skip).unwrap();
    let mut pieces: Vec<String> = tokens.iter().map(|token| decoder.push(*token).unwrap()).collect();
    pieces.push(decoder.finish().unwrap());
    pieces
}

fn streamed(tokenizer: &Arc<Tokenizer>, prompt: &[u32], tokens: &[u32], skip: bool) -> String {
    pieces(tokenizer, prompt, tokens, skip).concat()
}

/// What comes behind the prompt when everything is decoded at once.
fn at_once(tokenizer: &Tokenizer, prompt: &[u32], tokens: &[u32], skip: bool) -> String {
    let before = tokenizer.decode(prompt, skip).unwrap();
    let whole = tokenizer.decode(&[prompt, tokens].concat(), skip).unwrap();
    whole.strip_prefix(&before).unwrap().to_owned()
}

fn bytes(text: &[u8]) -> Vec<u32> {
    text.iter().map(|byte| u32::from(*byte)).collect()
}

#[test]
fn an_emoji_of_four_tokens_comes_out_whole() {
    for tokenizer in [byte_level(), sentence_piece(false)].map(Arc::new) {
        let pieces = pieces(&tokenizer, &[], &bytes("😀".as_bytes()), true);
        assert_eq!(pieces, ["", "", "", "😀", ""]);
    }
}

#[test]
fn text_in_front_of_half_a_character_is_not_lost() {
    let tokenizer = Arc::new(byte_level());
    // "A\xf0", "\x9f\x98", "\x80\xe2", then the rest of "€".
    let pieces = pieces(&tokenizer, &[], &[256, 257, 260, 0x82, 0xac], true);
    assert_eq!(pieces.concat(), "A😀€");
}

#[test]
fn a_sequence_that_ends_inside_a_character_says_so() {
    let tokenizer = Arc::new(byte_level());
    assert_eq!(pieces(&tokenizer, &[], &[97, 0xf0, 0x9f], true), ["a", "", "", "\u{fffd}"]);
}

#[test]
fn bytes_that_never_become_a_character_do_not_hold_back_the_text() {
    for tokenizer in [byte_level(), sentence_piece(false)].map(Arc::new) {
        let pieces = pieces(&tokenizer, &[], &[0xff; 100], true);
        let behind: Vec<usize> =
            (1..=100).map(|count| count - pieces[..count].concat().chars().count()).collect();
        assert!(behind.iter().all(|held| *held <= 3), "{behind:?}");
        assert_eq!(pieces.concat(), "\u{fffd}".repeat(100));
    }
}

#[test]
fn a_wrong_byte_does_not_spoil_the_run_of_byte_tokens_around_it() {
    let tokenizer = Arc::new(sentence_piece(false));
    let run = [bytes("é😀".as_bytes()), vec![0xff], bytes("😀é".as_bytes())].concat();
    assert_eq!(streamed(&tokenizer, &[], &run, true), "é😀\u{fffd}😀é");
}

#[test]
fn the_leading_space_depends_on_the_prompt() {
    let (hello, world) = (257, 258);
    for tokenizer in [sentence_piece(true), sentence_piece(false)].map(Arc::new) {
        assert_eq!(streamed(&tokenizer, &[], &[hello, world], true), "hello world");
        assert_eq!(streamed(&tokenizer, &[hello], &[world, hello], true), " world hello");
        // A skipped special token is no context.
        assert_eq!(streamed(&tokenizer, &[hello, END_OF_SENTENCE], &[world], true), " world");
        assert_eq!(streamed(&tokenizer, &[END_OF_SENTENCE], &[world], true), "world");
        assert_eq!(streamed(&tokenizer, &[hello], &[END_OF_SENTENCE, world], true), " world");
        assert_eq!(streamed(&tokenizer, &[hello], &[256, 256, 256, world], true), "    world");
    }
}

#[test]
fn a_prompt_that_ends_inside_a_character_gets_it_completed() {
    for tokenizer in [byte_level(), sentence_piece(false)].map(Arc::new) {
        let prompt = bytes(b"\xf0\x9f");
        assert_eq!(streamed(&tokenizer, &prompt, &bytes(b"\x98\x80\xc3\xa9"), true), "😀é");
    }
}

#[test]
fn a_prompt_that_is_cut_inside_a_run_of_bytes_does_no_harm() {
    let tokenizer = Arc::new(sentence_piece(false));
    let prompt = bytes("😀".repeat(20).as_bytes());
    for cut in 0..12 {
        assert_eq!(streamed(&tokenizer, &prompt[cut..], &bytes("é😀".as_bytes()), true), "é😀", "cut {cut}");
    }
}

#[test]
fn characters_come_out_even_if_no_token_ends_with_one() {
    let tokenizer = Arc::new(byte_level());
    // "A\xf0", then "\x9f" and "\x98\x80\xf0" for ever.
    let tokens: Vec<u32> = std::iter::once(256).chain([0x9f, 259].repeat(100)).collect();
    let pieces = pieces(&tokenizer, &[], &tokens, true);
    assert_eq!(pieces.concat(), format!("A{}{REPLACEMENT}", "😀".repeat(100)));
    assert_eq!(pieces[200], "😀");
}

#[test]
fn a_replacement_character_at_the_end_of_the_prompt_is_not_repeated() {
    for tokenizer in [byte_level(), sentence_piece(false)].map(Arc::new) {
        let prompt = bytes("a\u{fffd}".as_bytes());
        assert_eq!(streamed(&tokenizer, &prompt, &bytes("é".as_bytes()), true), "é");
    }
}

#[test]
fn special_tokens_are_skipped_or_kept() {
    let tokenizer = Arc::new(byte_level());
    let tokens = [97, END, END + 1, 98, 1_000_000];
    assert_eq!(streamed(&tokenizer, &[], &tokens, true), "a<tool>b");
    assert_eq!(streamed(&tokenizer, &[], &tokens, false), "a<|end|><tool>b");
    // Inside a character, too.
    assert_eq!(streamed(&tokenizer, &[], &[0xc3, END, 0xa9], true), "é");
}

#[test]
fn the_window_stays_small_whatever_comes() {
    let runs: [&[u32]; 6] = [&[0xff], &[258], &[END], &[256], &[0xe2, 0x82], &[97]];
    for tokenizer in [byte_level(), sentence_piece(true), sentence_piece(false)].map(Arc::new) {
        for run in runs {
            let mut decoder = Decoder::new(Arc::clone(&tokenizer), &[], true).unwrap();
            for token in run.iter().cycle().take(1_000) {
                decoder.push(*token).unwrap();
                assert!(decoder.window.len() <= WINDOW_TOKENS && decoder.bytes.len() <= 3);
            }
        }
    }
}

/// Every token of [`byte_level`]: single bytes more often than the rest, so that characters do come about.
fn byte_level_token() -> impl Strategy<Value = u32> {
    let awkward = 256..256 + AWKWARD_TOKENS.len() as u32;
    let typical =
        prop::sample::select(vec![0xf0, 0x9f, 0x98, 0x80, 0xe2, 0x82, 0xac, 0xc3, 0xff, 0x61, 0x20]);
    prop_oneof![3 => typical, 2 => awkward, 1 => 0..256u32, 1 => END..END + 3]
}

proptest! {
    #[test]
    fn random_text_token_by_token_is_the_text(text in ".{0,40}", prompt in "[ a-zé]{0,12}", skip: bool) {
        for tokenizer in [byte_level(), sentence_piece(false)].map(Arc::new) {
            let prompt = tokenizer.encode(&prompt, false).unwrap();
            let tokens = bytes(text.as_bytes());
            prop_assert_eq!(
                streamed(&tokenizer, &prompt, &tokens, skip),
                at_once(&tokenizer, &prompt, &tokens, skip)
            );
        }
    }

    #[test]
    fn random_byte_level_tokens_give_what_decoding_at_once_gives(
        prompt in prop::collection::vec(byte_level_token(), 0..8),
        tokens in prop::collection::vec(byte_level_token(), 0..60),
        skip: bool,
    ) {
        let tokenizer = Arc::new(byte_level());
        // Where the prompt ends inside a character, "behind the prompt" has no one meaning.
        let prompt = [prompt, bytes(b"a")].concat();
        prop_assert_eq!(
            streamed(&tokenizer, &prompt, &tokens, skip),
            at_once(&tokenizer, &prompt, &tokens, skip)
        );
        prop_assert_eq!(streamed(&tokenizer, &[], &tokens, skip), at_once(&tokenizer, &[], &tokens, skip));
    }

    #[test]
    fn random_metaspace_tokens_give_what_decoding_at_once_gives(
        prompt in prop::collection::vec(256..=END_OF_SENTENCE, 0..8),
        tokens in prop::collection::vec(256..=END_OF_SENTENCE, 0..60),
        skip: bool,
    ) {
        for tokenizer in [sentence_piece(true), sentence_piece(false)].map(Arc::new) {
            prop_assert_eq!(
                streamed(&tokenizer, &prompt, &tokens, skip),
                at_once(&tokenizer, &prompt, &tokens, skip)
            );
        }
    }

    #[test]
    fn byte_fallback_tokens_are_decoded_like_bytes(run in prop::collection::vec(any::<u8>(), 0..60)) {
        let tokenizer = Arc::new(sentence_piece(false));
        let streamed = streamed(&tokenizer, &[257], &bytes(&run), true);
        // The number of U+FFFD for a wrong run is the decoder's affair: compare the characters.
        let characters = |text: &str| text.replace(REPLACEMENT, "");
        prop_assert_eq!(characters(&streamed), characters(&String::from_utf8_lossy(&run)));
    }
}
