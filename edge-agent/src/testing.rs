//! What a simulation uses alone: the path of an event from the relay into the store, in the caller's thread, in memory, and
//! with requests and answers instead of connections.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use anstream::ColorChoice;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use protocol::clock::Clock;
use protocol::headers::WEBHOOK_RECEIPT;
use protocol::messages::{Register, Renew, Worker};
use tower_service::Service as _;
use url::Url;

use crate::output::Volume;
use crate::registration::Registration;
use crate::relay::{CallError, Relay};
use crate::state::AgentState;
use crate::store::{Headers, Store};
use crate::{mailbox, output, receiver};

pub use crate::relay::Exchange;

/// Why a call of the relay failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// The relay does not know the worker: it has to register.
    UnknownWorker,
    /// Another registration of the name has replaced this one.
    Replaced,
    /// Anything else: what it was.
    Later(String),
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        if error.is_unknown_worker() {
            Self::UnknownWorker
        } else if error.is_replaced() {
            Self::Replaced
        } else {
            Self::Later(error.to_string())
        }
    }
}

/// An agent without a listener and without handlers.
#[derive(Clone)]
pub struct Agent {
    state: Arc<AgentState>,
    router: Router,
    relay: Relay,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl Agent {
    /// An agent that has stored nothing and is not registered. `relay` answers its calls.
    ///
    /// # Errors
    ///
    /// SQLite fails.
    pub fn new(clock: Clock, relay: Exchange) -> anyhow::Result<Self> {
        output::set(Volume::Silent, ColorChoice::Never);
        let base = Url::parse("https://relay.example")?;
        let relay = Relay::simulated(base, relay);
        Ok(Self::over(Store::in_memory()?, None, relay, clock))
    }

    fn over(store: Store, registration: Option<Registration>, relay: Relay, clock: Clock) -> Self {
        let state = Arc::new(AgentState::new(clock, PathBuf::new(), store, registration));
        Self {
            router: receiver::router(Arc::clone(&state)),
            state,
            relay,
        }
    }

    /// The agent after it has lost its registration: what it has stored is there.
    #[must_use]
    pub fn without_registration(&self) -> Self {
        let (store, clock) = (self.state.store.clone(), self.state.clock.clone());
        Self::over(store, None, self.relay.clone(), clock)
    }

    /// Receives a request of the relay.
    pub async fn receive(&self, request: Request<Bytes>) -> Response<Bytes> {
        let answered = self.router.clone().call(request.map(Body::from)).await;
        let (parts, body) = answered
            .unwrap_or_else(|never: Infallible| match never {})
            .into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        Response::from_parts(parts, body.unwrap_or_default())
    }

    /// An answer with this status and the agent's receipt.
    pub fn answer(&self, request: &Request<Bytes>, status: StatusCode) -> Response<Bytes> {
        let headers = (request.headers().iter())
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect();
        let secrets = self.state.secrets(self.state.clock.millis());
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = status;
        if let Some(receipt) = receiver::receipt(&Headers(headers), &secrets) {
            let name = HeaderName::from_static(WEBHOOK_RECEIPT);
            answer.headers_mut().insert(name, receipt);
        }
        answer
    }

    /// Registers, and answers the relay's challenge meanwhile.
    ///
    /// # Errors
    ///
    /// There is no registration.
    pub async fn register(&self, request: &Register) -> Result<(), Failed> {
        let expected = self.state.expect_challenge();
        let request = Register {
            nonce: Some(expected.nonce()),
            ..request.clone()
        };
        let registered = self.relay.register(&request).await;
        let (previous, now) = (self.state.registration(), self.state.clock.millis());
        let registration =
            Registration::new("", &request.name, registered?, previous.as_ref(), now)
                .map_err(|error| Failed::Later(error.to_string()))?;
        self.state.set_registration(registration);
        Ok(())
    }

    /// Renews the lease, and answers the relay's challenge meanwhile.
    ///
    /// # Errors
    ///
    /// The lease is not renewed, or it is not known.
    pub async fn renew(&self, renewal: &Renew) -> Result<Worker, Failed> {
        let expected = self.state.expect_challenge();
        let renewal = Renew {
            nonce: Some(expected.nonce()),
            ..renewal.clone()
        };
        Ok(self.relay.renew(&self.registration()?, &renewal).await?)
    }

    /// Stores what is in the mailbox, until it is empty. Returns how many events there were.
    ///
    /// # Errors
    ///
    /// A call failed. What was stored until then may be in the mailbox still.
    pub async fn empty_mailbox(&self) -> Result<usize, Failed> {
        Ok(mailbox::empty(&self.relay, &self.registration()?, &self.state).await?)
    }

    /// Removes the worker.
    ///
    /// # Errors
    ///
    /// The worker is not removed, or it is not known.
    pub async fn remove(&self) -> Result<(), Failed> {
        Ok(self.relay.remove(&self.registration()?).await?)
    }

    /// Waits until a ping says that events wait in the mailbox.
    pub async fn mail_waits(&self) {
        self.state.mail_waits.notified().await;
    }

    /// Whether it is registered.
    pub fn is_registered(&self) -> bool {
        self.state.registration().is_some()
    }

    fn registration(&self) -> Result<Registration, Failed> {
        self.state.registration().ok_or(Failed::UnknownWorker)
    }

    /// The ids of the stored events of each ordering key, in the order in which a handler gets them: `(key, id)`.
    ///
    /// # Errors
    ///
    /// SQLite fails.
    pub fn stored(&self) -> anyhow::Result<Vec<(String, String)>> {
        self.state.store.ids()
    }
}
