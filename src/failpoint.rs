//! Faults that tests ask for by name: `FAILPOINTS='in-verify-child=return(abort)'`.
//!
//! Only in builds with the feature `failpoints`, which no release has; in others each call is nothing at all.

/// The variable that asks for faults; handed on to the process that tries a model.
pub const VARIABLE: &str = "FAILPOINTS";

#[cfg(feature = "failpoints")]
mod faults {
    /// Reads the variable, once for the process.
    pub fn start() {
        // The guard would forget what was asked for.
        std::mem::forget(fail::FailScenario::setup());
    }

    /// The variable's value.
    #[expect(clippy::disallowed_methods, reason = "no setting: it exists in test builds alone")]
    pub fn asked() -> Option<std::ffi::OsString> {
        std::env::var_os(super::VARIABLE)
    }

    /// Does what was asked for at this point: `return(abort)`, `return(hang)`, `return(allocate)`, `return(segfault)`
    /// or `return(chatter)`.
    pub fn at(name: &str) {
        // The value is what `return(…)` holds; nobody needs an answer.
        fail::eval(name, |action| act(action.as_deref().unwrap_or_default())).unwrap_or_default();
    }

    /// Whether `return(action)` was asked for at this point, for faults that the place itself has to commit.
    pub fn is(name: &str, action: &str) -> bool {
        fail::eval(name, |asked| asked.as_deref() == Some(action)).unwrap_or(false)
    }

    /// The number that `return(…)` asks for at this point.
    pub fn number(name: &str) -> Option<i64> {
        fail::eval(name, |asked| asked?.parse().ok()).flatten()
    }

    #[expect(clippy::panic, reason = "a fault that does not exist is a mistake of the test")]
    fn act(action: &str) {
        use rustix::process::{Signal, getpid, kill_process};

        match action {
            "abort" => std::process::abort(),
            "hang" => loop {
                std::thread::park();
            },
            "allocate" => allocate(1 << 40),
            // The first one may be taken for an overflow of the stack, which is looked into and let go.
            "segfault" => loop {
                kill_process(getpid(), Signal::SEGV).unwrap_or_default();
            },
            "chatter" => loop {
                eprintln!("{}", "noise ".repeat(1000));
                #[expect(clippy::print_stdout, reason = "what a broken library may do")]
                {
                    println!("{}", "noise ".repeat(1000));
                }
            },
            other => panic!("there is no fault `{other}`"),
        }
    }

    /// Takes memory and writes to it, until nothing is left.
    fn allocate(bytes: usize) {
        const PIECE: usize = 64 << 20;
        let mut held = Vec::new();
        for _ in 0..bytes / PIECE {
            held.push(std::hint::black_box(vec![1u8; PIECE]));
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod faults {
    /// Nothing.
    pub fn start() {}

    /// Nothing.
    pub fn asked() -> Option<std::ffi::OsString> {
        None
    }

    /// Nothing.
    pub fn at(_name: &str) {}

    /// None.
    pub fn number(_name: &str) -> Option<i64> {
        None
    }

    /// Never.
    pub fn is(_name: &str, _action: &str) -> bool {
        false
    }
}

pub use faults::{asked, at, is, number, start};
