//! What may follow is computed while the model runs.
//!
//! ```text
//! engine   … pick ─ accept ──▶ model run ────────────────▶ allowed ─ pick ─ accept ──▶ model run …
//!                       └─▶ prepare ─┘ (this thread)         └ prepares itself what this thread has not begun
//! ```
//!
//! One thread for each model: masks of a whole batch take a fraction of its run. An output is lent to the thread and comes
//! back prepared. Where all cores are busy the thread may not get its turn in time, so nobody waits for it to begin.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::progress::{ConstraintError, Progress};

/// What comes back from the thread.
type Prepared = Result<Box<Progress>, ConstraintError>;

/// An output that is to be prepared, by the thread or by its owner: whoever takes it first. Used once, so that a thread that
/// comes late finds nothing, rather than what belongs to a later order.
#[derive(Clone)]
struct Desk(Arc<Mutex<Option<Box<Progress>>>>);

impl Desk {
    fn new(progress: Box<Progress>) -> Self {
        Self(Arc::new(Mutex::new(Some(progress))))
    }

    fn take(&self) -> Option<Box<Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Something lies on a desk, and where it goes then.
struct Order {
    desk: Desk,
    back: SyncSender<Prepared>,
}

/// The thread that prepares. It ends when the last handle and the last constraint are gone.
#[derive(Clone)]
pub(super) struct Ahead {
    orders: Sender<Order>,
}

impl Ahead {
    /// # Errors
    /// The operating system refused a thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (orders, received) = channel::<Order>();
        std::thread::Builder::new().name("formats".to_owned()).spawn(move || {
            for Order { desk, back } in received {
                if let Some(mut progress) = desk.take() {
                    let prepared = progress.prepare().map(|()| progress);
                    // Nobody waits for an output that was given up.
                    drop(back.send(prepared));
                }
            }
        })?;
        Ok(Self { orders })
    }
}

/// Which tokens may come next in one output.
pub struct Constraint {
    /// `None` while the output is lent.
    progress: Option<Box<Progress>>,
    /// Where it lies until the thread takes it, and where it comes back to.
    lent: Option<(Desk, Receiver<Prepared>)>,
    ahead: Ahead,
}

impl Constraint {
    pub(super) fn new(progress: Progress, ahead: Ahead) -> Self {
        Self { progress: Some(Box::new(progress)), lent: None, ahead }
    }

    /// Whether a token may come next: bit `token % 32` of word `token / 32`. Tokens beyond the last word may not. Waits until
    /// it is known.
    ///
    /// # Errors
    /// Nothing may follow, or the format became too complex; so it stays.
    pub fn allowed(&mut self) -> Result<&[u32], ConstraintError> {
        Ok(self.here()?.allowed())
    }

    /// Takes a token into the output and has prepared what may follow. Returns whether the output is complete: nothing but an
    /// end may follow.
    ///
    /// # Errors
    /// The token is not allowed, or the format became too complex.
    pub fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        let complete = self.here()?.accept(token)?;
        if !complete && let Some(progress) = self.progress.take() {
            let (sender, back) = sync_channel(1);
            let desk = Desk::new(progress);
            // If the thread is gone, the owner prepares it.
            drop(self.ahead.orders.send(Order { desk: desk.clone(), back: sender }));
            self.lent = Some((desk, back));
        }
        Ok(complete)
    }

    fn here(&mut self) -> Result<&mut Progress, ConstraintError> {
        let progress = match self.progress.take() {
            Some(progress) => progress,
            None => self.fetched()?,
        };
        Ok(self.progress.insert(progress))
    }

    fn fetched(&mut self) -> Prepared {
        let given_up = || ConstraintError("it was given up before".to_owned());
        let (desk, back) = self.lent.take().ok_or_else(given_up)?;
        if let Some(mut progress) = desk.take() {
            progress.prepare()?;
            return Ok(progress);
        }
        // What the thread drops, it has failed at.
        back.recv().map_err(|_dropped| given_up())?
    }
}
