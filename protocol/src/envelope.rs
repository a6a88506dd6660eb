//! The envelope of Linear's payloads: the few top-level fields that the relay and the agent go by.
//!
//! Invariant: a body is read once, from its own bytes; what is not named here is skipped unread, and nothing
//! below the top level can stand in for a top-level field.

mod name;
mod subject;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use sha2::{Digest as _, Sha256};

use crate::{clock, surrogates};
use name::Name;
use subject::{Loose, Subject};

/// The fields of a payload that are read.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    /// `organizationId`
    pub workspace: Cow<'a, str>,
    /// `type`: an open set.
    pub kind: Cow<'a, str>,
    /// `action`; empty if absent, or not a word.
    pub action: Cow<'a, str>,
    /// `webhookTimestamp`, else `createdAt`: milliseconds since the Unix epoch. A documented shape of `OAuthApp` has neither.
    pub sent_at_ms: Option<f64>,
    /// What has to stay in order: the agent session, else the issue, else another thing that the payload is about.
    pub ordering_key: String,
    /// Whether a person asks the agent to stop: an agent session was `prompted` with the signal `stop`.
    pub is_stop: bool,
    /// Whom it concerns.
    pub audience: Audience<'a>,
    /// Whose access has ended by it.
    pub ended: Option<EndedAccess<'a>>,
}

impl Envelope<'_> {
    /// The same, without the body that it was read from.
    fn into_owned(self) -> Envelope<'static> {
        Envelope {
            workspace: Cow::Owned(self.workspace.into_owned()),
            kind: Cow::Owned(self.kind.into_owned()),
            action: Cow::Owned(self.action.into_owned()),
            sent_at_ms: self.sent_at_ms,
            ordering_key: self.ordering_key,
            is_stop: self.is_stop,
            audience: self.audience.into_owned(),
            ended: self.ended.map(EndedAccess::into_owned),
        }
    }
}

/// Whom a payload concerns, as far as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audience<'a> {
    /// The ids of the teams of what it is about; none: it belongs to no team. In place of an id that is no identifier, its digest.
    pub teams: Vec<Cow<'a, str>>,
    /// The ids of the people that it concerns: who created it, has it assigned or delegated, wrote it, acted, or is notified. Of
    /// an event of an agent session, who started the session, alone.
    pub people: Vec<Cow<'a, str>>,
    /// `appUserId`: the user of the application that it is meant for.
    pub application: Option<Cow<'a, str>>,
    /// `oauthClientId`: the application itself, which is the same in all workspaces.
    pub oauth_client: Option<Cow<'a, str>>,
}

impl Audience<'_> {
    /// The same, without the body that it was read from.
    pub fn into_owned(self) -> Audience<'static> {
        let owned = |ids: Vec<Cow<'_, str>>| {
            (ids.into_iter())
                .map(|id| Cow::Owned(id.into_owned()))
                .collect()
        };
        let one = |id: Option<Cow<'_, str>>| id.map(|id| Cow::Owned(id.into_owned()));
        Audience {
            teams: owned(self.teams),
            people: owned(self.people),
            application: one(self.application),
            oauth_client: one(self.oauth_client),
        }
    }
}

/// Whose access to the workspace has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndedAccess<'a> {
    /// A user was deactivated or removed (`User`).
    User(Cow<'a, str>),
    /// A user has taken back what was allowed to an application (`OAuthAuthorization`).
    Authorization(Cow<'a, str>),
    /// An application was removed from the workspace (`OAuthApp`). It is named by `oauthClientId`.
    Application(Cow<'a, str>),
}

impl EndedAccess<'_> {
    /// The user whose access has ended, if the event names one.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::User(id) | Self::Authorization(id) => Some(id),
            Self::Application(_) => None,
        }
    }
}

/// Why a body has no envelope. No variant holds a part of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The body is not JSON, or a field that is read holds a number beyond a double, or more than 100 levels of nesting.
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
    /// `organizationId` is `null`: the event belongs to no workspace.
    #[error("`organizationId` is null")]
    NoWorkspace,
    /// `organizationId` cannot stand in keys and paths.
    #[error("`organizationId` has to be 1 to 64 of A-Z a-z 0-9 _ -")]
    InvalidWorkspace,
    /// `type` cannot stand in headers and message attributes.
    #[error("`type` has to be 1 to 128 visible ASCII characters")]
    InvalidType,
}

impl EnvelopeError {
    /// Whether the body is a payload that no worker can get. To refuse it would not help: the sender disables a webhook
    /// whose deliveries are refused.
    pub fn is_undeliverable(self) -> bool {
        matches!(self, Self::NoWorkspace | Self::InvalidType)
    }
}

impl EndedAccess<'_> {
    /// The same, without the body that it was read from.
    pub fn into_owned(self) -> EndedAccess<'static> {
        let owned = |id: Cow<'_, str>| Cow::Owned(id.into_owned());
        match self {
            Self::User(id) => EndedAccess::User(owned(id)),
            Self::Authorization(id) => EndedAccess::Authorization(owned(id)),
            Self::Application(id) => EndedAccess::Application(owned(id)),
        }
    }
}

/// The top-level fields that are read, as far as they are present.
#[derive(Default)]
struct Fields<'a> {
    organization_id: Option<Loose<'a>>,
    kind: Option<Loose<'a>>,
    action: Option<Loose<'a>>,
    webhook_timestamp: Option<Loose<'a>>,
    created_at: Option<Loose<'a>>,
    data: Option<Loose<'a>>,
    issue_data: Option<Loose<'a>>,
    notification: Option<Loose<'a>>,
    agent_session: Option<Loose<'a>>,
    agent_activity: Option<Loose<'a>>,
    actor: Option<Loose<'a>>,
    app_user_id: Option<Loose<'a>>,
    oauth_client_id: Option<Loose<'a>>,
    user_id: Option<Loose<'a>>,
    repeated: Option<&'static str>,
}

#[derive(Clone, Copy)]
enum Field {
    OrganizationId,
    Type,
    Action,
    WebhookTimestamp,
    CreatedAt,
    Data,
    IssueData,
    Notification,
    AgentSession,
    AgentActivity,
    Actor,
    AppUserId,
    OauthClientId,
    UserId,
    Other,
}

impl From<&str> for Field {
    fn from(name: &str) -> Self {
        match name {
            "organizationId" => Self::OrganizationId,
            "type" => Self::Type,
            "action" => Self::Action,
            "webhookTimestamp" => Self::WebhookTimestamp,
            "createdAt" => Self::CreatedAt,
            "data" => Self::Data,
            "issueData" => Self::IssueData,
            "notification" => Self::Notification,
            "agentSession" => Self::AgentSession,
            "agentActivity" => Self::AgentActivity,
            "actor" => Self::Actor,
            "appUserId" => Self::AppUserId,
            "oauthClientId" => Self::OauthClientId,
            "userId" => Self::UserId,
            _ => Self::Other,
        }
    }
}

impl<'a> Fields<'a> {
    fn put(&mut self, field: Field, value: Loose<'a>) {
        let (slot, name) = match field {
            Field::OrganizationId => (&mut self.organization_id, "organizationId"),
            Field::Type => (&mut self.kind, "type"),
            Field::Action => (&mut self.action, "action"),
            Field::WebhookTimestamp => (&mut self.webhook_timestamp, "webhookTimestamp"),
            Field::CreatedAt => (&mut self.created_at, "createdAt"),
            Field::Data => (&mut self.data, "data"),
            Field::IssueData => (&mut self.issue_data, "issueData"),
            Field::Notification => (&mut self.notification, "notification"),
            Field::AgentSession => (&mut self.agent_session, "agentSession"),
            Field::AgentActivity => (&mut self.agent_activity, "agentActivity"),
            Field::Actor => (&mut self.actor, "actor"),
            Field::AppUserId => (&mut self.app_user_id, "appUserId"),
            Field::OauthClientId => (&mut self.oauth_client_id, "oauthClientId"),
            Field::UserId => (&mut self.user_id, "userId"),
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
        while let Some(Name(field)) = map.next_key::<Name<Field>>()? {
            if matches!(field, Field::Other) {
                map.next_value::<IgnoredAny>()?;
            } else {
                fields.put(field, map.next_value()?);
            }
        }
        Ok(fields)
    }
}

impl Fields<'_> {
    /// When the payload was sent, as far as it says.
    fn sent_at_ms(&self) -> Result<Option<f64>, EnvelopeError> {
        match (&self.webhook_timestamp, &self.created_at) {
            (Some(Loose::Number(millis)), _) => Ok(Some(*millis)),
            (None | Some(Loose::Null), Some(Loose::Text(created_at))) => {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "milliseconds since 1970 fit into 53 bits"
                )]
                let created_at_ms = clock::parse_rfc3339(created_at).map(|millis| millis as f64);
                Ok(created_at_ms)
            }
            (None | Some(Loose::Null), _) => Ok(None),
            (Some(_), _) => Err(EnvelopeError::WrongType("webhookTimestamp")),
        }
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
/// The body is not a JSON object with `organizationId` and `type`, each once and of its type.
pub fn parse(body: &str) -> Result<Envelope<'_>, EnvelopeError> {
    let envelope = read(body);
    if matches!(envelope, Err(EnvelopeError::NotJson { .. }))
        && let Some(replaced) = surrogates::replaced(body)
    {
        return read(&replaced).map(Envelope::into_owned);
    }
    envelope
}

fn read<'a>(body: &'a str) -> Result<Envelope<'a>, EnvelopeError> {
    let fields: Fields<'a> = serde_json::from_str(body).map_err(|error| {
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
    let sent_at_ms = fields.sent_at_ms()?;
    if matches!(fields.organization_id, Some(Loose::Null)) {
        return Err(EnvelopeError::NoWorkspace);
    }
    let workspace = text("organizationId", fields.organization_id)?;
    let kind = text("type", fields.kind)?;
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
    let subject = |field: Option<Loose<'a>>| field.map(Loose::subject).unwrap_or_default();
    let is_stop = kind == "AgentSessionEvent"
        && action == "prompted"
        && subject(fields.agent_activity).signal.as_deref() == Some("stop");
    let mut subjects = Subjects {
        session: subject(fields.agent_session),
        issue: subject(fields.issue_data),
        notification: subject(fields.notification),
        data: subject(fields.data),
    };
    let user = fields.user_id.and_then(Loose::text);
    let oauth_client = fields.oauth_client_id.and_then(Loose::text);
    let ended = subjects.ended_access(&kind, &action, user, oauth_client.as_ref());
    let actor = subject(fields.actor).id;
    let application = fields.app_user_id.and_then(Loose::text);
    let audience = Audience {
        oauth_client,
        ..subjects.audience(&kind, actor, application)
    };
    Ok(Envelope {
        ordering_key: subjects.ordering_key(&kind),
        workspace,
        kind,
        action,
        sent_at_ms,
        is_stop,
        audience,
        ended,
    })
}

/// The objects that a payload is about.
struct Subjects<'a> {
    session: Subject<'a>,
    issue: Subject<'a>,
    notification: Subject<'a>,
    data: Subject<'a>,
}

impl<'a> Subjects<'a> {
    fn all(&mut self) -> [&mut Subject<'a>; 4] {
        [
            &mut self.session,
            &mut self.issue,
            &mut self.notification,
            &mut self.data,
        ]
    }

    /// Takes whom the payload concerns.
    fn audience(
        &mut self,
        kind: &str,
        actor: Option<Cow<'a, str>>,
        application: Option<Cow<'a, str>>,
    ) -> Audience<'a> {
        let mut audience = Audience {
            application: application.or(self.data.application.take()),
            ..Audience::default()
        };
        let starter = self.session.creator.clone();
        for subject in self.all() {
            audience.teams.append(&mut subject.teams);
            audience.people.extend(subject.creator.take());
            audience.people.append(&mut subject.people);
        }
        audience.people.extend(actor);
        if kind == "AgentSessionEvent" {
            audience.people = starter.into_iter().collect();
        }
        // They travel in a message attribute, separated by spaces.
        for team in &mut audience.teams {
            if !team.is_empty() && !is_identifier(team) {
                *team = Cow::Owned(digest(team.as_bytes()));
            }
        }
        for ids in [&mut audience.teams, &mut audience.people] {
            ids.retain(|id| !id.is_empty());
            ids.sort_unstable();
            ids.dedup();
        }
        audience
    }

    fn ended_access(
        &self,
        kind: &str,
        action: &str,
        user: Option<Cow<'a, str>>,
        oauth_client: Option<&Cow<'a, str>>,
    ) -> Option<EndedAccess<'a>> {
        match (kind, action) {
            ("User", "remove") => self.data.id.clone().map(EndedAccess::User),
            ("User", _) if self.data.is_active == Some(false) => {
                self.data.id.clone().map(EndedAccess::User)
            }
            ("OAuthAuthorization", "revoked") => user.map(EndedAccess::Authorization),
            ("OAuthApp", "revoked") => oauth_client.cloned().map(EndedAccess::Application),
            _ => None,
        }
    }

    fn ordering_key(self, kind: &str) -> String {
        let key = (self.session.id)
            .or(self.issue.id)
            .or_else(|| self.notification.key(kind))
            .or_else(|| self.data.key(kind));
        match key {
            Some(key) if is_identifier(&key) => key.into_owned(),
            Some(key) => digest(key.as_bytes()),
            None if is_identifier(kind) => kind.to_owned(),
            None => digest(kind.as_bytes()),
        }
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(rest: &str) -> String {
        format!(r#"{{"organizationId":"org","type":"T","action":"a","webhookTimestamp":1{rest}}}"#)
    }

    #[test]
    fn the_ordering_key_is_the_first_of_what_the_payload_refers_to_else_its_entity() {
        for (rest, key) in [
            (r#","data":{"id":"c","issueId":"i"}"#, "i"),
            (r#","data":{"issue":{"id":"i"},"id":"c"}"#, "i"),
            (
                r#","data":{"id":"r","comment":{"id":"c","issueId":"i"}}"#,
                "i",
            ),
            (r#","data":{"id":"r","comment":{"id":"c"}}"#, "c"),
            (
                r#","data":{"id":"x","issueId":"b","originalIssueId":"a"}"#,
                "a",
            ),
            (
                r#","data":{"id":"u","projectId":"p","initiativeId":"n"}"#,
                "n",
            ),
            (r#","data":{"id":"p"}"#, "p"),
            (
                r#","data":{"id":"x","agentSessionId":"s","issueId":"i"}"#,
                "s",
            ),
            (r#","issueData":{"id":"i"}"#, "i"),
            (
                r#","notification":{"id":"n","issueId":"i","issue":{"id":"i"}}"#,
                "i",
            ),
            (r#","notification":{"id":"n","documentId":"d"}"#, "d"),
            (r#","notification":{"id":"n","issueId":null}"#, "n"),
            (r#","agentSession":{"id":"s","issueId":"i"}"#, "s"),
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
        for (kind, key) in [
            ("Issue", "x"),
            ("CustomerNeed", "x"),
            ("ProjectUpdate", "x"),
            ("Comment", "parent"),
            ("IssueLabel", "x"),
        ] {
            let data = match kind {
                "Comment" | "IssueLabel" => r#","data":{"id":"x","parentId":"parent"}"#,
                _ => r#","data":{"id":"x","issueId":"i","projectId":"p"}"#,
            };
            let body = payload(data).replace(r#""T""#, &format!("{kind:?}"));
            assert_eq!(parse(&body).unwrap().ordering_key, key, "{kind}");
        }
        let odd = payload(r#","data":{"id":"with spaces"}"#);
        assert!(is_identifier(&parse(&odd).unwrap().ordering_key));
    }

    #[test]
    fn a_payload_without_a_timestamp_is_as_old_as_its_creation_if_it_says_so() {
        let sent_at = |times: &str| {
            let body = payload("").replace(r#""webhookTimestamp":1"#, times);
            parse(&body).map(|envelope| envelope.sent_at_ms)
        };
        let created = r#""createdAt":"2026-11-20T09:50:00.540Z""#;
        assert_eq!(sent_at(created), Ok(Some(1_795_168_200_540.0)));
        let null = format!(r#""webhookTimestamp":null,{created}"#);
        assert_eq!(sent_at(&null), Ok(Some(1_795_168_200_540.0)));
        let both = format!(r#""webhookTimestamp":7,{created}"#);
        assert_eq!(sent_at(&both), Ok(Some(7.0)));
        assert_eq!(sent_at(r#""webhookTimestamp":null"#), Ok(None));
        assert_eq!(sent_at(r#""createdAt":"yesterday""#), Ok(None));
        let wrong = EnvelopeError::WrongType("webhookTimestamp");
        assert_eq!(sent_at(r#""webhookTimestamp":"7""#), Err(wrong));
    }

    #[test]
    fn a_name_that_is_half_of_a_surrogate_pair_is_skipped() {
        for rest in [
            r#","\ud83d":1"#,
            r#","data":{"id":"x","\ud83d":{"\ude00":1}}"#,
        ] {
            assert!(parse(&payload(rest)).is_ok(), "{rest}");
        }
    }

    #[test]
    fn a_team_whose_id_is_no_identifier_stays_one_team() {
        let body = payload(r#","data":{"teamId":"a b\u0000","teamIds":["c",""]}"#);
        let teams = parse(&body).unwrap().audience.teams;
        assert_eq!(teams, ["c".to_owned(), digest(b"a b\0")]);
    }

    #[test]
    fn a_control_character_in_a_name_is_not_json() {
        for rest in [",\"\u{1}\":1", ",\"data\":{\"\u{0}\":1}"] {
            let error = parse(&payload(rest)).unwrap_err();
            assert!(matches!(error, EnvelopeError::NotJson { .. }), "{rest:?}");
        }
    }

    #[test]
    fn a_text_with_half_of_a_surrogate_pair_is_read() {
        let body = payload(r#","data":{"id":"\ud83d","teamId":"t","creatorId":"u"}"#);
        let envelope = parse(&body).unwrap();
        assert_eq!(envelope.ordering_key, digest("\u{fffd}".as_bytes()));
        assert_eq!(envelope.audience.teams, ["t"]);
        assert_eq!(envelope.audience.people, ["u"]);
        let body = payload("").replace(r#""org""#, r#""\ud83d""#);
        assert_eq!(parse(&body), Err(EnvelopeError::InvalidWorkspace));
    }

    #[test]
    fn a_payload_that_no_worker_can_get_is_told_from_a_malformed_one() {
        let nobodys = payload("").replace(r#""org""#, "null");
        let spaced = payload("").replace(r#""T""#, r#""Pull Request""#);
        for body in [nobodys, spaced] {
            assert!(parse(&body).unwrap_err().is_undeliverable(), "{body}");
        }
        assert!(!parse("{}").unwrap_err().is_undeliverable());
    }

    #[test]
    fn a_prompt_with_the_signal_stop_asks_the_agent_to_stop() {
        let body = |action: &str, signal: &str| {
            format!(
                r#"{{"organizationId":"o","type":"AgentSessionEvent","action":"{action}","webhookTimestamp":1,
                "agentSession":{{"id":"s"}},"agentActivity":{{"signal":{signal}}}}}"#
            )
        };
        for (action, signal, expected) in [
            ("prompted", r#""stop""#, true),
            ("created", r#""stop""#, false),
            ("prompted", r#""continue""#, false),
            ("prompted", "null", false),
        ] {
            let body = body(action, signal);
            assert_eq!(parse(&body).unwrap().is_stop, expected, "{body}");
        }
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
            kind in "X[A-Za-z]{1,20}",
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
            prop_assert_eq!(&envelope.ordering_key, &issue);
        }

        #[test]
        fn no_text_makes_the_reader_panic(body in "\\PC{0,200}", cut in any::<proptest::sample::Index>()) {
            let _ = parse(&body);
            let whole = payload(r#","data":{"id":"c","issue":{"id":"i"}}"#);
            let _ = parse(&whole[..cut.index(whole.len())]);
        }
    }
}
