//! Workers' handlers: each notes when a delivery's body was there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use protocol::headers::LINEAR_DELIVERY;
use protocol::messages::{ChallengeAnswer, Control};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A delivery that arrived: of which event, and when.
pub(crate) type Arrival = (String, Instant);

/// All workers' handlers; they differ by their path.
#[derive(Clone)]
pub(crate) struct Receiver {
    arrived: Arc<Mutex<mpsc::UnboundedSender<Arrival>>>,
}

impl Receiver {
    /// Begins to listen on loopback; arrivals come out of the channel.
    pub(crate) async fn start() -> anyhow::Result<(SocketAddr, mpsc::UnboundedReceiver<Arrival>)> {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let receiver = Self {
            arrived: Arc::new(Mutex::new(arrived)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let router = axum::Router::new().fallback(receive).with_state(receiver);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok((address, arrivals))
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let now = Instant::now();
    if let Some(delivery) = headers
        .get(LINEAR_DELIVERY)
        .and_then(|value| value.to_str().ok())
    {
        let arrived = receiver
            .arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = arrived.send((delivery.to_owned(), now));
        return StatusCode::OK.into_response();
    }
    match serde_json::from_slice(&body) {
        Ok(Control::Challenge { challenge }) => {
            axum::Json(ChallengeAnswer { challenge }).into_response()
        }
        _ => StatusCode::BAD_REQUEST.into_response(),
    }
}
