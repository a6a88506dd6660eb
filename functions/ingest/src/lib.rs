//! `POST /webhooks/linear`: translates the gateway's request, calls [`Ingest::accept`], and translates its result.

use std::convert::Infallible;
use std::process::ExitCode;

use futures::join;
use lambda_http::http::{HeaderValue, Method, header};
use lambda_http::{Body, Request, Response, service_fn};
use protocol::clock::Clock;
use protocol::headers::{LINEAR_DELIVERY, LINEAR_SIGNATURE};
use relay::Error;
use relay::aws::Clients;
use relay::config::{
    ConfigError, Deployment, IngestConfig, Resources, Settings, environment, verify_access,
};
use relay::ingest::{Ingest, Webhook};
use relay::linear::secrets::Secrets;
use relay::logging;
use relay::queue::Queue;
use relay::table::Table;

/// The settings that this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Deployment, IngestConfig) {
    let deployment = Deployment::read(settings)
        .with_queue(settings)
        .with_webhook_secrets(settings);
    (deployment, IngestConfig::read(settings))
}

/// Runs the function on Lambda, with the settings in the environment, until the process ends.
pub async fn run(clock: Clock) -> ExitCode {
    let mut settings = Settings::new(&environment);
    let (deployment, config) = config(&mut settings);
    logging::json();
    let serve = async {
        let (deployment, config) = settings.finish((deployment, config))?;
        let clients = Clients::new(&deployment.aws);
        let ingest = start(clients, deployment.resources, config, clock).await?;
        lambda_http::run(service_fn(|request: Request| handle(&ingest, request))).await
    };
    logging::exit_code(serve.await)
}

/// Wires the function and verifies that its resources are accessible.
///
/// # Errors
///
/// The resources that are not accessible.
pub async fn start(
    clients: Clients,
    resources: Resources,
    config: IngestConfig,
    clock: Clock,
) -> Result<Ingest, ConfigError> {
    let secrets = Secrets::new(clients.secrets, resources.webhook_secrets, clock.clone());
    let table = Table::new(clients.dynamodb, resources.table, clock.clone());
    let queue = Queue::new(clients.sqs, resources.queue);
    let (secrets_access, table_access, queue_access) = join!(
        secrets.verify_access(),
        table.verify_access(),
        queue.verify_access()
    );
    verify_access([
        (
            "LINEAR_WEBHOOK_SECRET_ID",
            secrets_access.map_err(Into::into),
        ),
        ("TABLE_NAME", table_access.map_err(Into::into)),
        ("QUEUE_URL", queue_access.map_err(Into::into)),
    ])?;
    let ingest = Ingest::new(config, secrets, table, queue, clock);
    ingest.mark_workspaces().await;
    Ok(ingest)
}

/// Answers one webhook.
///
/// # Errors
///
/// None: an error of the relay is a response.
pub async fn handle(ingest: &Ingest, request: Request) -> Result<Response<Body>, Infallible> {
    Ok(accept(ingest, request)
        .await
        .unwrap_or_else(Error::into_response))
}

async fn accept(ingest: &Ingest, request: Request) -> Result<Response<Body>, Error> {
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST {
        return Err(Error::MethodNotAllowed { allow: "POST" });
    }
    ingest.origin_secret().verify(&parts.headers)?;
    // A header that is given twice counts as absent, because it is not known which value is meant.
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
    let body = serde_json::to_string(&accepted).expect("a response is texts and numbers");
    let mut response = Response::new(Body::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
