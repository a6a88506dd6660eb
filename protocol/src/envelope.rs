//! The envelope of Linear's payloads: the few top-level fields that the relay and the agent go by.
//!
//! Invariant: a body is read once, from its own bytes; what is not named here is skipped unread, and nothing
//! below the top level can stand in for a top-level field.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize as DeriveDeserialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use sha2::{Digest as _, Sha256};

/// What is read of a payload.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    /// `organizationId`
    pub workspace: Cow<'a, str>,
    /// `type`: an open set.
    pub kind: Cow<'a, str>,
    /// `action`; empty if absent, or not a word.
    pub action: Cow<'a, str>,
    /// `webhookTimestamp`, milliseconds since the Unix epoch.
    pub sent_at: f64,
    /// The issue, else the agent session, else the entity that this is about.
    pub ordering_key: String,
}

#[derive(DeriveDeserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    organization_id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    action: Option<Loose<'a>>,
    webhook_timestamp: f64,
    #[serde(borrow, default)]
    data: Subject<'a>,
    #[serde(borrow, default)]
    issue_data: Subject<'a>,
    #[serde(borrow, default)]
    notification: Subject<'a>,
    #[serde(borrow, default)]
    agent_session: Subject<'a>,
}

/// Reads the envelope, or says what the body lacks.
pub fn read(body: &str) -> Result<Envelope<'_>, String> {
    let fields: Fields<'_> = serde_json::from_str(body).map_err(|error| {
        use serde_json::error::Category;
        match error.classify() {
            // serde names the field; a wrong value it would quote, so that text is not passed on.
            Category::Data => {
                let text = error.to_string();
                let named = text.split('`').nth(1).unwrap_or_default();
                if text.starts_with("missing field") {
                    format!("the body has no top-level `{named}`")
                } else if text.starts_with("duplicate field") {
                    format!("the body has a top-level `{named}` twice")
                } else {
                    format!(
                        "the body is not a Linear payload: a value has a wrong type (line {}, column {})",
                        error.line(),
                        error.column()
                    )
                }
            }
            _ => format!(
                "the body is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ),
        }
    })?;
    // An action that is no word counts as none: the event must still be delivered.
    let action = (fields.action.and_then(Loose::text))
        .filter(|action| is_visible(action))
        .unwrap_or_default();
    if !is_token(&fields.organization_id) {
        return Err("`organizationId` has to be 1 to 64 of A-Z a-z 0-9 _ -".to_owned());
    }
    if !is_visible(&fields.kind) {
        return Err("`type` has to be 1 to 128 visible ASCII characters".to_owned());
    }
    if !fields.webhook_timestamp.is_finite() {
        return Err("`webhookTimestamp` has to be milliseconds since the Unix epoch".to_owned());
    }
    let key = if fields.kind == "Issue" {
        fields.data.id
    } else {
        (fields.issue_data.id)
            .or(fields.agent_session.issue)
            .or(fields.agent_session.id)
            .or(fields.notification.issue)
            .or(fields.notification.id)
            .or(fields.data.issue)
            .or(fields.data.agent_session)
            .or(fields.data.id)
    };
    let ordering_key = match key {
        Some(key) if is_token(&key) => key.into_owned(),
        Some(key) => digest(key.as_bytes()),
        None if is_token(&fields.kind) => fields.kind.clone().into_owned(),
        None => digest(fields.kind.as_bytes()),
    };
    Ok(Envelope {
        workspace: fields.organization_id,
        kind: fields.kind,
        action,
        sent_at: fields.webhook_timestamp,
        ordering_key,
    })
}

/// Whether a text can stand in a key, a path, a header and a group id as it is.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && (text.bytes()).all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// SHA-256, hex.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Fits into a header and a message attribute as it is.
fn is_visible(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// What an object of the payload is about. Anything of another shape than expected counts as absent:
/// Linear's payloads are open, and an odd one must still be delivered.
#[derive(Debug, Default)]
struct Subject<'a> {
    id: Option<Cow<'a, str>>,
    /// `issueId`, `issue.id`, or the `issueId` of `comment`.
    issue: Option<Cow<'a, str>>,
    /// `agentSessionId`
    agent_session: Option<Cow<'a, str>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Subject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Loose::deserialize(deserializer)? {
            Loose::Object(subject) => Ok(subject),
            Loose::Text(_) | Loose::Other => Ok(Self::default()),
        }
    }
}

enum Loose<'a> {
    Text(Cow<'a, str>),
    Object(Subject<'a>),
    Other,
}

impl<'a> Loose<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Object(_) | Self::Other => None,
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

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Loose::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Loose::Other)
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
                    let issue = map.next_value::<Subject<'_>>()?;
                    subject.issue = subject.issue.or(issue.id);
                }
                Key::Comment => {
                    let comment = map.next_value::<Subject<'_>>()?;
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
            assert_eq!(read(&payload(rest)).unwrap().ordering_key, key, "{rest}");
        }
        let issue = r#"{"organizationId":"org","type":"Issue","webhookTimestamp":1,"data":{"id":"i","issueId":"parent"}}"#;
        assert_eq!(read(issue).unwrap().ordering_key, "i");
        let odd = read(&payload(r#","data":{"id":"with spaces"}"#))
            .unwrap()
            .ordering_key
            .clone();
        assert!(is_token(&odd));
    }

    #[test]
    fn an_action_that_is_no_word_counts_as_none() {
        for action in [
            "null",
            "7",
            "\"a b\"",
            "\"\\u0000\"",
            "[]",
            "{\"id\":\"x\"}",
        ] {
            let body = format!(
                r#"{{"organizationId":"a","type":"T","action":{action},"webhookTimestamp":1}}"#
            );
            assert_eq!(read(&body).unwrap().action, "", "{action}");
        }
    }

    #[test]
    fn only_the_top_level_names_the_workspace() {
        let body = r#"{"data":{"organizationId":"other"},"type":"T","webhookTimestamp":1}"#;
        assert_eq!(
            read(body),
            Err("the body has no top-level `organizationId`".to_owned())
        );
    }

    #[test]
    fn a_field_given_twice_is_refused_even_when_one_is_escaped() {
        for (twice, name) in [
            (r#","organizationId":"b""#, "organizationId"),
            (r#","organ\u0069zationId":"b""#, "organizationId"),
            (r#","type":"T""#, "type"),
            (r#","webhookTimestamp":2"#, "webhookTimestamp"),
        ] {
            assert_eq!(
                read(&payload(twice)),
                Err(format!("the body has a top-level `{name}` twice"))
            );
        }
        assert!(read(&payload(r#","data":{"type":"T","organizationId":"b"}"#)).is_ok());
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_the_body() {
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
            let message = read(body).unwrap_err();
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
            let envelope = read(&body).unwrap();
            prop_assert_eq!(&envelope.workspace, &org);
            prop_assert_eq!(&envelope.kind, &kind);
            prop_assert_eq!(&envelope.action, "create");
            if kind != "Issue" {
                prop_assert_eq!(&envelope.ordering_key, &issue);
            }
        }

        #[test]
        fn no_text_makes_the_reader_panic(body in "\\PC{0,200}", cut in any::<proptest::sample::Index>()) {
            let _ = read(&body);
            let whole = payload(r#","data":{"id":"c","issue":{"id":"i"}}"#);
            let _ = read(&whole[..cut.index(whole.len())]);
        }
    }
}
