//! The project's own program, as often as it has to be started: a container of a pod, or the controller.
//!
//! A controller is `Program::start(&["controller", …], …)` with `KUBECONFIG` of its service account.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;

use crate::folders::prepared;
use crate::processes::Process;

/// What is started, and what runs of it.
pub(crate) struct Program {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Process,
}

impl Program {
    /// Starts `inference-gateway` with these arguments and no other variables than these and the library's path.
    pub(crate) fn start(arguments: Vec<String>, environment: Vec<(String, String)>, log: &Path) -> Self {
        let process = run(&arguments, &environment, log);
        Self { arguments, environment, log: log.to_owned(), process }
    }

    /// Starts it again, as before; what still runs is killed.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = run(&self.arguments, &self.environment, &self.log);
    }

    /// How it ended, if it did.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    /// Memory that it has now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
    }

    /// SIGKILL: no last words, no cleaning up.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP: it holds what it holds and does nothing, as on a node that stalls.
    pub(crate) fn freeze(&mut self) {
        self.process.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// SIGTERM: asks for an orderly end, and does not wait for it.
    pub(crate) fn terminate(&mut self) {
        self.process.signal(Signal::TERM);
    }
}

fn run(arguments: &[String], environment: &[(String, String)], log: &Path) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inference-gateway"));
    command
        .args(arguments)
        .env_clear()
        .env("ORT_DYLIB_PATH", prepared("lib/libonnxruntime.so"))
        .envs(environment.iter().map(|(name, value)| (name, value)));
    Process::start(command, log)
}
