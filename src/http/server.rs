//! A listener and its connections: accepted, no more than there may be, encrypted where that is wanted, served, ended.
//!
//! ```text
//! accept ─▶ a place? ─▶ task: TLS ─▶ HTTP/1.1 or HTTP/2 ─▶ router
//!             no: closed      each with its own time limits (connections.rs)
//! ```
//!
//! A client that is slow costs its own connection and nobody else's.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::connections::{Begun, Connection, Open, Timeouts};
use super::tls::Tls;
use crate::metrics::Metrics;
use crate::shutdown::Tasks;

/// Time for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client of HTTP/2 that says nothing is asked after so long whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Requests at once on one connection of HTTP/2.
const MOST_STREAMS: u32 = 128;
/// Bytes of an answer that one request of HTTP/2 may have waiting to be sent.
const MOST_WAITING_BYTES: usize = 64 << 10;
/// After an error of accepting that is not the client's, as when no more files may be open.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at once; one more is closed.
    pub connections: usize,
    /// Bytes of the head of a request, at least 8192.
    pub header_bytes: usize,
    /// Time in which the head of a request has to come, the wait for its first byte included.
    pub idle_timeout: Duration,
    /// Time for which a client may take nothing of its answer.
    pub write_timeout: Duration,
}

/// A listener that serves a router.
pub struct Server {
    listener: TcpListener,
    limits: ConnectionLimits,
    /// Of the API listener, where connections are counted.
    counted: Option<Arc<Metrics>>,
    tls: Option<Arc<Tls>>,
}

/// What the connections of a server have in common.
struct Common {
    builder: Builder<TokioExecutor>,
    router: Router,
    tls: Option<Arc<Tls>>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            header_bytes: 16 << 10,
            idle_timeout: Duration::from_mins(2),
            write_timeout: Duration::from_mins(1),
        }
    }
}

impl Server {
    /// For the people and programs that look after the gateway.
    pub fn internal(listener: TcpListener) -> Self {
        Self { listener, limits: ConnectionLimits::default(), counted: None, tls: None }
    }

    /// For clients.
    pub fn public(
        listener: TcpListener,
        limits: ConnectionLimits,
        tls: Option<Arc<Tls>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { listener, limits, counted: Some(metrics), tls }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `closing`, then until the requests that have come are answered. Dropping it drops the connections.
    pub async fn serve(self, router: Router, closing: impl Future<Output = ()>) {
        let Self { listener, limits, counted, tls } = self;
        let common = Arc::new(Common { builder: builder(limits), router, tls });
        let places = Arc::new(Semaphore::new(limits.connections));
        let tasks = Tasks::default();
        let (close, closed) = watch::channel(());
        let timeouts = Timeouts { idle: limits.idle_timeout, write: limits.write_timeout };
        let mut closing = pin!(closing);
        loop {
            let stream = tokio::select! {
                stream = accept(&listener) => stream,
                () = &mut closing => break,
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                if let Some(metrics) = &counted {
                    metrics.connection_refused();
                }
                continue;
            };
            let open =
                Open { _place: place, _counted: counted.as_ref().map(|metrics| metrics.connection_opened()) };
            let begun = Begun::default();
            let stream = Connection::new(stream, timeouts, Arc::clone(&begun), open);
            tasks.spawn(connection(Arc::clone(&common), (stream, begun), closed.clone()));
        }
        drop((listener, closed));
        close.send_replace(());
        tasks.joined().await;
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _address)) => return stream,
            // The client went away before it was its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn builder(limits: ConnectionLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle_timeout)
        // What is larger is answered with status 431, as are more than a hundred headers.
        .max_buf_size(limits.header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MOST_STREAMS)
        .max_send_buf_size(MOST_WAITING_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(limits.write_timeout);
    builder
}

/// One connection from its first byte to its end.
async fn connection(
    common: Arc<Common>,
    (stream, begun): (Connection, Begun),
    mut closed: watch::Receiver<()>,
) {
    let Some(tls) = &common.tls else {
        return speak(&common, (stream, begun), closed).await;
    };
    // Without a certificate that holds there is nothing to say.
    let Some(config) = tls.config() else { return };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream));
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        _ending = closed.changed() => return,
    };
    match handshake {
        Ok(Ok(stream)) => speak(&common, (stream, begun), closed).await,
        Ok(Err(error)) => tracing::debug!(%error, "a client and this gateway did not agree on TLS"),
        Err(_elapsed) => tracing::debug!("a client did not end its TLS handshake in time"),
    }
}

/// HTTP, until the client or the gateway ends it.
async fn speak<S>(common: &Common, (stream, begun): (S, Begun), mut closed: watch::Receiver<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = common.router.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        begun.store(true, Ordering::Relaxed);
        router.clone().oneshot(request)
    });
    let mut http = pin!(common.builder.serve_connection(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            outcome = http.as_mut() => {
                if let Err(error) = outcome {
                    tracing::debug!(error, "a connection ended badly");
                }
                return;
            }
            // Once to say that it is time to end, and in the end because nobody waits any more.
            ending = closed.changed() => match ending {
                Ok(()) => http.as_mut().graceful_shutdown(),
                Err(_gone) => return,
            },
        }
    }
}
