//! Accepts an event from Linear and fans it out.
//!
//! Invariant: `accept` succeeds only after the application that the event names is recorded, the body is stored that the
//! messages refer to, and every message is on the queue. The marker against replays is written after that. So Linear's
//! retry completes a fan-out that was interrupted, and the queue's deduplication keeps the messages from before from being
//! sent twice.

mod groups;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{join_all, join3, try_join3};
use parking_lot::Mutex;
use protocol::clock::{Clock, UnixMillis, elapsed};
use protocol::envelope::{self, EndedAccess, is_identifier};
use protocol::problem::Code;
use serde::Serialize;
use tokio::time::Instant;
use tracing::{Instrument as _, trace_span};

use crate::access::{self, Routing};
use crate::cause::chain;
use crate::config::IngestConfig;
use crate::delivery::QUEUED_FOR;
use crate::error::Error;
use crate::event::{Event, EventId, MAX_BODY_BYTES};
use crate::linear::secrets::Secrets;
use crate::origin::OriginSecret;
use crate::queue::{Queue, Recipient};
use crate::table::{KnownBy, Route, RoutedEvent, Table, TableError};

/// The time for a webhook, from its first byte to the answer. Linear waits five seconds and tries again (Linear's
/// documentation, "Webhooks"), so an answer that comes later is none.
const BUDGET: Duration = Duration::from_millis(4500);

/// How far ahead of this clock a webhook's timestamp may be.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How long after it was recorded that a workspace is known this is recorded again.
const MARK_KNOWN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The response to a webhook.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The event's id.
    pub event: String,
    /// How many workers receive it.
    pub deliveries: usize,
    /// Whether the event was accepted before. A duplicate is not delivered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

impl Accepted {
    fn without_deliveries(event: &EventId) -> Self {
        Self {
            event: event.as_str().to_owned(),
            deliveries: 0,
            duplicate: false,
        }
    }
}

/// An event, and, if not all workers of its workspace get it, what decided that.
type Routed = (Event, Option<RoutedEvent>);

/// A webhook that Linear sent.
enum Verified {
    Event(Box<Event>),
    /// No worker can get it.
    Undeliverable(EventId),
}

/// A webhook as it was received.
#[derive(Debug, Clone)]
pub struct Webhook<'a> {
    /// `Linear-Signature`
    pub signature: Option<&'a str>,
    /// `Linear-Delivery`
    pub delivery: Option<&'a str>,
    /// The raw body.
    pub body: Bytes,
}

/// Accepts events.
#[derive(Debug, Clone)]
pub struct Ingest {
    config: IngestConfig,
    secrets: Secrets,
    table: Table,
    queue: Queue,
    clock: Clock,
    /// When this instance recorded what is known, workspaces and applications.
    known: Arc<Mutex<HashMap<String, UnixMillis>>>,
}

impl Ingest {
    /// An `Ingest` over these secrets, this table and this queue.
    pub fn new(
        config: IngestConfig,
        secrets: Secrets,
        table: Table,
        queue: Queue,
        clock: Clock,
    ) -> Self {
        Self {
            config,
            secrets,
            table,
            queue,
            clock,
            known: Arc::default(),
        }
    }

    /// Records that the workspaces are known that a webhook secret belongs to, so that their users can register before the
    /// first webhook arrives.
    pub async fn mark_workspaces(&self) {
        let workspaces = self.secrets.workspaces();
        join_all((workspaces.iter()).map(|workspace| self.mark_known(workspace, KnownBy::Secret)))
            .await;
    }

    /// What shows that a request came through CloudFront.
    pub fn origin_secret(&self) -> &OriginSecret {
        &self.config.origin_secret
    }

    /// Verifies a webhook and puts a message on the queue for every worker that wants its event.
    ///
    /// # Errors
    ///
    /// The webhook is malformed or not Linear's, or AWS failed: then Linear has to send it again.
    pub async fn accept(&self, webhook: Webhook<'_>) -> Result<Accepted, Error> {
        let deadline = Instant::now() + BUDGET;
        match tokio::time::timeout_at(deadline, self.queue_all(webhook)).await {
            Err(_) => Err(Error::OutOfTime),
            Ok(Err(error)) => Err(error),
            Ok(Ok((accepted, None))) => Ok(accepted),
            Ok(Ok((accepted, Some((event, routed))))) => {
                let known = if event.is_bound {
                    KnownBy::Secret
                } else {
                    KnownBy::Webhook
                };
                let marked = join3(
                    self.mark_accepted(&event),
                    self.mark_known(&event.workspace, known),
                    self.record_routed(&event, routed),
                );
                if tokio::time::timeout_at(deadline, marked).await.is_err() {
                    tracing::warn!(event = %event.id, "event {} was accepted without a marker: no time was left", event.id);
                }
                Ok(accepted)
            }
        }
    }

    /// Verifies a webhook and puts its messages on the queue. Returns the event, too, if it was not accepted before, and what
    /// decided who gets it.
    async fn queue_all(&self, webhook: Webhook<'_>) -> Result<(Accepted, Option<Routed>), Error> {
        let verified = self.verify(webhook).instrument(trace_span!("verify"));
        let event = match verified.await? {
            Verified::Event(event) => *event,
            Verified::Undeliverable(id) => return Ok((Accepted::without_deliveries(&id), None)),
        };
        let (is_seen, routes, ()) = try_join3(
            self.table.is_seen(&event.workspace, &event.digest),
            self.table.routes(&event.workspace),
            self.mark_application(&event),
        )
        .await?;
        let id = event.id.as_str();
        if is_seen {
            tracing::info!(
                event = id,
                workspace = event.workspace,
                Duplicate = 1,
                "event {id} was accepted before"
            );
            let duplicate = Accepted {
                duplicate: true,
                ..Accepted::without_deliveries(&event.id)
            };
            return Ok((duplicate, None));
        }
        let routes = self.revoke(&event, routes).await?;
        let routed = self.route(&event, &routes);
        let (recipients, routed) = routed.instrument(trace_span!("route")).await?;
        if !recipients.is_empty() {
            let keep = self.config.mailbox_retention + QUEUED_FOR;
            let stored = self.table.store_body(&event, recipients.len(), keep);
            let body = stored.instrument(trace_span!("pack")).await?;
            let sent = self.queue.send(&event, &body, &recipients);
            sent.instrument(trace_span!("send")).await?;
        }
        tracing::info!(
            event = id,
            workspace = event.workspace,
            r#type = event.kind,
            action = event.action,
            deliveries = recipients.len(),
            LinearLatency = (self.clock.millis() - event.sent_at).max(0),
            "accepted"
        );
        let accepted = Accepted {
            deliveries: recipients.len(),
            ..Accepted::without_deliveries(&event.id)
        };
        Ok((accepted, Some((event, routed))))
    }

    /// The workers that get an event, and, if others do not, what decided that.
    async fn route(
        &self,
        event: &Event,
        routes: &[Route],
    ) -> Result<(Vec<Recipient>, Option<RoutedEvent>), TableError> {
        let is_for_all = |recipients: &[Recipient]| {
            recipients.len() == routes.len() && recipients.iter().all(|r| !r.is_withheld)
        };
        let (recipients, routed) = {
            let routing = Routing::new(event);
            let subscribers = routes.iter().map(|r| (r.worker.as_str(), &r.subscription));
            let recipients = routing.recipients(subscribers);
            let has_groups = recipients.iter().any(|r| r.group.is_some());
            let routed = (has_groups || !is_for_all(&recipients)).then(|| routing.routed());
            (recipients, routed)
        };
        let recipients = self.one_of_each_group(event, recipients, routes).await?;
        let routed = routed
            .filter(|_| !is_for_all(&recipients))
            .map(|routed| RoutedEvent {
                groups: (recipients.iter())
                    .filter_map(|r| Some((r.group.clone()?, r.worker.clone())))
                    .collect(),
                ..routed
            });
        Ok((recipients, routed))
    }

    /// Has the workers removed whose access has ended by an event. Returns the routes of the others: who is removed does not get
    /// the event about it.
    async fn revoke(&self, event: &Event, routes: Vec<Route>) -> Result<Vec<Route>, Error> {
        let Some(ended) = &event.ended else {
            return Ok(routes);
        };
        let application = match ended {
            EndedAccess::Application(client) if is_identifier(client) => {
                self.table.application(&event.workspace, client).await?
            }
            _ => None,
        };
        // This is the time of the event, not of this attempt, which may be late: a user whose membership was checked after the
        // event keeps the workers.
        let ended_at = event.sent_at.min(self.clock.millis());
        if let Some(user) = ended
            .user()
            .or(application.as_deref())
            .filter(|id| is_identifier(id))
        {
            (self.table.record_ended(&event.workspace, user, ended_at)).await?;
        }
        // The routes are read again after the end was recorded (see `table/ended.rs`).
        let routes = self.table.routes(&event.workspace).await?;
        let (gone, others): (Vec<_>, Vec<_>) = (routes.into_iter()).partition(|route| {
            access::has_ended(&route.subscription, ended, application.as_deref())
        });
        for route in gone {
            self.queue.revoke(event, &route.worker, ended_at).await?;
        }
        Ok(others)
    }

    /// Verifies that Linear sent the webhook. Nothing is parsed before its signature is verified.
    async fn verify(&self, webhook: Webhook<'_>) -> Result<Verified, Error> {
        let Webhook {
            signature,
            delivery,
            body,
        } = webhook;
        if body.len() > MAX_BODY_BYTES {
            return Err(Error::body_too_large(MAX_BODY_BYTES));
        }
        let signature = signature.ok_or_else(|| {
            Error::refused(
                Code::SignatureMissing,
                "exactly one `Linear-Signature` header is needed",
            )
        })?;
        let signer = self.secrets.signer(&body, signature).await?.ok_or_else(|| {
            Error::refused(
                Code::SignatureInvalid,
                "`Linear-Signature` is not the hex HMAC-SHA256 of this body with a secret known here",
            )
        })?;
        let id = delivery.and_then(EventId::from_delivery).ok_or_else(|| {
            Error::refused(
                Code::DeliveryInvalid,
                "exactly one `Linear-Delivery` header is needed, 1 to 64 of A-Z a-z 0-9 _ -",
            )
        })?;
        let text = std::str::from_utf8(&body)
            .map_err(|_| Error::refused(Code::BodyNotUtf8, "the body has to be UTF-8"))?;
        let envelope = match envelope::parse(text) {
            Ok(envelope) => envelope,
            Err(error) if error.is_undeliverable() => {
                tracing::warn!(
                    event = %id,
                    reason = %error,
                    Dropped = 1,
                    "event {id} is dropped: no worker can get it"
                );
                return Ok(Verified::Undeliverable(id));
            }
            Err(error) => return Err(error.into()),
        };
        if !signer.is_valid_for(&envelope.workspace) {
            return Err(Error::refused(
                Code::WorkspaceNotSigned,
                "the secret that signed this body belongs to another workspace",
            ));
        }
        if let Some(sent_at_ms) = envelope.sent_at_ms {
            self.verify_age(sent_at_ms)?;
        }
        let (is_bound, now) = (signer.is_bound(), self.clock.millis());
        let event = Event::new(id, envelope, &body, is_bound, now);
        Ok(Verified::Event(Box::new(event)))
    }

    fn verify_age(&self, sent_at_ms: f64) -> Result<(), Error> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds since 1970 fit into 53 bits"
        )]
        let age_ms = self.clock.millis() as f64 - sent_at_ms;
        let oldest = self.config.accepted_age;
        if age_ms > oldest.as_secs_f64() * 1e3 {
            return Err(Error::refused(
                Code::TimestampTooOld,
                format!("`webhookTimestamp` is more than {} s ago", oldest.as_secs()),
            ));
        }
        if -age_ms > CLOCK_SKEW.as_secs_f64() * 1e3 {
            return Err(Error::refused(
                Code::TimestampInFuture,
                format!(
                    "`webhookTimestamp` is more than {} s in the future",
                    CLOCK_SKEW.as_secs()
                ),
            ));
        }
        Ok(())
    }

    /// Writes the marker against replays. Every message is on the queue, so a failure here is no reason for Linear to send the
    /// event again.
    async fn mark_accepted(&self, event: &Event) {
        // Longer than any age at which this body would be accepted again.
        let keep = self.config.accepted_age + 2 * CLOCK_SKEW + Duration::from_secs(3600);
        let marked = self.table.mark_seen(&event.workspace, &event.digest, keep);
        if let Err(error) = marked.await {
            tracing::warn!(
                event = %event.id,
                error = chain(&error),
                "event {} was accepted without a marker against replays",
                event.id
            );
        }
    }

    /// Records what decided who gets an event, if not all workers do.
    async fn record_routed(&self, event: &Event, routed: Option<RoutedEvent>) {
        let Some(routed) = routed else { return };
        let recorded = self
            .table
            .record_routed(&event.workspace, &event.id, &routed);
        if let Err(error) = recorded.await {
            tracing::warn!(
                event = %event.id,
                error = chain(&error),
                "who got event {} was not recorded",
                event.id
            );
        }
    }

    /// Records that a workspace is known, unless this instance did so today.
    async fn mark_known(&self, workspace: &str, by: KnownBy) {
        let marked = || self.table.mark_known(workspace, by);
        if let Err(error) = self.mark_daily(workspace.to_owned(), marked).await {
            tracing::warn!(error = chain(&error), "{workspace} was not recorded");
        }
    }

    /// Records which user an application is that an event names, unless this instance did so today. No event is
    /// accepted without that: it may be the only one that names the application before Linear says that it was removed, and the
    /// application's workers would stay.
    async fn mark_application(&self, event: &Event) -> Result<(), TableError> {
        let Event {
            workspace,
            audience,
            ..
        } = event;
        let (Some(user), Some(client)) = (&audience.application, &audience.oauth_client) else {
            return Ok(());
        };
        if !is_identifier(client) {
            return Ok(());
        }
        let marked = || self.table.mark_application(workspace, client, user);
        self.mark_daily(format!("{workspace}/{client}/{user}"), marked)
            .await
    }

    /// Writes a mark of this name, unless this instance did so today.
    async fn mark_daily<W>(&self, name: String, write: impl FnOnce() -> W) -> Result<(), TableError>
    where
        W: Future<Output = Result<(), TableError>>,
    {
        let now = self.clock.millis();
        let marked_at = self.known.lock().get(&name).copied();
        if marked_at.is_some_and(|at| elapsed(at, now) < MARK_KNOWN_AFTER) {
            return Ok(());
        }
        write().await?;
        self.known.lock().insert(name, now);
        Ok(())
    }
}
