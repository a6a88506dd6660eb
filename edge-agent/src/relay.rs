//! The relay's HTTP interface, as a worker uses it.

use std::time::{Duration, UNIX_EPOCH};

use axum::body::Bytes;
use protocol::clock::UnixMillis;
use protocol::messages::{Mailbox, Pull, Register, Registered, Renew, Worker};
use protocol::problem::{Code, Problem};
use reqwest::{Client, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::config::is_on_loopback;
use crate::registration::Registration;

const TIMEOUT: Duration = Duration::from_secs(30);

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

    fn is(&self, code: Code) -> bool {
        matches!(self, Self::Refused(problem) if problem.is(code))
    }
}

/// The relay.
#[derive(Debug, Clone)]
pub(crate) struct Relay {
    client: Client,
    base: Url,
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
            client: client.build()?,
            base,
        })
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

    /// The worker as the relay knows it, and the relay's time.
    pub(crate) async fn read(
        &self,
        registration: &Registration,
    ) -> Result<(Worker, Option<UnixMillis>), CallError> {
        let answer = self
            .send::<()>(
                Method::GET,
                &registration.worker,
                Some(&registration.token),
                None,
            )
            .await?;
        let date = answer.date;
        Ok((answer.parse()?, date))
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
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| {
            // The address is left out: it may hold a query.
            let error = error.without_url();
            let what = if error.is_timeout() {
                "does not answer in time"
            } else {
                "cannot be reached"
            };
            CallError::later(format!("the relay {what}: {}", root_cause(&error)))
        })?;
        let status = response.status();
        let header = |name| response.headers().get(name)?.to_str().ok();
        let wait = header("retry-after")
            .and_then(|value| value.parse().ok())
            .map(Duration::from_secs);
        let date = header("date")
            .and_then(|value| httpdate::parse_http_date(value).ok())
            .and_then(|date| date.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok());
        let body = response.bytes().await.map_err(|error| {
            let error = error.without_url();
            CallError::later(format!(
                "the relay broke off its answer: {}",
                root_cause(&error)
            ))
        })?;
        if status.is_success() {
            return Ok(Success { body, date });
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem)
                if status.is_client_error()
                    && !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT) =>
            {
                Err(CallError::Refused(problem))
            }
            Ok(problem) => Err(CallError::Later {
                reason: problem.detail,
                wait,
            }),
            Err(_) => Err(CallError::Later {
                reason: format!("the relay answered {}", status.as_u16()),
                wait,
            }),
        }
    }
}

/// The response to a successful call.
struct Success {
    body: Bytes,
    /// The relay's clock, to the second.
    date: Option<UnixMillis>,
}

impl Success {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|_| {
            CallError::later("the relay answered something else than its interface says")
        })
    }
}

/// The innermost cause of an error, which a person can do something about.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
