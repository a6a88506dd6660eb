//! `/edge/…`: translates the gateway's request, calls a verb of [`Register`], and translates its result.

use std::convert::Infallible;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use lambda_http::http::request::Parts;
use lambda_http::http::{HeaderValue, Method, StatusCode, header};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt as _, Response};
use protocol::clock::Clock;
use protocol::problem::Code;
use relay::Error;
use relay::aws::Clients;
use relay::config::{Deployment, RegisterConfig, Resources, Settings, verify_access};
use relay::register::{BODY_LIMIT, Register};
use relay::table::Table;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Responses of at least this many bytes are compressed for clients that accept it, because Lambda limits their size.
const COMPRESS_FROM_BYTES: usize = 1024;

/// The lowest level that also codes text without repetitions, since a body of random letters has to fit, too.
const COMPRESSION: Compression = Compression::new(3);

/// The settings that this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Deployment, RegisterConfig) {
    (Deployment::read(settings), RegisterConfig::read(settings))
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
    Ok(Register::new(config, table, clock)?)
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
    let caller = caller(&request);
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
                    &register.renew(worker, parse(&body)?).await?,
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
            let mailbox = register.pull(worker, &parse(&body)?).await?;
            compressed(&parts, json(StatusCode::OK, &mailbox)?)
        }
        _ => Err(Error::not_found()),
    }
}

/// The caller as the gateway sees it: an IPv4 address, or the /64 of an IPv6 address, since a caller has all of it.
fn caller(request: &Request) -> String {
    let source = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context.http.source_ip.clone(),
        _ => None,
    };
    match source.and_then(|ip| ip.parse::<std::net::IpAddr>().ok()) {
        Some(std::net::IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let [a, b, c, d, ..] = v6.segments();
            format!("ip-{a:x}:{b:x}:{c:x}:{d:x}")
        }
        Some(ip) => format!("ip-{}", ip.to_canonical()),
        None => "ip-unknown".to_owned(),
    }
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

fn compressed(parts: &Parts, response: Response<Body>) -> Result<Response<Body>, Error> {
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
    let gzip = HeaderValue::from_static("gzip");
    parts.headers.insert(header::CONTENT_ENCODING, gzip);
    Ok(Response::from_parts(parts, Body::Binary(packed)))
}
