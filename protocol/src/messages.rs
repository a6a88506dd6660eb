//! The JSON that workers and the relay exchange.
//!
//! Field names are camelCase on the wire. Unknown fields of a request are ignored, so that an older relay accepts the requests of a newer
//! agent. A field that is absent differs from one that is `null` in a [`Renew`] alone.
//!
//! ```
//! use protocol::messages::{Control, Pull};
//!
//! // What the relay itself POSTs to a worker has a `type` that no event of Linear's has.
//! let ping: Control = serde_json::from_str(r#"{"type":"edge.ping","waiting":true}"#)?;
//! assert!(matches!(ping, Control::Ping { waiting: true, .. }));
//!
//! // The worker then asks for what waits, and acknowledges what it has stored with its next request.
//! let pull = Pull { ack: vec![], limit: Some(100) };
//! assert_eq!(serde_json::to_string(&pull)?, r#"{"ack":[],"limit":100}"#);
//! # Ok::<(), serde_json::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which events a worker wants, beside their types. All that is named has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", remote = "Self")]
pub struct Filter {
    /// Only those that concern its user: who created, has assigned or delegated, wrote, acted, is notified or mentioned; of
    /// agent sessions, those that the user started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mine: bool,
    /// Only those of these teams, by key (`ENG`), and none that belongs to no team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teams: Option<Vec<String>>,
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// Only an object is one. What serde derives reads an array, too, as an object whose fields have no names.
impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Filter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Filter, A::Error> {
                Filter::deserialize(MapAccessDeserializer::new(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// `POST /edge/register`
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Register {
    /// Where deliveries are POSTed; none for a pull worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<String>,
    /// A Linear API key or OAuth access token; used once, not kept.
    #[serde(default)]
    pub linear_token: String,
    /// Tells one user's workers apart.
    #[serde(default)]
    pub name: String,
    /// Patterns over `type` and `type.action`; none means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Which of these it wants; none means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Of the workers of a workspace with the same group, one gets each event: 1 to 64 of `A-Z a-z 0-9 _ -`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether the worker puts a receipt on every answer, so that any other answer counts as unreachable.
    #[serde(default)]
    pub receipts: bool,
    /// Whether the worker empties its mailbox itself when it is away. The relay does not deliver it then.
    #[serde(default)]
    pub pulls: bool,
    /// Whether it may take the place of a worker of the same user and name that is in use. Without it: yes, as before there was
    /// this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<bool>,
    /// Identifies who registers, and may take the place of what it has registered itself, whatever `replace` says: the answer to an
    /// earlier try may have been lost. 1 to 64 of `A-Z a-z 0-9 _ -`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Random text that the challenge of `webhookUrl` carries, so that the worker answers the challenge of its own
    /// registration alone: 1 to 64 of `A-Z a-z 0-9 _ -`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Register")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The response to a registration, 201.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    /// The path of the worker, for every later call.
    pub worker: String,
    /// Identifies the worker.
    pub worker_id: String,
    /// The workspace that the token belongs to.
    pub workspace: Workspace,
    /// The bearer token for every later call; shown once.
    pub token: String,
    /// The signing secret, `whsec_<base64>`; shown once.
    pub secret: String,
    /// Whether deliveries are POSTed or parked.
    pub state: WorkerState,
    /// Whether this registration replaced one of the same user and name, whose token is no longer valid. Version 0.1
    /// called it `again`.
    #[serde(default, alias = "again")]
    pub replaced: bool,
    /// When the lease ends, RFC 3339.
    pub expires_at: String,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

/// A Linear workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// Linear's `organizationId`.
    pub id: String,
    /// The workspace's name in Linear's addresses.
    pub url_key: String,
    /// The workspace's name for people.
    pub name: String,
}

/// Whether a worker's events are POSTed or parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum WorkerState {
    /// They are POSTed to its address.
    Live,
    /// They are parked until the worker has emptied its mailbox.
    Away,
    /// They are always parked, because the worker has no address.
    Pull,
}

impl WorkerState {
    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Away => "away",
            Self::Pull => "pull",
        }
    }
}

/// Only a text is one. What serde derives reads `{"away":null}`, too.
impl TryFrom<String> for WorkerState {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        ([Self::Live, Self::Away, Self::Pull].into_iter())
            .find(|state| state.as_str() == text)
            .ok_or("a state is `live`, `away` or `pull`")
    }
}

/// Why a worker with an address is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AwayReason {
    /// It did not answer.
    Unreachable,
    /// It rejected so many deliveries at once, or one for so long while others wait behind it, that the further ones are parked.
    Rejecting,
    /// It said that it goes offline.
    Offline,
    /// Events that were withheld wait for it, and come first.
    Withheld,
    /// Its user has to be seen to be a member (`linearToken`).
    Unchecked,
    /// The relay's operator has paused it: it gets nothing, from its mailbox either, until it is resumed.
    Paused,
}

impl AwayReason {
    /// The word on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Rejecting => "rejecting",
            Self::Offline => "offline",
            Self::Withheld => "withheld",
            Self::Unchecked => "unchecked",
            Self::Paused => "paused",
        }
    }
}

/// `PUT {worker}`: renews the lease and changes what is named.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renew {
    /// Absent: as it was. `null`: none, a pull worker from now on.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub webhook_url: Option<Option<String>>,
    /// Absent: as they were. `null`: all events.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub capabilities: Option<Option<Vec<String>>>,
    /// Absent: as it was. `null`: all of them.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub filter: Option<Option<Filter>>,
    /// Absent: as it was. `null`: none.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub group: Option<Option<String>>,
    /// Only `away` is accepted: the worker goes offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WorkerState>,
    /// As at the registration; absent: as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<bool>,
    /// As at the registration; absent: as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulls: Option<bool>,
    /// The Linear token again, to show that the worker's user still is a member, and which teams the user can see. If Linear
    /// refuses it, the worker is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear_token: Option<String>,
    /// As at the registration, for the challenge of a new `webhookUrl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

impl fmt::Debug for Renew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renew").finish_non_exhaustive()
    }
}

/// Tells `null` from an absent field.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The response to `GET {worker}` and `PUT {worker}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// Identifies the worker.
    pub worker_id: String,
    /// As registered.
    pub name: String,
    /// Whose token registered it; absent for a worker that registered before the relay kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// As registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// As registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// As registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Whether its events are POSTed or parked.
    pub state: WorkerState,
    /// Why it is away, if it is; a pull worker can be paused, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away_reason: Option<AwayReason>,
    /// Whether its mailbox holds anything.
    pub waiting: bool,
    /// How many events of teams that its user could not see at the last check are withheld. The next one (`linearToken`)
    /// releases or drops them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub withheld: u64,
    /// Until when its user counts as a member, RFC 3339; absent: for ever. Afterwards its events are parked, and it gets
    /// `membership_check_due`, until a renewal shows a `linearToken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership_due_at: Option<String>,
    /// How many events of the last day were not for it, by reason: `type`, `team`, `mine`, `application`, `group` (another worker of
    /// its group got them), `withheld`. In the response to `GET` alone, and by what the worker wants and may see now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub not_delivered: BTreeMap<String, u64>,
    /// The events that were parked for longer than the relay keeps them, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<Expired>,
    /// When the lease ends, RFC 3339.
    pub expires_at: String,
    /// The last delivery that the relay knows of, RFC 3339, to the hour while all goes well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_delivery: Option<String>,
    /// Why the last failed attempt failed, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
}

/// A user of Linear, or an application there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Linear's id.
    pub id: String,
    /// As Linear shows it.
    pub name: String,
    /// As Linear knows it.
    pub email: String,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Events that were parked for longer than the relay keeps them, and are lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// How many.
    pub count: u64,
    /// When the first of them expired, RFC 3339.
    pub since: String,
}

/// The last failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// What happened.
    pub reason: String,
    /// When, RFC 3339.
    pub at: String,
}

/// `POST {worker}/mailbox`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pull {
    /// The `id`s of events that the worker has stored. The relay deletes them before it reads the mailbox.
    #[serde(default)]
    pub ack: Vec<String>,
    /// The maximum number of events in the response, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The response to a pull: the oldest events in the mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// The worker's state after the call: an empty response makes an away worker live.
    pub state: WorkerState,
    /// As in [`Worker`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub withheld: u64,
    /// The events, in the order in which they have to be handled.
    pub events: Vec<PulledEvent>,
}

/// One event in the mailbox, with the headers and body of its delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledEvent {
    /// Names this entry in an `ack`.
    pub id: String,
    /// Header names, in lower case, and their values, signed at the time of the answer.
    pub headers: BTreeMap<String, String>,
    /// The raw body; it is UTF-8.
    pub body: String,
}

/// A message of the relay itself to a worker. Its `type` tells it from Linear's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Control {
    /// POSTed to a `webhookUrl` before it is registered. The worker responds 200 with [`ChallengeResponse`].
    #[serde(rename = "edge.challenge")]
    Challenge {
        /// Random.
        challenge: String,
        /// The nonce of the request that registers the address, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
    },
    /// A signed health check. The worker responds with a 2xx.
    #[serde(rename = "edge.ping")]
    Ping {
        /// Whether the worker's mailbox holds anything.
        waiting: bool,
        /// Whether events of teams that its user could not see at the last check are withheld.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        withheld: bool,
    },
}

/// The response to a challenge: proof that the address belongs to the worker that registers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeResponse {
    /// The challenge, echoed.
    pub challenge: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_differ_in_a_renewal() {
        let absent: Renew = serde_json::from_str("{}").unwrap();
        assert_eq!(absent, Renew::default());
        let null: Renew = serde_json::from_str(r#"{"webhookUrl":null,"new":1}"#).unwrap();
        assert_eq!(null.webhook_url, Some(None));
        let json = serde_json::to_string(&null).unwrap();
        assert_eq!(json, r#"{"webhookUrl":null}"#);
    }

    #[test]
    fn a_value_of_another_shape_is_not_read_as_if_it_had_the_right_one() {
        let read = serde_json::from_str::<Renew>;
        assert!(read(r#"{"filter":{"mine":true},"state":"away"}"#).is_ok());
        assert!(read(r#"{"filter":null}"#).is_ok());
        for wrong in [
            r#"{"filter":[]}"#,
            r#"{"filter":[true,["ENG"]]}"#,
            r#"{"filter":"mine"}"#,
            r#"{"state":{"away":null}}"#,
            r#"{"state":["away"]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_type_tells_the_relays_own_messages_apart() {
        let ping = Control::Ping {
            waiting: true,
            withheld: false,
        };
        let json = serde_json::to_string(&ping).unwrap();
        assert_eq!(json, r#"{"type":"edge.ping","waiting":true}"#);
        let read = serde_json::from_str::<Control>;
        let challenge = "x".into();
        assert_eq!(
            read(r#"{"type":"edge.challenge","challenge":"x"}"#).unwrap(),
            Control::Challenge {
                challenge,
                nonce: None
            }
        );
        assert!(read(r#"{"type":"Issue"}"#).is_err());
    }

    #[test]
    fn a_replacement_is_read_under_its_earlier_name() {
        let json = |name: &str| {
            format!(
                r#"{{"worker":"/w","workerId":"w","workspace":{{"id":"i","urlKey":"k","name":"n"}},"token":"t",
                "secret":"s","state":"live","{name}":true,"expiresAt":"x"}}"#
            )
        };
        for name in ["replaced", "again"] {
            let registered: Registered = serde_json::from_str(&json(name)).unwrap();
            assert!(registered.replaced, "{name}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let register = Register {
            webhook_url: Some("https://example.com/?key=hush".into()),
            linear_token: "lin_api_hush".into(),
            name: "laptop".into(),
            capabilities: None,
            filter: None,
            group: None,
            receipts: true,
            pulls: true,
            replace: None,
            holder: None,
            nonce: None,
        };
        assert!(!format!("{register:?}").contains("hush"));
    }
}
