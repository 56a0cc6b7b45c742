//! Whether there is memory for a new revision beside the old one, in its place, or not at all.

use super::spec::SwapPolicy;

/// How a new revision is brought into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Beside what serves, which goes on meanwhile.
    Beside,
    /// In its place: requests wait meanwhile.
    Instead,
}

/// There is not enough memory.
#[expect(clippy::struct_field_names, reason = "the unit is part of each name")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "loading needs about {needed_bytes} bytes and {free_bytes} are free{}: give the gateway more memory, or serve less \
     beside it{}",
    if *serving_bytes > 0 { format!(" beside the revision that serves, which takes about {serving_bytes}") } else { String::new() },
    if *serving_bytes > 0 { "; with swapPolicy UnloadBeforeLoad the old revision makes room first" } else { "" }
)]
pub struct InsufficientMemory {
    /// What loading takes.
    pub needed_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
    /// What the revision takes that serves now.
    pub serving_bytes: u64,
}

/// Decides; `free_bytes` is `None` where nobody knows, which counts as plenty.
///
/// # Errors
/// Neither way fits, or the one that does is not allowed: `Auto` takes out what serves only where `others_serve`.
pub(super) fn decide(
    needed_bytes: u64,
    free_bytes: Option<u64>,
    serving_bytes: u64,
    (policy, others_serve): (SwapPolicy, bool),
) -> Result<Way, InsufficientMemory> {
    let free = free_bytes.unwrap_or(u64::MAX);
    let beside = needed_bytes <= free;
    let instead = needed_bytes <= free.saturating_add(serving_bytes) && serving_bytes > 0;
    if policy == SwapPolicy::UnloadBeforeLoad && instead {
        return Ok(Way::Instead);
    }
    if beside {
        return Ok(Way::Beside);
    }
    if policy == SwapPolicy::Auto && others_serve && instead {
        return Ok(Way::Instead);
    }
    Err(InsufficientMemory { needed_bytes, free_bytes: free, serving_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_out_unless_it_is_asked_for() {
        assert_eq!(decide(10, Some(10), 50, (SwapPolicy::Auto, false)), Ok(Way::Beside));
        assert_eq!(decide(10, None, 50, (SwapPolicy::LoadBeforeUnload, false)), Ok(Way::Beside));
        let refused = decide(11, Some(10), 50, (SwapPolicy::Auto, false)).unwrap_err();
        assert!(refused.to_string().contains("UnloadBeforeLoad"), "{refused}");
        assert!(decide(11, Some(10), 50, (SwapPolicy::LoadBeforeUnload, false)).is_err());
        assert_eq!(decide(11, Some(10), 50, (SwapPolicy::UnloadBeforeLoad, false)), Ok(Way::Instead));
        assert!(decide(61, Some(10), 50, (SwapPolicy::UnloadBeforeLoad, false)).is_err());
    }

    #[test]
    fn what_others_serve_too_makes_room_where_it_must() {
        let auto = (SwapPolicy::Auto, true);
        assert_eq!(decide(10, Some(10), 50, auto), Ok(Way::Beside), "it need not");
        assert_eq!(decide(11, Some(10), 50, auto), Ok(Way::Instead));
        assert!(decide(61, Some(10), 50, auto).is_err(), "it would not help");
        assert!(decide(11, Some(10), 50, (SwapPolicy::LoadBeforeUnload, true)).is_err());
    }

    #[test]
    fn what_asked_to_be_unloaded_first_is() {
        assert_eq!(decide(10, Some(100), 50, (SwapPolicy::UnloadBeforeLoad, false)), Ok(Way::Instead));
        assert_eq!(
            decide(10, Some(100), 0, (SwapPolicy::UnloadBeforeLoad, false)),
            Ok(Way::Beside),
            "nothing serves"
        );
        let refused = decide(11, Some(10), 0, (SwapPolicy::Auto, false)).unwrap_err();
        assert!(!refused.to_string().contains("UnloadBeforeLoad"), "{refused}");
    }
}
