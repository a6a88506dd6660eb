//! `POST /webhooks/linear`: the gateway's request in, [`Ingest::accept`], the gateway's answer out.

use std::convert::Infallible;

use futures::join;
use lambda_http::http::{HeaderValue, Method, header};
use lambda_http::{Body, Request, Response};
use relay::Error;
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{ConfigError, IngestConfig, Places, Settings, Uses, usable};
use relay::headers::{LINEAR_DELIVERY, LINEAR_SIGNATURE};
use relay::ingest::{Ingest, Webhook};
use relay::linear::secrets::Secrets;
use relay::queue::Queue;
use relay::table::Table;

/// What this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Places, IngestConfig) {
    let uses = Uses {
        queue: true,
        webhook_secrets: true,
        ..Uses::default()
    };
    (Places::read(settings, uses), IngestConfig::read(settings))
}

/// Everything that a webhook needs, once it is known to be usable.
pub async fn start(places: Places, config: IngestConfig) -> Result<Ingest, lambda_http::Error> {
    let clients = Clients::new(&places.aws);
    let clock = Clock::system();
    let secrets = Secrets::new(clients.secrets, places.webhook_secrets, clock.clone());
    let table = Table::new(clients.dynamodb, places.table, clock.clone());
    let queue = Queue::new(clients.sqs, places.queue);
    check(&secrets, &table, &queue).await?;
    Ok(Ingest::new(config, secrets, table, queue, clock))
}

/// Whether everything can be used; the secrets are known afterwards.
pub async fn check(secrets: &Secrets, table: &Table, queue: &Queue) -> Result<(), ConfigError> {
    let (secrets, table, queue) = join!(secrets.read(), table.check(), queue.check());
    usable([
        ("LINEAR_WEBHOOK_SECRET_ID", secrets),
        ("TABLE_NAME", table),
        ("QUEUE_URL", queue),
    ])
}

/// Answers one webhook.
pub async fn handle(ingest: &Ingest, request: Request) -> Result<Response<Body>, Infallible> {
    Ok(answer(ingest, request)
        .await
        .unwrap_or_else(Error::into_response))
}

async fn answer(ingest: &Ingest, request: Request) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return Err(Error::method_not_allowed("POST"));
    }
    // A header that is given twice is as good as none: nobody can tell which one counts.
    let only = |name: &str| {
        let mut values = parts.headers.get_all(name).iter();
        values
            .next()
            .filter(|_| values.next().is_none())?
            .to_str()
            .ok()
    };
    let webhook = Webhook {
        signature: only(LINEAR_SIGNATURE),
        delivery: only(LINEAR_DELIVERY),
        body: match body {
            Body::Text(text) => text.into(),
            Body::Binary(bytes) => bytes.into(),
            _ => Vec::new().into(),
        },
    };
    let accepted = ingest.accept(webhook).await?;
    let body = serde_json::to_string(&accepted).expect("an answer is text and numbers");
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
