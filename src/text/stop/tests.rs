//! Tests of stop strings: by hand, and against a search over the whole text.

use super::*;
use proptest::prelude::*;

fn stops(stops: &[&str]) -> Stops {
    Stops::new(stops.iter().map(ToString::to_string).collect())
}

fn text(text: &str) -> StopEvent {
    StopEvent::Text(text.to_owned())
}

fn stopped(text: &str, stop: &str) -> StopEvent {
    StopEvent::Stopped { text: text.to_owned(), stop: stop.to_owned() }
}

/// Pushes all pieces; the text that came out and the stop string that ended it.
fn run(mut stops: Stops, pieces: &[String]) -> (String, Option<String>) {
    let mut out = String::new();
    for piece in pieces {
        match stops.push(piece) {
            StopEvent::Text(text) => out += &text,
            StopEvent::Stopped { text, stop } => return (out + &text, Some(stop)),
        }
    }
    match stops.finish() {
        StopEvent::Text(text) => (out + &text, None),
        StopEvent::Stopped { text, stop } => (out + &text, Some(stop)),
    }
}

/// The plain definition: the first start, then the shortest stop string.
fn search(stops: &[String], text: &str) -> (String, Option<String>) {
    let first = stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()).map(|start| (start, stop.len(), stop)))
        .min();
    match first {
        Some((start, _, stop)) => (text[..start].to_owned(), Some(stop.clone())),
        None => (text.to_owned(), None),
    }
}

#[test]
fn without_stop_strings_text_passes_at_once() {
    for mut stops in [stops(&[]), stops(&[""])] {
        assert_eq!(stops.push("any text"), text("any text"));
        assert_eq!(stops.finish(), text(""));
    }
}

#[test]
fn a_stop_string_across_pieces_is_found_and_left_out() {
    let mut stops = stops(&["\n\nUser:"]);
    assert_eq!(stops.push("Hello\n"), text("Hello"));
    assert_eq!(stops.push("\nUs"), text(""));
    assert_eq!(stops.push("er: more"), stopped("", "\n\nUser:"));
    assert_eq!(stops.push("dropped"), text(""));
    assert_eq!(stops.finish(), text(""));
}

#[test]
fn only_what_can_still_become_a_stop_string_is_held_back() {
    let mut stops = stops(&["abcd", "xyz"]);
    assert_eq!(stops.push("12ab"), text("12"));
    assert_eq!(stops.push("x"), text("ab"));
    assert_eq!(stops.push("yq"), text("xyq"));
    assert_eq!(stops.push("abc"), text(""));
    assert_eq!(stops.finish(), text("abc"));
}

#[test]
fn a_match_inside_a_failed_match_is_found() {
    assert_eq!(stops(&["aab"]).push("aaab"), stopped("a", "aab"));
    assert_eq!(stops(&["ababc"]).push("abababc"), stopped("ab", "ababc"));
}

#[test]
fn the_match_that_begins_first_wins_and_is_waited_for() {
    let mut waiting = stops(&["b", "abc"]);
    assert_eq!(waiting.push("xab"), text("x"));
    assert_eq!(waiting.push("cd"), stopped("", "abc"));

    let mut in_vain = stops(&["b", "abc"]);
    assert_eq!(in_vain.push("xab"), text("x"));
    assert_eq!(in_vain.push("d"), stopped("a", "b"));

    let mut at_the_end = stops(&["b", "abc"]);
    assert_eq!(at_the_end.push("xab"), text("x"));
    assert_eq!(at_the_end.finish(), stopped("a", "b"));
}

#[test]
fn of_equal_starts_the_shorter_wins() {
    assert_eq!(stops(&["stopping", "stop"]).push("do stopping"), stopped("do ", "stop"));
}

#[test]
fn characters_that_share_bytes_are_not_mixed_up() {
    let mut stops = stops(&["é!"]);
    assert_eq!(stops.push("è"), text("è"));
    assert_eq!(stops.push("é"), text(""));
    assert_eq!(stops.push("è!"), text("éè!"));
}

#[test]
fn a_long_repetitive_stop_string_costs_linear_time() {
    let stop = "a".repeat(100_000) + "b";
    let mut stops = Stops::new(vec![stop]);
    let mut out = 0;
    for _ in 0..10_000 {
        if let StopEvent::Text(text) = stops.push(&"a".repeat(30)) {
            out += text.len();
        }
    }
    assert_eq!(out, 200_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn any_cut_of_any_text_gives_what_a_search_over_the_whole_gives(
        strings in prop::collection::vec("[abé]{0,5}", 0..4),
        pieces in prop::collection::vec("[abé]{0,4}", 0..12),
    ) {
        let whole = pieces.concat();
        prop_assert_eq!(run(Stops::new(strings.clone()), &pieces), search(&strings, &whole));
    }
}
