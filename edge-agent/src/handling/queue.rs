//! The events that wait, by ordering key.
//!
//! Invariant: only the oldest event of a key can be due, and none while the key is blocked.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use protocol::clock::UnixMillis;

use crate::store::Waiting;

/// The waiting events of one ordering key.
#[derive(Debug, Default)]
struct KeyQueue {
    /// When each is due, by sequence: the oldest first.
    events: BTreeMap<i64, UnixMillis>,
    /// An event of the key is being handled, or the key waits for an absent handler.
    is_blocked: bool,
    /// Nothing of the key is due before this time.
    paused_until: UnixMillis,
}

impl KeyQueue {
    /// When the oldest event is due, and its sequence.
    fn oldest(&self) -> Option<(UnixMillis, i64)> {
        (self.events.first_key_value())
            .map(|(sequence, due_at)| ((*due_at).max(self.paused_until), *sequence))
    }
}

/// All waiting events.
#[derive(Debug, Default)]
pub(super) struct Queue {
    keys: HashMap<String, KeyQueue>,
    /// The keys that are not blocked, by when their oldest event is due. An entry may be out of date.
    due: BinaryHeap<Reverse<(UnixMillis, i64, String)>>,
}

impl Queue {
    /// Adds an event. One that is there already is due at the earlier of both times: it may have been replayed.
    pub(super) fn add(&mut self, event: Waiting) {
        let queue = self.keys.entry(event.ordering_key.clone()).or_default();
        let due_at = queue.events.entry(event.sequence).or_insert(event.due_at);
        *due_at = event.due_at.min(*due_at);
        if let (false, Some((due_at, sequence))) = (queue.is_blocked, queue.oldest())
            && sequence == event.sequence
        {
            let entry = (due_at, sequence, event.ordering_key);
            self.due.push(Reverse(entry));
        }
    }

    /// Takes an event that is due at `now` and blocks its key.
    pub(super) fn take_due(&mut self, now: UnixMillis) -> Option<(String, i64)> {
        loop {
            if self.next_due()? > now {
                return None;
            }
            let Reverse((due_at, sequence, key)) = self.due.pop()?;
            // After a replay, another event may be the oldest of the key, with its own entry.
            if let Some(queue) = self.keys.get_mut(&key)
                && !queue.is_blocked
            {
                match queue.oldest() {
                    Some(oldest) if oldest == (due_at, sequence) => {
                        queue.is_blocked = true;
                        return Some((key, sequence));
                    }
                    // Its pause has ended.
                    None if queue.paused_until <= now => drop(self.keys.remove(&key)),
                    _ => {}
                }
            }
        }
    }

    /// When the next event is due.
    pub(super) fn next_due(&self) -> Option<UnixMillis> {
        self.due.peek().map(|Reverse((due_at, ..))| *due_at)
    }

    /// When an event is due by itself, if it is there.
    pub(super) fn due_at(&self, key: &str, sequence: i64) -> Option<UnixMillis> {
        self.keys.get(key)?.events.get(&sequence).copied()
    }

    /// Removes an event that is settled, or passes the line.
    pub(super) fn remove(&mut self, key: &str, sequence: i64) {
        if let Some(queue) = self.keys.get_mut(key) {
            queue.events.remove(&sequence);
        }
    }

    /// Sets when an event is due again.
    pub(super) fn retry_at(&mut self, key: &str, sequence: i64, due_at: UnixMillis) {
        if let Some(queue) = self.keys.get_mut(key) {
            queue.events.insert(sequence, due_at);
        }
    }

    /// Makes all events due at `now` that are due later.
    pub(super) fn hasten(&mut self, now: UnixMillis) {
        for (key, queue) in &mut self.keys {
            for due_at in queue.events.values_mut() {
                *due_at = (*due_at).min(now);
            }
            if let (false, Some((due_at, sequence))) = (queue.is_blocked, queue.oldest()) {
                self.due.push(Reverse((due_at, sequence, key.clone())));
            }
        }
    }

    /// The clock was set back to `now`: what was due before it is due now, and nothing is paused.
    pub(super) fn set_back(&mut self, now: UnixMillis) {
        for queue in self.keys.values_mut() {
            queue.paused_until = queue.paused_until.min(now);
        }
        self.hasten(now);
    }

    /// Has the next event of a key wait until this time, also if it is not there yet.
    pub(super) fn pause(&mut self, key: &str, until: UnixMillis) {
        if let Some(queue) = self.keys.get_mut(key) {
            queue.paused_until = until;
        }
    }

    /// Unblocks a key at `now`.
    pub(super) fn unblock(&mut self, key: &str, now: UnixMillis) {
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        queue.is_blocked = false;
        match queue.oldest() {
            Some((due_at, sequence)) => self.due.push(Reverse((due_at, sequence, key.to_owned()))),
            None if queue.paused_until > now => {
                // It is forgotten then, if nothing has come.
                let entry = (queue.paused_until, 0, key.to_owned());
                self.due.push(Reverse(entry));
            }
            None => drop(self.keys.remove(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(sequence: i64, key: &str, due_at: i64) -> Waiting {
        Waiting {
            sequence,
            ordering_key: key.to_owned(),
            due_at,
            tried: None,
        }
    }

    #[test]
    fn a_key_has_one_event_at_a_time_and_the_oldest_first() {
        let mut queue = Queue::default();
        for event in [waiting(1, "a", 0), waiting(2, "a", 0), waiting(3, "b", 0)] {
            queue.add(event);
        }
        assert_eq!(queue.take_due(0), Some(("a".to_owned(), 1)));
        assert_eq!(queue.take_due(0), Some(("b".to_owned(), 3)));
        assert_eq!(queue.take_due(0), None);
        queue.remove("a", 1);
        queue.unblock("a", 0);
        assert_eq!(queue.take_due(0), Some(("a".to_owned(), 2)));
    }

    #[test]
    fn a_retry_blocks_its_key_until_it_is_due() {
        let mut queue = Queue::default();
        queue.add(waiting(1, "a", 0));
        queue.add(waiting(2, "a", 0));
        assert!(queue.take_due(0).is_some());
        queue.retry_at("a", 1, 1_000);
        queue.unblock("a", 0);
        assert_eq!(queue.take_due(999), None);
        assert_eq!(queue.take_due(1_000), Some(("a".to_owned(), 1)));
    }

    #[test]
    fn after_a_pause_the_next_event_of_the_key_comes_and_no_other_key_waits() {
        let mut queue = Queue::default();
        for event in [waiting(1, "a", 0), waiting(2, "a", 0), waiting(3, "b", 0)] {
            queue.add(event);
        }
        assert_eq!(queue.take_due(0), Some(("a".to_owned(), 1)));
        queue.remove("a", 1);
        queue.pause("a", 3_000);
        queue.unblock("a", 0);
        assert_eq!(queue.take_due(0), Some(("b".to_owned(), 3)));
        assert_eq!(queue.take_due(2_999), None);
        assert_eq!(queue.take_due(3_000), Some(("a".to_owned(), 2)));
    }

    #[test]
    fn what_comes_within_a_pause_waits_too_and_then_the_key_is_forgotten() {
        let mut queue = Queue::default();
        queue.add(waiting(1, "a", 0));
        assert!(queue.take_due(0).is_some());
        queue.remove("a", 1);
        queue.pause("a", 3_000);
        queue.unblock("a", 0);
        queue.add(waiting(2, "a", 1_000));
        assert_eq!(queue.take_due(2_999), None);
        assert_eq!(queue.take_due(3_000), Some(("a".to_owned(), 2)));
        queue.remove("a", 2);
        queue.pause("a", 6_000);
        queue.unblock("a", 3_000);
        assert_eq!(queue.take_due(6_000), None);
        assert!(queue.keys.is_empty() && queue.due.is_empty());
    }

    #[test]
    fn what_is_due_later_can_be_made_due_now() {
        let mut queue = Queue::default();
        queue.add(waiting(1, "a", 9_000));
        queue.add(waiting(2, "b", 0));
        assert_eq!(queue.take_due(0), Some(("b".to_owned(), 2)));
        queue.hasten(5);
        assert_eq!(queue.take_due(5), Some(("a".to_owned(), 1)));
        assert_eq!(queue.take_due(9_000), None);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_wait_for_the_difference() {
        let mut queue = Queue::default();
        for event in [
            waiting(1, "a", 9_000),
            waiting(2, "b", 8_000),
            waiting(3, "b", 8_000),
        ] {
            queue.add(event);
        }
        assert_eq!(queue.take_due(8_000), Some(("b".to_owned(), 2)));
        queue.remove("b", 2);
        queue.pause("b", 9_000);
        queue.unblock("b", 8_000);
        queue.set_back(5);
        assert_eq!(queue.take_due(5), Some(("a".to_owned(), 1)));
        assert_eq!(queue.take_due(5), Some(("b".to_owned(), 3)));
    }

    #[test]
    fn a_replayed_older_event_comes_first() {
        let mut queue = Queue::default();
        queue.add(waiting(2, "a", 0));
        queue.add(waiting(1, "a", 0));
        assert_eq!(queue.take_due(0), Some(("a".to_owned(), 1)));
        assert_eq!(queue.take_due(0), None);
    }
}
