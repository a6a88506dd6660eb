//! `/edge/…`: the gateway's request in, a verb of [`Register`], the gateway's answer out.

use std::convert::Infallible;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use lambda_http::http::request::Parts;
use lambda_http::http::{HeaderValue, Method, StatusCode, header};
use lambda_http::request::RequestContext;
use lambda_http::{Body, Request, RequestExt as _, Response};
use relay::Error;
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{ConfigError, Places, RegisterConfig, Settings, Uses, usable};
use relay::register::{BODY_LIMIT, Register};
use relay::table::Table;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Answers from this size on are compressed for those who take it: Lambda limits an answer's size.
const COMPRESS_FROM: usize = 1024;

/// The lowest level that codes what does not repeat too: a body of random letters has to fit as well.
const COMPRESSION: Compression = Compression::new(3);

/// What this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Places, RegisterConfig) {
    (
        Places::read(settings, Uses::default()),
        RegisterConfig::read(settings),
    )
}

/// Everything that a request needs, once it is known to be usable.
pub async fn start(places: Places, config: RegisterConfig) -> Result<Register, lambda_http::Error> {
    let clients = Clients::new(&places.aws);
    let clock = Clock::system();
    let table = Table::new(clients.dynamodb, places.table, clock.clone());
    check(&table).await?;
    Ok(Register::new(config, table, clock)?)
}

/// Whether everything can be used.
pub async fn check(table: &Table) -> Result<(), ConfigError> {
    usable([("TABLE_NAME", table.check().await)])
}

/// Answers one request of a worker.
pub async fn handle(register: &Register, request: Request) -> Result<Response<Body>, Infallible> {
    Ok(answer(register, request)
        .await
        .unwrap_or_else(Error::into_response))
}

async fn answer(register: &Register, request: Request) -> Result<Response<Body>, Error> {
    let caller = caller(&request);
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts
        .uri
        .path()
        .trim_start_matches('/')
        .split('/')
        .collect();
    match (path.as_slice(), &parts.method) {
        (["edge", "register"], &Method::POST) => {
            let registered = register.register(read(&body)?, &caller).await?;
            json(StatusCode::CREATED, &registered)
        }
        (["edge", "register"], _) => Err(Error::method_not_allowed("POST")),
        (["edge", "workspaces", workspace, "workers", worker], &Method::GET) => {
            let worker = register
                .authorize(workspace, worker, bearer(&parts))
                .await?;
            json(StatusCode::OK, &register.read(worker).await?)
        }
        (["edge", "workspaces", workspace, "workers", worker], &Method::PUT) => {
            let worker = register
                .authorize(workspace, worker, bearer(&parts))
                .await?;
            json(StatusCode::OK, &register.renew(worker, read(&body)?).await?)
        }
        (["edge", "workspaces", workspace, "workers", worker], &Method::DELETE) => {
            let worker = register
                .authorize(workspace, worker, bearer(&parts))
                .await?;
            register.remove(worker).await?;
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::NO_CONTENT;
            Ok(response)
        }
        (["edge", "workspaces", _, "workers", _], _) => {
            Err(Error::method_not_allowed("GET, PUT, DELETE"))
        }
        (
            [
                "edge",
                "workspaces",
                workspace,
                "workers",
                worker,
                "mailbox",
            ],
            &Method::POST,
        ) => {
            let worker = register
                .authorize(workspace, worker, bearer(&parts))
                .await?;
            let mailbox = register.pull(worker, &read(&body)?).await?;
            compressed(&parts, json(StatusCode::OK, &mailbox)?)
        }
        (["edge", "workspaces", _, "workers", _, "mailbox"], _) => {
            Err(Error::method_not_allowed("POST"))
        }
        _ => Err(Error::not_found()),
    }
}

/// Whom the gateway saw: an IPv4 address, or the /64 of an IPv6 one, since a caller has all of it.
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

fn read<T: DeserializeOwned>(body: &Body) -> Result<T, Error> {
    if body.len() > BODY_LIMIT {
        return Err(Error::too_large(BODY_LIMIT));
    }
    serde_json::from_slice(body).map_err(|error| {
        use serde_json::error::Category;
        // serde would quote a wrong value, and that may be a token: it names a missing field only.
        let text = error.to_string();
        let detail = match error.classify() {
            Category::Data if text.starts_with("missing field") => {
                format!(
                    "the body has no `{}`",
                    text.split('`').nth(1).unwrap_or_default()
                )
            }
            Category::Data => format!(
                "a field of the body has a wrong type (line {}, column {})",
                error.line(),
                error.column()
            ),
            _ => format!(
                "the body is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ),
        };
        Error::bad_request("invalid_request", detail)
    })
}

fn json(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Error> {
    let body = serde_json::to_string(value).map_err(|e| Error::storage("write the answer", e))?;
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
    if !takes_gzip || response.body().len() < COMPRESS_FROM {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), COMPRESSION);
    let packed = (encoder.write_all(&body))
        .and_then(|()| encoder.finish())
        .map_err(|e| Error::storage("compress the answer", e))?;
    let gzip = HeaderValue::from_static("gzip");
    parts.headers.insert(header::CONTENT_ENCODING, gzip);
    Ok(Response::from_parts(parts, Body::Binary(packed)))
}
