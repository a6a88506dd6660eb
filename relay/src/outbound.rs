//! The HTTP client for workers and for Linear: hyper over rustls. It uses no proxies, follows no redirects, and connects to
//! a worker only where the [`EgressPolicy`] allows it.
//!
//! Invariant: the address that is connected to is the address that was checked. The resolver checks what names resolve
//! to; the scheme and literal addresses, which no resolver sees, are checked right before the connection is made.
//!
//! A simulation gives another [`Network`] than the internet, and answers the requests itself; a test of name resolution gives
//! another [`Lookup`].

mod bounded;
mod resolver;

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;
use tower_service::Service;

use bounded::Bounded;
use resolver::Resolver;

pub use resolver::Lookup;

use crate::cause::Cause;
use crate::egress::{Blocked, EgressPolicy};

/// The `User-Agent` of the relay.
const USER_AGENT: &str = concat!("edge-relay/", env!("CARGO_PKG_VERSION"));

/// The deadline over name resolution, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(90);
/// The keep-alive interval. A connection can break without a trace behind NAT or while a function is frozen.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How many keep-alive probes may stay unanswered.
const KEEP_ALIVE_PROBES: u32 = 3;
/// How long an HTTP/2 ping may stay unanswered. An HTTP/2 connection outlives a request without an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the rest of an answer is read, once its status is known, so that the connection can be reused.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How many bytes of the rest are read for that.
const DRAIN_BYTES: usize = 16 * 1024;

/// How many header fields an HTTP/1 answer may have. Room for so many is allocated for each answer.
const MAX_HEADERS: usize = 512;

type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Cause>> + Send>>;

type Stream = <HttpsConnector<HttpConnector<Resolver>> as Service<Uri>>::Response;

/// Connects where the policy allows it, within [`CONNECT_TIMEOUT`].
#[derive(Debug, Clone)]
struct Connector {
    https: HttpsConnector<HttpConnector<Resolver>>,
    policy: Option<EgressPolicy>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Bounded<TokioIo<Stream>>>;
    type Error = Cause;
    type Future = Pending<Self::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if (self.policy).is_some_and(|policy| !policy.allows_uri(&uri)) {
            return Box::pin(std::future::ready(Err(Blocked(None).into())));
        }
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.https.call(uri));
        Box::pin(async move { Ok(TokioIo::new(Bounded::new(TokioIo::new(connected.await??)))) })
    }
}

/// The headers of a POST: those that every POST has, and these.
///
/// # Errors
///
/// A value cannot stand in a header.
pub fn headers(
    more: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    for (name, value) in more {
        headers.insert(name, HeaderValue::try_from(value)?);
    }
    Ok(headers)
}

/// Answers a request, or says why there is no answer.
pub type Exchange = Arc<
    dyn Fn(
            Request<Bytes>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, SendError>> + Send>>
        + Send
        + Sync,
>;

/// What lies between the relay and the workers and Linear.
#[derive(Clone)]
pub enum Network {
    /// The internet.
    Internet,
    /// The internet, with names that this looks up.
    Named(Lookup),
    /// This answers every request.
    Simulated(Exchange),
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Internet => "Internet",
            Self::Named(_) => "Named",
            Self::Simulated(_) => "Simulated",
        })
    }
}

/// How requests are sent.
#[derive(Clone)]
enum Sender {
    Client(Box<Client<Connector, Full<Bytes>>>),
    Simulated(Exchange),
}

/// An answer, as the client reads it or as a simulation gives it.
type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// The client. One deadline covers a whole call: resolving, connecting, sending, and reading the answer.
#[derive(Clone)]
pub(crate) struct Outbound {
    sender: Sender,
    timeout: Duration,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The client cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificate authorities of this machine cannot be read.
    #[error("could not read this machine's certificate authorities")]
    CertificateAuthorities(#[source] std::io::Error),
    /// A value cannot stand in a header.
    #[error("could not write a request's headers")]
    Header(#[from] http::header::InvalidHeaderValue),
}

/// Why there was no answer. The text holds no part of the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not a public address, or a name that is not resolved.
    #[error("the address is not allowed or its name is not resolved")]
    Blocked,
    /// TCP or TLS.
    #[error("could not connect")]
    Connect,
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The connection ended before an answer.
    #[error("the connection was closed without an answer")]
    Closed,
}

/// A call without an answer, with its cause for the log.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FailedCall {
    /// Why there was no answer.
    pub(crate) error: SendError,
    #[source]
    cause: Option<Cause>,
}

impl From<SendError> for FailedCall {
    fn from(error: SendError) -> Self {
        Self { error, cause: None }
    }
}

/// A client that connects where `policy` allows it, and without one anywhere.
fn client(
    policy: Option<EgressPolicy>,
    lookup: Option<Lookup>,
) -> Result<Client<Connector, Full<Bytes>>, ClientError> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver { policy, lookup });
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE));
    tcp.set_keepalive_retries(Some(KEEP_ALIVE_PROBES));
    tcp.set_nodelay(true);
    // The authorities of the machine, not built-in ones: what is deployed once must trust next year's, too.
    let https = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(ClientError::CertificateAuthorities)?
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        // What counts is the status. The rest may be as odd as it likes.
        .http1_max_headers(MAX_HEADERS)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .build(Connector { https, policy }))
}

impl Outbound {
    /// A client over this network. On the internet it connects where `policy` allows it, and without one anywhere.
    ///
    /// # Errors
    ///
    /// The certificate authorities of this machine cannot be read.
    pub(crate) fn new(
        network: Network,
        policy: Option<EgressPolicy>,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let sender = match network {
            Network::Internet => Sender::Client(Box::new(client(policy, None)?)),
            Network::Named(lookup) => Sender::Client(Box::new(client(policy, Some(lookup))?)),
            Network::Simulated(exchange) => Sender::Simulated(exchange),
        };
        Ok(Self { sender, timeout })
    }

    /// POSTs `body` and returns the status and headers. The connection is kept if the answer ends soon.
    ///
    /// # Errors
    ///
    /// There was no answer.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap), SendError> {
        let deadline = Instant::now() + self.timeout;
        let sent = self.send(url, headers, body, deadline).await;
        let (answer, mut rest) = sent.map_err(|failed| failed.error)?.into_parts();
        // The outcome is known. Reading on only saves the next connection.
        let drained = deadline.min(Instant::now() + DRAIN_TIMEOUT);
        let _ = tokio::time::timeout_at(drained, read_body(&mut rest, DRAIN_BYTES)).await;
        Ok((answer.status, answer.headers))
    }

    /// POSTs `body` and returns the status and the first `limit` bytes of the answer's body.
    ///
    /// # Errors
    ///
    /// There was no answer, or it ended early.
    pub(crate) async fn ask(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), FailedCall> {
        let deadline = Instant::now() + self.timeout;
        let mut answer = self.send(url, headers, body, deadline).await?;
        let body = tokio::time::timeout_at(deadline, read_body(answer.body_mut(), limit))
            .await
            .map_err(|_| SendError::Timeout)?
            .map_err(|cause| FailedCall {
                error: SendError::Closed,
                cause: Some(cause),
            })?;
        Ok((answer.status(), body))
    }

    async fn send(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Answer, FailedCall> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::try_from(url).map_err(|_| SendError::Blocked)?;
        *request.headers_mut() = headers;
        tokio::time::timeout_at(deadline, self.sender.exchange(request))
            .await
            .unwrap_or_else(|_| Err(SendError::Timeout.into()))
    }
}

impl Sender {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, FailedCall> {
        match self {
            Self::Client(client) => match client.request(request.map(Full::new)).await {
                Ok(answer) => Ok(answer.map(Either::Left)),
                Err(error) => Err(FailedCall {
                    error: classify(&error),
                    cause: Some(error.into()),
                }),
            },
            Self::Simulated(exchange) => {
                let answer = exchange(request).await?;
                Ok(answer.map(|body| Either::Right(Full::new(body))))
            }
        }
    }
}

/// Reads the first `limit` bytes of an answer, or all of it.
async fn read_body(
    answer: &mut Either<Incoming, Full<Bytes>>,
    limit: usize,
) -> Result<Vec<u8>, Cause> {
    let mut body = Vec::new();
    while body.len() < limit
        && let Some(frame) = answer.frame().await.transpose()?
    {
        let chunk = frame.into_data().unwrap_or_default();
        body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
    }
    Ok(body)
}

fn classify(error: &legacy::Error) -> SendError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<Blocked>() {
            return SendError::Blocked;
        }
        cause = error.source();
    }
    if error.is_connect() {
        SendError::Connect
    } else {
        SendError::Closed
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_blocked_address_is_reported_as_blocked_wherever_it_is_detected() {
        let client = Outbound::new(
            Network::Internet,
            Some(EgressPolicy::Public),
            CONNECT_TIMEOUT,
        )
        .unwrap();
        for url in [
            "https://localhost/",
            "https://127.0.0.1/",
            "https://[::1]/",
            "http://192.0.2.1/",
            "no address",
        ] {
            let answer = client.post(url, HeaderMap::new(), Bytes::new()).await;
            assert_eq!(answer.unwrap_err(), SendError::Blocked, "{url}");
        }
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_does_not_start_tls_is_a_failed_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let client = Outbound::new(
            Network::Internet,
            Some(EgressPolicy::Loopback),
            3 * CONNECT_TIMEOUT,
        )
        .unwrap();
        let answer = tokio::spawn(async move {
            let answer = client.post(&url, HeaderMap::new(), Bytes::new()).await;
            answer.map(|(status, _)| status)
        });
        let _silent = listener.accept().await.unwrap();
        tokio::time::pause();
        tokio::time::advance(CONNECT_TIMEOUT).await;
        assert_eq!(answer.await.unwrap(), Err(SendError::Connect));
    }

    #[tokio::test]
    async fn a_refused_connection_is_a_failed_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        drop(listener);
        let client = Outbound::new(
            Network::Internet,
            Some(EgressPolicy::Loopback),
            CONNECT_TIMEOUT,
        )
        .unwrap();
        let answer = client.post(&url, HeaderMap::new(), Bytes::new()).await;
        assert_eq!(answer.unwrap_err(), SendError::Connect);
    }

    /// The status of this answer, and how many bytes of it were sent before the client had enough.
    async fn answered(head: &str, again: &'static str) -> (Result<StatusCode, SendError>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let head = head.to_owned();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let mut sent = 0;
            let mut next = head.as_str();
            while !next.is_empty() && stream.write_all(next.as_bytes()).await.is_ok() {
                sent += next.len();
                next = again;
            }
            sent
        });
        let client = Outbound::new(
            Network::Internet,
            Some(EgressPolicy::Loopback),
            3 * CONNECT_TIMEOUT,
        )
        .unwrap();
        let answer = client.post(&url, HeaderMap::new(), Bytes::new()).await;
        drop(client);
        (answer.map(|(status, _)| status), serving.await.unwrap())
    }

    #[tokio::test]
    async fn an_answer_with_odd_header_fields_counts_by_its_status() {
        let many: String = (0..500).map(|at| format!("x-{at}: {at}\r\n")).collect();
        for fields in [
            many.as_str(),
            "x y: z\r\n",
            "no colon\r\n",
            "x : y\r\n",
            "x: y\r\n z\r\n",
        ] {
            let head = format!("HTTP/1.1 202 Accepted\r\n{fields}content-length: 0\r\n\r\n");
            let (status, _) = answered(&head, "").await;
            assert_eq!(status, Ok(StatusCode::ACCEPTED), "{fields}");
        }
    }

    #[tokio::test]
    async fn interim_answers_without_end_are_read_up_to_a_limit() {
        let interim = "HTTP/1.1 102 Processing\r\nx: y\r\n\r\n";
        let (status, sent) = answered(interim, interim).await;
        assert_eq!(status, Err(SendError::Closed));
        // What the buffers of both sides hold comes on top.
        assert!(sent < 16 * 1024 * 1024, "{sent}");
        let some = format!("{interim}{interim}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(answered(&some, "").await.0, Ok(StatusCode::OK));
    }
}
