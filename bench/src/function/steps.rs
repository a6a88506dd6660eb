//! The steps of the functions, without the calls to AWS.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use anyhow::Context as _;
use bytes::Bytes;
use protocol::clock::Clock;
use protocol::envelope::{self, digest};
use protocol::linear_signature::sign;
use protocol::messages::WorkerState;
use protocol::signature::Secret;
use protocol::signing_secrets::SigningSecrets;
use relay::access;
use relay::delivery::{Body, Delivery};
use relay::event::{Event, EventId};
use relay::linear::signer::{WebhookSecret, find_signer};
use relay::outbound;
use relay::queue::{AttributeValue, BATCH_SIZE, Message, OutgoingEvent, Recipient};
use relay::subscription::Subscription;
use relay::worker::Worker;

use super::{ALL, Bench};
use crate::load::SECRET;
use crate::payload::{WORKSPACE, body};

/// The patterns of every worker.
const CAPABILITIES: [&str; 3] = ["Comment.create", "AgentSessionEvent.*", "Issue"];

/// Verifies and parses a webhook, without calls to AWS.
fn accept(text: &Bytes, signature: &str, secrets: &[WebhookSecret]) -> Option<Event> {
    find_signer(secrets, text, signature)?;
    let envelope = envelope::parse(std::str::from_utf8(text).ok()?).ok()?;
    Some(Event {
        id: EventId::from_delivery("234d1a4e-b617-4388-90fe-adc3633d6b72")?,
        workspace: envelope.workspace.into_owned(),
        kind: envelope.kind.into_owned(),
        action: envelope.action.into_owned(),
        ordering_key: envelope.ordering_key,
        audience: envelope.audience.into_owned(),
        ended: None,
        is_bound: false,
        sent_at: 0,
        digest: digest(text),
        body: text.clone(),
    })
}

/// A worker's id, and what it may see and wants.
type Subscriber = (String, Subscription);

fn matching(workers: &[Subscriber], event: &Event) -> Vec<Recipient> {
    access::recipients(
        event,
        workers.iter().map(|(id, wanted)| (id.as_str(), wanted)),
    )
}

fn pack(event: &Event, recipients: &[Recipient]) -> usize {
    let body = Body::Inline(event.body.clone());
    let outgoing = OutgoingEvent::new(event, &body);
    // In batches, as they are sent.
    (recipients.chunks(BATCH_SIZE))
        .map(|recipients| {
            let entries = recipients.iter().enumerate();
            let entries: Vec<_> = entries.map(|(at, r)| outgoing.entry(r, at)).collect();
            black_box(entries).len()
        })
        .sum()
}

fn subscribers(workers: usize) -> Vec<Subscriber> {
    let subscription = Subscription {
        capabilities: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        ..Subscription::default()
    };
    (0..workers)
        .map(|at| (format!("wrk_{at:032x}"), subscription.clone()))
        .collect()
}

pub(super) fn ingest(bench: &mut Bench<'_>, size: usize) -> anyhow::Result<()> {
    let text = Bytes::from(body(7, size));
    let signature = sign(SECRET, &text);
    let secrets = [WebhookSecret::any(SECRET)];
    let event = accept(&text, &signature, &secrets).context("the event cannot be read")?;
    let step = |name: &'static str| ("ingest", name);
    bench.step(step("the bare HMAC-SHA256"), (size, 1), || {
        sign(SECRET, &text)
    })?;
    bench.step(step("verify"), (size, 1), || {
        find_signer(&secrets, &text, &signature)
    })?;
    bench.step(step("parse"), (size, 1), || {
        let text = std::str::from_utf8(&text).ok()?;
        envelope::parse(text)
            .ok()
            .and_then(|envelope| envelope.sent_at_ms)
    })?;
    bench.step(step("digest, for the marker"), (size, 1), || digest(&text))?;
    for workers in [1, 10, 1_000] {
        let found = subscribers(workers);
        let ids = matching(&found, &event);
        bench.step(step("match"), (size, workers), || matching(&found, &event))?;
        bench.step(step("pack"), (size, workers), || pack(&event, &ids))?;
        bench.step(step(ALL), (size, workers), || {
            let event = accept(&text, &signature, &secrets)?;
            Some(pack(&event, &matching(&found, &event)))
        })?;
    }
    Ok(())
}

/// An event and the worker that it is delivered to.
fn message(size: usize) -> anyhow::Result<(Event, Worker)> {
    let text = Bytes::from(body(7, size));
    let signature = sign(SECRET, &text);
    let event = accept(&text, &signature, &[WebhookSecret::any(SECRET)]);
    let worker = Worker {
        workspace: WORKSPACE.to_owned(),
        id: format!("wrk_{:032x}", 7),
        name: "laptop".to_owned(),
        subscription: Subscription::default(),
        team_keys: BTreeMap::new(),
        checked_at: 0,
        revision: 1,
        url: Some("http://127.0.0.1:9/".to_owned()),
        state: WorkerState::Live,
        holder: None,
        token_hash: String::new(),
        replaced_hash: None,
        secrets: SigningSecrets::new(Secret::generate()),
        expires_at: i64::MAX,
        failures: 0,
        delivered_at: 0,
        has_delivered: true,
        last_error: None,
        last_error_at: None,
        parked: 0,
        waiting: false,
        withheld: 0,
        away_since: None,
        away_reason: None,
        paused: false,
        in_backoff: BTreeSet::new(),
        expired: 0,
        expired_since: None,
        registered_at: 0,
        receipts: false,
        pulls: false,
    };
    Ok((event.context("the event cannot be read")?, worker))
}

fn unpack(event: &Event, worker: &str, text: String) -> Option<Delivery> {
    let message = Message {
        id: "00000000-0000-0000-0000-000000000000".to_owned(),
        receipt_handle: "handle".to_owned(),
        body: text,
        group: worker.to_owned(),
        sequence: "1".to_owned(),
        sent_at: "0".to_owned(),
        received: "1".to_owned(),
    };
    let read = Delivery::parse(message, |name| {
        let value = match name {
            "event" => event.id.as_str(),
            "workspace" => &event.workspace,
            "worker" => worker,
            "type" => &event.kind,
            "action" => &event.action,
            "body" => "raw",
            _ => return None,
        };
        Some(AttributeValue::Text(value.to_owned()))
    });
    read.ok()
}

pub(super) fn deliver(bench: &mut Bench<'_>, size: usize) -> anyhow::Result<()> {
    let (event, worker) = message(size)?;
    let now = Clock::system().millis();
    let text = String::from_utf8(event.body.to_vec())?;
    let step = |name: &'static str| ("deliver", name);
    let signed = || worker.delivery_headers(&event.id, &event.kind, 1, &event.body, now);
    bench.step(step("the bare HMAC-SHA256"), (size, 1), || {
        sign(SECRET, &event.body)
    })?;
    // The copy of the body stands for the one that the JSON parser makes.
    bench.step(step("read the message"), (size, 1), || {
        unpack(&event, &worker.id, text.clone())
    })?;
    bench.step(step("sign"), (size, 1), signed)?;
    bench.step(step("prepare the headers"), (size, 1), || {
        outbound::headers([("webhook-id", event.id.as_str().to_owned())]).is_ok()
    })?;
    bench.step(step(ALL), (size, 1), || {
        let delivery = unpack(&event, &worker.id, text.clone())?;
        let Body::Inline(body) = &delivery.body else {
            return None;
        };
        outbound::headers(worker.delivery_headers(&delivery.event, &delivery.kind, 1, body, now))
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The design's target: in neither function is the body allocated more than twice beside the SDK calls.
    #[test]
    fn a_body_is_allocated_twice_at_most() {
        let size = 100 * 1024 / 2;
        let text = Bytes::from(body(7, size));
        let signature = sign(SECRET, &text);
        let secrets = [WebhookSecret::any(SECRET)];
        let workers: Vec<_> = matching(
            &subscribers(1),
            &accept(&text, &signature, &secrets).unwrap(),
        );
        let ingest = allocation_counter::measure(|| {
            let event = accept(&text, &signature, &secrets).unwrap();
            black_box(pack(&event, &workers));
        });
        let (event, worker) = message(size).unwrap();
        let text = String::from_utf8(event.body.to_vec()).unwrap();
        let deliver = allocation_counter::measure(|| {
            let delivery = unpack(&event, &worker.id, text.clone()).unwrap();
            let Body::Inline(body) = &delivery.body else {
                panic!("the body is in the message");
            };
            let signed = worker.delivery_headers(&delivery.event, &delivery.kind, 1, body, 0);
            black_box(outbound::headers(signed).unwrap());
        });
        for (function, allocated) in [("ingest", ingest), ("deliver", deliver)] {
            let times = allocated.bytes_total / size as u64;
            assert!(times <= 2, "`{function}` allocates the body {times} times");
        }
    }
}
