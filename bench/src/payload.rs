//! The payloads that are posted.
//!
//! Invariant: they are as long as is asked, no two are alike, and they compress as Linear's do: what is parked or large
//! is stored compressed, and text that repeats itself would flatter it.

use protocol::clock::{Clock, UnixMillis};
use serde::Deserialize;

pub(crate) const WORKSPACE: &str = "bench";
/// How many issues the payloads are about.
pub(crate) const ISSUES: usize = 64;

const WORDS: &str = "the consumer exits before final flush only rows arrive when a worker restarts during export and \
    nobody can say which of them were written twice after retry please add test that fails first then look at how \
    batches are closed because queue drains faster than disk it happened again on staging with customer data from \
    last week logs show timeout between service calls but metrics stay green so alert never fired we should keep old \
    behaviour behind setting until next release is out thanks for your patience here";

/// The name of one of many workspaces, of which the first is [`WORKSPACE`].
pub(crate) fn workspace(number: usize) -> String {
    match number {
        0 => WORKSPACE.to_owned(),
        _ => format!("{WORKSPACE}-{number}"),
    }
}

/// A payload of about `bytes`, of now; one of [`ISSUES`], so that there is an order to keep.
pub(crate) fn body(number: usize, bytes: usize) -> String {
    body_of(WORKSPACE, number, bytes)
}

/// A payload from another workspace.
pub(crate) fn body_of(workspace: &str, number: usize, bytes: usize) -> String {
    payload(workspace, Clock::system().millis(), number, bytes)
}

/// A payload of about `bytes`, of a time.
pub(crate) fn body_at(timestamp: UnixMillis, number: usize, bytes: usize) -> String {
    payload(WORKSPACE, timestamp, number, bytes)
}

fn payload(workspace: &str, timestamp: UnixMillis, number: usize, bytes: usize) -> String {
    let issue = number % ISSUES;
    let mut body = format!(
        r#"{{"action":"update","type":"Issue","organizationId":"{workspace}","webhookTimestamp":{timestamp},"data":{{"id":"issue-{issue}","number":{number},"description":""#
    );
    let end = "\"}}";
    let text = bytes.saturating_sub(end.len());
    describe(number, text, &mut body);
    // Not in the middle of an escape.
    body.truncate(body.trim_end_matches('\\').len());
    body + end
}

/// What identifies a payload.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    webhook_timestamp: u64,
    data: Numbered,
}

#[derive(Deserialize)]
struct Numbered {
    number: u64,
}

/// The delivery id of the webhook with this payload, in the form of a UUID as Linear's are.
///
/// It consists of two fields of the payload, so that a receiver can also read it from a body that came without Linear's
/// headers, or that was parsed and serialised on its way. `None` if the body is not a payload of [`body`].
pub(crate) fn delivery_id(body: &[u8]) -> Option<String> {
    let identity: Identity = serde_json::from_slice(body).ok()?;
    let (number, timestamp) = (identity.data.number, identity.webhook_timestamp);
    Some(format!("{number:08x}-0000-4000-8000-{timestamp:012x}"))
}

/// Words, with a number in quotes every now and then, until `body` is `end` bytes long.
fn describe(number: usize, end: usize, body: &mut String) {
    let words: Vec<_> = WORDS.split_whitespace().collect();
    // A linear congruential generator (Knuth's MMIX): the same text for the same number.
    let mut random = number as u64;
    for at in 0.. {
        if body.len() >= end {
            break;
        }
        random = (random.wrapping_mul(6_364_136_223_846_793_005))
            .wrapping_add(1_442_695_040_888_963_407);
        let drawn = random >> 33;
        if at % 9 == 8 {
            *body += &format!("\\\"{drawn:08x}\\\" ");
        } else {
            *body += words[drawn as usize % words.len()];
            body.push(' ');
        }
    }
    body.truncate(end);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use local::samples;

    use super::*;

    #[test]
    fn a_body_is_a_payload_of_its_size() {
        for bytes in [2_048, 20_480, 204_800] {
            for number in 0..50 {
                let body = body(number, bytes);
                assert!((bytes - 1..=bytes).contains(&body.len()), "{}", body.len());
                let read = protocol::envelope::parse(&body).unwrap();
                assert_eq!((&*read.workspace, &*read.kind), (WORKSPACE, "Issue"));
            }
        }
    }

    #[test]
    fn the_delivery_id_survives_a_new_serialisation() {
        let one = body(77, 2_048);
        let id = delivery_id(one.as_bytes()).unwrap();
        assert_eq!(id.len(), 36);
        assert!(id.starts_with("0000004d-0000-4000-8000-"), "{id}");
        let read: serde_json::Value = serde_json::from_str(&one).unwrap();
        let again = serde_json::to_string_pretty(&read).unwrap();
        assert_eq!(delivery_id(again.as_bytes()), Some(id.clone()));
        assert_ne!(delivery_id(body(78, 2_048).as_bytes()), Some(id));
        assert_eq!(delivery_id(b"{\"type\":\"challenge\"}"), None);
    }

    #[test]
    fn a_body_compresses_as_linears_payloads_do() {
        let ratio = |body: &str| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body.as_bytes()).unwrap();
            body.len() as f64 / encoder.finish().unwrap().len() as f64
        };
        let sampled = samples::FIVE_KINDS.map(ratio);
        let least = sampled.into_iter().fold(f64::MAX, f64::min);
        let most = sampled.into_iter().fold(0.0, f64::max);
        let made = ratio(&body(7, 2_048));
        assert!((least..=most).contains(&made), "{made}, and {sampled:?}");
        // What is longer repeats more of itself, here as there.
        assert!(ratio(&body(7, 204_800)) < 3.0);
    }
}
