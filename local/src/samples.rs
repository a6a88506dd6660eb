//! Samples of Linear's payloads, and webhooks made of them.

use protocol::clock::UnixMillis;
use protocol::headers::{LINEAR_DELIVERY, LINEAR_EVENT, LINEAR_SIGNATURE};
use protocol::linear_signature::sign;

/// The workspace that the samples come from.
pub const WORKSPACE: &str = "f6fadfa7-e5c1-4b62-9362-da5cc13da58a";

/// The team that the samples come from.
pub const TEAM: &str = "0b80a255-53a1-4945-a932-58ef7777682c";

/// Its key.
pub const TEAM_KEY: &str = "HER";

/// One payload of each of five kinds.
pub const FIVE_KINDS: [&str; 5] = [
    include_str!("../../samples/01-issue-create.json"),
    include_str!("../../samples/04-comment-create.json"),
    include_str!("../../samples/05-agentsession-created.json"),
    include_str!("../../samples/09-appusernotification-issueMention.json"),
    include_str!("../../samples/22-project-update.json"),
];

/// Three payloads about one issue, in the order in which they happened.
pub const ONE_ISSUE: [&str; 3] = [
    include_str!("../../samples/02-issue-update.json"),
    include_str!("../../samples/04-comment-create.json"),
    include_str!("../../samples/20-issuesla-highRisk.json"),
];

/// A webhook as Linear sends it.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// `Linear-Delivery`
    pub delivery: String,
    /// `Linear-Event`
    pub kind: String,
    /// `Linear-Signature`
    pub signature: String,
    /// The raw body.
    pub body: Vec<u8>,
}

impl Webhook {
    /// Signs a body as it is, under a new delivery id.
    pub fn signed(secret: &str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let kind = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|body| body["type"].as_str().map(str::to_owned))
            .unwrap_or_default();
        Self {
            delivery: uuid::Uuid::new_v4().to_string(),
            kind,
            signature: sign(secret, &body),
            body,
        }
    }

    /// Sets a sample's timestamp to `now` and signs it.
    pub fn sample(secret: &str, sample: &str, now: UnixMillis) -> Self {
        Self::signed(secret, stamp(sample, now))
    }

    /// The request that Linear would make.
    pub fn request(&self, client: &reqwest::Client, url: &str) -> reqwest::RequestBuilder {
        client
            .post(url)
            .header("content-type", "application/json; charset=utf-8")
            .header(LINEAR_DELIVERY, &self.delivery)
            .header(LINEAR_EVENT, &self.kind)
            .header(LINEAR_SIGNATURE, &self.signature)
            .header("user-agent", "Linear-Webhook")
            .body(self.body.clone())
    }
}

/// Replaces a sample's `webhookTimestamp`.
pub fn stamp(sample: &str, now: UnixMillis) -> String {
    let sample = sample.trim_end();
    let Some((before, after)) = sample.split_once("\"webhookTimestamp\":") else {
        return sample.to_owned();
    };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{before}\"webhookTimestamp\":{now}{rest}")
}
