//! Accept an event from Linear and fan it out.
//!
//! Invariant: the answer is a success only after every message is on the queue and the body they refer to is
//! stored; the marker against replays is written after that, so a half-finished fan-out is finished by Linear's
//! retry, and the queue's deduplication keeps what was already sent from being sent twice.

use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join;
use serde::Serialize;

use crate::Error;
use crate::capability;
use crate::clock::Clock;
use crate::config::IngestConfig;
use crate::event::{Event, EventId, digest};
use crate::linear::secrets::Secrets;
use crate::queue::{Body, INLINE_LIMIT, Queue};
use crate::table::Table;
use protocol::envelope;

/// The largest body: what a Lambda function can be handed in one request.
pub const BODY_LIMIT: usize = 6 * 1024 * 1024;

/// How far ahead of this clock a webhook may be stamped.
const AHEAD: Duration = Duration::from_secs(60);

/// How long a message can lie in the queue and then in the dead-letter queue (SQS keeps it 14 days at most).
const QUEUED_FOR: Duration = Duration::from_secs(15 * 24 * 3600);

/// What a webhook is answered.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Accepted {
    /// The event's id.
    pub event: String,
    /// How many workers it goes to.
    pub deliveries: usize,
    /// Whether it was accepted before: it goes nowhere this time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// A webhook as it came.
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
}

impl Ingest {
    /// With what it reads from and writes to.
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
        }
    }

    /// Checks a webhook and puts it on its way to every worker that wants it.
    pub async fn accept(&self, webhook: Webhook<'_>) -> Result<Accepted, Error> {
        let event = self.check(webhook).await?;
        let (is_seen, workers) = try_join(
            self.table.is_seen(&event.workspace, &event.digest),
            self.table.interested(&event.workspace),
        )
        .await?;
        if is_seen {
            tracing::info!(
                event = %event.id,
                workspace = event.workspace,
                Duplicate = 1,
                "accepted before"
            );
            return Ok(Accepted {
                event: event.id.to_string(),
                deliveries: 0,
                duplicate: true,
            });
        }
        let workers: Vec<_> = (workers.into_iter())
            .filter(|w| capability::wanted(w.capabilities.as_deref(), &event.kind, &event.action))
            .map(|w| w.worker)
            .collect();
        if !workers.is_empty() {
            let body = self.body(&event).await?;
            self.queue.send(&event, &body, &workers).await?;
        }
        // Longer than any age at which this body would be accepted again.
        let keep = self.config.accepted_age + 2 * AHEAD + Duration::from_secs(3600);
        if let Err(error) = (self.table.mark_seen(&event.workspace, &event.digest, keep)).await {
            // Everything is on the queue: an error would only make Linear send it once more.
            tracing::warn!(event = %event.id, error = error.chain(), "accepted without a marker");
        }
        tracing::info!(
            event = %event.id,
            workspace = event.workspace,
            r#type = event.kind,
            action = event.action,
            deliveries = workers.len(),
            Accepted = 1,
            LinearLatency = (self.clock.millis() - event.sent_at).max(0),
            "accepted"
        );
        Ok(Accepted {
            event: event.id.to_string(),
            deliveries: workers.len(),
            duplicate: false,
        })
    }

    async fn check(&self, webhook: Webhook<'_>) -> Result<Event, Error> {
        let Webhook {
            signature,
            delivery,
            body,
        } = webhook;
        if body.len() > BODY_LIMIT {
            return Err(Error::too_large(BODY_LIMIT));
        }
        let signature = signature.ok_or_else(|| {
            Error::unauthorized(
                "signature_missing",
                "exactly one `Linear-Signature` header is needed",
            )
        })?;
        let signer = self.secrets.signer(&body, signature).await?.ok_or_else(|| {
            Error::unauthorized(
                "signature_invalid",
                "`Linear-Signature` is not the hex HMAC-SHA256 of this body with a secret known here",
            )
        })?;
        let id = delivery.and_then(EventId::from_delivery).ok_or_else(|| {
            Error::bad_request(
                "delivery_invalid",
                "exactly one `Linear-Delivery` header is needed, 1 to 64 of A-Z a-z 0-9 _ -",
            )
        })?;
        let text = std::str::from_utf8(&body)
            .map_err(|_| Error::bad_request("body_not_utf8", "the body has to be UTF-8"))?;
        let envelope =
            envelope::read(text).map_err(|wrong| Error::bad_request("body_malformed", wrong))?;
        if !signer.speaks_for(&envelope.workspace) {
            return Err(Error::unauthorized(
                "workspace_not_signed",
                "the secret that signed this body belongs to another workspace",
            ));
        }
        self.check_age(envelope.sent_at)?;
        Ok(Event {
            id,
            workspace: envelope.workspace.into_owned(),
            kind: envelope.kind.into_owned(),
            action: envelope.action.into_owned(),
            ordering_key: envelope.ordering_key,
            digest: digest(&body),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an accepted age is a few hours at most"
            )]
            sent_at: envelope.sent_at as i64,
            body,
        })
    }

    fn check_age(&self, sent_at: f64) -> Result<(), Error> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds since 1970 fit into 53 bits"
        )]
        let age = self.clock.millis() as f64 - sent_at;
        let oldest = self.config.accepted_age.as_secs();
        if age > self.config.accepted_age.as_secs_f64() * 1e3 {
            return Err(Error::unauthorized(
                "timestamp_too_old",
                format!("`webhookTimestamp` is more than {oldest} s ago"),
            ));
        }
        if -age > AHEAD.as_secs_f64() * 1e3 {
            return Err(Error::unauthorized(
                "timestamp_in_future",
                format!(
                    "`webhookTimestamp` is more than {} s in the future",
                    AHEAD.as_secs()
                ),
            ));
        }
        Ok(())
    }

    async fn body(&self, event: &Event) -> Result<Body, Error> {
        if event.body.len() <= INLINE_LIMIT {
            return Ok(Body::Inline(event.body.clone()));
        }
        let keep = self.config.mailbox_retention + QUEUED_FOR;
        self.table
            .put_body(&event.workspace, &event.digest, &event.body, keep)
            .await?;
        Ok(Body::Stored(event.digest.clone()))
    }
}
