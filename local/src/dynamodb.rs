//! DynamoDB for one machine: `dynoxide`, with SQLite inside, and the relay's one table in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use dynoxide::storage_backend::Clock as DynoxideClock;
use dynoxide::{Database, DynoxideError};
use relay::clock::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::loopback::own_clients_only;

/// The one table's name.
pub const TABLE: &str = "edge-relay";

const TARGET: &str = "DynamoDB_20120810.";
/// How often expired items are deleted.
const SWEEP: Duration = Duration::from_secs(60);

struct Time(Clock);

impl DynoxideClock for Time {
    fn now_unix_secs(&self) -> u64 {
        u64::try_from(self.0.seconds()).unwrap_or_default()
    }

    fn now_unix_secs_f64(&self) -> f64 {
        Duration::from_millis(u64::try_from(self.0.millis()).unwrap_or_default()).as_secs_f64()
    }
}

/// Opens the database in `file`, or in memory, and creates the table if it is not there.
pub(crate) fn open(file: Option<&Path>, clock: Clock) -> anyhow::Result<Database> {
    let database = match file {
        Some(file) => {
            let path = file
                .to_str()
                .context("the data directory's path is not UTF-8")?;
            Database::new(path).with_context(|| format!("cannot open the table in `{path}`"))?
        }
        None => Database::memory_with_clock(Arc::new(Time(clock)))
            .context("cannot open a database in memory")?,
    };
    let create = json!({
        "TableName": TABLE,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
        ],
        "KeySchema": [
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
    });
    match database.create_table(serde_json::from_value(create)?) {
        Ok(_) | Err(DynoxideError::ResourceInUseException(_)) => {}
        Err(error) => return Err(error).context("cannot create the table"),
    }
    let ttl = json!({
        "TableName": TABLE,
        "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "expires_at"},
    });
    match database.update_time_to_live(serde_json::from_value(ttl)?) {
        // It refuses to enable what is enabled.
        Ok(_) | Err(DynoxideError::ValidationException(_)) => {}
        Err(error) => return Err(error).context("cannot set the table's time to live"),
    }
    Ok(database)
}

/// Deletes expired items from time to time, for as long as the task lives.
pub(crate) async fn sweep(database: Database) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let database = database.clone();
        let swept = tokio::task::spawn_blocking(move || database.sweep_ttl()).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "expired items could not be deleted");
        }
    }
}

/// The router of the loopback endpoint.
pub(crate) fn router(database: Database) -> axum::Router {
    axum::Router::new()
        .fallback(over_http)
        .layer(axum::extract::DefaultBodyLimit::max(16 * 1024 * 1024))
        .layer(axum::middleware::from_fn(own_clients_only))
        .with_state(database)
}

async fn over_http(
    State(database): State<Database>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let target = headers
        .get("x-amz-target")
        .and_then(|value| value.to_str().ok());
    answer(&database, target.unwrap_or_default(), &body).map(Body::from)
}

/// Answers one call of the SDK in process: the wire format stays, the socket goes.
pub(crate) fn answer(database: &Database, target: &str, body: &[u8]) -> Response<Vec<u8>> {
    let action = target.strip_prefix(TARGET).unwrap_or_default();
    let (status, body) = match act(database, action, body) {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (
            StatusCode::from_u16(error.status_code()).unwrap_or(StatusCode::BAD_REQUEST),
            error.to_json().into_bytes(),
        ),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/x-amz-json-1.0");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn act(database: &Database, action: &str, body: &[u8]) -> Result<Vec<u8>, DynoxideError> {
    match action {
        "ListTables" => write(&database.list_tables(read(body)?)?),
        "DescribeTable" => write(&database.describe_table(read(body)?)?),
        "GetItem" => write(&database.get_item(read(body)?)?),
        "PutItem" => write(&database.put_item(read(body)?)?),
        "UpdateItem" => write(&database.update_item(read(body)?)?),
        "DeleteItem" => write(&database.delete_item(read(body)?)?),
        "Query" => write(&database.query(read(body)?)?),
        "Scan" => write(&database.scan(read(body)?)?),
        "BatchGetItem" => write(&database.batch_get_item(read(body)?)?),
        "BatchWriteItem" => write(&database.batch_write_item(read(body)?)?),
        "TransactWriteItems" => write(&database.transact_write_items(read(body)?)?),
        _ => Err(DynoxideError::ValidationException(format!(
            "the action `{action}` is not kept here"
        ))),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, DynoxideError> {
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let text = text.strip_prefix("VALIDATION:").unwrap_or(&text);
        DynoxideError::ValidationException(text.to_owned())
    })
}

fn write(answer: &impl Serialize) -> Result<Vec<u8>, DynoxideError> {
    serde_json::to_vec(answer).map_err(|e| DynoxideError::InternalServerError(e.to_string()))
}
