//! A sender on one machine: every delivery is committed to SQLite before the webhook is answered, then signed and
//! POSTed, then deleted; what is left is sent when it starts again.
//!
//! The honest peer: as durable as the relay on one machine, without its queue, order, retries and mailboxes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use protocol::clock::Clock;
use protocol::headers::{LINEAR_DELIVERY, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use protocol::signature::{Secret, sign};
use rusqlite::Connection;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::adapter::{Processes, Receivers};

/// POSTs under way at once.
const SIDE_BY_SIDE: usize = 512;
/// What is written in one transaction at most.
const GROUP: usize = 256;

/// One delivery.
#[derive(Clone)]
struct Delivery {
    row: i64,
    event: Arc<str>,
    body: Bytes,
    url: Arc<str>,
}

enum Change {
    Accept {
        event: String,
        body: Bytes,
        urls: Vec<Arc<str>>,
        committed: oneshot::Sender<()>,
    },
    Done(i64),
}

#[derive(Clone)]
struct Outbox {
    urls: Arc<Mutex<Vec<Arc<str>>>>,
    changes: mpsc::UnboundedSender<Change>,
}

pub(crate) fn router(file: &Path) -> anyhow::Result<Router> {
    let (changes, to_write) = mpsc::unbounded_channel();
    let sender = Sender {
        client: reqwest::Client::builder().no_proxy().build()?,
        secret: Secret::generate(),
        free: Arc::new(Semaphore::new(SIDE_BY_SIDE)),
        changes: changes.clone(),
        runtime: Handle::current(),
    };
    let mut database = open(file)?;
    for left in left(&database)? {
        sender.send(left);
    }
    std::thread::spawn(move || {
        if let Err(error) = write(&mut database, to_write, &sender) {
            eprintln!("the outbox cannot write: {error}");
            std::process::exit(1);
        }
    });
    let outbox = Outbox {
        urls: Arc::default(),
        changes,
    };
    Ok(Router::new()
        .route("/workers", post(register))
        .route("/webhooks/linear", post(webhook))
        // The contract of adapters: so `bench compare` can be tried without another sender.
        .route("/receivers", put(replace))
        .route("/events", post(webhook))
        .route("/process", get(process))
        .layer(DefaultBodyLimit::max(relay::event::MAX_BODY_BYTES))
        .with_state(outbox))
}

impl Outbox {
    fn urls(&self) -> std::sync::MutexGuard<'_, Vec<Arc<str>>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn register(State(outbox): State<Outbox>, url: String) -> StatusCode {
    outbox.urls().push(url.into());
    StatusCode::CREATED
}

async fn replace(State(outbox): State<Outbox>, Json(receivers): Json<Receivers>) -> StatusCode {
    *outbox.urls() = receivers.urls.into_iter().map(Into::into).collect();
    StatusCode::NO_CONTENT
}

async fn process() -> Json<Processes> {
    Json(Processes {
        pids: vec![std::process::id()],
    })
}

async fn webhook(State(outbox): State<Outbox>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let Some(event) = super::checked(&headers, &body) else {
        return StatusCode::UNAUTHORIZED;
    };
    let (committed, is_committed) = oneshot::channel();
    let accept = Change::Accept {
        event: event.to_owned(),
        body,
        urls: outbox.urls().clone(),
        committed,
    };
    let sent = outbox.changes.send(accept).is_ok();
    if sent && is_committed.await.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

fn open(file: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(file)?;
    database.pragma_update(None, "journal_mode", "wal")?;
    database.pragma_update(None, "synchronous", "full")?;
    database.execute_batch(
        "CREATE TABLE IF NOT EXISTS body (event TEXT PRIMARY KEY, body BLOB NOT NULL, left INTEGER NOT NULL);
         CREATE TABLE IF NOT EXISTS delivery (row INTEGER PRIMARY KEY, event TEXT NOT NULL, url TEXT NOT NULL);",
    )?;
    Ok(database)
}

fn left(database: &Connection) -> rusqlite::Result<Vec<Delivery>> {
    let mut query =
        database.prepare("SELECT row, event, url, body FROM delivery JOIN body USING (event)")?;
    let rows = query.query_map([], |row| {
        Ok(Delivery {
            row: row.get(0)?,
            event: row.get::<_, String>(1)?.into(),
            url: row.get::<_, String>(2)?.into(),
            body: row.get::<_, Vec<u8>>(3)?.into(),
        })
    })?;
    rows.collect()
}

/// Writes what has come meanwhile in one transaction; then answers for it, and sends it.
fn write(
    database: &mut Connection,
    mut changes: mpsc::UnboundedReceiver<Change>,
    sender: &Sender,
) -> rusqlite::Result<()> {
    let mut group = Vec::new();
    while changes.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut accepted = Vec::new();
        let mut committed = Vec::new();
        let mut done: HashMap<String, i64> = HashMap::new();
        let transaction = database.transaction()?;
        for change in group.drain(..) {
            match change {
                Change::Accept {
                    event,
                    body,
                    urls,
                    committed: answer,
                } => {
                    transaction
                        .prepare_cached("INSERT OR IGNORE INTO body VALUES (?1, ?2, ?3)")?
                        .execute((&event, &body[..], urls.len()))?;
                    let event: Arc<str> = event.into();
                    let mut insert = transaction
                        .prepare_cached("INSERT INTO delivery (event, url) VALUES (?1, ?2)")?;
                    for url in urls {
                        accepted.push(Delivery {
                            row: insert.insert((&*event, &*url))?,
                            event: Arc::clone(&event),
                            body: body.clone(),
                            url,
                        });
                    }
                    committed.push(answer);
                }
                Change::Done(row) => {
                    let event = transaction
                        .prepare_cached("DELETE FROM delivery WHERE row = ?1 RETURNING event")?
                        .query_row([row], |row| row.get(0))?;
                    *done.entry(event).or_default() += 1;
                }
            }
        }
        for (event, count) in done {
            let left: i64 = transaction
                .prepare_cached("UPDATE body SET left = left - ?2 WHERE event = ?1 RETURNING left")?
                .query_row((&event, count), |row| row.get(0))?;
            if left == 0 {
                transaction
                    .prepare_cached("DELETE FROM body WHERE event = ?1")?
                    .execute([&event])?;
            }
        }
        transaction.commit()?;
        for answer in committed {
            let _ = answer.send(());
        }
        for delivery in accepted {
            sender.send(delivery);
        }
    }
    Ok(())
}

/// POSTs deliveries.
#[derive(Clone)]
struct Sender {
    client: reqwest::Client,
    secret: Secret,
    free: Arc<Semaphore>,
    changes: mpsc::UnboundedSender<Change>,
    runtime: Handle,
}

impl Sender {
    fn send(&self, delivery: Delivery) {
        let sender = self.clone();
        self.runtime.spawn(async move {
            let Ok(_free) = sender.free.acquire().await else {
                return;
            };
            let id = format!("evt_{}", delivery.event);
            let now = Clock::system().seconds();
            let signature = sign(
                std::slice::from_ref(&sender.secret),
                &id,
                now,
                &delivery.body,
            );
            let answer = sender
                .client
                .post(&*delivery.url)
                .header("content-type", "application/json; charset=utf-8")
                .header(LINEAR_DELIVERY, &*delivery.event)
                .header(WEBHOOK_ID, id)
                .header(WEBHOOK_TIMESTAMP, now)
                .header(WEBHOOK_SIGNATURE, signature)
                .body(delivery.body)
                .send()
                .await;
            match answer.and_then(reqwest::Response::error_for_status) {
                Ok(_) => {
                    let _ = sender.changes.send(Change::Done(delivery.row));
                }
                Err(error) => eprintln!("a delivery stays until the next start: {error}"),
            }
        });
    }
}
