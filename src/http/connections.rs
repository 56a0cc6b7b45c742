//! A connection as a stream of bytes: counted while it is open, and ended when its client does not begin, or does not read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

use crate::metrics::OpenConnection;

/// Whether a request has come: HTTP/2 does not wait for its first one with a time limit of its own.
pub(super) type Begun = Arc<AtomicBool>;

/// What connections may wait for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// The first request.
    pub(super) idle: Duration,
    /// The client to take some of what waits to be sent.
    pub(super) write: Duration,
}

/// What is held while a connection is open.
pub(super) struct Open {
    /// One of the connections that there may be.
    pub(super) _place: OwnedSemaphorePermit,
    /// The gauge falls when it is dropped.
    pub(super) _counted: Option<OpenConnection>,
}

/// A TCP connection.
pub(super) struct Connection {
    stream: TcpStream,
    /// Until the first request has come.
    first_request: Option<(Begun, Alarm)>,
    /// How long the client may take none of what waits to be sent.
    write_timeout: Duration,
    /// While something waits to be sent.
    stalled: Option<Alarm>,
    _open: Open,
}

/// Goes off once.
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn after(time: Duration) -> Self {
        Self(Box::pin(sleep(time)))
    }

    /// An error once the time is over.
    fn check<T>(&mut self, context: &mut Context<'_>, what: &'static str) -> Poll<io::Result<T>> {
        match self.0.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Connection {
    pub(super) fn new(stream: TcpStream, timeouts: Timeouts, begun: Begun, open: Open) -> Self {
        // Tokens are small and wanted at once; without this the kernel may hold them back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }
        Self {
            stream,
            first_request: Some((begun, Alarm::after(timeouts.idle))),
            write_timeout: timeouts.write,
            stalled: None,
            _open: open,
        }
    }

    /// What came of an attempt to send: it is ended where nothing could be sent for too long.
    fn sent<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let write_timeout = self.write_timeout;
        self.stalled
            .get_or_insert_with(|| Alarm::after(write_timeout))
            .check(context, "the client does not read")
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &mut self.first_request {
            Some((begun, _)) if begun.load(Ordering::Relaxed) => self.first_request = None,
            Some((_, alarm)) if outcome.is_pending() => {
                return alarm.check(context, "the client sends no request");
            }
            Some(_) | None => {}
        }
        outcome
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.sent(context, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.sent(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
