//! The envelope of Linear's payloads: the few top-level fields that the relay and the agent go by.
//!
//! Invariant: a body is read once, from its own bytes; what is not named here is skipped unread, and nothing
//! below the top level can stand in for a top-level field.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize as DeriveDeserialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use sha2::{Digest as _, Sha256};

/// The fields of a payload that are read.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    /// `organizationId`
    pub workspace: Cow<'a, str>,
    /// `type`: an open set.
    pub kind: Cow<'a, str>,
    /// `action`; empty if absent, or not a word.
    pub action: Cow<'a, str>,
    /// `webhookTimestamp`, milliseconds since the Unix epoch.
    pub sent_at_ms: f64,
    /// The issue, else the agent session, else the entity that this is about.
    pub ordering_key: String,
}

/// Why a body has no envelope. No variant holds a part of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The body is not JSON.
    #[error("the body is not JSON (line {line}, column {column})")]
    NotJson {
        /// The line of the first error, from 1.
        line: usize,
        /// Its column.
        column: usize,
    },
    /// The body is JSON, but not an object.
    #[error("the body has a wrong type: it has to be a JSON object")]
    NotAnObject,
    /// A top-level field is missing.
    #[error("the body has no top-level `{0}`")]
    Missing(&'static str),
    /// A top-level field occurs twice: readers differ in which one counts.
    #[error("the body has a top-level `{0}` twice")]
    Repeated(&'static str),
    /// A top-level field has another JSON type than in Linear's payloads.
    #[error("the body is not a Linear payload: `{0}` has a wrong type")]
    WrongType(&'static str),
    /// `organizationId` cannot stand in keys and paths.
    #[error("`organizationId` has to be 1 to 64 of A-Z a-z 0-9 _ -")]
    InvalidWorkspace,
    /// `type` cannot stand in headers and message attributes.
    #[error("`type` has to be 1 to 128 visible ASCII characters")]
    InvalidType,
}

/// The top-level fields that are read, as far as they are present.
#[derive(Default)]
struct Fields<'a> {
    organization_id: Option<Loose<'a>>,
    kind: Option<Loose<'a>>,
    action: Option<Loose<'a>>,
    webhook_timestamp: Option<Loose<'a>>,
    data: Option<Loose<'a>>,
    issue_data: Option<Loose<'a>>,
    notification: Option<Loose<'a>>,
    agent_session: Option<Loose<'a>>,
    repeated: Option<&'static str>,
}

#[derive(DeriveDeserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    OrganizationId,
    Type,
    Action,
    WebhookTimestamp,
    Data,
    IssueData,
    Notification,
    AgentSession,
    #[serde(other)]
    Other,
}

impl<'a> Fields<'a> {
    fn put(&mut self, field: Field, value: Loose<'a>) {
        let (slot, name) = match field {
            Field::OrganizationId => (&mut self.organization_id, "organizationId"),
            Field::Type => (&mut self.kind, "type"),
            Field::Action => (&mut self.action, "action"),
            Field::WebhookTimestamp => (&mut self.webhook_timestamp, "webhookTimestamp"),
            Field::Data => (&mut self.data, "data"),
            Field::IssueData => (&mut self.issue_data, "issueData"),
            Field::Notification => (&mut self.notification, "notification"),
            Field::AgentSession => (&mut self.agent_session, "agentSession"),
            Field::Other => return,
        };
        if slot.replace(value).is_some() {
            self.repeated = Some(name);
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(field) = map.next_key::<Field>()? {
            if matches!(field, Field::Other) {
                map.next_value::<IgnoredAny>()?;
            } else {
                fields.put(field, map.next_value()?);
            }
        }
        Ok(fields)
    }
}

/// A required text.
fn text<'a>(name: &'static str, value: Option<Loose<'a>>) -> Result<Cow<'a, str>, EnvelopeError> {
    match value {
        Some(Loose::Text(text)) => Ok(text),
        Some(_) => Err(EnvelopeError::WrongType(name)),
        None => Err(EnvelopeError::Missing(name)),
    }
}

/// Reads the envelope of a body.
///
/// # Errors
///
/// The body is not a JSON object with `organizationId`, `type` and `webhookTimestamp`, each once and of its type.
pub fn parse(body: &str) -> Result<Envelope<'_>, EnvelopeError> {
    let fields: Fields<'_> = serde_json::from_str(body).map_err(|error| {
        // A value of any type is accepted inside the object, so a type error is about the whole.
        if error.is_data() {
            EnvelopeError::NotAnObject
        } else {
            let (line, column) = (error.line(), error.column());
            EnvelopeError::NotJson { line, column }
        }
    })?;
    if let Some(name) = fields.repeated {
        return Err(EnvelopeError::Repeated(name));
    }
    let workspace = text("organizationId", fields.organization_id)?;
    let kind = text("type", fields.kind)?;
    let sent_at_ms = match fields.webhook_timestamp {
        Some(Loose::Number(millis)) => millis,
        Some(_) => return Err(EnvelopeError::WrongType("webhookTimestamp")),
        None => return Err(EnvelopeError::Missing("webhookTimestamp")),
    };
    if !is_identifier(&workspace) {
        return Err(EnvelopeError::InvalidWorkspace);
    }
    if !is_visible(&kind) {
        return Err(EnvelopeError::InvalidType);
    }
    // An action that is not a word counts as none, because the event must still be delivered.
    let action = (fields.action.and_then(Loose::text))
        .filter(|action| is_visible(action))
        .unwrap_or_default();
    let data = fields.data.map(Loose::subject).unwrap_or_default();
    let key = if kind == "Issue" {
        data.id
    } else {
        let issue_data = fields.issue_data.map(Loose::subject).unwrap_or_default();
        let session = fields.agent_session.map(Loose::subject).unwrap_or_default();
        let notification = fields.notification.map(Loose::subject).unwrap_or_default();
        (issue_data.id)
            .or(session.issue)
            .or(session.id)
            .or(notification.issue)
            .or(notification.id)
            .or(data.issue)
            .or(data.agent_session)
            .or(data.id)
    };
    let ordering_key = match key {
        Some(key) if is_identifier(&key) => key.into_owned(),
        Some(key) => digest(key.as_bytes()),
        None if is_identifier(&kind) => kind.clone().into_owned(),
        None => digest(kind.as_bytes()),
    };
    Ok(Envelope {
        workspace,
        kind,
        action,
        sent_at_ms,
        ordering_key,
    })
}

/// Whether a text is an identifier, which can be in keys, paths, headers and group ids: 1 to 64 of `A-Z a-z 0-9 _ -`.
pub fn is_identifier(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && (text.bytes()).all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// SHA-256, hex.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Whether a text can be in a header and in a message attribute.
fn is_visible(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The identifiers in an object of the payload. A value of an unexpected type counts as absent, because an unusual payload
/// must still be delivered.
#[derive(Debug, Default)]
struct Subject<'a> {
    id: Option<Cow<'a, str>>,
    /// `issueId`, `issue.id`, or the `issueId` of `comment`.
    issue: Option<Cow<'a, str>>,
    /// `agentSessionId`
    agent_session: Option<Cow<'a, str>>,
}

/// A value of any JSON type, as far as it is read.
enum Loose<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    Object(Subject<'a>),
    Other,
}

impl<'a> Loose<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn subject(self) -> Subject<'a> {
        match self {
            Self::Object(subject) => subject,
            _ => Subject::default(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Loose::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "only times are read: milliseconds fit into 53 bits"
    )]
    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Loose::Number(number as f64))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "only times are read: milliseconds fit into 53 bits"
    )]
    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Loose::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Loose::Number(number))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut subject = Subject::default();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Id => subject.id = map.next_value::<Loose<'_>>()?.text(),
                Key::AgentSessionId => {
                    subject.agent_session = map.next_value::<Loose<'_>>()?.text()
                }
                Key::IssueId => {
                    if let Some(id) = map.next_value::<Loose<'_>>()?.text() {
                        subject.issue = Some(id);
                    }
                }
                Key::Issue => {
                    let issue = map.next_value::<Loose<'_>>()?.subject();
                    subject.issue = subject.issue.or(issue.id);
                }
                Key::Comment => {
                    let comment = map.next_value::<Loose<'_>>()?.subject();
                    subject.issue = subject.issue.or(comment.issue);
                }
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Loose::Object(subject))
    }
}

#[derive(DeriveDeserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Key {
    Id,
    IssueId,
    AgentSessionId,
    Issue,
    Comment,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(rest: &str) -> String {
        format!(r#"{{"organizationId":"org","type":"T","action":"a","webhookTimestamp":1{rest}}}"#)
    }

    #[test]
    fn the_ordering_key_is_the_issue_else_the_session_else_the_entity() {
        for (rest, key) in [
            (r#","data":{"id":"c","issueId":"i"}"#, "i"),
            (r#","data":{"issue":{"id":"i"},"id":"c"}"#, "i"),
            (
                r#","data":{"id":"r","comment":{"id":"c","issueId":"i"}}"#,
                "i",
            ),
            (r#","data":{"id":"p"}"#, "p"),
            (r#","data":{"id":"x","agentSessionId":"s"}"#, "s"),
            (r#","issueData":{"id":"i"}"#, "i"),
            (
                r#","notification":{"id":"n","issueId":"i","issue":{"id":"i"}}"#,
                "i",
            ),
            (r#","notification":{"id":"n","issueId":null}"#, "n"),
            (r#","agentSession":{"id":"s","issueId":"i"}"#, "i"),
            (
                r#","agentSession":{"id":"s","issueId":null,"issue":null}"#,
                "s",
            ),
            ("", "T"),
            (r#","data":{"id":7}"#, "T"),
            (r#","data":[1,{"id":"x"}]"#, "T"),
            (r#","data":"text""#, "T"),
            (r#","data":null"#, "T"),
        ] {
            assert_eq!(parse(&payload(rest)).unwrap().ordering_key, key, "{rest}");
        }
        let issue = r#"{"organizationId":"org","type":"Issue","webhookTimestamp":1,"data":{"id":"i","issueId":"parent"}}"#;
        assert_eq!(parse(issue).unwrap().ordering_key, "i");
        let odd = payload(r#","data":{"id":"with spaces"}"#);
        assert!(is_identifier(&parse(&odd).unwrap().ordering_key));
    }

    #[test]
    fn an_action_that_is_not_a_word_counts_as_none() {
        for action in ["null", "7", "\"a b\"", "\"\\u0000\"", "[]", r#"{"id":"x"}"#] {
            let body = payload("").replace(r#""a""#, action);
            assert_eq!(parse(&body).unwrap().action, "", "{action}");
        }
    }

    #[test]
    fn only_the_top_level_names_the_workspace() {
        let body = r#"{"data":{"organizationId":"other"},"type":"T","webhookTimestamp":1}"#;
        assert_eq!(parse(body), Err(EnvelopeError::Missing("organizationId")));
    }

    #[test]
    fn a_field_given_twice_is_refused_even_when_one_is_escaped() {
        for (twice, name) in [
            (r#","organizationId":"b""#, "organizationId"),
            (r#","organ\u0069zationId":"b""#, "organizationId"),
            (r#","type":"T""#, "type"),
            (r#","webhookTimestamp":2"#, "webhookTimestamp"),
        ] {
            assert_eq!(parse(&payload(twice)), Err(EnvelopeError::Repeated(name)));
        }
        assert!(parse(&payload(r#","data":{"type":"T","organizationId":"b"}"#)).is_ok());
    }

    #[test]
    fn no_error_quotes_the_body() {
        for body in [
            "",
            "hush",
            "[]",
            "\"hush\"",
            r#"{"organizationId":"hush hush","type":"T","webhookTimestamp":1}"#,
            r#"{"organizationId":7,"type":"hush","webhookTimestamp":1}"#,
            r#"{"organizationId":"a","type":"","webhookTimestamp":1}"#,
            r#"{"organizationId":"a","type":"T","webhookTimestamp":"hush"}"#,
            r#"{"organizationId":"a","type":"T","webhookTimestamp":1e999}"#,
            r#"{"organizationId":"a","type":"T","webhookTimestamp":1}hush"#,
        ] {
            let message = parse(body).unwrap_err().to_string();
            assert!(!message.contains("hush"), "{body}: {message}");
        }
    }

    proptest! {
        #[test]
        fn fields_are_found_in_any_order_among_any_others(
            org in "[A-Za-z0-9_-]{1,40}",
            kind in "[A-Za-z]{1,20}",
            issue in "[A-Za-z0-9-]{1,40}",
            noise in "\\PC{0,40}",
            order in Just(vec![0, 1, 2, 3, 4, 5]).prop_shuffle(),
        ) {
            let noise = serde_json::to_string(&noise).unwrap();
            let fields = [
                format!(r#""organizationId":"{org}""#),
                format!(r#""type":"{kind}""#),
                r#""webhookTimestamp":1795168200540"#.to_owned(),
                format!(r#""data":{{"x":{noise},"issueId":"{issue}","y":[{noise},{{"issueId":1}}]}}"#),
                format!(r#""noise":{{"organizationId":{noise}}}"#),
                r#""action":"create""#.to_owned(),
            ];
            let body: Vec<_> = order.iter().map(|at| fields[*at].as_str()).collect();
            let body = format!("{{{}}}", body.join(","));
            let envelope = parse(&body).unwrap();
            prop_assert_eq!(&envelope.workspace, &org);
            prop_assert_eq!(&envelope.kind, &kind);
            prop_assert_eq!(&envelope.action, "create");
            if kind != "Issue" {
                prop_assert_eq!(&envelope.ordering_key, &issue);
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(body in "\\PC{0,200}", cut in any::<proptest::sample::Index>()) {
            let _ = parse(&body);
            let whole = payload(r#","data":{"id":"c","issue":{"id":"i"}}"#);
            let _ = parse(&whole[..cut.index(whole.len())]);
        }
    }
}
