//! Workers' handlers: each notes when a delivery's body was there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use protocol::headers::LINEAR_DELIVERY;
use protocol::messages::{ChallengeResponse, Control};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::payload::delivery_id;

/// A delivery that arrived: of which event, and when.
pub(crate) type Arrival = (String, Instant);

/// All workers' handlers; they differ by their path.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    arrived: mpsc::UnboundedSender<Arrival>,
    received: Arc<AtomicUsize>,
}

impl Receiver {
    /// Begins to listen on loopback; arrivals come out of the channel.
    pub(crate) async fn start() -> anyhow::Result<(Self, mpsc::UnboundedReceiver<Arrival>)> {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let receiver = Self {
            address: listener.local_addr()?,
            arrived,
            received: Arc::default(),
        };
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let router = axum::Router::new()
            .fallback(receive)
            .layer(DefaultBodyLimit::max(relay::event::MAX_BODY_BYTES))
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((receiver, arrivals))
    }

    /// How many deliveries have come so far.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let now = Instant::now();
    let header = headers
        .get(LINEAR_DELIVERY)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    // A sender that `bench compare` measures may not pass headers on.
    if let Some(delivery) = header.or_else(|| delivery_id(&body)) {
        receiver.received.fetch_add(1, Ordering::Relaxed);
        // The bench may have stopped waiting.
        let _ = receiver.arrived.send((delivery, now));
        return StatusCode::OK.into_response();
    }
    match serde_json::from_slice(&body) {
        Ok(Control::Challenge { challenge, .. }) => {
            axum::Json(ChallengeResponse { challenge }).into_response()
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}
