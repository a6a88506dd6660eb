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
}

impl KeyQueue {
    /// When the oldest event is due, and its sequence.
    fn oldest(&self) -> Option<(UnixMillis, i64)> {
        (self.events.first_key_value()).map(|(sequence, due_at)| (*due_at, *sequence))
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
    /// Adds an event, unless it is there already.
    pub(super) fn add(&mut self, event: Waiting) {
        let queue = self.keys.entry(event.ordering_key.clone()).or_default();
        // A known event may be being handled, and keeps its time.
        queue.events.entry(event.sequence).or_insert(event.due_at);
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
                && queue.oldest() == Some((due_at, sequence))
            {
                queue.is_blocked = true;
                return Some((key, sequence));
            }
        }
    }

    /// When the next event is due.
    pub(super) fn next_due(&self) -> Option<UnixMillis> {
        self.due.peek().map(|Reverse((due_at, ..))| *due_at)
    }

    /// Removes a settled event.
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

    /// Unblocks a key.
    pub(super) fn unblock(&mut self, key: &str) {
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        queue.is_blocked = false;
        match queue.oldest() {
            Some((due_at, sequence)) => self.due.push(Reverse((due_at, sequence, key.to_owned()))),
            None => {
                self.keys.remove(key);
            }
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
        queue.unblock("a");
        assert_eq!(queue.take_due(0), Some(("a".to_owned(), 2)));
    }

    #[test]
    fn a_retry_blocks_its_key_until_it_is_due() {
        let mut queue = Queue::default();
        queue.add(waiting(1, "a", 0));
        queue.add(waiting(2, "a", 0));
        assert!(queue.take_due(0).is_some());
        queue.retry_at("a", 1, 1_000);
        queue.unblock("a");
        assert_eq!(queue.take_due(999), None);
        assert_eq!(queue.take_due(1_000), Some(("a".to_owned(), 1)));
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
