//! A worker: a registered receiver of one workspace's events.
//!
//! Invariant: the worker's token is kept as a hash only, and its signing secrets are sent to the worker alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use protocol::clock::{UnixMillis, UnixSeconds, elapsed, rfc3339};
use protocol::envelope::digest;
use protocol::headers;
use protocol::messages::{self, AwayReason, WorkerState};
use protocol::signature;
use protocol::signing_secrets::SigningSecrets;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::event::EventId;
use crate::policy;
use crate::subscription::Subscription;

/// The longest name in characters.
pub(crate) const MAX_NAME: usize = 64;

/// For so long, an event that is rejected again for the same reason costs no write of the worker's record. So the time of
/// the last error is true to five minutes.
const REJECTION_SHOWN_FOR: Duration = Duration::from_secs(5 * 60);

/// A registered receiver. Its fields are the attributes of its item in the table; the workspace and the id are the
/// item's key, and the subscription's fields are attributes, too (`table/workers.rs`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Worker {
    /// Linear's `organizationId`.
    #[serde(skip)]
    pub workspace: String,
    /// See [`id`].
    #[serde(skip)]
    pub id: String,
    /// Given by its user.
    pub name: String,
    /// What it may see, and wants.
    #[serde(skip)]
    pub subscription: Subscription,
    /// The keys of the teams that its user could see at the last check, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub team_keys: BTreeMap<String, String>,
    /// When its user was last seen to be a member; 0 in an item of a version that did not write it.
    #[serde(default)]
    pub checked_at: UnixMillis,
    /// How often its route was written, so that two changes at once do not undo each other.
    #[serde(default)]
    pub revision: u64,
    /// Where deliveries are POSTed; none for a pull worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether its events are POSTed or parked.
    pub state: WorkerState,
    /// Who has registered it, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The hash of the bearer token, unique to one registration.
    #[serde(rename = "token")]
    pub token_hash: String,
    /// The hash of the token before it, whose holder learns that another registration took over.
    #[serde(rename = "replaced_token", skip_serializing_if = "Option::is_none")]
    pub replaced_hash: Option<String>,
    /// The secrets that sign its deliveries.
    #[serde(with = "secret_list")]
    pub secrets: SigningSecrets,
    /// The end of the lease.
    pub expires_at: UnixSeconds,
    /// The unreachable attempts in a row.
    #[serde(default, skip_serializing)]
    pub failures: u64,
    /// When the last delivery was recorded, at first the registration.
    pub delivered_at: UnixMillis,
    /// Whether anything was delivered since the registration.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_delivered: bool,
    /// Why the last failed attempt failed.
    #[serde(default, skip_serializing)]
    pub last_error: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing)]
    pub last_error_at: Option<UnixMillis>,
    /// How many events were ever parked for it, so that a change shows that its mailbox has grown.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parked: u64,
    /// Whether anything was parked since its mailbox was last found empty.
    #[serde(default, skip_serializing_if = "is_false")]
    pub waiting: bool,
    /// How many events were withheld since the last check.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub withheld: u64,
    /// How many events were parked for it for longer than they are kept.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub expired: u64,
    /// When the first of them expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_since: Option<UnixSeconds>,
    /// Since when it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub away_since: Option<UnixMillis>,
    /// Why it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_reason: Option<AwayReason>,
    /// Whether the operator has paused it. Then it is away, or a pull worker, and gets nothing from its mailbox either.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    /// The events whose deliveries it has rejected and which are in backoff.
    #[serde(
        default,
        with = "serde_dynamo::string_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub in_backoff: BTreeSet<String>,
    /// When it was first registered, which tells its mail from that of an earlier registration that was removed. 0 in an
    /// item of a version that did not write it.
    #[serde(default)]
    pub registered_at: UnixMillis,
    /// Whether each of its answers has a receipt.
    #[serde(default, skip_serializing_if = "is_false")]
    pub receipts: bool,
    /// Whether it empties its mailbox itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pulls: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The secrets in the worker's item: a list, the current one first and without an end.
mod secret_list {
    use protocol::clock::UnixMillis;
    use protocol::signature::Secret;
    use protocol::signing_secrets::{ReplacedSecret, SigningSecrets};
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Entry {
        secret: Secret,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<UnixMillis>,
    }

    pub(super) fn serialize<S: Serializer>(
        secrets: &SigningSecrets,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let current = Entry {
            secret: secrets.current.clone(),
            until: None,
        };
        let replaced = secrets.replaced.iter().map(|replaced| Entry {
            secret: replaced.secret.clone(),
            until: Some(replaced.until),
        });
        serializer.collect_seq(std::iter::once(current).chain(replaced))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SigningSecrets, D::Error> {
        let mut entries = Vec::<Entry>::deserialize(deserializer)?.into_iter();
        let current = entries
            .next()
            .ok_or_else(|| D::Error::custom("no secret"))?;
        let replaced = entries.map(|entry| ReplacedSecret {
            secret: entry.secret,
            until: entry.until.unwrap_or_default(),
        });
        Ok(SigningSecrets {
            current: current.secret,
            replaced: replaced.collect(),
        })
    }
}

impl Worker {
    /// The path of the worker in the relay's HTTP interface.
    pub fn path(&self) -> String {
        format!("/edge/workspaces/{}/workers/{}", self.workspace, self.id)
    }

    /// Its owner, as people know who that is; none for one that registered with a version that did not store it.
    pub fn owner(&self) -> Option<&str> {
        let user = self.subscription.user.as_ref()?;
        let is_known = |name: &&String| !name.is_empty();
        let name = [&user.email, &user.name].into_iter().find(is_known);
        Some(name.unwrap_or(&user.id))
    }

    /// The headers of a delivery, POSTed or pulled, signed at `now`.
    pub fn delivery_headers(
        &self,
        event: &EventId,
        kind: &str,
        attempt: u64,
        body: &[u8],
        now: UnixMillis,
    ) -> [(&'static str, String); 6] {
        let timestamp = now / 1000;
        let signed = self.sign(event.as_str(), now, body);
        [
            (headers::EDGE_ATTEMPT, attempt.to_string()),
            (headers::LINEAR_DELIVERY, event.delivery().to_owned()),
            (headers::LINEAR_EVENT, kind.to_owned()),
            (headers::WEBHOOK_ID, event.as_str().to_owned()),
            (headers::WEBHOOK_SIGNATURE, signed),
            (headers::WEBHOOK_TIMESTAMP, timestamp.to_string()),
        ]
    }

    /// The headers of a health check with this id, signed at `now`.
    pub(crate) fn ping_headers(
        &self,
        id: &str,
        body: &[u8],
        now: UnixMillis,
    ) -> [(&'static str, String); 3] {
        let timestamp = now / 1000;
        let signed = self.sign(id, now, body);
        [
            (headers::WEBHOOK_ID, id.to_owned()),
            (headers::WEBHOOK_SIGNATURE, signed),
            (headers::WEBHOOK_TIMESTAMP, timestamp.to_string()),
        ]
    }

    /// Whether the worker itself answered, as far as that can be told: the answer to the request with this id, signed at
    /// `signed_at`, has a receipt, or the worker gives none.
    pub(crate) fn has_answered(&self, answer: &HeaderMap, id: &str, signed_at: UnixMillis) -> bool {
        !self.receipts
            || (answer.get(headers::WEBHOOK_RECEIPT))
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| {
                    let secrets = self.secrets.valid_at(signed_at);
                    signature::is_receipt(secrets, id, signed_at / 1000, value)
                })
    }

    fn sign(&self, id: &str, now: UnixMillis, body: &[u8]) -> String {
        signature::sign(self.secrets.valid_at(now), id, now / 1000, body)
    }

    /// Why it is away, if it is, or gets nothing at all.
    pub(crate) fn why_away(&self) -> Option<AwayReason> {
        let paused = self.paused.then_some(AwayReason::Paused);
        paused.or(self.away_reason)
    }

    /// Whether the relay delivers its mailbox, as soon as it answers.
    pub fn is_drained(&self) -> bool {
        policy::is_drained(self.state, self.pulls) && !self.paused
    }

    /// The filter that it registered with.
    fn filter(&self) -> Option<messages::Filter> {
        let Subscription {
            mine, only_teams, ..
        } = &self.subscription;
        let key = |id: &String| self.team_keys.get(id).unwrap_or(id).clone();
        (*mine || only_teams.is_some()).then(|| messages::Filter {
            mine: *mine,
            teams: (only_teams.as_ref()).map(|teams| teams.iter().map(key).collect()),
        })
    }

    /// Whether its record shows that it rejected this event for this reason, and shows so at `now`.
    pub(crate) fn shows_rejection(&self, event: &EventId, reason: &str, now: UnixMillis) -> bool {
        self.in_backoff.contains(event.as_str())
            && self.failures == 0
            && self.last_error.as_deref() == Some(reason)
            && elapsed(self.last_error_at.unwrap_or_default(), now) < REJECTION_SHOWN_FOR
    }

    /// Whether its user could see an event of these teams at the last check.
    pub(crate) fn may_see(&self, teams: &[String]) -> bool {
        let visible = self.subscription.teams.as_ref();
        let is_among = |visible: &BTreeSet<String>| teams.iter().any(|team| visible.contains(team));
        teams.is_empty() || visible.is_none_or(is_among)
    }

    /// The worker as the HTTP interface shows it: whether anything waits for it, and until when its user counts as a member.
    pub fn view(&self, waiting: bool, membership_due_at: Option<UnixMillis>) -> messages::Worker {
        messages::Worker {
            worker_id: self.id.clone(),
            name: self.name.clone(),
            user: self.subscription.user.as_ref().map(|user| messages::User {
                id: user.id.clone(),
                name: user.name.clone(),
                email: user.email.clone(),
            }),
            capabilities: self.subscription.capabilities.clone(),
            filter: self.filter(),
            group: self.subscription.group.clone(),
            withheld: self.withheld,
            membership_due_at: membership_due_at.map(rfc3339),
            not_delivered: BTreeMap::new(),
            state: self.state,
            away_reason: self.why_away(),
            waiting,
            expired: self.expired_since.map(|since| messages::Expired {
                count: self.expired,
                since: rfc3339(since * 1000),
            }),
            expires_at: rfc3339(self.expires_at * 1000),
            last_delivery: self.has_delivered.then(|| rfc3339(self.delivered_at)),
            last_error: (self.last_error.as_ref())
                .zip(self.last_error_at)
                .map(|(reason, at)| messages::LastError {
                    reason: reason.clone(),
                    at: rfc3339(at),
                }),
        }
    }
}

/// A new id of a health check.
pub(crate) fn ping_id() -> String {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the system's random source works");
    format!("ping_{}", hex::encode(random))
}

/// The id of the worker of this user with this name: a second registration finds the same one.
pub fn id(workspace: &str, user: &str, name: &str) -> String {
    let mut hash = Sha256::new();
    for part in [workspace, user, name] {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    format!("wrk_{}", hex::encode(&hash.finalize()[..16]))
}

/// Whether a text has the form of [`id`].
pub(crate) fn is_id(text: &str) -> bool {
    text.strip_prefix("wrk_").is_some_and(|hex| {
        hex.len() == 32 && (hex.bytes()).all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A worker's bearer token: shown once, kept as a hash.
pub(crate) struct Token(String);

impl Token {
    /// 32 bytes from the system's random source.
    pub(crate) fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system's random source works");
        Self(format!("edge_{}", hex::encode(bytes)))
    }

    /// The hash, which is kept.
    pub(crate) fn hash(&self) -> String {
        digest(self.0.as_bytes())
    }

    /// The token, which is shown.
    pub(crate) fn expose(self) -> String {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Whether `bearer` is the token with this hash. The hashes are compared, so that the time reveals nothing of use.
pub fn verify_token(bearer: &str, hash: &str) -> bool {
    digest(bearer.as_bytes()) == hash
}

/// Whether a text can be a worker's name: 1 to [`MAX_NAME`] printable characters, without spaces at its ends.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.chars().count())
        && name.trim() == name
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_user_and_name_are_the_same_worker_and_no_other() {
        let one = id("ws", "user", "laptop");
        assert_eq!(one, id("ws", "user", "laptop"));
        assert!(is_id(&one));
        for (workspace, user, name) in [
            ("ws2", "user", "laptop"),
            ("ws", "userl", "aptop"),
            ("wsu", "ser", "laptop"),
            ("ws", "user", "laptop2"),
        ] {
            assert_ne!(one, id(workspace, user, name));
        }
        for wrong in ["", "wrk_", "wrk_G", &one.to_uppercase(), &format!("{one}0")] {
            assert!(!is_id(wrong));
        }
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_never_printed() {
        let token = Token::generate();
        let hash = token.hash();
        assert_eq!(format!("{token:?}"), "Token(..)");
        let text = token.expose();
        assert!(verify_token(&text, &hash));
        assert!(!verify_token(&hash, &hash));
        assert!(!verify_token("", &hash));
    }

    #[test]
    fn names_are_short_printable_text() {
        for right in ["laptop", "Ana's büro", &"x".repeat(64)] {
            assert!(is_name(right));
        }
        for wrong in ["", " x", "x\n", "a\u{7}b", &"x".repeat(65)] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
