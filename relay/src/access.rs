//! Who may register, and what a worker gets.
//!
//! Invariant: nothing here does I/O, awaits, or reads a clock. What is known is an argument.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use protocol::capability;
use protocol::envelope::{Audience, EndedAccess};
use protocol::mention::Mentions;
use protocol::messages::{Filter, Register, Renew, Workspace};
use protocol::problem::Code;

use crate::error::Error;
use crate::event::Event;
use crate::linear::api::Member;
use crate::queue::Recipient;
use crate::subscription::{Subscription, User};
use crate::table::{KnownBy, RoutedEvent};
use crate::worker::Worker;

/// How many of those who are mentioned in an event are recorded.
const MAX_MENTIONS: usize = 50;
/// How much of the key of an unknown team is repeated.
const MAX_TEAM_KEY: usize = 32;

/// The subscription of a member's worker.
///
/// # Errors
///
/// The filter names a team that the member cannot see.
pub(crate) fn subscription(member: &Member, request: &Register) -> Result<Subscription, Error> {
    let subscription = Subscription {
        user: Some(member.user.clone()),
        is_oauth: member.is_oauth,
        teams: Some(member.teams.keys().cloned().collect()),
        capabilities: request.capabilities.clone(),
        group: request.group.clone(),
        ..Subscription::default()
    };
    filtered(subscription, request.filter.as_ref(), &member.teams)
}

/// A subscription after its user was seen to be this member.
pub(crate) fn checked(subscription: &Subscription, member: &Member) -> Subscription {
    Subscription {
        user: Some(member.user.clone()),
        is_oauth: member.is_oauth,
        teams: Some(member.teams.keys().cloned().collect()),
        ..subscription.clone()
    }
}

/// The subscription of a worker after a renewal; none if it stays as it is.
///
/// # Errors
///
/// As for [`subscription`].
pub(crate) fn changed(worker: &Worker, request: &Renew) -> Result<Option<Subscription>, Error> {
    let mut changed = worker.subscription.clone();
    if let Some(capabilities) = &request.capabilities {
        changed.capabilities.clone_from(capabilities);
    }
    if let Some(group) = &request.group {
        changed.group.clone_from(group);
    }
    if let Some(filter) = &request.filter {
        changed = filtered(changed, filter.as_ref(), &worker.team_keys)?;
    }
    Ok((changed != worker.subscription).then_some(changed))
}

/// A subscription with this filter, whose teams are named by key.
fn filtered(
    subscription: Subscription,
    filter: Option<&Filter>,
    keys: &BTreeMap<String, String>,
) -> Result<Subscription, Error> {
    let filter = filter.cloned().unwrap_or_default();
    let id = |wanted: &String| {
        let found = (keys.iter()).find(|(_, key)| key.eq_ignore_ascii_case(wanted));
        found
            .map(|(id, _)| id.clone())
            .ok_or_else(|| unknown_team(wanted, keys))
    };
    if filter.teams.as_ref().is_some_and(Vec::is_empty) {
        return Err(Error::refused(
            Code::InvalidRequest,
            "`filter.teams` takes at least one key; leave it out to get the events of all teams",
        ));
    }
    let only_teams = (filter.teams.as_ref())
        .map(|teams| teams.iter().map(id).collect::<Result<_, _>>())
        .transpose()?;
    Ok(Subscription {
        mine: filter.mine,
        only_teams,
        ..subscription
    })
}

fn unknown_team(wanted: &str, keys: &BTreeMap<String, String>) -> Error {
    let known: Vec<_> = keys.values().map(String::as_str).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    Error::refused(
        Code::UnknownTeam,
        format!(
            "`filter.teams` names {:?}, which is none of the teams that the user can see: {known}",
            wanted.chars().take(MAX_TEAM_KEY).collect::<String>()
        ),
    )
}

/// What becomes of an event for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is delivered.
    Deliver,
    /// It is withheld until it is known whether the worker's user may see its teams.
    Withhold,
    /// It is not for this worker.
    Skip(Reason),
}

/// Why an event is not for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The worker does not want its type.
    Type,
    /// It is meant for another application, or the worker is an application and the event names neither it nor a team.
    Application,
    /// It does not concern the worker's user.
    Mine,
    /// The worker wants the events of other teams.
    Team,
    /// Another worker of its group got it.
    Group,
    /// The worker's user could not see its team at the last check.
    Withheld,
}

impl Reason {
    /// The word on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Application => "application",
            Self::Mine => "mine",
            Self::Team => "team",
            Self::Group => "group",
            Self::Withheld => "withheld",
        }
    }
}

/// Whether a worker's access has ended. An application is named by the user that it is in the workspace, if that is known.
pub(crate) fn has_ended(
    subscription: &Subscription,
    ended: &EndedAccess<'_>,
    application: Option<&str>,
) -> bool {
    let Some(user) = &subscription.user else {
        return false;
    };
    match ended {
        EndedAccess::User(id) => user.id == *id,
        // A personal API key is not affected.
        EndedAccess::Authorization(id) => subscription.is_oauth && user.id == *id,
        EndedAccess::Application(_) => application == Some(user.id.as_str()),
    }
}

/// The workers that may see an event and want it, of those with these ids and subscriptions.
pub fn recipients<'a>(
    event: &Event,
    subscribers: impl IntoIterator<Item = (&'a str, &'a Subscription)>,
) -> Vec<Recipient> {
    Routing::new(event).recipients(subscribers)
}

/// An event on its way to the workers that may see it and want it.
pub(crate) struct Routing<'a> {
    kind: &'a str,
    action: &'a str,
    audience: Cow<'a, Audience<'a>>,
    body: &'a [u8],
    /// Searched for only if a worker wants to know.
    mentions: OnceCell<Mentions<'a>>,
}

impl<'a> Routing<'a> {
    pub(crate) fn new(event: &'a Event) -> Self {
        Self {
            kind: &event.kind,
            action: &event.action,
            audience: Cow::Borrowed(&event.audience),
            body: &event.body,
            mentions: OnceCell::new(),
        }
    }

    /// An event of the last day.
    pub(crate) fn of(routed: &'a RoutedEvent) -> Self {
        let ids = routed.mentioned_ids.iter().map(String::as_str);
        let names = routed.mentioned_names.iter().cloned();
        Self {
            kind: &routed.kind,
            action: &routed.action,
            audience: Cow::Owned(routed.audience()),
            body: &[],
            mentions: Mentions::new(ids, names).into(),
        }
    }

    /// What decides who gets the event, but for groups, for whoever looks back at it. Those who are mentioned are among it if
    /// that was asked for.
    pub(crate) fn routed(&self) -> RoutedEvent {
        let owned = |ids: &[Cow<'_, str>]| ids.iter().map(|id| id.clone().into_owned()).collect();
        let mentions = self.mentions.get();
        RoutedEvent {
            kind: self.kind.to_owned(),
            action: self.action.to_owned(),
            teams: owned(&self.audience.teams),
            people: owned(&self.audience.people),
            application: self.audience.application.as_deref().map(str::to_owned),
            mentioned_ids: (mentions.into_iter().flat_map(Mentions::ids))
                .map(str::to_owned)
                .take(MAX_MENTIONS)
                .collect(),
            mentioned_names: (mentions.into_iter().flat_map(Mentions::names))
                .map(str::to_owned)
                .take(MAX_MENTIONS)
                .collect(),
            groups: BTreeMap::new(),
        }
    }

    /// The workers that may see the event and want it, of those with these ids and subscriptions.
    pub(crate) fn recipients<'s>(
        &self,
        subscribers: impl IntoIterator<Item = (&'s str, &'s Subscription)>,
    ) -> Vec<Recipient> {
        (subscribers.into_iter())
            .filter_map(|(worker, subscription)| {
                let is_withheld = match self.verdict(subscription) {
                    Verdict::Deliver => false,
                    Verdict::Withhold => true,
                    Verdict::Skip(_) => return None,
                };
                Some(Recipient {
                    worker: worker.to_owned(),
                    is_withheld,
                    is_by_team: !self.names(subscription),
                    group: subscription.group.clone(),
                })
            })
            .collect()
    }

    /// Whether the event names the worker's application, which gets it whatever the team.
    fn names(&self, subscription: &Subscription) -> bool {
        let application = self.audience.application.as_deref();
        (subscription.user.as_ref())
            .is_some_and(|user| user.is_app && application == Some(user.id.as_str()))
    }

    /// What becomes of the event for a worker with this subscription.
    pub(crate) fn verdict(&self, subscription: &Subscription) -> Verdict {
        let audience = &self.audience;
        let user = subscription.user.as_ref();
        let patterns = subscription.capabilities.as_deref();
        if !capability::wanted(patterns, self.kind, self.action) {
            return Verdict::Skip(Reason::Type);
        }
        if self.names(subscription) {
            return Verdict::Deliver;
        }
        let is_for_another = audience.application.is_some() || audience.teams.is_empty();
        if user.is_some_and(|user| user.is_app) && is_for_another {
            return Verdict::Skip(Reason::Application);
        }
        let is_among =
            |teams: &BTreeSet<String>| audience.teams.iter().any(|team| teams.contains(&**team));
        if (subscription.only_teams.as_ref()).is_some_and(|only| !is_among(only)) {
            return Verdict::Skip(Reason::Team);
        }
        if subscription.mine && !user.is_some_and(|user| self.concerns(user)) {
            return Verdict::Skip(Reason::Mine);
        }
        // Of several teams, one is enough.
        if audience.teams.is_empty() || subscription.teams.as_ref().is_none_or(is_among) {
            Verdict::Deliver
        } else {
            Verdict::Withhold
        }
    }

    /// Whether the event concerns a user: created, has assigned or delegated, wrote, acted, is notified or mentioned. For an
    /// event of an agent session: started the session.
    fn concerns(&self, user: &User) -> bool {
        if self.audience.people.iter().any(|id| *id == user.id) {
            return true;
        }
        let body = || std::str::from_utf8(self.body).unwrap_or_default();
        self.kind != "AgentSessionEvent"
            && (self.mentions.get_or_init(|| Mentions::of(body())))
                .contains(&user.id, &user.display_name)
    }
}

/// A worker with this id and subscription as the recipient of an event, whether it wants it or not; none if it may not see it.
pub(crate) fn recipient(
    event: &Event,
    worker: &str,
    subscription: &Subscription,
) -> Option<Recipient> {
    let all = Subscription {
        user: subscription.user.clone(),
        teams: subscription.teams.clone(),
        ..Subscription::default()
    };
    let mut found = Routing::new(event).recipients([(worker, &all)]);
    found.pop().filter(|recipient| !recipient.is_withheld)
}

/// Why a worker with this id and subscription did not get an event of the last day; none if it did.
pub(crate) fn reason(
    routed: &RoutedEvent,
    worker: &str,
    subscription: &Subscription,
) -> Option<Reason> {
    match Routing::of(routed).verdict(subscription) {
        Verdict::Skip(reason) => Some(reason),
        Verdict::Withhold => Some(Reason::Withheld),
        Verdict::Deliver => {
            let group = subscription.group.as_ref()?;
            let chosen = routed.groups.get(group)?;
            (chosen != worker).then_some(Reason::Group)
        }
    }
}

/// Whether the relay serves a workspace: the operator has named it, by id or URL key, or has stored a webhook secret of it;
/// or no workspace is named, and a webhook of it was accepted. Nobody else may register: whoever has an account with Linear
/// could make the relay work for a workspace of theirs.
pub(crate) fn is_served(named: &[String], workspace: &Workspace, known: Option<KnownBy>) -> bool {
    match known {
        Some(KnownBy::Secret) => return true,
        Some(KnownBy::Webhook) if named.is_empty() => return true,
        _ => {}
    }
    named
        .iter()
        .any(|name| *name == workspace.id || name.eq_ignore_ascii_case(&workspace.url_key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_served_if_it_is_named_or_has_a_secret_or_a_webhook_where_none_is_named() {
        let workspace = Workspace {
            id: "9a8f".to_owned(),
            url_key: "acme".to_owned(),
            name: "named".to_owned(),
        };
        let (secret, webhook) = (Some(KnownBy::Secret), Some(KnownBy::Webhook));
        for (named, known, expected) in [
            ("", webhook, true),
            ("", secret, true),
            ("", None, false),
            ("9a8f", None, true),
            ("other ACME", None, true),
            ("other", None, false),
            ("other", webhook, false),
            ("other", secret, true),
            ("named", None, false),
        ] {
            let named: Vec<_> = named.split_whitespace().map(str::to_owned).collect();
            let is_served = is_served(&named, &workspace, known);
            assert_eq!(is_served, expected, "{named:?} {known:?}");
        }
    }
}
