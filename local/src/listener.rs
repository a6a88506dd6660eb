//! A listener for strangers: bounded in connections, and in the time of a header and of an idle connection.
//!
//! Invariant: no client can keep a connection for longer than it takes to send a request and to have it answered, so that idle
//! ones cannot keep the others out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

/// How long the header of a request may take, and how long a connection may be idle before it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections are served concurrently. Others wait to be accepted.
pub(crate) const CONNECTIONS: usize = 1000;
/// The largest header of a request.
const HEADER_BYTES: usize = 64 * 1024;

/// Serves until the shutdown, and then finishes the requests that have begun.
pub(crate) async fn serve(
    listener: TcpListener,
    router: axum::Router,
    shutdown: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let ending = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES);
    loop {
        let accepting = async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepting => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The cause, such as too many open files, may pass.
                tracing::error!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        // Responses are small. Waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let service = with_peer(router.clone(), peer);
        let connection = ending.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    ending.shutdown().await;
}

/// The router as a service that tells each request whose it is.
fn with_peer(
    router: axum::Router,
    peer: SocketAddr,
) -> impl hyper::service::Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> {
    hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    })
}
