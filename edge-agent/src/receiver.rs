//! The receiver: `POST /webhook` for deliveries, `GET /health`, and nothing else.
//!
//! Invariant: a delivery is answered with a success only after it is stored. What strangers can make it hold is bounded:
//! connections, the time for a request, and the bytes of a body.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper_util::service::TowerToHyperService;
use protocol::headers::{WEBHOOK_RECEIPT, WEBHOOK_SIGNATURE};
use protocol::messages::{ChallengeResponse, Control};
use protocol::problem::{Code, PROBLEM_JSON, Problem};
use protocol::signature::{self, Secret, SignatureError, verify_age};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::delivery::{self, Delivery};
use crate::listener::{self, ConnectionError};
use crate::output::{verbose, warn};
use crate::state::AgentState;
use crate::store::Headers;

/// How long a body may be, and how long it may take.
#[derive(Clone, Copy)]
struct Bounds(usize, Duration);

/// Of a delivery.
const SIGNED: Bounds = Bounds(10 * 1000 * 1000, Duration::from_secs(30));
/// Of what has no signature, or none that can be right: that is at most a challenge.
const UNSIGNED: Bounds = Bounds(4096, Duration::from_secs(5));
/// How much of a body that is too long is read and dropped.
const DROPPED: usize = 10 * 1000 * 1000;
/// How many connections are served concurrently.
const CONNECTIONS: usize = 64;

/// Serves until `stop` is cancelled. Requests that are being answered then have a second to end.
pub(crate) async fn serve(listener: TcpListener, state: Arc<AgentState>, stop: CancellationToken) {
    let router = router(state);
    let service = |_| TowerToHyperService::new(router.clone());
    let ending = listener::serve(listener, CONNECTIONS, stop, service, log).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), ending.shutdown()).await;
}

fn log(error: ConnectionError) {
    match error {
        ConnectionError::Accept(_) => warn(format_args!("{error}")),
        ConnectionError::BrokeOff(_) => verbose(format_args!("{error}")),
    }
}

/// The routes.
pub(crate) fn router(state: Arc<AgentState>) -> Router {
    let not_found = || async { problem(Code::NotFound, "there is nothing at this path") };
    let post_only = || async {
        let mut response = problem(Code::MethodNotAllowed, "this path takes POST");
        (response.headers_mut()).insert(header::ALLOW, HeaderValue::from_static("POST"));
        response
    };
    Router::new()
        .route("/webhook", post(receive).fallback(post_only))
        .route("/health", get(|| async { "ok\n" }))
        .fallback(not_found)
        .layer(map_response(async |mut response: Response| {
            response.headers_mut().insert(
                HeaderName::from_static("x-robots-tag"),
                HeaderValue::from_static("noindex"),
            );
            Ok::<_, Infallible>(response)
        }))
        .with_state(state)
}

fn problem(code: Code, detail: impl Into<String>) -> Response {
    let problem = Problem::new(code, detail);
    let mut response = (code.status(), Json(problem)).into_response();
    (response.headers_mut()).insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    response
}

/// Reads a body within its limits. The rest of a longer one is read and dropped up to a limit, since most clients read the
/// response only after they have sent everything.
async fn read_body(mut body: Body, bounds: Bounds) -> Result<Vec<u8>, Response> {
    let Bounds(limit, timeout) = bounds;
    let reading = async {
        let mut bytes = Vec::with_capacity(
            usize::try_from(body.size_hint().lower())
                .unwrap_or(limit)
                .min(limit),
        );
        let mut length = 0;
        while length <= limit + DROPPED {
            let Some(Ok(frame)) = body.frame().await else {
                break;
            };
            if let Some(data) = frame.data_ref() {
                length += data.len();
                if length <= limit {
                    bytes.extend_from_slice(data);
                }
            }
        }
        (length <= limit).then_some(bytes)
    };
    match tokio::time::timeout(timeout, reading).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(problem(
            Code::BodyTooLarge,
            format!("this body may be {limit} bytes long at most"),
        )),
        Err(_) => Err(problem(
            Code::BodyTooSlow,
            format!("a body may take {} s", timeout.as_secs()),
        )),
    }
}

async fn receive(State(state): State<Arc<AgentState>>, headers: HeaderMap, body: Body) -> Response {
    if state.shutdown.is_cancelled() {
        return problem(Code::Ending, "this agent is about to end");
    }
    if !headers.contains_key(WEBHOOK_SIGNATURE) {
        return match read_body(body, UNSIGNED).await {
            Ok(body) => unsigned(&state, &body),
            Err(answer) => answer,
        };
    }
    let headers = (headers.iter())
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    let now = state.relay_millis();
    let (headers, secrets) = (Headers(headers), state.secrets(now));
    // Nobody holds memory or time here without at least the form of a signature, and a present one.
    let signed = delivery::signed(&headers);
    let form = signature::verify_form(signed).and_then(|at| verify_age(at, now / 1000));
    let bounds = if form.is_ok() { SIGNED } else { UNSIGNED };
    let body = match (read_body(body, bounds).await, form) {
        (Ok(body), _) => body,
        (Err(answer), Ok(())) => return answer,
        (Err(_), Err(error)) => return respond(&state, Err(error)).await,
    };
    let receipt = receipt(&headers, &secrets);
    let delivery = Delivery::verify(&secrets, headers, body, now);
    // Whoever has only copied the headers of a request gets no receipt for it.
    let is_signed_here = matches!(delivery, Ok(_) | Err(SignatureError::Age { .. }));
    let mut response = respond(&state, delivery).await;
    if let (true, Some(receipt)) = (is_signed_here, receipt) {
        let name = HeaderName::from_static(WEBHOOK_RECEIPT);
        response.headers_mut().insert(name, receipt);
    }
    response
}

/// The proof that this agent answers a request with these headers.
pub(crate) fn receipt(headers: &Headers, secrets: &[Secret]) -> Option<HeaderValue> {
    let signed = delivery::signed(headers);
    HeaderValue::try_from(signature::receipt(secrets, signed.id, signed.timestamp)).ok()
}

/// Stores a delivery, or says what is wrong with it.
async fn respond(state: &AgentState, delivery: Result<Delivery, SignatureError>) -> Response {
    state.record_delivery(delivery.as_ref().err());
    match delivery {
        Err(error) => {
            let code = match error {
                SignatureError::Format { .. } => Code::SignatureFormat,
                SignatureError::Age { .. } => Code::SignatureAge,
                SignatureError::Digest => Code::SignatureDigest,
            };
            problem(code, error.to_string())
        }
        Ok(Delivery::Control(Control::Ping { waiting, withheld })) => {
            if waiting {
                state.mail_waits.notify_one();
            }
            if withheld {
                state.withheld.notify_one();
            }
            StatusCode::NO_CONTENT.into_response()
        }
        Ok(Delivery::Control(Control::Challenge { .. })) => problem(
            Code::ChallengeSigned,
            "a challenge comes before there is a secret",
        ),
        Ok(Delivery::Event(event)) => match state.store.add(vec![event]).await {
            Ok(_) => {
                state.record_store_result(Ok(()));
                state.stored.notify_one();
                StatusCode::ACCEPTED.into_response()
            }
            Err(error) => {
                state.record_store_result(Err(&error));
                problem(Code::NotStored, "the event could not be stored")
            }
        },
    }
}

fn unsigned(state: &AgentState, body: &[u8]) -> Response {
    match serde_json::from_slice(body) {
        Ok(Control::Challenge { challenge, nonce }) if state.expects(nonce.as_deref()) => {
            Json(ChallengeResponse { challenge }).into_response()
        }
        Ok(Control::Challenge { .. }) => problem(
            Code::NotRegistering,
            "a challenge is answered only while this agent registers, and only with the nonce of its registration",
        ),
        _ => problem(
            Code::SignatureFormat,
            format!("the `{WEBHOOK_SIGNATURE}` header is missing"),
        ),
    }
}
