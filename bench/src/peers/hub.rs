//! A streaming hub in memory: NDJSON over held connections, the webhook's signature checked, nothing stored.
//!
//! The floor: what a delivery costs when nothing has to survive.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use futures::stream;
use tokio::sync::mpsc;

/// The first line of a stream.
pub(crate) const CONNECTED: &[u8] = b"\n";
/// What stands in a line before the delivery's id, between it and the body, and after.
pub(crate) const BEFORE: &[u8] = b"{\"delivery\":\"";
pub(crate) const BETWEEN: &[u8] = b"\",\"event\":";
const AFTER: &[u8] = b"}\n";

/// The held streams.
#[derive(Clone, Default)]
struct Hub {
    streams: Arc<Mutex<Vec<mpsc::UnboundedSender<Bytes>>>>,
}

pub(crate) fn router() -> Router {
    Router::new()
        .route("/stream", get(open))
        .route("/webhooks/linear", post(webhook))
        .layer(DefaultBodyLimit::max(relay::event::MAX_BODY_BYTES))
        .with_state(Hub::default())
}

impl Hub {
    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::UnboundedSender<Bytes>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(State(hub): State<Hub>) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    let _ = sender.send(Bytes::from_static(CONNECTED));
    hub.streams().push(sender);
    Response::new(Body::from_stream(stream::unfold(
        receiver,
        |mut receiver| async {
            let line = receiver.recv().await?;
            Some((Ok::<_, Infallible>(line), receiver))
        },
    )))
}

async fn webhook(State(hub): State<Hub>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(delivery) = super::checked(&headers, &body) else {
        return StatusCode::UNAUTHORIZED;
    };
    let line = Bytes::from([BEFORE, delivery.as_bytes(), BETWEEN, &body, AFTER].concat());
    hub.streams()
        .retain(|stream| stream.send(line.clone()).is_ok());
    StatusCode::OK
}
