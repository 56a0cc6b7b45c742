//! What a keeper does next: a function of what is wanted and what is there, and nothing else.

use std::time::Duration;

use super::{Purpose, Target};

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "observations that are true or not, each for itself")]
pub(super) struct Observed {
    /// The revision that answers.
    pub(super) serving: Option<String>,
    /// The revision before, while it is in memory to go back to.
    pub(super) kept: Option<String>,
    /// Whether the wanted revision has failed for good.
    pub(super) quarantined: bool,
    /// A revision that has proved itself before, when the wanted one has failed and nothing answers.
    pub(super) fallback: bool,
    /// The time after a swap in which the new revision is watched.
    pub(super) window: Window,
    /// The revision that gave its memory back until a request comes.
    pub(super) unloaded: Option<String>,
    /// Whether a request has come since.
    pub(super) demanded: bool,
    /// Time without a request.
    pub(super) idle: Duration,
    /// Whether the last attempt failed in passing, and the pause before the next one is not over.
    pub(super) pausing: bool,
    /// Whether the same revision is to be loaded once more.
    pub(super) reload: bool,
    /// Whether a revision is to be brought here and tried, and nothing stands against it.
    pub(super) ahead_due: bool,
}

/// The time after a swap in which the new revision is watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Window {
    /// Nothing is watched.
    #[default]
    Closed,
    /// It does well so far.
    Open,
    /// It has done well for long enough.
    Passed,
    /// It has not; why.
    Failed(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, until something changes.
    Rest,
    /// Bring the wanted revision into service.
    Load,
    /// Bring the revision into service that has proved itself before.
    LoadFallback,
    /// Put the kept revision back, because it is the wanted one again.
    Flip,
    /// Put the revision before back, because the one that answers does worse than it may.
    GoBack(String),
    /// The new revision has proved itself: nothing is kept to go back to.
    CloseWindow,
    /// Give the memory back until a request comes.
    Unload,
    /// Begin to bring a revision here and to try it, beside everything else.
    PrepareAhead,
}

/// The next step.
pub(super) fn plan(target: &Target, observed: &Observed) -> Step {
    match for_service(target, observed) {
        Step::Rest if observed.ahead_due => Step::PrepareAhead,
        step => step,
    }
}

/// The next step towards the wanted revision in service.
fn for_service(target: &Target, observed: &Observed) -> Step {
    let wanted = Some(&target.revision);
    match &observed.window {
        Window::Failed(why) => return Step::GoBack(why.clone()),
        Window::Passed => return Step::CloseWindow,
        Window::Open | Window::Closed => {}
    }
    if target.purpose == Purpose::Prepare {
        return Step::Rest;
    }
    if observed.serving.as_ref() == wanted && !observed.reload {
        let long = target.live.unload_after_idle.is_some_and(|allowed| observed.idle >= allowed);
        return if long && observed.window == Window::Closed { Step::Unload } else { Step::Rest };
    }
    if target.paused && observed.serving.is_some() {
        return Step::Rest;
    }
    if observed.quarantined {
        return if observed.fallback && !observed.pausing { Step::LoadFallback } else { Step::Rest };
    }
    if observed.kept.as_ref() == wanted && !observed.reload {
        return Step::Flip;
    }
    let sleeps = observed.unloaded.as_ref() == wanted && !observed.demanded && !observed.reload;
    if sleeps || observed.pausing { Step::Rest } else { Step::Load }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target::tests::target;

    fn observed() -> Observed {
        Observed::default()
    }

    fn serving(revision: &str) -> Observed {
        Observed { serving: Some(revision.to_owned()), ..observed() }
    }

    #[test]
    fn a_model_that_is_there_needs_nothing() {
        let target = target();
        assert_eq!(plan(&target, &serving(&target.revision)), Step::Rest);
        let long = Observed { idle: Duration::from_hours(24), ..serving(&target.revision) };
        assert_eq!(plan(&target, &long), Step::Rest, "models stay unless a document says otherwise");
    }

    #[test]
    fn another_revision_is_loaded_unless_it_failed_or_the_model_is_paused() {
        let mut target = target();
        assert_eq!(plan(&target, &observed()), Step::Load);
        assert_eq!(plan(&target, &serving("other")), Step::Load);
        assert_eq!(plan(&target, &Observed { pausing: true, ..serving("other") }), Step::Rest);
        let failed = Observed { quarantined: true, ..serving("other") };
        assert_eq!(plan(&target, &failed), Step::Rest);
        assert_eq!(
            plan(&target, &Observed { quarantined: true, fallback: true, ..observed() }),
            Step::LoadFallback
        );
        target.paused = true;
        assert_eq!(plan(&target, &serving("other")), Step::Rest);
        assert_eq!(plan(&target, &observed()), Step::Load, "what does not serve yet has nothing to pause");
    }

    #[test]
    fn the_window_comes_first() {
        let target = target();
        let with = |window| Observed { window, ..serving(&target.revision) };
        assert_eq!(plan(&target, &with(Window::Open)), Step::Rest);
        assert_eq!(plan(&target, &with(Window::Passed)), Step::CloseWindow);
        assert_eq!(plan(&target, &with(Window::Failed("slow".to_owned()))), Step::GoBack("slow".to_owned()));
    }

    #[test]
    fn a_wish_that_is_taken_back_is_a_flip() {
        let target = target();
        let kept = Observed { kept: Some(target.revision.clone()), window: Window::Open, ..serving("new") };
        assert_eq!(plan(&target, &kept), Step::Flip);
    }

    #[test]
    fn idle_models_sleep_until_they_are_asked_for() {
        let mut target = target();
        target.live.unload_after_idle = Some(Duration::from_secs(10));
        let idle = |seconds| Observed { idle: Duration::from_secs(seconds), ..serving(&target.revision) };
        assert_eq!(plan(&target, &idle(9)), Step::Rest);
        assert_eq!(plan(&target, &idle(10)), Step::Unload);
        assert_eq!(plan(&target, &Observed { window: Window::Open, ..idle(10) }), Step::Rest);
        let asleep = Observed { unloaded: Some(target.revision.clone()), ..observed() };
        assert_eq!(plan(&target, &asleep), Step::Rest);
        assert_eq!(plan(&target, &Observed { demanded: true, ..asleep.clone() }), Step::Load);
        assert_eq!(
            plan(&target, &Observed { unloaded: Some("other".to_owned()), ..observed() }),
            Step::Load,
            "another revision is tried at once"
        );
    }

    #[test]
    fn what_is_not_to_serve_is_only_prepared() {
        let mut target = target();
        target.purpose = Purpose::Prepare;
        let due = Observed { ahead_due: true, ..observed() };
        assert_eq!(plan(&target, &due), Step::PrepareAhead);
        assert_eq!(plan(&target, &observed()), Step::Rest, "it is here, or has failed");
        target.purpose = Purpose::Serve;
        assert_eq!(plan(&target, &due), Step::Load, "service comes first");
        let serving = Observed { ahead_due: true, ..serving(&target.revision) };
        assert_eq!(plan(&target, &serving), Step::PrepareAhead);
    }

    #[test]
    fn a_reload_brings_the_same_revision_again() {
        let target = target();
        assert_eq!(plan(&target, &Observed { reload: true, ..serving(&target.revision) }), Step::Load);
    }
}
