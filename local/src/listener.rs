//! The listener of the HTTP API and of the endpoint for AWS clients, with the bounds of [`edge_agent::listener`].

use std::net::SocketAddr;

use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use edge_agent::listener::{self, ConnectionError};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

/// How many connections are served concurrently.
const CONNECTIONS: usize = 1000;

/// Serves until the shutdown, and then finishes the requests that have begun.
pub(crate) async fn serve(
    listener: TcpListener,
    router: axum::Router,
    shutdown: CancellationToken,
) {
    let service = |peer| with_peer(router.clone(), peer);
    let ending = listener::serve(listener, CONNECTIONS, shutdown, service, log).await;
    ending.shutdown().await;
}

fn log(error: ConnectionError) {
    match error {
        ConnectionError::Accept(_) => tracing::error!("{error}"),
        ConnectionError::BrokeOff(_) => tracing::debug!("{error}"),
    }
}

/// The router as a service that tells each request whose it is.
fn with_peer(
    router: axum::Router,
    peer: SocketAddr,
) -> impl Service<
    hyper::Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future: Send,
> {
    service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    })
}
