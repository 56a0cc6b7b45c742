//! How the process ends: signals, the phases of the end, and the tracker that joins every task.
//!
//! ```text
//! Serving ──SIGTERM, SIGINT──▶ Leaving ──delay──▶ Draining ──all done, or deadline──▶ Aborting
//! accepts                      accepts; not ready   no new connections; finishes work    ends what is left
//! ```

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Where in its life the process is. Only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepts and answers.
    Serving,
    /// Told to end: not ready any more, but still accepting, because others may not know yet.
    Leaving,
    /// Accepts nothing new and finishes what it has.
    Draining,
    /// The deadline has passed: what is left is ended with an error.
    Aborting,
}

/// Asks for the end. The value counts how often: the second time there is no patience.
#[derive(Debug, Clone)]
pub struct StopRequests(watch::Receiver<u32>);

/// The other end of [`StopRequests`].
#[derive(Debug, Clone)]
pub struct StopHandle(watch::Sender<u32>);

/// A handle to ask for the end, and the requests as the application sees them.
pub fn stop_requests() -> (StopHandle, StopRequests) {
    let (sender, receiver) = watch::channel(0);
    (StopHandle(sender), StopRequests(receiver))
}

impl StopHandle {
    /// Asks once more.
    pub fn stop(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

impl StopRequests {
    /// Returns when the end was asked for at least `times` times; never, when nobody can ask any more.
    pub async fn asked(&mut self, times: u32) {
        if self.0.wait_for(|count| *count >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Asks for the list of models to be read again.
#[derive(Debug, Clone)]
pub struct ReloadRequests(watch::Receiver<u32>);

/// The other end of [`ReloadRequests`].
#[derive(Debug, Clone)]
pub struct ReloadHandle(watch::Sender<u32>);

/// A handle to ask for a reload, and the requests as the application sees them.
pub fn reload_requests() -> (ReloadHandle, ReloadRequests) {
    let (sender, receiver) = watch::channel(0);
    (ReloadHandle(sender), ReloadRequests(receiver))
}

impl ReloadHandle {
    /// Asks once more.
    pub fn reload(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl ReloadRequests {
    /// Returns when a reload was asked for since the last return; never, when nobody can ask any more.
    pub async fn asked(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The thread that takes signals: for a process that serves, SIGTERM and SIGINT are stop requests and SIGHUP is a reload
/// request. Ends on drop.
pub struct SignalThread {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalThread {
    /// Installs the handlers.
    ///
    /// # Errors
    /// The operating system refused the handlers or the thread.
    pub fn start(stop: StopHandle, reload: ReloadHandle) -> io::Result<Self> {
        Self::watch(&[SIGTERM, SIGINT, SIGHUP], move |signal| {
            if signal == SIGHUP {
                reload.reload();
                return;
            }
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            tracing::info!(signal = name, "asked to stop");
            stop.stop();
        })
    }

    /// Installs handlers that end a command, and what tells that it is to end.
    ///
    /// # Errors
    /// The operating system refused the handlers or the thread.
    pub fn of_command() -> io::Result<(Self, Interrupts)> {
        let (sender, interrupts) = watch::channel(None);
        let thread = Self::watch(&[SIGTERM, SIGINT], move |signal| {
            sender.send_modify(|first| *first = first.or(Some(signal)));
        })?;
        Ok((thread, Interrupts(interrupts)))
    }

    fn watch(signals: &[i32], mut take: impl FnMut(i32) + Send + 'static) -> io::Result<Self> {
        let mut signals = Signals::new(signals)?;
        let handle = signals.handle();
        let thread = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || signals.forever().for_each(&mut take))?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

/// Ends the process at once, without what libraries do at its end: a thread that is in the middle of something there, such
/// as loading a model, would do it amid the ruins.
pub fn leave(exit_code: u8) -> ! {
    signal_hook::low_level::exit(exit_code.into())
}

/// Tells a command that somebody wants it to end.
#[derive(Debug, Clone)]
pub struct Interrupts(watch::Receiver<Option<i32>>);

impl Interrupts {
    /// Returns when a signal has come, with the exit code that shells know it by: 130 for Ctrl-C.
    pub async fn exit_code(&mut self) -> u8 {
        let signal = match self.0.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or(SIGINT),
            // The thread is gone: nobody can tell any more.
            Err(_closed) => std::future::pending().await,
        };
        128 + signal as u8
    }
}

impl Drop for SignalThread {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the signal thread had panicked");
        }
    }
}

/// Starts tasks and knows when all have ended. The only place that spawns.
#[derive(Debug, Clone, Default)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Starts a task.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.spawn(future)
    }

    /// Returns when all tasks have ended.
    pub async fn joined(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
