//! How much memory a model's caches get, out of what the process may use.
//!
//! ```text
//! limit of the process ── a tenth, kept free ── in use once the graph is loaded = free
//! free: half for the caches of running sequences · a quarter for kept prefixes · the rest for runs and a next model
//! ```

use serde::{Deserialize, Serialize};

use super::load::LoadError;
use crate::engine::Geometry;

/// Prefixes beyond this are seldom worth their memory.
const MOST_PREFIX_BYTES: u64 = 1 << 30;

/// Memory settings; `None` is worked out.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryLimits {
    /// Bytes that the process may use.
    pub process_bytes: Option<u64>,
    /// Bytes for the caches of running sequences.
    pub cache_bytes: Option<u64>,
    /// Bytes for kept beginnings of prompts; 0 keeps none.
    pub prefix_bytes: Option<u64>,
}

/// Whether weights and the caches of rows lie in huge pages, which are faster to find. `Auto` and `Always` are about caches, of which
/// a row then costs the memory of its whole context at once; weights lie there with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HugePages {
    /// Where all rows at their longest take at most an eighth of the process's memory.
    Auto,
    /// In any case.
    Always,
    /// In no case.
    Never,
}

impl HugePages {
    /// The size of all caches up to which they lie in huge pages.
    pub(super) fn up_to_bytes(self, limits: MemoryLimits) -> u64 {
        match self {
            Self::Always => u64::MAX,
            Self::Never => 0,
            // What was set for caches is not exceeded for speed.
            Self::Auto => {
                limits.process_bytes.map_or(0, |bytes| bytes / 8).min(limits.cache_bytes.unwrap_or(u64::MAX))
            }
        }
    }
}

impl std::str::FromStr for HugePages {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("auto, always or never"),
        }
    }
}

/// What a model's engine may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Tokens of cache of all running sequences together.
    pub(super) cache_tokens: usize,
    /// Bytes of kept prefixes.
    pub(super) prefix_bytes: usize,
}

impl Budget {
    /// The budget of a loaded graph; `resident_bytes` are in use now.
    ///
    /// # Errors
    /// Not even one sequence of a few tokens would fit.
    pub(super) fn new(
        limits: MemoryLimits,
        geometry: Geometry,
        resident_bytes: u64,
    ) -> Result<Self, LoadError> {
        let usable = limits.process_bytes.map(|bytes| bytes / 10 * 9);
        let free = usable.map_or(u64::MAX, |usable| usable.saturating_sub(resident_bytes));
        let per_token = geometry.cache_bytes_per_token as u64;
        let most = per_token * (geometry.rows * geometry.context_tokens) as u64;
        let cache_bytes = limits.cache_bytes.unwrap_or(free / 2).min(most);
        let cache_tokens = cache_bytes.checked_div(per_token).map_or(usize::MAX, |tokens| tokens as usize);
        if cache_tokens == 0 {
            return Err(LoadError::NoMemory { free_bytes: free, token_bytes: per_token });
        }
        let prefix_bytes = limits.prefix_bytes.unwrap_or((free / 4).min(MOST_PREFIX_BYTES)) as usize;
        Ok(Self { cache_tokens, prefix_bytes })
    }

    /// Bytes that the engine may come to use.
    pub(super) fn promised_bytes(self, geometry: Geometry) -> u64 {
        // Without a cache there is no limit of tokens, and nothing to take.
        let cache = (self.cache_tokens as u64).saturating_mul(geometry.cache_bytes_per_token as u64);
        let prefixes = if geometry.keeps_prefixes { self.prefix_bytes as u64 } else { 0 };
        cache + prefixes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Feeding;

    const GEOMETRY: Geometry = Geometry {
        vocabulary_size: 100,
        context_tokens: 1000,
        rows: 4,
        feeding: Feeding::LongChunks,
        cache_bytes_per_token: 1000,
        keeps_prefixes: true,
        verifies_drafts: true,
    };

    fn limits(process_bytes: u64) -> MemoryLimits {
        MemoryLimits { process_bytes: Some(process_bytes), ..MemoryLimits::default() }
    }

    #[test]
    fn plenty_of_memory_gives_every_row_its_context() {
        let budget = Budget::new(limits(1 << 40), GEOMETRY, 1 << 30).unwrap();
        assert_eq!(budget, Budget { cache_tokens: 4000, prefix_bytes: 1 << 30 });
    }

    #[test]
    fn little_memory_is_shared_out_of_what_is_free() {
        let budget = Budget::new(limits(10_000_000), GEOMETRY, 5_000_000).unwrap();
        assert_eq!(budget, Budget { cache_tokens: 2000, prefix_bytes: 1_000_000 });
    }

    #[test]
    fn what_one_model_may_come_to_use_is_not_given_to_another() {
        let first = Budget::new(limits(100_000_000), GEOMETRY, 10_000_000).unwrap();
        let promised = first.promised_bytes(GEOMETRY);
        assert_eq!(promised, 4_000_000 + 20_000_000);
        let second = Budget::new(limits(100_000_000), GEOMETRY, 60_000_000 + promised).unwrap();
        assert_eq!(second, Budget { cache_tokens: 3000, prefix_bytes: 1_500_000 });
        let none = Geometry { cache_bytes_per_token: 0, keeps_prefixes: false, ..GEOMETRY };
        assert_eq!(Budget::new(limits(1), none, 2).unwrap().promised_bytes(none), 0);
    }

    #[test]
    fn settings_win_and_zero_prefix_bytes_are_none() {
        let set = MemoryLimits { cache_bytes: Some(100_000), prefix_bytes: Some(0), ..limits(1 << 40) };
        assert_eq!(Budget::new(set, GEOMETRY, 0).unwrap(), Budget { cache_tokens: 100, prefix_bytes: 0 });
    }

    #[test]
    fn huge_pages_are_chosen_where_memory_is_plenty() {
        assert_eq!(HugePages::Auto.up_to_bytes(limits(8000)), 1000);
        let set = MemoryLimits { cache_bytes: Some(10), ..limits(8000) };
        assert_eq!(HugePages::Auto.up_to_bytes(set), 10);
        assert_eq!(HugePages::Auto.up_to_bytes(MemoryLimits::default()), 0);
        assert_eq!(HugePages::Never.up_to_bytes(limits(8000)), 0);
        assert_eq!(HugePages::Always.up_to_bytes(limits(8000)), u64::MAX);
    }

    #[test]
    fn no_memory_at_all_is_an_error() {
        let message = Budget::new(limits(1_000_000), GEOMETRY, 2_000_000).unwrap_err().to_string();
        assert!(message.contains("INFERENCE_MEMORY_LIMIT"), "{message}");
    }

    #[test]
    fn a_model_without_a_cache_needs_no_budget() {
        let geometry = Geometry { cache_bytes_per_token: 0, ..GEOMETRY };
        assert_eq!(Budget::new(limits(1), geometry, 2).unwrap().cache_tokens, usize::MAX);
    }
}
