//! The one HTTP client: hyper over rustls. It knows no proxies, follows no redirects, and connects to a worker only
//! where [`Reach`] lets it.
//!
//! Invariant: the address that is connected to is the address that was checked. Names are checked in the client's
//! resolver; the scheme, and literal addresses, which no resolver sees, right before a connection is made.

use std::error::Error as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;
use tower_service::Service;

use crate::Error;
use crate::reach::{Blocked, Reach};

/// How the relay names itself.
pub const USER_AGENT: &str = concat!("edge-relay/", env!("CARGO_PKG_VERSION"));

/// Over name, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(90);
/// After how long a connection that is silent is asked whether the other side is still there: it may be gone without a
/// word, behind NAT or while a function was frozen.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often, before it is given up.
const PROBES: u32 = 3;
/// How long an HTTP/2 connection may take to answer that, which outlives a request that had no answer.
const PONG: Duration = Duration::from_secs(3);
/// How long the rest of an answer is waited for, once its status is known, to use the connection again.
const DRAIN: Duration = Duration::from_millis(500);
/// How much of the rest is read for that.
const DRAINED: usize = 16 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// Resolves names and keeps back every address that is not allowed.
#[derive(Debug, Clone)]
struct Resolver(Option<Reach>);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Failure;
    type Future = Pending<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.0;
        Box::pin(async move {
            let mut found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            found.retain(|address| reach.is_none_or(|reach| reach.allows(address.ip())));
            if found.is_empty() {
                return Err(Blocked.into());
            }
            Ok(found.into_iter())
        })
    }
}

/// Connects, in time, where it may.
#[derive(Debug, Clone)]
struct Connector {
    https: HttpsConnector<HttpConnector<Resolver>>,
    reach: Option<Reach>,
}

impl Service<Uri> for Connector {
    type Response = <HttpsConnector<HttpConnector<Resolver>> as Service<Uri>>::Response;
    type Error = Failure;
    type Future = Pending<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if self.reach.is_some_and(|reach| !reach.admits(&uri)) {
            return Box::pin(std::future::ready(Err(Blocked.into())));
        }
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.https.call(uri));
        Box::pin(async move { connected.await? })
    }
}

/// The headers of a POST to a worker: what every one carries, and what this one does.
pub fn headers(more: impl IntoIterator<Item = (&'static str, String)>) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    for (name, value) in more {
        let value = HeaderValue::try_from(value)
            .map_err(|e| Error::storage("write the delivery's headers", e))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The client, with one deadline over everything: resolve, connect, send, status, and what is read of the answer.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: Client<Connector, Full<Bytes>>,
    timeout: Duration,
}

/// Why nothing was answered; no part of the address is in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Not a public address.
    #[error("the address is not allowed")]
    Blocked,
    /// DNS, TCP or TLS.
    #[error("could not connect")]
    Connect,
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The connection ended before an answer.
    #[error("the connection was closed without an answer")]
    Closed,
}

/// Why a question was not answered, and what was behind it, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Unanswered {
    /// Of which kind.
    pub why: Unreachable,
    #[source]
    cause: Option<Failure>,
}

impl From<Unreachable> for Unanswered {
    fn from(why: Unreachable) -> Self {
        Self { why, cause: None }
    }
}

impl Outbound {
    /// A client that connects where `reach` lets it; with none, wherever the address leads.
    pub fn new(reach: Option<Reach>, timeout: Duration) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver(reach));
        tcp.enforce_http(false);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(PROBES));
        tcp.set_nodelay(true);
        // The machine's authorities, not some built in: what is deployed once has to know next year's, too.
        let https = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|e| Error::storage("read this machine's certificate authorities", e))?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(PONG)
            .build(Connector { https, reach });
        Ok(Self { client, timeout })
    }

    /// POSTs `body` and answers with the status and headers; the connection is kept if the answer ends soon.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap), Unreachable> {
        let deadline = Instant::now() + self.timeout;
        let sent = self.send(url, headers, body, deadline).await;
        let (answer, mut rest) = sent.map_err(|unanswered| unanswered.why)?.into_parts();
        // What was decided is known. Reading on only saves the next connection.
        let drained = deadline.min(Instant::now() + DRAIN);
        let _ = tokio::time::timeout_at(drained, read(&mut rest, DRAINED)).await;
        Ok((answer.status, answer.headers))
    }

    /// POSTs `body` and answers with the status and the first `limit` bytes of the answer's body.
    pub async fn ask(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), Unanswered> {
        let deadline = Instant::now() + self.timeout;
        let mut answer = self.send(url, headers, body, deadline).await?;
        let body = tokio::time::timeout_at(deadline, read(answer.body_mut(), limit))
            .await
            .map_err(|_| Unreachable::Timeout)?
            .map_err(|cause| Unanswered {
                why: Unreachable::Closed,
                cause: Some(cause.into()),
            })?;
        Ok((answer.status(), body))
    }

    async fn send(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::try_from(url).map_err(|_| Unreachable::Blocked)?;
        *request.headers_mut() = headers;
        match tokio::time::timeout_at(deadline, self.client.request(request)).await {
            Err(_) => Err(Unreachable::Timeout.into()),
            Ok(answered) => answered.map_err(|error| Unanswered {
                why: unreachable(&error),
                cause: Some(error.into()),
            }),
        }
    }
}

/// Reads the first `limit` bytes of an answer, or all of it.
async fn read(answer: &mut Incoming, limit: usize) -> Result<Vec<u8>, hyper::Error> {
    let mut body = Vec::new();
    while body.len() < limit
        && let Some(frame) = answer.frame().await.transpose()?
    {
        let chunk = frame.into_data().unwrap_or_default();
        body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
    }
    Ok(body)
}

fn unreachable(error: &legacy::Error) -> Unreachable {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<Blocked>() {
            return Unreachable::Blocked;
        }
        cause = error.source();
    }
    if error.is_connect() {
        Unreachable::Connect
    } else {
        Unreachable::Closed
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_not_connected_to() {
        let resolved = |reach| Resolver(reach).call(Name::from_str("localhost").unwrap());
        let refused = resolved(Some(Reach::Public)).await;
        assert!(refused.is_err_and(|error| error.is::<Blocked>()));
        let mut allowed = resolved(Some(Reach::Loopback)).await.unwrap();
        assert!(allowed.all(|address| address.ip().is_loopback()));
    }

    #[tokio::test]
    async fn a_blocked_address_is_said_to_be_blocked_wherever_it_was_found_out() {
        let client = Outbound::new(Some(Reach::Public), CONNECT_TIMEOUT).unwrap();
        for url in [
            "https://localhost/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "http://192.0.2.1/",
            "no address",
        ] {
            let answer = client.post(url, HeaderMap::new(), Bytes::new()).await;
            assert_eq!(answer.unwrap_err(), Unreachable::Blocked, "{url}");
        }
    }

    #[tokio::test]
    async fn who_takes_a_connection_and_then_says_nothing_of_tls_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let client = Outbound::new(Some(Reach::Loopback), 3 * CONNECT_TIMEOUT).unwrap();
        let answer = tokio::spawn(async move {
            let answer = client.post(&url, HeaderMap::new(), Bytes::new()).await;
            answer.map(|(status, _)| status)
        });
        let _silent = listener.accept().await.unwrap();
        tokio::time::pause();
        tokio::time::advance(CONNECT_TIMEOUT).await;
        assert_eq!(answer.await.unwrap(), Err(Unreachable::Connect));
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_not_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let client = Outbound::new(Some(Reach::Loopback), CONNECT_TIMEOUT).unwrap();
        let answer = client.post(&url, HeaderMap::new(), Bytes::new()).await;
        assert_eq!(answer.unwrap_err(), Unreachable::Connect);
    }
}
