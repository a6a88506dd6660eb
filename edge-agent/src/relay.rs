//! The relay's HTTP interface, as a worker uses it.

#[cfg(test)]
mod fuzz;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Bytes;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use protocol::clock::UnixMillis;
use protocol::messages::{Mailbox, Pull, Register, Registered, Renew, Worker};
use protocol::problem::{Code, Problem};
use reqwest::Client;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::cause::root_cause;
use crate::registration::Registration;
use crate::target::is_on_loopback;

const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait that an answer can ask for. A lease outlasts it, whatever answers between here and the relay.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);
/// The longest answer: one event of 6 MB, whose bytes JSON can write as six each, and a little more.
const ANSWER_LIMIT: usize = 40 * 1024 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The relay refused the request, and would refuse it again.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The call may succeed later.
    #[error("{reason}")]
    Later {
        reason: String,
        wait: Option<Duration>,
    },
}

/// Looks whether a relay answers at an address.
///
/// # Errors
///
/// Nothing answers there within the time limit, or something that is no relay.
pub async fn look(address: Url) -> anyhow::Result<()> {
    Ok(Relay::new(address)?.look().await?)
}

impl CallError {
    pub(crate) fn later(reason: impl Into<String>) -> Self {
        Self::Later {
            reason: reason.into(),
            wait: None,
        }
    }

    /// Whether the relay does not know the worker or its token.
    pub(crate) fn is_unknown_worker(&self) -> bool {
        self.is(Code::WorkerTokenInvalid)
    }

    /// Whether another registration of the same name has replaced this one.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is(Code::WorkerTokenReplaced)
    }

    /// Whether the relay could answer later.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, Self::Later { .. })
    }

    /// Whether the Linear token has to be shown first.
    pub(crate) fn is_check_due(&self) -> bool {
        self.is(Code::MembershipCheckDue)
    }

    /// Whether the name belongs to a worker that is in use.
    pub(crate) fn is_name_in_use(&self) -> bool {
        self.is(Code::NameInUse)
    }

    /// Whether the relay does not serve the workspace, yet.
    pub(crate) fn is_not_served(&self) -> bool {
        self.is(Code::WorkspaceNotServed)
    }

    fn is(&self, code: Code) -> bool {
        matches!(self, Self::Refused(problem) if problem.is(code))
    }
}

/// Answers a request, or says why there is no answer.
pub type Exchange = Arc<
    dyn Fn(Request<Bytes>) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, String>> + Send>>
        + Send
        + Sync,
>;

/// How requests are sent.
#[derive(Clone)]
enum Sender {
    Client(Client),
    /// A simulation answers them.
    Simulated(Exchange),
}

/// The relay.
#[derive(Clone)]
pub(crate) struct Relay {
    sender: Sender,
    base: Url,
    /// What the relay's clock showed at its last answer; 0 if it did not say.
    date: Arc<AtomicI64>,
}

impl Sender {
    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        match self {
            Self::Client(client) => over_http(client, request).await,
            Self::Simulated(exchange) => exchange(request).await.map_err(CallError::later),
        }
    }
}

async fn over_http(client: &Client, request: Request<Bytes>) -> Result<Response<Bytes>, CallError> {
    // The address is left out of errors: it may hold a query.
    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        let what = if error.is_timeout() {
            "does not answer in time"
        } else {
            "cannot be reached"
        };
        CallError::later(format!("the relay {what}: {}", root_cause(&error)))
    };
    let request = reqwest::Request::try_from(request).map_err(failed)?;
    let mut response = client.execute(request).await.map_err(failed)?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let broken = |error: reqwest::Error| {
        let error = error.without_url();
        CallError::later(format!(
            "the relay broke off its answer: {}",
            root_cause(&error)
        ))
    };
    let mut body = Vec::new();
    // Decompressed: a small answer can become a large one.
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > ANSWER_LIMIT {
            let limit = bytesize::ByteSize(ANSWER_LIMIT as u64);
            return Err(CallError::later(format!(
                "the relay's answer is longer than {limit}, which none of edge-relay's is"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = Response::new(Bytes::from(body));
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Ok(response)
}

impl Relay {
    pub(crate) fn new(base: Url) -> anyhow::Result<Self> {
        let mut client = Client::builder()
            .user_agent(concat!("edge-agent/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(5));
        if is_on_loopback(&base) {
            client = client.no_proxy();
        }
        Ok(Self {
            sender: Sender::Client(client.build()?),
            base,
            date: Arc::default(),
        })
    }

    /// A relay whose answers a simulation gives.
    pub(crate) fn simulated(base: Url, exchange: Exchange) -> Self {
        Self {
            sender: Sender::Simulated(exchange),
            base,
            date: Arc::default(),
        }
    }

    /// Looks whether a relay is there: it wants a token for every worker, also for none.
    pub(crate) async fn look(&self) -> Result<(), CallError> {
        let nobody = "/edge/workspaces/none/workers/none";
        match self.send::<()>(Method::GET, nobody, None, None).await {
            Err(error) if error.is(Code::WorkerTokenMissing) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(CallError::later(
                "something else than a relay answers at this address",
            )),
        }
    }

    pub(crate) async fn register(&self, request: &Register) -> Result<Registered, CallError> {
        self.call(Method::POST, "/edge/register", None, request)
            .await
    }

    pub(crate) async fn renew(
        &self,
        registration: &Registration,
        request: &Renew,
    ) -> Result<Worker, CallError> {
        self.call(
            Method::PUT,
            &registration.worker,
            Some(&registration.token),
            request,
        )
        .await
    }

    pub(crate) async fn pull(
        &self,
        registration: &Registration,
        request: &Pull,
    ) -> Result<Mailbox, CallError> {
        let path = format!("{}/mailbox", registration.worker);
        self.call(Method::POST, &path, Some(&registration.token), request)
            .await
    }

    /// What the relay's clock showed at its last answer, to the second.
    pub(crate) fn date(&self) -> Option<UnixMillis> {
        Some(self.date.load(Ordering::Relaxed)).filter(|date| *date > 0)
    }

    /// The worker as the relay knows it.
    pub(crate) async fn read(&self, registration: &Registration) -> Result<Worker, CallError> {
        let answer = self
            .send::<()>(
                Method::GET,
                &registration.worker,
                Some(&registration.token),
                None,
            )
            .await?;
        answer.parse()
    }

    /// Removes the worker and its mailbox.
    pub(crate) async fn remove(&self, registration: &Registration) -> Result<(), CallError> {
        self.send::<()>(
            Method::DELETE,
            &registration.worker,
            Some(&registration.token),
            None,
        )
        .await
        .map(drop)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        self.send(method, path, token, Some(body)).await?.parse()
    }

    async fn send<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&B>,
    ) -> Result<Success, CallError> {
        let mut url = self.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}{path}"));
        let mut request = Request::builder().method(method).uri(url.as_str());
        if let Some(token) = token {
            // What is marked is shown by no log of the HTTP client.
            let bearer = HeaderValue::try_from(format!("Bearer {token}")).map(|mut bearer| {
                bearer.set_sensitive(true);
                bearer
            });
            let cannot = |_| CallError::later("the registration holds no token that can be sent");
            request = request.header(header::AUTHORIZATION, bearer.map_err(cannot)?);
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body).map_err(|e| CallError::later(e.to_string()))?
            }
            None => Vec::new(),
        };
        let request = (request.body(Bytes::from(body)))
            .map_err(|error| CallError::later(error.to_string()))?;
        let response = self.sender.exchange(request).await?;
        let status = response.status();
        let header = |name| response.headers().get(name)?.to_str().ok();
        let wait = header("retry-after")
            .and_then(|value| value.parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
        let date = header("date").and_then(parse_date).unwrap_or(0);
        self.date.store(date, Ordering::Relaxed);
        let body = response.into_body();
        if status.is_success() {
            return Ok(Success(body));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem)
                if status.is_client_error()
                    && status != StatusCode::TOO_MANY_REQUESTS
                    && !problem.is(Code::WorkerChanged) =>
            {
                Err(CallError::Refused(problem))
            }
            Ok(problem) => Err(CallError::Later {
                reason: problem.detail,
                wait,
            }),
            Err(_) => Err(CallError::Later {
                reason: match status {
                    // As an HTTP API of AWS's answers where it has no route.
                    StatusCode::NOT_FOUND => {
                        "the relay answered 404, so that it has nothing there: its address is `RelayUrl`, which `sam deploy` \
                         prints"
                            .to_owned()
                    }
                    status => format!("the relay answered {}", status.as_u16()),
                },
                wait,
            }),
        }
    }
}

fn parse_date(value: &str) -> Option<UnixMillis> {
    let since = (httpdate::parse_http_date(value).ok()?).duration_since(UNIX_EPOCH);
    i64::try_from(since.ok()?.as_millis()).ok()
}

/// The response to a successful call.
struct Success(Bytes);

impl Success {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.0).map_err(|_| {
            CallError::later("the relay answered something else than its interface says")
        })
    }
}
