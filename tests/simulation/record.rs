//! The reference model: which events each worker has to have, and in which order.

use std::collections::BTreeMap;

use protocol::clock::UnixMillis;

/// What was promised.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) events: Vec<Posted>,
    members: BTreeMap<usize, Membership>,
}

/// An event that Linear posted.
#[derive(Debug, Clone)]
pub(crate) struct Posted {
    /// As the workers see it.
    pub(crate) id: String,
    /// What it is about.
    pub(crate) key: String,
    /// When it was posted first.
    pub(crate) posted_at: UnixMillis,
    /// When it was answered 200.
    pub(crate) accepted_at: Option<UnixMillis>,
}

/// Since when a worker has been registered without interruption, and when it was removed last.
#[derive(Debug, Default)]
struct Membership {
    since: Option<UnixMillis>,
    removed_at: Option<UnixMillis>,
}

impl Record {
    /// A machine knows at `now` that its registration, which began then, succeeded.
    pub(crate) fn registered(&mut self, machine: usize, began: UnixMillis, now: UnixMillis) {
        let member = self.members.entry(machine).or_default();
        if member.since.is_none() && member.removed_at.is_none_or(|at| began > at) {
            member.since = Some(now);
        }
    }

    /// A machine asks for its removal, or says that it is gone.
    pub(crate) fn removed(&mut self, machine: usize, now: UnixMillis) {
        let member = self.members.entry(machine).or_default();
        *member = Membership {
            since: None,
            removed_at: Some(now),
        };
    }

    /// The events that a machine has to have: those that were answered 200 and were posted while it was registered. Whether
    /// it gets one that was posted while it registered, or before it was removed, is open.
    pub(crate) fn due_to(&self, machine: usize) -> impl Iterator<Item = &Posted> {
        let since = self.members.get(&machine).and_then(|member| member.since);
        (self.events.iter()).filter(move |event| {
            event.accepted_at.is_some() && since.is_some_and(|since| since <= event.posted_at)
        })
    }
}

impl Posted {
    /// Whether this event comes before another one: it is about the same thing, and was answered before the other was
    /// posted.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.key == other.key && self.accepted_at.is_some_and(|at| at < other.posted_at)
    }
}
