//! A listener for strangers: bounded in connections, and in the time of a header and of an idle connection.
//!
//! Invariant: no client can keep a connection for longer than it takes to send a request and to have it answered, so that idle
//! ones cannot keep the others out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// How long the header of a request may take, and how long a connection may be idle before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest header of a request.
const HEADER_BYTES: usize = 64 * 1024;
/// How long nothing is accepted after a failure. Its cause, such as too many open files, may pass.
const PAUSE: Duration = Duration::from_millis(200);

/// What goes wrong with connections.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The system gives none.
    #[error("cannot accept a connection: {0}")]
    Accept(#[from] std::io::Error),
    /// One broke off.
    #[error("a connection broke off: {0}")]
    BrokeOff(#[from] hyper::Error),
}

/// Serves so many connections at a time, each with the service for its peer, until `stop` is cancelled. Others wait to be
/// accepted. Returns what ends the connections once their requests are answered.
pub async fn serve<S>(
    listener: TcpListener,
    connections: usize,
    stop: CancellationToken,
    service: impl Fn(SocketAddr) -> S,
    log: fn(ConnectionError),
) -> GracefulShutdown
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    let places = Arc::new(Semaphore::new(connections));
    let ending = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES);
    loop {
        let accepting = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepting => accepted,
            () = stop.cancelled() => return ending,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                log(error.into());
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Responses are small. Waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let connection = http.serve_connection(TokioIo::new(stream), service(peer));
        let connection = ending.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                log(error.into());
            }
            drop(place);
        });
    }
}
