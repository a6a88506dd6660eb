//! Groups: of the workers of a workspace with the same group, one gets each event, by ordering key.
//!
//! A key stays with its worker, which keeps what belongs together on one machine. A new key prefers workers that are not away,
//! and is spread evenly over them by a hash. It moves only when its worker is removed or its lease has ended, or, if the
//! operator wants that, when its worker has been away for long.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use protocol::clock::{UnixMillis, elapsed};
use sha2::{Digest as _, Sha256};

use super::Ingest;
use crate::event::Event;
use crate::queue::Recipient;
use crate::table::{Owner, Route, TableError};

/// How often a key is given again because another event of it was faster.
const TRIES: u32 = 3;

/// The number of groups in which a key is given to a worker at the same time.
const CONCURRENT_GROUPS: usize = 32;

/// The workers of a group, with since when they are away.
type Members<'a> = BTreeMap<&'a str, Option<UnixMillis>>;

/// What becomes of a key.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    /// It stays with its worker, which gets the event.
    Owner(&'a str),
    /// It stays with its worker, which does not want this event or may not see it. Another one gets it, the same one for all such
    /// events of the key.
    Instead(&'a str),
    /// It is given to this worker, which gets the event.
    Give(&'a str),
}

/// The worker that comes first for a key: the one with the highest hash (rendezvous hashing), so that keys are spread evenly
/// and the choice is the same wherever it is made.
fn first<'a>(candidates: impl Iterator<Item = &'a str>, ordering_key: &str) -> Option<&'a str> {
    candidates.max_by_key(|worker| Sha256::digest(format!("{worker}/{ordering_key}")))
}

/// Chooses among a group's workers that may see an event and want it, of which there is at least one. `sent_at` is the time of the
/// event, so that Linear's retry chooses as the attempt before it, whose messages may be on the queue.
fn choose<'a>(
    candidates: &[&'a str],
    members: &Members<'_>,
    owner: Option<&str>,
    ordering_key: &str,
    failover: Option<Duration>,
    sent_at: UnixMillis,
) -> Option<Choice<'a>> {
    let away_since = |worker: &str| members.get(worker).copied().flatten();
    let is_gone_for_long = |worker: &str| {
        (away_since(worker).zip(failover))
            .is_some_and(|(since, failover)| elapsed(since, sent_at) >= failover)
    };
    let mut live = (candidates.iter().copied())
        .filter(|worker| away_since(worker).is_none())
        .peekable();
    let has_live = live.peek().is_some();
    let preferred = if has_live {
        first(live, ordering_key)
    } else {
        first(candidates.iter().copied(), ordering_key)
    }?;
    let Some(owner) = owner.filter(|owner| members.contains_key(owner)) else {
        return Some(Choice::Give(preferred));
    };
    if is_gone_for_long(owner) && has_live {
        return Some(Choice::Give(preferred));
    }
    if let Some(owner) = candidates.iter().find(|worker| **worker == owner) {
        return Some(Choice::Owner(owner));
    }
    // No record says who gets the events of the key in the owner's place. So it must not depend on who is there at the moment.
    let here = candidates.iter().copied();
    let instead = first(
        here.filter(|worker| !is_gone_for_long(worker)),
        ordering_key,
    );
    Some(Choice::Instead(instead.unwrap_or(preferred)))
}

/// The workers of each group.
fn by_group(routes: &[Route]) -> BTreeMap<&str, Members<'_>> {
    let mut groups: BTreeMap<&str, Members<'_>> = BTreeMap::new();
    for route in routes {
        if let Some(group) = &route.subscription.group {
            let members = groups.entry(group).or_default();
            members.insert(&route.worker, route.away_since);
        }
    }
    groups
}

impl Ingest {
    /// Leaves one recipient of each group. Asks the table nothing if there is no group.
    pub(super) async fn one_of_each_group(
        &self,
        event: &Event,
        recipients: Vec<Recipient>,
        routes: &[Route],
    ) -> Result<Vec<Recipient>, TableError> {
        let mut groups: BTreeMap<String, Vec<Recipient>> = BTreeMap::new();
        let mut chosen = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            match &recipient.group {
                None => chosen.push(recipient),
                Some(group) => groups.entry(group.clone()).or_default().push(recipient),
            }
        }
        let names: Vec<_> = groups.keys().map(String::as_str).collect();
        let owners = (self.table).owners(&event.workspace, &names, &event.ordering_key);
        let (mut owners, mut members) = (owners.await?, by_group(routes));
        let of_groups = (groups.into_iter()).map(|(group, mut candidates)| {
            // Only if nobody may see it, it is withheld.
            if candidates.iter().any(|candidate| !candidate.is_withheld) {
                candidates.retain(|candidate| !candidate.is_withheld);
            }
            let owner = owners.remove(&group);
            let members = members.remove(group.as_str()).unwrap_or_default();
            async move {
                let chosen = self.choose(event, &group, owner, &candidates, &members);
                let worker = chosen.await?;
                Ok::<_, TableError>(candidates.into_iter().find(|c| c.worker == worker))
            }
        });
        let of_groups = stream::iter(of_groups).buffered(CONCURRENT_GROUPS);
        let of_groups: Vec<_> = of_groups.try_collect().await?;
        chosen.extend(of_groups.into_iter().flatten());
        Ok(chosen)
    }

    /// Chooses the worker of a group that gets an event. `owner` is the one that had its key when that was read.
    async fn choose(
        &self,
        event: &Event,
        group: &str,
        mut owner: Option<Owner>,
        candidates: &[Recipient],
        members: &Members<'_>,
    ) -> Result<String, TableError> {
        let candidates: Vec<_> = candidates.iter().map(|c| c.worker.as_str()).collect();
        let place = (event.workspace.as_str(), group, event.ordering_key.as_str());
        for attempt in 0..TRIES {
            if attempt > 0 {
                let mut owners = self.table.owners(place.0, &[group], place.2).await?;
                owner = owners.remove(group);
            }
            let choice = choose(
                &candidates,
                members,
                owner.as_ref().map(|owner| owner.worker.as_str()),
                place.2,
                self.config.group_failover,
                event.sent_at,
            );
            let (worker, is_given) = match choice {
                None => break,
                Some(Choice::Instead(worker)) => return Ok(worker.to_owned()),
                Some(Choice::Owner(worker)) => {
                    let is_kept = owner.as_ref().is_none_or(|o| !self.table.is_to_be_kept(o));
                    (worker, !is_kept)
                }
                Some(Choice::Give(worker)) => (worker, true),
            };
            if !is_given || self.table.give_key(place, worker, owner.as_ref()).await? {
                return Ok(worker.to_owned());
            }
        }
        // Others were faster each time, and what they chose is read by Linear's retry.
        Err(TableError::Conflict {
            operation: "give a key to a worker",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_with_its_worker_and_moves_when_it_is_gone() {
        let hour = Some(Duration::from_secs(3600));
        let members = BTreeMap::from([("a", Some(1)), ("b", None), ("c", None)]);
        let chosen = |candidates: &[&'static str], owner, failover, now| {
            choose(candidates, &members, owner, "key", failover, now).unwrap()
        };
        let all = ["a", "b", "c"];
        // Away, and still the owner.
        assert_eq!(chosen(&all, Some("a"), None, i64::MAX), Choice::Owner("a"));
        assert_eq!(chosen(&all, Some("a"), hour, 3_600_000), Choice::Owner("a"));
        let moved = chosen(&all, Some("a"), hour, 3_600_001);
        assert!(matches!(moved, Choice::Give("b" | "c")), "{moved:?}");
        // Nobody else is there.
        assert_eq!(
            chosen(&["a"], Some("a"), hour, i64::MAX),
            Choice::Owner("a")
        );
        // Removed, or never given.
        for owner in [Some("removed"), None] {
            let given = chosen(&all, owner, None, 0);
            assert!(matches!(given, Choice::Give("b" | "c")), "{given:?}");
        }
        assert_eq!(chosen(&["a"], None, None, 0), Choice::Give("a"));
        // It does not want this one. Whoever gets it in its place does so, there or not, until it has been away for long.
        assert_eq!(chosen(&["b"], Some("c"), None, 0), Choice::Instead("b"));
        let instead = |members: &Members<'_>, sent_at| {
            choose(&["a", "b"], members, Some("c"), "key", hour, sent_at).unwrap()
        };
        let mut members = BTreeMap::from([("a", None), ("b", None), ("c", None)]);
        let Choice::Instead(winner) = instead(&members, 2) else {
            panic!("the owner does not want it");
        };
        members.insert(winner, Some(1));
        assert_eq!(instead(&members, 2), Choice::Instead(winner));
        assert_ne!(instead(&members, 3_600_001), Choice::Instead(winner));
    }

    #[test]
    fn keys_are_spread_evenly() {
        let workers = ["a", "b", "c", "d"];
        let mut counts = BTreeMap::new();
        for key in 0..4000 {
            let worker = first(workers.into_iter(), &format!("issue-{key}")).unwrap();
            *counts.entry(worker).or_insert(0) += 1;
        }
        assert!(
            counts.values().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
    }
}
