//! The HTTP API in front of the functions: HTTP in, an API Gateway v2 event as JSON, the function's adapter,
//! its answer's JSON, HTTP out.
//!
//! Source: the API Gateway Developer Guide, "Working with AWS Lambda proxy integrations for HTTP APIs" (payload
//! format 2.0). Invariant: what a function sees here went through the parser that it has on Lambda.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lambda_events::apigw::ApiGatewayV2httpResponse;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::map_response_with_state;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use lambda_http::request::LambdaRequest;
use lambda_http::tower::ServiceExt as _;
use lambda_http::{Adapter, Context, IntoResponse, LambdaEvent, service_fn};
use protocol::clock::Clock;
use protocol::problem::Code;
use relay::Error;
use relay::event::MAX_BODY_BYTES;
use relay::ingest::Ingest;
use relay::register::{self as verbs, Register};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::backend::QUEUE;
use crate::sqs::Sqs;
use crate::trusted_proxies::TrustedProxies;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes unfinished bodies may hold together; more waits to be read.
const BODIES_LIMIT: usize = 128 * 1024 * 1024;
/// The beginning of each body, which does not count: so that those who fill the room keep no ordinary webhook out.
const UNCOUNTED: usize = 64 * 1024;
/// The largest request and response of a Lambda function, as JSON (its quota "Invocation payload").
const INVOCATION_LIMIT: usize = 6 * 1024 * 1024;
/// By how much a request may exceed that here, so that the largest body of `ingest` arrives whatever it holds.
const ENVELOPE_ALLOWANCE: usize = 8 * 1024 * 1024;

/// While more messages than this can be received, webhooks wait, so that the queue, which is in memory, does not grow.
const READY_LIMIT: usize = 2_000;
/// How long. Linear gives up after five seconds, and tries again after a minute.
const ROOM_TIMEOUT: Duration = Duration::from_secs(4);

const DOMAIN: &str = "localhost";

/// The functions behind the routes.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) register: Arc<Register>,
    pub(crate) sqs: Sqs,
    pub(crate) clock: Clock,
    /// What is running. As on Lambda, a function finishes what it has begun, also when its caller hangs up.
    pub(crate) running: TaskTracker,
    /// Who is believed about a client's address.
    pub(crate) proxies: Arc<TrustedProxies>,
    /// The room for bodies that are being read.
    pub(crate) bodies: Arc<Semaphore>,
}

/// The room for bodies that are being read.
pub(crate) fn bodies() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BODIES_LIMIT))
}

/// The largest body that a function accepts.
fn body_limit(function: &str) -> usize {
    if function == "ingest" {
        MAX_BODY_BYTES
    } else {
        verbs::BODY_LIMIT
    }
}

impl Gateway {
    /// Reads a body of at most this many bytes, within its time. What all unfinished bodies hold is bounded.
    async fn read_body(&self, body: Body, limit: usize) -> Result<Bytes, Error> {
        if body.size_hint().lower() > limit as u64 {
            return Err(Error::body_too_large(limit));
        }
        (tokio::time::timeout(BODY_TIMEOUT, self.read_frames(body, limit)).await).unwrap_or_else(
            |_| {
                Err(Error::refused(
                    Code::BodyTooSlow,
                    format!("a body may take {} s", BODY_TIMEOUT.as_secs()),
                ))
            },
        )
    }

    async fn read_frames(&self, mut body: Body, limit: usize) -> Result<Bytes, Error> {
        let mut read = BytesMut::new();
        let mut room = Vec::new();
        while let Some(frame) = body.frame().await {
            let incomplete = |_| Error::refused(Code::BodyIncomplete, "the body ended early");
            let Ok(data) = frame.map_err(incomplete)?.into_data() else {
                continue;
            };
            if read.len() + data.len() > limit {
                return Err(Error::body_too_large(limit));
            }
            let counted = (read.len() + data.len()).saturating_sub(UNCOUNTED.max(read.len()));
            let counted = u32::try_from(counted).unwrap_or(u32::MAX);
            room.push(self.bodies.acquire_many(counted).await);
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    }
}

/// The routes of the template.
pub(crate) fn router(gateway: Gateway) -> axum::Router {
    axum::Router::new()
        .fallback(route)
        .layer(map_response_with_state(gateway.clone(), date))
        .with_state(gateway)
}

/// The time of the relay's clock: agents compare theirs with it.
async fn date(State(gateway): State<Gateway>, mut response: Response<Body>) -> Response<Body> {
    let millis = u64::try_from(gateway.clock.millis()).unwrap_or_default();
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(millis));
    if let Ok(date) = HeaderValue::try_from(date) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HttpApiEvent<'a> {
    version: &'static str,
    route_key: &'a str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    headers: BTreeMap<&'a str, Cow<'a, str>>,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    account_id: &'static str,
    api_id: &'static str,
    domain_name: &'static str,
    http: Http<'a>,
    request_id: String,
    route_key: &'a str,
    stage: &'static str,
    time_epoch: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: &'static str,
    source_ip: String,
    user_agent: &'a str,
}

async fn route(
    State(gateway): State<Gateway>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let Some((route_key, function)) = select_route(request.method(), &path) else {
        return Error::not_found().into_response();
    };
    let (parts, body) = request.into_parts();
    // Before the body is read, so that what waits holds none.
    if function == "ingest" {
        let room = gateway.sqs.until_ready(QUEUE, READY_LIMIT);
        if tokio::time::timeout(ROOM_TIMEOUT, room).await.is_err() {
            return Error::OutOfTime.into_response();
        }
    }
    let body = match gateway.read_body(body, body_limit(function)).await {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let client = gateway.proxies.client(peer.ip(), &parts.headers);
    let event = event(&gateway.clock, route_key, &parts, client, &body);
    drop(body);
    let Ok(event) = event else {
        return internal("the request could not be written as an event");
    };
    if event.len() > INVOCATION_LIMIT + ENVELOPE_ALLOWANCE {
        return Error::body_too_large(MAX_BODY_BYTES).into_response();
    }
    let running = gateway.running.clone();
    let answer = running.spawn(run(gateway, function, event)).await;
    answer
        .unwrap_or(Err("the function failed"))
        .unwrap_or_else(internal)
}

/// Runs a function to its end.
async fn run(
    gateway: Gateway,
    function: &'static str,
    event: Vec<u8>,
) -> Result<Response<Body>, &'static str> {
    if function == "ingest" {
        let ingest = gateway.ingest;
        let handler = move |request| {
            let ingest = Arc::clone(&ingest);
            async move { ingest::handle(&ingest, request).await }
        };
        invoke(&event, handler).await
    } else {
        let register = gateway.register;
        let handler = move |request| {
            let register = Arc::clone(&register);
            async move { register::handle(&register, request).await }
        };
        invoke(&event, handler).await
    }
}

/// The template's routes and their functions. The functions decide which methods they accept. Webhooks have a separate
/// route, so that they are counted and throttled separately.
pub const ROUTES: [(&str, &str); 3] = [
    ("POST /webhooks/linear", "ingest"),
    ("ANY /webhooks/linear", "ingest"),
    ("ANY /edge/{proxy+}", "register"),
];

/// The route that API Gateway would select, and its function.
fn select_route(method: &Method, path: &str) -> Option<(&'static str, &'static str)> {
    let route = match path {
        "/webhooks/linear" if method == Method::POST => 0,
        "/webhooks/linear" => 1,
        _ if path.starts_with("/edge/") => 2,
        _ => return None,
    };
    Some(ROUTES[route])
}

fn internal(what: &'static str) -> Response<Body> {
    Error::Internal {
        operation: "serve the request",
        source: what.into(),
    }
    .into_response()
}

fn event(
    clock: &Clock,
    route_key: &str,
    parts: &axum::http::request::Parts,
    client: IpAddr,
    body: &[u8],
) -> Result<Vec<u8>, serde_json::Error> {
    let mut headers: BTreeMap<&str, Cow<'_, str>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        // The gateway sets these headers itself.
        if name == header::HOST || name.as_str().starts_with("x-forwarded-") {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        // The gateway joins the values of a repeated header.
        headers
            .entry(name.as_str())
            .and_modify(|all| *all = format!("{all},{value}").into())
            .or_insert(value);
    }
    headers.insert("host", DOMAIN.into());
    headers.insert("x-forwarded-for", client.to_string().into());
    headers.insert("x-forwarded-proto", "https".into());
    let text = std::str::from_utf8(body)
        .ok()
        .filter(|_| is_text(&parts.headers));
    let event = HttpApiEvent {
        version: "2.0",
        route_key,
        raw_path: parts.uri.path(),
        raw_query_string: parts.uri.query().unwrap_or_default(),
        request_context: RequestContext {
            account_id: "000000000000",
            api_id: "local",
            domain_name: DOMAIN,
            http: Http {
                method: parts.method.as_str(),
                path: parts.uri.path(),
                protocol: "HTTP/1.1",
                source_ip: client.to_string(),
                user_agent: (parts.headers.get(header::USER_AGENT))
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default(),
            },
            request_id: uuid::Uuid::new_v4().to_string(),
            route_key,
            stage: "$default",
            time_epoch: clock.millis(),
        },
        headers,
        is_base64_encoded: text.is_none() && !body.is_empty(),
        body: match text {
            _ if body.is_empty() => None,
            Some(text) => Some(text.into()),
            None => Some(BASE64.encode(body).into()),
        },
    };
    serde_json::to_vec(&event)
}

/// Whether the gateway passes a body on as text. It encodes all others in base64.
fn is_text(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    media_type.starts_with("text/")
        || matches!(
            media_type.as_str(),
            "application/json" | "application/xml" | "application/javascript"
        )
}

async fn invoke<F, R>(
    event: &[u8],
    handler: impl Fn(lambda_http::Request) -> F,
) -> Result<Response<Body>, &'static str>
where
    F: Future<Output = Result<R, Infallible>> + Send,
    R: IntoResponse,
{
    let request: LambdaRequest = serde_json::from_slice(event).map_err(|error| {
        tracing::error!(%error, "the event is not one that the function's parser takes");
        "the function could not read the event"
    })?;
    let adapter = Adapter::from(service_fn(handler));
    let invocation = LambdaEvent::new(request, Context::default());
    let answer = adapter
        .oneshot(invocation)
        .await
        .map_err(|_: Infallible| "the function failed")?;
    let answer = serde_json::to_vec(&answer).map_err(|_| "the function's answer is not JSON")?;
    if answer.len() > INVOCATION_LIMIT {
        return Err("the function's answer is larger than Lambda would take");
    }
    let answer: ApiGatewayV2httpResponse = serde_json::from_slice(&answer)
        .map_err(|_| "the function's answer is not the gateway's")?;
    let body = match answer.body {
        None => Bytes::new(),
        Some(body) if answer.is_base64_encoded => (BASE64.decode(body.as_ref()))
            .map_err(|_| "the function's answer is not base64")?
            .into(),
        Some(body) => body.to_vec().into(),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = u16::try_from(answer.status_code)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or("the function's answer has no status")?;
    response.headers_mut().extend(answer.headers);
    response.headers_mut().extend(answer.multi_value_headers);
    Ok(response)
}
