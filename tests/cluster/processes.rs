//! Programs that the tests start: none outlives the tests, and what one said last is shown when its test fails.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

const LAST_LINES: usize = 40;

/// A program that runs, or did.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// The system kills a child when the *thread* that started it ends, and the thread of a test ends before the others:
/// so one thread, which lives as long as the process, starts all of them.
static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        for Order { mut command, answer } in orders {
            answer.send(command.spawn()).expect("whoever gave the order waits");
        }
    });
    sender
});

struct Order {
    command: Command,
    answer: mpsc::Sender<io::Result<Child>>,
}

impl Process {
    /// Starts a program whose output is appended to the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        #[expect(unsafe_code, reason = "between fork and exec only a system call is made")]
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let program = command.get_program().to_owned();
        let (answer, started) = mpsc::channel();
        STARTER.send(Order { command, answer }).expect("the thread lives as long as the process");
        let child = started.recv().expect("the thread answers");
        let child = child.unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        Self { child, log: log.to_owned() }
    }

    /// How it ended, if it did.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal; to a process that has ended already, none.
    pub(crate) fn signal(&mut self, signal: Signal) {
        // An ended child keeps its id until somebody waits for it, so the id is never another's.
        if self.exit_status().is_none() {
            kill_process(Pid::from_child(&self.child), signal).unwrap();
        }
    }

    /// Memory that it has now, without what it shares with files.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Ends it at once and waits for that.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The last lines of what it and those before it with the same log have said.
    pub(crate) fn last_words(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the end of {}\n{}", self.log.display(), self.last_words());
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
