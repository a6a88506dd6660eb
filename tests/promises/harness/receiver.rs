//! A worker's handler that records what it gets and answers to order.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri, Version};
use futures::stream;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use protocol::headers::EDGE_EDITED_FROM;
use protocol::messages::{ChallengeResponse, Control};
use protocol::signature::{Secret, Signed, receipt, verify};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::eventually;

/// How a delivery is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Status(u16),
    /// A status for what has this in its body, and 200 for everything else.
    To(&'static str, u16),
    /// A status and one header.
    With(u16, &'static str, String),
    /// A status, with a receipt made with this secret.
    Receipt(u16, String),
    /// Nothing, for this long.
    Stall(Duration),
    /// 200, once as many deliveries as the barrier has are there.
    Meet(Arc<Barrier>),
    /// A status, after this long.
    Slow(Duration, u16),
    /// 200, and then a body without end.
    Endless,
}

/// A delivery as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// HTTP's.
    pub(crate) version: Version,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether it verifies with a secret, at the time it was signed.
    pub(crate) fn verifies(&self, secret: &str) -> bool {
        let timestamp = self.header("webhook-timestamp");
        let signed = Signed {
            id: self.header("webhook-id"),
            timestamp,
            signature: self.header("webhook-signature"),
        };
        let now = timestamp.parse().unwrap();
        verify(&[Secret::parse(secret).unwrap()], signed, &self.body, now).is_ok()
    }
}

#[derive(Debug, Default)]
struct Orders {
    received: Vec<Received>,
    /// Pings, and how they are answered.
    pinged: Vec<Received>,
    ping: Option<Answer>,
    /// Used one after another; then the last one for all that come.
    answers: VecDeque<Answer>,
    /// Instead of echoing a challenge.
    challenge: Option<Answer>,
    nonces: Vec<Option<String>>,
}

/// The handler; clones are the same one.
#[derive(Clone)]
pub(crate) struct Receiver {
    orders: Arc<Mutex<Orders>>,
    pub(crate) address: SocketAddr,
    tls: Option<TlsAcceptor>,
    serving: Arc<AbortHandle>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(address: &str) -> Self {
        Self::start_with(address, None).await
    }

    /// Over TLS, by HTTP/2 where that is agreed on.
    pub(crate) async fn start_over_tls(acceptor: TlsAcceptor) -> Self {
        Self::start_over_tls_at("127.0.0.1:0", acceptor).await
    }

    pub(crate) async fn start_over_tls_at(address: &str, acceptor: TlsAcceptor) -> Self {
        Self::start_with(address, Some(acceptor)).await
    }

    async fn start_with(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let orders = Arc::default();
        let serving = tokio::spawn(serve(listener, router(&orders), tls.clone()));
        Self {
            orders,
            address,
            tls,
            serving: Arc::new(serving.abort_handle()),
        }
    }

    /// Listens no more, and ends all connections.
    pub(crate) fn close(&self) {
        self.serving.abort();
    }

    /// Listens again, where it did before it was closed.
    pub(crate) async fn reopen(&mut self) {
        let listener = eventually("its port is free", || async {
            TcpListener::bind(self.address).await.ok()
        });
        let serving = tokio::spawn(serve(
            listener.await,
            router(&self.orders),
            self.tls.clone(),
        ));
        self.serving = Arc::new(serving.abort_handle());
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?key=hush", self.address)
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap()
    }

    /// From now on deliveries are answered so, one after another, the last one for ever.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.orders().answers = answers.into_iter().collect();
    }

    pub(crate) fn answer_challenge(&self, answer: Option<Answer>) {
        self.orders().challenge = answer;
    }

    /// From now on pings are answered so.
    pub(crate) fn answer_ping(&self, answer: Answer) {
        self.orders().ping = Some(answer);
    }

    pub(crate) fn pinged(&self) -> Vec<Received> {
        self.orders().pinged.clone()
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.orders().received.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.orders().received.len()
    }

    pub(crate) fn challenged(&self) -> usize {
        self.orders().nonces.len()
    }

    /// The nonces of the challenges.
    pub(crate) fn nonces(&self) -> Vec<Option<String>> {
        self.orders().nonces.clone()
    }

    /// Waits until this many deliveries have come.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Received> {
        eventually(&format!("{count} deliveries"), || async {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
        .await
    }
}

/// Serves until it is aborted, and its connections with it.
async fn serve(listener: TcpListener, router: axum::Router, tls: Option<TlsAcceptor>) {
    let service = TowerToHyperService::new(router);
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (service, tls) = (service.clone(), tls.clone());
        connections.spawn(async move {
            let http1 = http1::Builder::new();
            let Some(tls) = tls else {
                let _ = http1.serve_connection(TokioIo::new(stream), service).await;
                return;
            };
            // A client that does not trust the certificate ends it here.
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stream = TokioIo::new(stream);
            let _ = if is_http2 {
                let builder = http2::Builder::new(TokioExecutor::new());
                builder.serve_connection(stream, service).await
            } else {
                http1.serve_connection(stream, service).await
            };
        });
    }
}

fn router(orders: &Arc<Mutex<Orders>>) -> axum::Router {
    axum::Router::new()
        .fallback(receive)
        .layer(axum::extract::DefaultBodyLimit::max(16 * 1024 * 1024))
        .with_state(Arc::clone(orders))
}

async fn receive(
    State(orders): State<Arc<Mutex<Orders>>>,
    version: Version,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let signed = ["webhook-id", "webhook-timestamp"]
        .map(|name| headers.get(name).map(|v| v.to_str().unwrap().to_owned()));
    // An edited copy has no signature.
    let signatures = ["webhook-signature", "linear-signature", EDGE_EDITED_FROM];
    let is_signed = signatures.iter().any(|name| headers.contains_key(*name));
    let sent = body.clone();
    let answer = {
        let mut orders = orders.lock().unwrap();
        let received = Received {
            version,
            path: uri.path().to_owned(),
            headers,
            body,
        };
        let control = serde_json::from_slice(&received.body);
        if is_signed && matches!(control, Ok(Control::Ping { .. })) {
            orders.pinged.push(received);
            orders.ping.clone()
        } else if is_signed {
            orders.received.push(received);
            if orders.answers.len() > 1 {
                orders.answers.pop_front()
            } else {
                orders.answers.front().cloned()
            }
        } else {
            let Control::Challenge { challenge, nonce } = control.unwrap() else {
                panic!("an unsigned delivery is a challenge");
            };
            orders.nonces.push(nonce);
            Some(orders.challenge.clone().unwrap_or_else(|| {
                let answer = serde_json::to_string(&ChallengeResponse { challenge }).unwrap();
                Answer::With(200, "x-body", answer)
            }))
        }
    };
    let mut response = Response::new(Body::empty());
    let mut answer_with = |status| *response.status_mut() = StatusCode::from_u16(status).unwrap();
    match answer.unwrap_or(Answer::Status(200)) {
        Answer::Status(status) => answer_with(status),
        Answer::To(text, status) => {
            if String::from_utf8_lossy(&sent).contains(text) {
                answer_with(status);
            }
        }
        Answer::With(status, "x-body", body) => {
            answer_with(status);
            *response.body_mut() = Body::from(body);
        }
        Answer::With(status, name, value) => {
            answer_with(status);
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        Answer::Receipt(status, secret) => {
            answer_with(status);
            let (secret, [id, timestamp]) = (Secret::parse(&secret).unwrap(), signed);
            let receipt = receipt([&secret], &id.unwrap(), &timestamp.unwrap());
            let headers = response.headers_mut();
            headers.insert("webhook-receipt", receipt.parse().unwrap());
        }
        Answer::Slow(time, status) => {
            tokio::time::sleep(time).await;
            answer_with(status);
        }
        Answer::Stall(time) => tokio::time::sleep(time).await,
        Answer::Meet(barrier) => {
            barrier.wait().await;
        }
        Answer::Endless => {
            let chunk = || Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 8192]));
            *response.body_mut() = Body::from_stream(stream::repeat_with(chunk));
        }
    }
    response
}
