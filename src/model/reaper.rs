//! Gives the memory of models back when nobody holds them any more: on a thread of its own, because whoever drops the
//! last hold may be in the middle of an answer.

use std::sync::mpsc;
use std::thread;

use tokio::sync::watch;

use crate::engine::Engine;
use crate::failpoint;
use crate::memory;

/// Handle to the thread, which ends with the last handle.
#[derive(Clone)]
pub(super) struct Reaper(mpsc::Sender<Body>);

struct Body {
    engine: Engine,
    freed: watch::Sender<bool>,
}

impl Reaper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system refused a thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (sender, bodies) = mpsc::channel::<Body>();
        thread::Builder::new().name("reaper".to_owned()).spawn(move || {
            for Body { engine, freed } in bodies {
                if failpoint::is("in-reaper", "leak") {
                    std::mem::forget(engine);
                    freed.send_replace(true);
                    continue;
                }
                // Joins the engine's thread, which owns the session and the caches.
                engine.stop();
                drop(engine);
                // Without this the allocator keeps about three times what a model takes, after a few swaps.
                memory::trim();
                freed.send_replace(true);
            }
        })?;
        Ok(Self(sender))
    }

    pub(super) fn bury(&self, engine: Engine, freed: watch::Sender<bool>) {
        if let Err(mpsc::SendError(body)) = self.0.send(Body { engine, freed }) {
            // The process ends; the engine's thread ends with its last handle.
            body.freed.send_replace(true);
        }
    }
}
