//! Whether an answer is right, and how many of them there were in each phase of a test.
//!
//! Which text a revision gives may be known before, or be learnt: the first answer of a revision nobody has told of must be
//! one of the texts that the model may give, and from then on the revision gives this text and no other.

use std::collections::{BTreeMap, BTreeSet};

/// The answers that a model may give to one question.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expected {
    texts: BTreeSet<String>,
    by_revision: BTreeMap<String, String>,
}

/// An answer, as a client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) revision: String,
    pub(crate) text: String,
}

impl Expected {
    /// Any revision may give one of these texts.
    pub(crate) fn one_of<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self { texts: texts.into_iter().map(Into::into).collect(), by_revision: BTreeMap::new() }
    }

    /// And this revision gives this one.
    pub(crate) fn and(mut self, revision: &str, text: &str) -> Self {
        self.by_revision.insert(revision.to_owned(), text.to_owned());
        self
    }

    /// What is wrong with an answer.
    pub(crate) fn judge(&mut self, answer: &Answer) -> Result<(), String> {
        let Answer { revision, text } = answer;
        let known = self.by_revision.get(revision);
        match known {
            Some(expected) if expected == text => Ok(()),
            Some(expected) => Err(format!("revision {revision} gives {text:?}, not {expected:?}")),
            None if self.texts.contains(text) => {
                self.by_revision.insert(revision.clone(), text.clone());
                Ok(())
            }
            None => Err(format!("revision {revision}, which nobody has told of, gives {text:?}")),
        }
    }
}

/// How often something was answered in one phase.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) whole: usize,
    pub(crate) streamed: usize,
    /// Right ones, by model and revision.
    pub(crate) by_revision: BTreeMap<(String, String), usize>,
}

/// The phase before the first that a test names.
pub(crate) const START: &str = "start";

/// Everything that the clients of a test saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) phases: BTreeMap<String, Count>,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// One answer in a phase; `judged` says what is wrong with it.
    pub(crate) fn note(&mut self, phase: &str, model: &str, streamed: bool, judged: Result<Answer, String>) {
        let count = self.phases.entry(phase.to_owned()).or_default();
        *(if streamed { &mut count.streamed } else { &mut count.whole }) += 1;
        match judged {
            Ok(answer) => *count.by_revision.entry((model.to_owned(), answer.revision)).or_default() += 1,
            Err(reason) => self.failures.push(format!("in phase {phase}, model {model}: {reason}")),
        }
    }

    /// Answers in a phase, right or wrong.
    pub(crate) fn answers(&self, phase: &str) -> usize {
        self.phases.get(phase).map_or(0, |count| count.whole + count.streamed)
    }

    /// Nothing failed, and in every phase there were answers of both kinds; else what was wrong. Of [`START`], which is over as
    /// soon as a test has begun, nothing is expected.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if let Some(first) = self.failures.first() {
            let (wrong, all) =
                (self.failures.len(), self.phases.keys().map(|phase| self.answers(phase)).sum::<usize>());
            return Err(format!("{wrong} of {all} answers are wrong; the first {first}"));
        }
        let lacks = |(phase, count): &(&String, &Count)| {
            (count.whole == 0 || count.streamed == 0) && (*phase != START || self.phases.len() == 1)
        };
        match self.phases.iter().find(lacks) {
            Some((phase, count)) => Err(format!("too few answers in phase {phase}: {count:?}")),
            None if self.phases.is_empty() => Err("there were no answers".to_owned()),
            None => Ok(()),
        }
    }
}

#[test]
fn a_revision_is_held_to_the_text_that_it_gave_first() {
    let answer = |revision: &str, text: &str| Answer { revision: revision.to_owned(), text: text.to_owned() };
    let mut expected = Expected::one_of(["a", "b"]).and("2", "c");
    assert_eq!(expected.judge(&answer("1", "a")), Ok(()));
    assert_eq!(expected.judge(&answer("1", "a")), Ok(()));
    assert_eq!(expected.judge(&answer("2", "c")), Ok(()));
    assert!(expected.judge(&answer("1", "b")).unwrap_err().contains("gives \"b\", not \"a\""));
    assert!(expected.judge(&answer("2", "a")).unwrap_err().contains("not \"c\""));
    assert!(expected.judge(&answer("3", "d")).unwrap_err().contains("nobody has told of"));
}

#[test]
fn one_failure_or_a_phase_without_answers_is_no_pass() {
    let right = || Ok(Answer { revision: "1".to_owned(), text: "a".to_owned() });
    let mut tally = Tally::default();
    assert!(tally.verdict().is_err());
    tally.note("quiet", "chat", false, right());
    assert!(tally.verdict().unwrap_err().contains("too few answers in phase quiet"));
    tally.note("quiet", "chat", true, right());
    assert_eq!((tally.verdict(), tally.answers("quiet")), (Ok(()), 2));
    tally.note(START, "chat", false, right());
    assert_eq!(tally.verdict(), Ok(()));
    tally.note("swap", "chat", true, Err("refused".to_owned()));
    assert_eq!(
        tally.verdict().unwrap_err(),
        "1 of 4 answers are wrong; the first in phase swap, model chat: refused"
    );
}
