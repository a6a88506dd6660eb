//! DynamoDB for one machine: `dynoxide`, with SQLite inside, and the relay's one table in it.

#[cfg(test)]
mod fuzz;
mod recent;
mod sweep;
mod tokens;
mod writer;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::http::{HeaderValue, Response, StatusCode, header};
use dynoxide::actions::scan::ScanRequest;
use dynoxide::actions::transact_write_items::TransactWriteItemsRequest;
use dynoxide::storage_backend::Clock as DynoxideClock;
use dynoxide::{Database, DynoxideError};
use protocol::clock::Clock;
use relay::table::{INDEX, PROJECTED, SHARD};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::stored;
use recent::Recent;
use tokens::Tokens;
use writer::Writer;

/// The one table's name.
pub const TABLE: &str = "edge-relay";

pub(crate) const TARGET: &str = "DynamoDB_20120810.";
/// How many items are read at once when all are.
const AT_ONCE: usize = 256;

struct Time(Clock);

impl DynoxideClock for Time {
    fn now_unix_secs(&self) -> u64 {
        u64::try_from(self.0.seconds()).unwrap_or_default()
    }

    fn now_unix_secs_f64(&self) -> f64 {
        Duration::from_millis(u64::try_from(self.0.millis()).unwrap_or_default()).as_secs_f64()
    }
}

/// The database. Clones are the same one.
#[derive(Clone)]
pub(crate) struct DynamoDb {
    changes: Changes,
    /// In a file a second connection, so that reads do not wait for commits. SQLite shows a read all that was committed
    /// before it began, which makes it consistent as DynamoDB defines that.
    reads: Database,
    /// In a file, the one that writes it.
    writer: Option<Writer>,
}

/// What changes the table. Clones change the same one.
#[derive(Clone)]
struct Changes {
    database: Database,
    /// What was read, until it changes.
    recent: Recent,
    tokens: Tokens,
}

impl DynamoDb {
    /// Opens the database in `file`, or in memory, and creates the table if it is not there.
    pub(crate) fn open(file: Option<&Path>, clock: Clock) -> anyhow::Result<Self> {
        let Some(file) = file else {
            let database = Database::memory_with_clock(Arc::new(Time(clock)))
                .context("cannot open a database in memory")?;
            create(&database)?;
            return Ok(Self {
                reads: database.clone(),
                changes: Changes::of(database),
                writer: None,
            });
        };
        let path = file
            .to_str()
            .context("the data directory's path is not UTF-8")?;
        stored::check(file)?;
        let tidied = stored::open(file).with_context(|| format!("cannot open `{path}`"))?;
        let open =
            || Database::new(path).with_context(|| format!("cannot open the table in `{path}`"));
        let writes = open()?;
        create(&writes)?;
        read_all(&writes).with_context(|| stored::damaged(file))?;
        // Commits do not wait for the disk: the writer does.
        writes.disable_bulk_loading()?;
        let log = File::open(format!("{path}-wal")).context("the table's file has no log")?;
        let changes = Changes::of(writes);
        let writer = Writer::start(changes.clone(), move || log.sync_data(), tidied)?;
        Ok(Self {
            reads: open()?,
            changes,
            writer: Some(writer),
        })
    }

    /// Answers one call.
    pub(crate) async fn answer(&self, target: &str, body: &[u8]) -> Response<Vec<u8>> {
        let action = target.strip_prefix(TARGET).unwrap_or_default();
        if matches!(action, "GetItem" | "BatchGetItem" | "Query" | "Scan") {
            let (answer, begun) = self.read(action, body);
            if let Some(writer) = &self.writer {
                writer.synced(begun).await;
            }
            return answer;
        }
        let Some(writer) = &self.writer else {
            return self.changes.carry_out(action, body);
        };
        (writer.call(action, body).await).expect("the embedded DynamoDB does not panic")
    }

    /// Answers a read. Also returns how many changes its answer may show.
    fn read(&self, action: &str, body: &[u8]) -> (Response<Vec<u8>>, u64) {
        let kept = match action {
            "BatchGetItem" => self.read_batch(body),
            "Query" => self.read_partition(body),
            _ => None,
        };
        kept.unwrap_or_else(|| self.read_stored(action, body))
    }

    fn read_stored(&self, action: &str, body: &[u8]) -> (Response<Vec<u8>>, u64) {
        let answer = answered(act(&self.reads, action, body));
        (answer, self.writer.as_ref().map_or(0, Writer::begun))
    }

    /// Answers a `Query` as it was answered last. None if only DynamoDB can answer it.
    fn read_partition(&self, body: &[u8]) -> Option<(Response<Vec<u8>>, u64)> {
        let querying = self.changes.recent.query(body)?;
        if let Some((answer, begun)) = querying.answer() {
            return Some((response(StatusCode::OK, answer), begun));
        }
        let (answer, begun) = self.read_stored("Query", body);
        if answer.status() == StatusCode::OK {
            querying.keep(&self.changes.recent, answer.body(), begun);
        }
        Some((answer, begun))
    }

    /// Answers a `BatchGetItem` from the items that were read last, as far as they are there. None if only DynamoDB can answer it.
    fn read_batch(&self, body: &[u8]) -> Option<(Response<Vec<u8>>, u64)> {
        let mut reading = self.changes.recent.read(body)?;
        if let Some(rest) = reading.rest() {
            let (answer, begun) = self.read_stored("BatchGetItem", &rest);
            if answer.status() != StatusCode::OK {
                return Some((answer, begun));
            }
            reading.add(&self.changes.recent, answer.body(), begun)?;
        }
        let (answer, begun) = reading.answer();
        Some((response(StatusCode::OK, answer), begun))
    }
}

impl Changes {
    fn of(database: Database) -> Self {
        Self {
            database,
            recent: Recent::default(),
            tokens: Tokens::default(),
        }
    }

    /// Answers a call that may change the table.
    fn carry_out(&self, action: &str, body: &[u8]) -> Response<Vec<u8>> {
        let _changing = self.recent.changing(body);
        answered(match action {
            "TransactWriteItems" => self.transact(body),
            _ => act(&self.database, action, body),
        })
    }

    fn transact(&self, body: &[u8]) -> Result<Vec<u8>, DynoxideError> {
        let mut request: TransactWriteItemsRequest = read(body)?;
        let token = request.client_request_token.take();
        let carry_out = || write(&self.database.transact_write_items(request)?);
        match token {
            Some(token) => self.tokens.once(token, body, Instant::now(), carry_out),
            None => carry_out(),
        }
    }
}

/// Reads all items: an item whose bytes have changed on the disk would be an error whenever it is used.
fn read_all(database: &Database) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let page = ScanRequest {
            table_name: TABLE.to_owned(),
            exclusive_start_key: last,
            // Without it, dynoxide reads all that is left for each page.
            limit: Some(AT_ONCE),
            ..ScanRequest::default()
        };
        last = database.scan(page)?.last_evaluated_key;
        if last.is_none() {
            return Ok(());
        }
    }
}

fn create(database: &Database) -> anyhow::Result<()> {
    let index = json!({
        "IndexName": INDEX,
        "KeySchema": [{"AttributeName": SHARD, "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": PROJECTED},
    });
    let create = json!({
        "TableName": TABLE,
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
            {"AttributeName": SHARD, "AttributeType": "S"},
        ],
        "GlobalSecondaryIndexes": [&index],
        "KeySchema": [
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ],
    });
    match database.create_table(serde_json::from_value(create)?) {
        Ok(_) => {}
        Err(DynoxideError::ResourceInUseException(_)) => add_index(database, &index)?,
        Err(error) => return Err(error).context("cannot create the table"),
    }
    let ttl = json!({
        "TableName": TABLE,
        "TimeToLiveSpecification": {"Enabled": true, "AttributeName": "expires_at"},
    });
    match database.update_time_to_live(serde_json::from_value(ttl)?) {
        // DynamoDB refuses to enable a time to live that is enabled.
        Ok(_) | Err(DynoxideError::ValidationException(_)) => {}
        Err(error) => return Err(error).context("cannot set the table's time to live"),
    }
    Ok(())
}

/// Adds the index to the table of an earlier version.
fn add_index(database: &Database, index: &Value) -> anyhow::Result<()> {
    let table = database.describe_table(serde_json::from_value(json!({"TableName": TABLE}))?)?;
    let table = serde_json::to_value(table)?;
    let indexes = table["Table"]["GlobalSecondaryIndexes"].as_array();
    if indexes.is_some_and(|all| all.iter().any(|one| one["IndexName"] == INDEX)) {
        return Ok(());
    }
    let update = json!({
        "TableName": TABLE,
        "AttributeDefinitions": [
            {"AttributeName": "pk", "AttributeType": "S"},
            {"AttributeName": "sk", "AttributeType": "S"},
            {"AttributeName": SHARD, "AttributeType": "S"},
        ],
        "GlobalSecondaryIndexUpdates": [{"Create": index}],
    });
    database
        .update_table(serde_json::from_value(update)?)
        .map(drop)
        .context("cannot add the table's index")
}

fn answered(result: Result<Vec<u8>, DynoxideError>) -> Response<Vec<u8>> {
    match result {
        Ok(body) => response(StatusCode::OK, body),
        Err(error) => {
            let status = StatusCode::from_u16(error.status_code());
            let body = error.to_json().into_bytes();
            response(status.unwrap_or(StatusCode::BAD_REQUEST), body)
        }
    }
}

fn response(status: StatusCode, body: Vec<u8>) -> Response<Vec<u8>> {
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
        _ => Err(DynoxideError::ValidationException(format!(
            "the action `{action}` is not supported here"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pages_of_a_table_are_read() {
        let database = DynamoDb::open(None, Clock::system())
            .unwrap()
            .changes
            .database;
        let text = "x".repeat(300_000);
        // A page of a scan has at most 1 MB.
        for at in 0..5 {
            let item = json!({"pk": {"S": at.to_string()}, "sk": {"S": "s"}, "text": {"S": text}});
            let put = json!({"TableName": TABLE, "Item": item}).to_string();
            act(&database, "PutItem", put.as_bytes()).unwrap();
        }
        read_all(&database).unwrap();
    }
}
