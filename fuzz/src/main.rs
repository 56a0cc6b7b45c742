//! The targets of `inference_gateway::fuzzing` behind libFuzzer: one program, and the variable `FUZZ_TARGET` says which.
//!
//! `scripts/fuzz.py` builds and runs it; CONTRIBUTING.md says how to use it by hand.

#![no_main]

use std::sync::OnceLock;

use inference_gateway::fuzzing::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

fn target() -> Target {
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let names = || TARGETS.map(|(name, _)| name).join(", ");
    let found = TARGETS.into_iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET is {wanted:?}, none of: {}", names())).1
}

fuzz_target!(|data: &[u8]| {
    static CHOSEN: OnceLock<Target> = OnceLock::new();
    CHOSEN.get_or_init(target)(data);
});
