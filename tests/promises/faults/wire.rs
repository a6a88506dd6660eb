//! What lies between two programs, on sockets: HTTP servers that pass on what they are asked, and do to a request what is planned
//! for the place that it comes from.
//!
//! Invariant: the places are those of a history without faults, and no list of them exists, so that a new one is among them.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use local::testing::bare::BareRelay;
use local::testing::calls::Fault;
use local::testing::partly::Part;
use local::testing::place::place;
use parking_lot::Mutex;
use protocol::headers::EDGE_ATTEMPT;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The code with which Linear limits requests.
pub(super) const RATELIMITED: &str = "RATELIMITED";

/// Where a call or a request comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A call to AWS: the function, the action, and what the call does.
    Call(String),
    /// A request of a function to Linear or to a worker.
    Request(String),
}

/// What becomes of a call or a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum What {
    Fault(Fault),
    /// It gets there, and its answer back, but only after this.
    Slow(Duration),
    /// The process that makes the call is killed, and the call does not get there.
    KilledBefore,
    /// The process is killed when the call has been carried out.
    KilledAfter,
}

impl What {
    /// Whether a delivery may be made that has been made already, because what became of it is not known.
    pub(super) fn may_repeat(self) -> bool {
        !matches!(
            self,
            Self::Fault(Fault::Refused(..) | Fault::Unsent | Fault::Partly)
        )
    }
}

/// What is planned for a place: the first so many times.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) place: Place,
    pub(super) what: What,
    pub(super) times: u32,
}

/// The places of a history, and its plan.
#[derive(Debug, Default)]
pub(super) struct Faults {
    seen: Mutex<BTreeSet<Place>>,
    plan: Mutex<Option<Plan>>,
    /// Linear's tokens, as requests show them.
    tokens: Mutex<BTreeSet<Vec<u8>>>,
}

impl Faults {
    pub(super) fn new(plan: Option<Plan>) -> Self {
        Self {
            seen: Mutex::default(),
            plan: Mutex::new(plan),
            tokens: Mutex::default(),
        }
    }

    /// Whether no request has shown the token of this one.
    fn is_new(&self, parts: &Parts) -> bool {
        let token = parts.headers.get(AUTHORIZATION);
        token.is_some_and(|token| self.tokens.lock().insert(token.as_bytes().to_vec()))
    }

    fn at(&self, place: Place) -> Option<What> {
        let mut plan = self.plan.lock();
        if let Some(plan) = plan.as_mut().filter(|plan| plan.place == place)
            && plan.times > 0
        {
            plan.times -= 1;
            return Some(plan.what);
        }
        self.seen.lock().insert(place);
        None
    }

    pub(super) fn seen(&self) -> BTreeSet<Place> {
        self.seen.lock().clone()
    }

    /// How many times of the plan have not come.
    pub(super) fn left(&self) -> u32 {
        self.plan.lock().as_ref().map_or(0, |plan| plan.times)
    }
}

/// Where requests go.
pub(super) enum To {
    /// To AWS, from the process of a function.
    Aws {
        relay: Arc<BareRelay>,
        function: &'static str,
        process: Arc<OnceLock<Pid>>,
    },
    /// To a program that listens there. The name is for its places.
    Address(&'static str, SocketAddr, reqwest::Client),
}

/// Listens on a port of loopback, and passes requests on until this is dropped.
pub(super) struct Wire {
    pub(super) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Wire {
    pub(super) async fn open(faults: &Arc<Faults>, to: To) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::new((Arc::clone(faults), to))));
        Self {
            address,
            _serving: serving,
        }
    }
}

async fn serve(listener: TcpListener, wire: Arc<(Arc<Faults>, To)>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let wire = Arc::clone(&wire);
        connections.spawn(async move {
            // It is reset when it is closed.
            stream.set_zero_linger().unwrap();
            let answer = service_fn(|request| answer(&wire, request));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    (faults, to): &(Arc<Faults>, To),
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX)
        .await
        .map_err(|_| reset())?;
    let what = faults.at(to.place(faults, &parts, &body));
    match what {
        Some(What::Slow(time)) => tokio::time::sleep(time).await,
        Some(What::KilledBefore) => {
            to.kill();
            return Err(reset());
        }
        Some(What::Fault(Fault::Unsent)) => return Err(reset()),
        Some(What::Fault(Fault::Swallowed)) => std::future::pending().await,
        Some(What::Fault(Fault::Refused(status, code))) => {
            let refusal = match code {
                RATELIMITED => json!({"errors": [{"extensions": {"code": code}}]}).to_string(),
                _ => String::from_utf8(Fault::refusal(code)).unwrap(),
            };
            return Ok(Response::builder()
                .status(status)
                .body(refusal.into())
                .unwrap());
        }
        _ => {}
    }
    let is_partly = matches!(what, Some(What::Fault(Fault::Partly)));
    let answer = to.answer(&parts, body, is_partly).await;
    match what {
        Some(What::KilledAfter) => to.kill(),
        Some(What::Fault(Fault::AnswerLost)) => {}
        Some(What::Fault(Fault::Unanswered)) => std::future::pending().await,
        _ => return answer,
    }
    Err(reset())
}

/// Makes the server close the connection.
fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

fn target(parts: &Parts) -> &str {
    let target = parts.headers.get("x-amz-target");
    target.map_or("", |target| target.to_str().unwrap())
}

impl To {
    fn place(&self, faults: &Faults, parts: &Parts, body: &[u8]) -> Place {
        let name = match self {
            Self::Aws { function, .. } => {
                return Place::Call(place(function, target(parts), body));
            }
            Self::Address(name, ..) => name,
        };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let kind = match (body["type"].as_str(), parts.headers.get(EDGE_ATTEMPT)) {
            (Some(kind), _) if kind.starts_with("edge.") => kind,
            (_, Some(attempt)) if attempt == "1" => "a first attempt",
            (_, Some(_)) => "a further attempt",
            _ if !body["variables"]["after"].is_null() => "a further page",
            _ if faults.is_new(parts) => "a new token",
            _ => "a token again",
        };
        Place::Request(format!("{name}: {kind}"))
    }

    fn kill(&self) {
        if let Self::Aws { process, .. } = self
            && let Some(process) = process.get()
        {
            // It may have ended by itself.
            let _ = kill_process(*process, Signal::KILL);
        }
    }

    async fn answer(
        &self,
        parts: &Parts,
        body: Bytes,
        is_partly: bool,
    ) -> io::Result<Response<Body>> {
        let (relay, target) = match self {
            Self::Aws { relay, .. } => (relay, target(parts)),
            Self::Address(_, address, client) => {
                let url = format!("http://{address}{}", parts.uri);
                let request = client.request(parts.method.clone(), url);
                let request = request.headers(parts.headers.clone()).body(body);
                let answer = request.send().await.map_err(|_| reset())?;
                return Ok(Response::from(answer).map(Body::new));
            }
        };
        let Some(part) = is_partly.then(|| Part::of(target, &body)).flatten() else {
            return Ok(relay.call_aws(target, &body).await.map(Body::from));
        };
        let answer = match &part.body {
            None => None,
            Some(body) => Some(relay.call_aws(target, body).await.into_body()),
        };
        Ok(Response::new(part.answer(answer.as_deref()).into()))
    }
}
