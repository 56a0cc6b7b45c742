//! The policy's promises under any schedule: order of arrival, bounds, progress, contiguous rows.

use std::collections::VecDeque;

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::engine::places::{Lane, Places};
use crate::engine::request::{Request, Sampling};

const BOUNDS: Bounds = Bounds { rows: 3, cache_tokens: 40, chunk_tokens: 4, chunks_alone: 2 };

#[derive(Debug, Clone)]
enum Action {
    /// A request arrives; prompt and output fit the cache.
    Arrive { prompt_tokens: usize, max_tokens: usize },
    /// A step runs.
    Step,
    /// The sequence in a decoding row, counted round, ends.
    End(usize),
    /// The sequence whose prompt is fed leaves.
    LeavePrompt,
    /// Of the waiting ones, each whose number divides by this leaves.
    LeaveQueue(u32),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        4 => (1usize..=20, 1usize..=20)
            .prop_map(|(prompt_tokens, max_tokens)| Action::Arrive { prompt_tokens, max_tokens }),
        8 => Just(Action::Step),
        3 => (0usize..BOUNDS.rows).prop_map(Action::End),
        1 => Just(Action::LeavePrompt),
        1 => (2u32..5).prop_map(Action::LeaveQueue),
    ];
    prop::collection::vec(action, 1..200)
}

/// A sequence whose prompt is its number, again and again.
fn sequence(number: u32, prompt_tokens: usize, max_tokens: usize) -> Sequence {
    let request = Request {
        prompt: vec![number; prompt_tokens],
        sampling: Sampling::greedy(),
        max_tokens,
        stop_tokens: Vec::new(),
        logprobs: None,
        deadline: None,
    };
    let place = Places::new(1).take(Lane::COMMON).unwrap();
    Sequence::new(request, mpsc::channel(max_tokens + 1).0, place, false)
}

fn number(sequence: &Sequence) -> u32 {
    sequence.prompt()[0]
}

/// A scheduler with what a backend would know: who has which row.
struct Model {
    scheduler: Scheduler,
    rows: Vec<Option<u32>>,
    /// Who arrived and still waits, in order.
    queue: VecDeque<u32>,
    arrived: u32,
}

impl Model {
    fn new() -> Self {
        Self {
            scheduler: Scheduler::new(BOUNDS),
            rows: vec![None; BOUNDS.rows],
            queue: VecDeque::new(),
            arrived: 0,
        }
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Arrive { prompt_tokens, max_tokens } => {
                self.scheduler.push(sequence(self.arrived, prompt_tokens, max_tokens));
                self.queue.push_back(self.arrived);
                self.arrived += 1;
            }
            Action::Step => self.step(),
            Action::End(row) => {
                let decoding = self.scheduler.decoding().len();
                if decoding > 0 {
                    let row = row % decoding;
                    let (removed, vacated) = self.scheduler.remove_decoding(row);
                    assert_eq!(self.rows[row], Some(number(&removed)));
                    self.vacate(&vacated);
                }
            }
            Action::LeavePrompt => {
                if let Some((_, vacated)) = self.scheduler.remove_prefilling() {
                    self.vacate(&vacated);
                }
            }
            Action::LeaveQueue(divisor) => {
                let leaves = |number: u32| number.is_multiple_of(divisor);
                let removed = self.scheduler.remove_waiting(|sequence| leaves(number(sequence)));
                let found: Vec<u32> = removed.iter().map(number).collect();
                let (expected, kept): (Vec<u32>, Vec<u32>) =
                    self.queue.iter().partition(|number| leaves(**number));
                assert_eq!(found, expected);
                self.queue = kept.into();
            }
        }
    }

    /// What the worker does in a step, as far as the scheduler sees it.
    fn step(&mut self) {
        let row = self.scheduler.decoding().len();
        let idle = self.scheduler.running() == 0;
        match self.scheduler.admit().map(|sequence| number(sequence)) {
            Some(admitted) => {
                assert_eq!(self.queue.pop_front(), Some(admitted), "somebody was overtaken");
                self.rows[row] = Some(admitted);
            }
            None => assert!(!idle || self.queue.is_empty(), "nobody runs and nobody is let in"),
        }
        let plan = self.scheduler.plan();
        assert_eq!(plan.decode, self.scheduler.decoding().len(), "a decoding row misses a step");
        let Some(chunk) = plan.chunk else {
            assert!(self.scheduler.prefilling().is_none(), "a prompt misses a step");
            return;
        };
        let prompt = self.scheduler.prefilling().unwrap();
        assert_eq!(chunk.start, prompt.prefilled());
        let chunks = if plan.decode == 0 { BOUNDS.chunks_alone } else { 1 };
        assert!(!chunk.is_empty() && chunk.len() <= chunks * BOUNDS.chunk_tokens);
        let ends_prompt = chunk.end == prompt.prompt().len();
        assert!(ends_prompt || chunk.end.is_multiple_of(BOUNDS.chunk_tokens), "{chunk:?} ends at no border");
        let rest = prompt.prompt().len() % BOUNDS.chunk_tokens;
        assert!(!(ends_prompt && rest == 1) || chunk.len() == 1, "a rest of one token is fed with others");
        prompt.add_prefilled(chunk.len());
        if ends_prompt {
            self.scheduler.promote();
        }
    }

    fn vacate(&mut self, vacated: &Vacated) {
        for step in &vacated.moves {
            self.rows[step.to] = self.rows[step.from].take();
        }
        self.rows[vacated.released] = None;
    }

    fn check(&mut self) {
        assert!(
            self.scheduler.reserved_tokens() <= BOUNDS.cache_tokens,
            "more memory is promised than there is"
        );
        assert!(self.scheduler.running() <= BOUNDS.rows);
        assert_eq!(self.scheduler.waiting(), self.queue.len());
        let mut running: Vec<Option<u32>> =
            self.scheduler.decoding().iter().map(|sequence| Some(number(sequence))).collect();
        running.extend(self.scheduler.prefilling().map(|sequence| Some(number(sequence))));
        running.resize(BOUNDS.rows, None);
        assert_eq!(running, self.rows, "rows are not where their sequences are");
    }
}

proptest! {
    #[test]
    fn rows_go_in_order_of_arrival_within_the_bounds_and_nobody_waits_for_ever(actions in actions()) {
        let mut model = Model::new();
        for action in &actions {
            model.act(action);
            model.check();
        }
        // Nobody arrives any more and rows end: everybody who waits comes to run.
        for _ in 0..model.queue.len() * 100 {
            model.act(&Action::Step);
            model.act(&Action::End(0));
            model.check();
        }
        prop_assert!(model.queue.is_empty(), "{} still wait", model.queue.len());
    }
}

#[test]
fn a_large_request_is_not_overtaken_by_small_ones_for_which_there_is_room() {
    let mut model = Model::new();
    for (prompt_tokens, max_tokens) in [(4, 16), (4, 30), (1, 1)] {
        model.act(&Action::Arrive { prompt_tokens, max_tokens });
    }
    for _ in 0..5 {
        model.act(&Action::Step);
    }
    assert_eq!(model.queue, [1, 2]);
    model.act(&Action::End(0));
    model.act(&Action::Step);
    assert_eq!(model.queue, [2]);
}
