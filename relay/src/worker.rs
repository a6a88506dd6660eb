//! A worker: a registered receiver of one workspace's events.
//!
//! Invariant: its token is kept as a hash, its signing secrets leave only towards the worker itself.

use std::fmt;

use protocol::headers;
use protocol::messages::State;
use protocol::signature::{self, Secret};
use sha2::{Digest as _, Sha256};

use crate::clock::rfc3339;
use crate::event::{EventId, digest};

/// The longest name.
pub const MAX_NAME: usize = 64;

/// A registered receiver.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Linear's `organizationId`.
    pub workspace: String,
    /// See [`id`].
    pub id: String,
    /// Given by its user.
    pub name: String,
    /// Where deliveries are POSTed; none for a pull worker.
    pub url: Option<String>,
    /// None: all events.
    pub capabilities: Option<Vec<String>>,
    /// Where its events go.
    pub state: State,
    /// Hash of the bearer token; unique to one registration.
    pub token_hash: String,
    /// Hash of the token before it, whose holder is told that another registration took over.
    pub replaced_hash: Option<String>,
    /// The newest first.
    pub secrets: Vec<ActiveSecret>,
    /// The end of the lease, Unix seconds.
    pub expires_at: i64,
    /// Unreachable attempts in a row.
    pub failures: u64,
    /// When the last delivery was recorded, Unix milliseconds; at registration, the registration.
    pub delivered_at: i64,
    /// Whether anything was delivered since the registration.
    pub has_delivered: bool,
    /// The last failed attempt: why, and when in Unix milliseconds.
    pub last_error: Option<(String, i64)>,
    /// How many times events were parked for it: changes whenever its mailbox grows.
    pub parked: u64,
    /// Whether anything was parked since its mailbox was last seen empty.
    pub waiting: bool,
    /// Since when it is away, Unix milliseconds.
    pub away_since: Option<i64>,
}

/// A signing secret, and how long it still signs.
#[derive(Debug, Clone)]
pub struct ActiveSecret {
    /// Signs deliveries.
    pub secret: Secret,
    /// Unix milliseconds; none for the current one.
    pub until: Option<i64>,
}

impl Worker {
    /// The path of the worker in the relay's HTTP interface.
    pub fn path(&self) -> String {
        format!("/edge/workspaces/{}/workers/{}", self.workspace, self.id)
    }

    /// The secrets that sign at `now` (Unix milliseconds).
    fn signing(&self, now: i64) -> impl Iterator<Item = &Secret> {
        (self.secrets.iter())
            .filter(move |s| s.until.is_none_or(|until| until > now))
            .map(|s| &s.secret)
    }

    /// What a delivery carries beside its body, by POST or from the mailbox, signed at `now` (Unix milliseconds).
    pub fn delivery_headers(
        &self,
        event: &EventId,
        kind: &str,
        attempt: u64,
        body: &[u8],
        now: i64,
    ) -> [(&'static str, String); 6] {
        let timestamp = now / 1000;
        let signed = signature::sign(self.signing(now), event.as_str(), timestamp, body);
        [
            (headers::EDGE_ATTEMPT, attempt.to_string()),
            (headers::LINEAR_DELIVERY, event.delivery().to_owned()),
            (headers::LINEAR_EVENT, kind.to_owned()),
            (headers::WEBHOOK_ID, event.as_str().to_owned()),
            (headers::WEBHOOK_SIGNATURE, signed),
            (headers::WEBHOOK_TIMESTAMP, timestamp.to_string()),
        ]
    }

    /// What a ping carries beside its body, signed at `now` (Unix milliseconds).
    pub fn ping_headers(&self, body: &[u8], now: i64) -> [(&'static str, String); 3] {
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the system's random source works");
        let id = format!("ping_{}", hex::encode(random));
        let timestamp = now / 1000;
        let signed = signature::sign(self.signing(now), &id, timestamp, body);
        [
            (headers::WEBHOOK_ID, id),
            (headers::WEBHOOK_SIGNATURE, signed),
            (headers::WEBHOOK_TIMESTAMP, timestamp.to_string()),
        ]
    }

    /// What the worker is told about itself.
    pub fn view(&self, waiting: bool) -> protocol::messages::Worker {
        protocol::messages::Worker {
            worker_id: self.id.clone(),
            name: self.name.clone(),
            capabilities: self.capabilities.clone(),
            state: self.state,
            waiting,
            expires_at: rfc3339(self.expires_at * 1000),
            last_delivery: self.has_delivered.then(|| rfc3339(self.delivered_at)),
            last_error: (self.last_error.as_ref()).map(|(reason, at)| {
                protocol::messages::LastError {
                    reason: reason.clone(),
                    at: rfc3339(*at),
                }
            }),
        }
    }
}

/// The worker of this user with this name: registering it again finds the same one.
pub fn id(workspace: &str, user: &str, name: &str) -> String {
    let mut hash = Sha256::new();
    for part in [workspace, user, name] {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    format!("wrk_{}", hex::encode(&hash.finalize()[..16]))
}

/// Whether a text has the form of [`id`].
pub fn is_id(text: &str) -> bool {
    text.strip_prefix("wrk_").is_some_and(|hex| {
        hex.len() == 32 && (hex.bytes()).all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A worker's bearer token: shown once, kept as a hash.
pub struct Token(String);

impl Token {
    /// 32 bytes from the system's random source.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system's random source works");
        Self(format!("edge_{}", hex::encode(bytes)))
    }

    /// What is kept.
    pub fn hash(&self) -> String {
        digest(self.0.as_bytes())
    }

    /// What is shown.
    pub fn expose(self) -> String {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Whether `bearer` is the token of this hash. Hashes are compared, so that the time says nothing of use.
pub fn is_token(bearer: &str, hash: &str) -> bool {
    digest(bearer.as_bytes()) == hash
}

/// Says what is wrong with a worker's name and what would be right.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=MAX_NAME).contains(&name.chars().count());
    if fits && name.trim() == name && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(format!(
            "`name` has to be 1 to {MAX_NAME} printable characters, without spaces at its ends"
        ))
    }
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
        assert!(is_token(&text, &hash));
        assert!(!is_token(&hash, &hash));
        assert!(!is_token("", &hash));
    }

    #[test]
    fn names_are_short_printable_text() {
        for right in ["laptop", "Ana's büro", &"x".repeat(64)] {
            assert_eq!(check_name(right), Ok(()));
        }
        for wrong in ["", " x", "x\n", "a\u{7}b", &"x".repeat(65)] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
