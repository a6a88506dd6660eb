//! `/edge/…`: translates the gateway's request, calls a verb of [`Register`], and translates its result.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use flate2::Compression;
use flate2::write::GzEncoder;
use lambda_http::http::request::Parts;
use lambda_http::http::{HeaderValue, Method, StatusCode, header};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt as _, Response, service_fn};
use protocol::clock::Clock;
use protocol::messages::Pull;
use protocol::problem::Code;
use relay::Error;
use relay::aws::Clients;
use relay::config::{Deployment, RegisterConfig, Resources, Settings, environment, verify_access};
use relay::logging;
use relay::register::{BODY_LIMIT, Register};
use relay::table::Table;
use relay::worker::Worker;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Responses of at least this many bytes are compressed for clients that accept it, because Lambda limits their size.
const COMPRESS_FROM_BYTES: usize = 1024;

/// The lowest level that also codes text without repetitions, since a body of random letters has to fit, too.
const COMPRESSION: Compression = Compression::new(3);

/// The largest body in a function's payload (the quota of 6 MB on a response, Lambda Developer Guide, "Lambda quotas"), less
/// what surrounds it.
const PAYLOAD_LIMIT: usize = 6 * 1024 * 1024 - 4096;

/// The settings that this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Deployment, RegisterConfig) {
    (Deployment::read(settings), RegisterConfig::read(settings))
}

/// Runs the function on Lambda, with the settings in the environment, until the process ends.
pub async fn run(clock: Clock) -> ExitCode {
    let mut settings = Settings::new(&environment);
    let (deployment, config) = config(&mut settings);
    logging::json();
    let serve = async {
        let (deployment, config) = settings.finish((deployment, config))?;
        let clients = Clients::new(&deployment.aws);
        let register = start(clients, deployment.resources, config, clock).await?;
        lambda_http::run(service_fn(|request: Request| handle(&register, request))).await
    };
    logging::exit_code(serve.await)
}

/// Wires the function and verifies that its resources are accessible.
///
/// # Errors
///
/// A resource is not accessible, or the certificate authorities of this machine cannot be read.
pub async fn start(
    clients: Clients,
    resources: Resources,
    config: RegisterConfig,
    clock: Clock,
) -> Result<Register, lambda_http::Error> {
    let table = Table::new(clients.dynamodb, resources.table, clock.clone());
    let access = table.verify_access().await.map_err(Into::into);
    verify_access([("TABLE_NAME", access)])?;
    Ok(Register::new(config, clients.network, table, clock)?)
}

/// Answers one request of a worker.
///
/// # Errors
///
/// None: an error of the relay is a response.
pub async fn handle(register: &Register, request: Request) -> Result<Response<Body>, Infallible> {
    Ok(route(register, request)
        .await
        .unwrap_or_else(Error::into_response))
}

async fn route(register: &Register, request: Request) -> Result<Response<Body>, Error> {
    let origin = register.origin_secret();
    origin.verify(request.headers())?;
    let caller = caller(&request, origin.is_behind_cloudfront());
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = (parts.uri.path().trim_start_matches('/').split('/')).collect();
    match path.as_slice() {
        ["edge", "register"] => match parts.method {
            Method::POST => {
                let registered = register.register(parse(&body)?, &caller).await?;
                json(StatusCode::CREATED, &registered)
            }
            _ => Err(Error::MethodNotAllowed { allow: "POST" }),
        },
        ["edge", "workspaces", workspace, "workers", id] => {
            if !matches!(parts.method, Method::GET | Method::PUT | Method::DELETE) {
                let allow = "GET, PUT, DELETE";
                return Err(Error::MethodNotAllowed { allow });
            }
            let worker = register.authorize(workspace, id, bearer(&parts)).await?;
            match parts.method {
                Method::PUT => json(
                    StatusCode::OK,
                    &register.renew(worker, parse(&body)?, &caller).await?,
                ),
                Method::DELETE => {
                    register.remove(worker).await?;
                    let mut response = Response::new(Body::Empty);
                    *response.status_mut() = StatusCode::NO_CONTENT;
                    Ok(response)
                }
                _ => json(StatusCode::OK, &register.read(worker).await?),
            }
        }
        ["edge", "workspaces", workspace, "workers", id, "mailbox"] => {
            if parts.method != Method::POST {
                return Err(Error::MethodNotAllowed { allow: "POST" });
            }
            let worker = register.authorize(workspace, id, bearer(&parts)).await?;
            pull(register, worker, parse(&body)?, &parts).await
        }
        _ => Err(Error::not_found()),
    }
}

/// The caller as the gateway sees it, or as CloudFront does in front of it: an IPv4 address, or the /64 of an IPv6 address,
/// since a caller has all of it.
fn caller(request: &Request, is_behind_cloudfront: bool) -> String {
    let source = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.as_deref(),
        _ => None,
    };
    let viewer = is_behind_cloudfront.then(|| viewer(request)).flatten();
    match viewer.or_else(|| source?.parse().ok()) {
        Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let [a, b, c, d, ..] = v6.segments();
            format!("ip-{a:x}:{b:x}:{c:x}:{d:x}")
        }
        Some(ip) => format!("ip-{}", ip.to_canonical()),
        None => "ip-unknown".to_owned(),
    }
}

/// The client of CloudFront: its address, a colon and its port. CloudFront replaces what the client sends in this header
/// (CloudFront developer guide, "Add CloudFront request headers").
fn viewer(request: &Request) -> Option<IpAddr> {
    let value = request.headers().get("cloudfront-viewer-address")?;
    let (address, _port) = value.to_str().ok()?.rsplit_once(':')?;
    address.trim_matches(['[', ']']).parse().ok()
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Parses a request. The parser's message is not passed on, because it may quote a token.
fn parse<T: DeserializeOwned>(body: &Body) -> Result<T, Error> {
    if body.len() > BODY_LIMIT {
        return Err(Error::body_too_large(BODY_LIMIT));
    }
    let invalid = |detail: String| Error::refused(Code::InvalidRequest, detail);
    let parsed = serde_json::from_slice(body).map_err(|error| {
        let wrong = if error.is_data() {
            "a field of the body has a wrong type"
        } else {
            "the body is not JSON"
        };
        let (line, column) = (error.line(), error.column());
        invalid(format!("{wrong} (line {line}, column {column})"))
    })?;
    // serde reads an array as an object whose fields have no names.
    if body.trim_ascii_start().starts_with(b"[") {
        let wrong = "the body has a wrong type: it has to be a JSON object";
        return Err(invalid(wrong.to_owned()));
    }
    Ok(parsed)
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Error> {
    let body = serde_json::to_string(value).map_err(|e| Error::Internal {
        operation: "write the response",
        source: e.into(),
    })?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Answers with as many events as fit into a response. An event that fits into none by itself is set aside, so that it does
/// not block what is behind it.
async fn pull(
    register: &Register,
    worker: Worker,
    mut request: Pull,
    parts: &Parts,
) -> Result<Response<Body>, Error> {
    let asked = request.limit;
    loop {
        let mailbox = register.pull(worker.clone(), &request).await?;
        let response = smallest(parts, json(StatusCode::OK, &mailbox)?)?;
        if payload_length(response.body()) <= PAYLOAD_LIMIT {
            return Ok(response);
        }
        match mailbox.events.as_slice() {
            [] => return Ok(response),
            [event] => {
                register.set_aside(&worker, event).await?;
                request.limit = asked;
            }
            events => request.limit = u32::try_from(events.len() / 2).ok(),
        }
        request.ack.clear();
    }
}

/// How many bytes a body takes in the payload of the function, which is JSON: a text with escapes, or base64.
fn payload_length(body: &[u8]) -> usize {
    match std::str::from_utf8(body) {
        Ok(text) => text.bytes().map(escaped_length).sum(),
        Err(_) => body.len().div_ceil(3) * 4,
    }
}

fn escaped_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// The response compressed, if the client takes that and the payload is smaller so.
fn smallest(parts: &Parts, response: Response<Body>) -> Result<Response<Body>, Error> {
    let takes_gzip = (parts.headers.get_all(header::ACCEPT_ENCODING).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim() == "gzip");
    if !takes_gzip || response.body().len() < COMPRESS_FROM_BYTES {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), COMPRESSION);
    let packed = (encoder.write_all(&body))
        .and_then(|()| encoder.finish())
        .map_err(|e| Error::Internal {
            operation: "compress the response",
            source: e.into(),
        })?;
    if payload_length(&body) <= packed.len().div_ceil(3) * 4 {
        return Ok(Response::from_parts(parts, body));
    }
    let gzip = HeaderValue::from_static("gzip");
    parts.headers.insert(header::CONTENT_ENCODING, gzip);
    Ok(Response::from_parts(parts, Body::Binary(packed)))
}
