//! Linear: posts an event, and posts it again until it is answered 200.

use std::sync::Arc;
use std::time::Duration;

use lambda_http::Body;
use lambda_http::http::Request;
use local::samples::WORKSPACE;
use protocol::headers::{LINEAR_DELIVERY, LINEAR_SIGNATURE};
use protocol::linear_signature::sign;
use serde_json::json;

use crate::record::Posted;
use crate::wire::invocation;
use crate::world::{SECRET, World};

/// How long after its first attempt, and after each that failed, Linear posts a webhook again. Linear waits a minute, an
/// hour and six hours (Linear's documentation, "Webhooks").
const LINEAR_RETRIES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(60),
    Duration::from_secs(600),
];
/// How long Linear waits for an answer.
const LINEAR_WAITS: Duration = Duration::from_secs(5);
/// Linear posts an event, until it is answered 200.
pub(crate) async fn post(world: Arc<World>, about: u8) {
    let now = world.wire.clock.millis();
    let at = {
        let mut record = world.wire.record.lock();
        let at = record.events.len();
        // In no order, as Linear's are.
        let delivery = format!("{:08x}", (at as u32 + 1).wrapping_mul(0x9E37_79B1));
        record.events.push(Posted {
            id: format!("evt_{delivery}"),
            key: format!("i{about}"),
            posted_at: now,
            accepted_at: None,
        });
        at
    };
    let body = json!({
        "action": "update", "type": "Issue", "organizationId": WORKSPACE,
        "data": {"id": format!("i{about}"), "number": at}, "webhookTimestamp": now,
    })
    .to_string();
    let delivery = world.wire.record.lock().events[at].id.replace("evt_", "");
    for wait in LINEAR_RETRIES {
        tokio::time::sleep(wait).await;
        let request = Request::post("https://relay.example/webhooks/linear")
            .header(LINEAR_DELIVERY, &delivery)
            .header(LINEAR_SIGNATURE, sign(SECRET, body.as_bytes()))
            .body(Body::Text(body.clone()))
            .expect("this is a request");
        let ingest = Arc::clone(&world.relay().functions.ingest);
        let running = tokio::spawn(invocation(
            async move { ingest::handle(&ingest, request).await },
        ));
        let answered = tokio::time::timeout(LINEAR_WAITS, running).await;
        let status = match answered {
            Ok(Ok(Some(Ok(answer)))) => Some(answer.status().as_u16()),
            _ => None,
        };
        world
            .wire
            .note(|| format!("{delivery} was answered {status:?}"));
        if status == Some(200) {
            world.wire.record.lock().events[at].accepted_at = Some(world.wire.clock.millis());
            return;
        }
    }
}
