//! The serving process's side of a child: start it, tell it, hear it out within bounds, and bury it.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::{ChildAnswer, ChildBounds, ChildInput, SUBCOMMAND, VerifyError, VerifyReport, VerifyRequest};
use crate::failpoint;

/// The end of standard output that is kept: the answer is its last line.
const ANSWER_BYTES: usize = 64 << 10;
/// The end of standard error that is kept.
const LAST_WORDS_BYTES: usize = 4 << 10;
/// A child that writes more than this is broken; nobody listens any longer.
const MOST_OUTPUT_BYTES: usize = 16 << 20;

/// Checks, loads and probes a model in a process of its own, whatever the isolation that the spec wishes for. Dropping the
/// future kills that process, and the runtime buries it.
///
/// To be polled first on a thread that lives as long as the future: the child ends with the thread that started it.
///
/// # Errors
/// What the child found; or how it ended without an answer.
pub async fn in_child(request: &VerifyRequest, bounds: &ChildBounds) -> Result<VerifyReport, VerifyError> {
    let limit = bounds.timeout.min(std::time::Duration::from_secs(request.verify.timeout_seconds.into()));
    let input = ChildInput {
        request: request.clone(),
        memory_bytes: bounds.memory_bytes,
        timeout: limit,
        library: bounds.library.clone(),
        threads: bounds.threads,
        parent: i32::try_from(std::process::id()).unwrap_or_default(),
    };
    let failed = |attempt| move |source| VerifyError::Process { attempt, source };
    let input = serde_json::to_vec(&input).map_err(|error| failed("describe the model to")(error.into()))?;
    let mut child = command(bounds).spawn().map_err(failed("start"))?;
    let mut heard = Heard::default();
    let ended = tokio::time::timeout(limit, converse(&mut child, &input, &mut heard)).await;
    let Ok(ended) = ended else {
        child.kill().await.map_err(failed("end"))?;
        return Err(VerifyError::Timeout { limit, stderr: heard.last_words() });
    };
    let Some(status) = ended.map_err(failed("hear"))? else {
        child.kill().await.map_err(failed("end"))?;
        let what = format!("wrote more than {MOST_OUTPUT_BYTES} bytes and was ended");
        return Err(VerifyError::Crashed { what, stderr: heard.last_words(), killed: false });
    };
    judge(status, &heard, limit)
}

fn command(bounds: &ChildBounds) -> Command {
    let mut command = Command::new(&bounds.executable);
    command
        .arg(SUBCOMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(faults) = failpoint::asked() {
        command.env(failpoint::VARIABLE, faults);
    }
    command
}

/// The ends of what a child wrote.
#[derive(Default)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Heard {
    fn last_words(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

/// Tells the child what is asked and reads until it has ended; `None` when it writes too much.
async fn converse(child: &mut Child, input: &[u8], heard: &mut Heard) -> std::io::Result<Option<ExitStatus>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A child that died before it read all says more by how it died.
            stdin.write_all(input).await.unwrap_or_default();
        }
    };
    let ((), out, err) = tokio::join!(
        tell,
        keep_end(stdout, ANSWER_BYTES, &mut heard.stdout),
        keep_end(stderr, LAST_WORDS_BYTES, &mut heard.stderr)
    );
    if out? && err? { child.wait().await.map(Some) } else { Ok(None) }
}

/// Reads to the end and keeps the last `most` bytes; false when there is too much to read.
async fn keep_end(
    pipe: Option<impl AsyncRead + Unpin>,
    most: usize,
    end: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let Some(mut pipe) = pipe else {
        return Ok(true);
    };
    let (mut piece, mut total) = (vec![0; 8 << 10], 0);
    loop {
        let length = pipe.read(&mut piece).await?;
        if length == 0 {
            return Ok(true);
        }
        end.extend_from_slice(&piece[..length]);
        end.drain(..end.len().saturating_sub(most));
        total += length;
        if total > MOST_OUTPUT_BYTES {
            return Ok(false);
        }
    }
}

fn judge(status: ExitStatus, heard: &Heard, limit: std::time::Duration) -> Result<VerifyReport, VerifyError> {
    let stderr = heard.last_words();
    if let Some(signal) = status.signal() {
        // All its threads together have used the time that it had.
        if signal == libc::SIGXCPU {
            return Err(VerifyError::Timeout { limit, stderr });
        }
        let what = format!("was ended by {}", signal_name(signal));
        return Err(VerifyError::Crashed { what, stderr, killed: signal == libc::SIGKILL });
    }
    let text = String::from_utf8_lossy(&heard.stdout);
    let line = text.lines().next_back().unwrap_or_default();
    match serde_json::from_str::<ChildAnswer>(line) {
        Ok(answer) => answer.into_result(),
        Err(_no_answer) => {
            let what = format!("ended with {status} and without an answer");
            Err(VerifyError::Crashed { what, stderr, killed: false })
        }
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGABRT => "SIGABRT".to_owned(),
        libc::SIGSEGV => "SIGSEGV".to_owned(),
        libc::SIGBUS => "SIGBUS".to_owned(),
        libc::SIGILL => "SIGILL".to_owned(),
        libc::SIGFPE => "SIGFPE".to_owned(),
        libc::SIGTRAP => "SIGTRAP".to_owned(),
        libc::SIGSYS => "SIGSYS".to_owned(),
        libc::SIGTERM => "SIGTERM".to_owned(),
        libc::SIGKILL => "SIGKILL, as the system does when a container has no memory left".to_owned(),
        other => format!("signal {other}"),
    }
}
