//! What an object of the payload is about: the identifiers in it, by which events are kept in order, and the teams and people
//! that it concerns.
//!
//! Source: the payload types of Linear's public GraphQL schema.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::name::Name;

/// What an object can refer to, the first of which gives the ordering key. So a thing, the comments on it and their
/// reactions have the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reference {
    /// An agent session, which must not wait for its issue: Linear wants it answered within 10 s.
    Session,
    /// The issue that something was about before it was moved.
    OriginalIssue,
    Issue,
    ProjectUpdate,
    /// Before the update, which refers to its initiative.
    Initiative,
    InitiativeUpdate,
    Document,
    DocumentContent,
    Project,
    /// The thread of a comment.
    Comment,
}

/// The identifiers in an object of the payload. A value of an unexpected type counts as absent, because an unusual payload
/// must still be delivered.
#[derive(Debug, Default)]
pub(super) struct Subject<'a> {
    pub(super) id: Option<Cow<'a, str>>,
    /// The first of what it refers to.
    reference: Option<(Reference, Cow<'a, str>)>,
    /// `parentId`: of a comment, the first of its thread.
    parent: Option<Cow<'a, str>>,
    /// `signal`, of an agent activity.
    pub(super) signal: Option<Cow<'a, str>>,
    /// The teams of what it is about.
    pub(super) teams: Vec<Cow<'a, str>>,
    /// Who started it.
    pub(super) creator: Option<Cow<'a, str>>,
    /// Who else is concerned: has it assigned or delegated, wrote it, or is notified.
    pub(super) people: Vec<Cow<'a, str>>,
    /// `appUserId`, of an agent session.
    pub(super) application: Option<Cow<'a, str>>,
    /// `active`, of a user.
    pub(super) is_active: Option<bool>,
}

impl<'a> Subject<'a> {
    fn refer(&mut self, to: Reference, id: Option<Cow<'a, str>>) {
        if let Some(id) = id
            && (self.reference.as_ref()).is_none_or(|(known, _)| to < *known)
        {
            self.reference = Some((to, id));
        }
    }

    /// Takes the teams of what the object contains.
    fn concern(&mut self, mut contained: Self) -> Self {
        self.teams.append(&mut contained.teams);
        contained
    }

    /// What the object, of this type, is kept in order by.
    pub(super) fn key(self, kind: &str) -> Option<Cow<'a, str>> {
        // These have an identity that outlives what they refer to, and others refer to them.
        let is_own = matches!(
            kind,
            "AgentSession"
                | "CustomerNeed"
                | "Document"
                | "Initiative"
                | "Issue"
                | "Project"
                | "ProjectUpdate"
        );
        if is_own {
            return self.id;
        }
        let thread = self.parent.filter(|_| kind == "Comment");
        (self.reference.map(|(_, id)| id)).or(thread).or(self.id)
    }

    fn put(&mut self, key: Key, value: Loose<'a>) {
        match key {
            Key::Id => self.id = value.text(),
            Key::ParentId => self.parent = value.text(),
            Key::Signal => self.signal = value.text(),
            Key::AgentSessionId => self.refer(Reference::Session, value.text()),
            Key::OriginalIssueId => self.refer(Reference::OriginalIssue, value.text()),
            Key::IssueId => self.refer(Reference::Issue, value.text()),
            Key::ProjectUpdateId => self.refer(Reference::ProjectUpdate, value.text()),
            Key::InitiativeId => self.refer(Reference::Initiative, value.text()),
            Key::InitiativeUpdateId => self.refer(Reference::InitiativeUpdate, value.text()),
            Key::DocumentId => self.refer(Reference::Document, value.text()),
            Key::DocumentContentId => self.refer(Reference::DocumentContent, value.text()),
            Key::ProjectId => self.refer(Reference::Project, value.text()),
            Key::CommentId | Key::ParentCommentId => self.refer(Reference::Comment, value.text()),
            Key::AgentSession => self.refer(Reference::Session, value.subject().id),
            Key::Issue => {
                let issue = self.concern(value.subject());
                self.refer(Reference::Issue, issue.id);
            }
            Key::ProjectUpdate => self.refer(Reference::ProjectUpdate, value.subject().id),
            Key::Initiative => self.refer(Reference::Initiative, value.subject().id),
            Key::InitiativeUpdate => self.refer(Reference::InitiativeUpdate, value.subject().id),
            Key::Document => self.refer(Reference::Document, value.subject().id),
            Key::Project => self.refer(Reference::Project, value.subject().id),
            Key::Comment | Key::ParentComment => {
                let comment = self.concern(value.subject());
                if let Some((to, id)) = comment.reference {
                    self.refer(to, Some(id));
                }
                self.refer(Reference::Comment, comment.parent.or(comment.id));
            }
            Key::TeamId => self.teams.extend(value.text()),
            Key::Team => self.teams.extend(value.subject().id),
            Key::TeamIds => self
                .teams
                .extend(value.list().into_iter().filter_map(Loose::text)),
            Key::Issues => {
                for issue in value.list() {
                    self.concern(issue.subject());
                }
            }
            Key::CreatorId => self.creator = self.creator.take().or(value.text()),
            Key::Creator => self.creator = self.creator.take().or(value.subject().id),
            Key::PersonId => self.people.extend(value.text()),
            Key::Person => self.people.extend(value.subject().id),
            Key::AppUserId => self.application = value.text(),
            Key::Active => {
                self.is_active = match value {
                    Loose::Flag(is_active) => Some(is_active),
                    _ => None,
                }
            }
            Key::Other => {}
        }
    }
}

/// A value of any JSON type, as far as it is read.
pub(super) enum Loose<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    Flag(bool),
    Object(Box<Subject<'a>>),
    List(Vec<Loose<'a>>),
    Null,
}

impl<'a> Loose<'a> {
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn subject(self) -> Subject<'a> {
        match self {
            Self::Object(subject) => *subject,
            _ => Subject::default(),
        }
    }

    fn list(self) -> Vec<Self> {
        match self {
            Self::List(list) => list,
            _ => Vec::new(),
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

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Loose::Flag(flag))
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
        Ok(Loose::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = seq.next_element()? {
            list.push(element);
        }
        Ok(Loose::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut subject = Subject::default();
        while let Some(Name(key)) = map.next_key::<Name<Key>>()? {
            if matches!(key, Key::Other) {
                map.next_value::<IgnoredAny>()?;
            } else {
                subject.put(key, map.next_value()?);
            }
        }
        Ok(Loose::Object(Box::new(subject)))
    }
}

/// The names in an object that are read.
#[derive(Clone, Copy)]
enum Key {
    Id,
    ParentId,
    Signal,
    AgentSessionId,
    OriginalIssueId,
    IssueId,
    ProjectUpdateId,
    InitiativeId,
    InitiativeUpdateId,
    DocumentId,
    DocumentContentId,
    ProjectId,
    CommentId,
    ParentCommentId,
    AgentSession,
    Issue,
    ProjectUpdate,
    Initiative,
    InitiativeUpdate,
    Document,
    Project,
    Comment,
    ParentComment,
    TeamId,
    Team,
    TeamIds,
    Issues,
    CreatorId,
    Creator,
    PersonId,
    Person,
    AppUserId,
    Active,
    Other,
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        match name {
            "id" => Self::Id,
            "parentId" => Self::ParentId,
            "signal" => Self::Signal,
            "agentSessionId" => Self::AgentSessionId,
            "originalIssueId" => Self::OriginalIssueId,
            "issueId" => Self::IssueId,
            "projectUpdateId" => Self::ProjectUpdateId,
            "initiativeId" => Self::InitiativeId,
            "initiativeUpdateId" => Self::InitiativeUpdateId,
            "documentId" => Self::DocumentId,
            "documentContentId" => Self::DocumentContentId,
            "projectId" => Self::ProjectId,
            "commentId" => Self::CommentId,
            "parentCommentId" => Self::ParentCommentId,
            "agentSession" => Self::AgentSession,
            "issue" => Self::Issue,
            "projectUpdate" => Self::ProjectUpdate,
            "initiative" => Self::Initiative,
            "initiativeUpdate" => Self::InitiativeUpdate,
            "document" => Self::Document,
            "project" => Self::Project,
            "comment" => Self::Comment,
            "parentComment" => Self::ParentComment,
            "teamId" => Self::TeamId,
            "team" => Self::Team,
            "teamIds" => Self::TeamIds,
            "issues" => Self::Issues,
            "creatorId" => Self::CreatorId,
            "creator" => Self::Creator,
            "actorId" | "assigneeId" | "delegateId" | "userId" => Self::PersonId,
            "actor" | "assignee" | "delegate" | "user" => Self::Person,
            "appUserId" => Self::AppUserId,
            "active" => Self::Active,
            _ => Self::Other,
        }
    }
}
