//! The stops of agent sessions that wait in the line of their session.
//!
//! A stop passes the line while an event of its session is being handled, since it may have to end that. But not at once: an
//! event that waited overnight, and a stop that waited behind it, would come to code that answers before it works at the same
//! moment, and it would begin what was stopped already. While nothing of its session is being handled, a stop takes its turn.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use protocol::clock::{UnixMillis, millis};

/// The event of a key that is being handled, and that a stop passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    pub(super) since: UnixMillis,
    pub(super) sequence: i64,
}

/// How long an event has to have been handled for a stop to pass the line.
const HANDLED_FOR: Duration = Duration::from_secs(1);

/// The sequences of stops, by the ordering key of their session.
#[derive(Debug, Default)]
pub(super) struct Stops(BTreeMap<String, BTreeSet<i64>>);

impl Stops {
    pub(super) fn add(&mut self, key: &str, sequence: i64) {
        self.0.entry(key.to_owned()).or_default().insert(sequence);
    }

    /// Removes a stop. Returns whether it was one.
    pub(super) fn remove(&mut self, key: &str, sequence: i64) -> bool {
        let Some(stops) = self.0.get_mut(key) else {
            return false;
        };
        let was_one = stops.remove(&sequence);
        if stops.is_empty() {
            self.0.remove(key);
        }
        was_one
    }

    /// The stops that pass what is being handled, and when: of each key the oldest that came after it. What came after a stop is
    /// not stopped by it.
    pub(super) fn passing(&self, begun: &HashMap<String, Begun>) -> Vec<(UnixMillis, String, i64)> {
        (self.0.iter())
            .filter_map(|(key, stops)| {
                let begun = begun.get(key)?;
                let stop = stops.range(begun.sequence..).next()?;
                Some((begun.since + millis(HANDLED_FOR), key.clone(), *stop))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_passes_what_has_been_handled_for_a_second_and_nothing_else() {
        let mut stops = Stops::default();
        for (key, sequence) in [("a", 3), ("a", 2), ("b", 5)] {
            stops.add(key, sequence);
        }
        assert!(stops.passing(&HashMap::new()).is_empty());
        let since = |key: &str, since, sequence| (key.to_owned(), Begun { since, sequence });
        let begun = HashMap::from([since("a", 1_000, 1), since("b", 0, 6), since("c", 0, 1)]);
        assert_eq!(stops.passing(&begun), [(2_000, "a".to_owned(), 2)]);
        assert!(stops.remove("a", 2));
        assert!(!stops.remove("a", 2) && !stops.remove("c", 1));
        assert_eq!(stops.passing(&begun), [(2_000, "a".to_owned(), 3)]);
    }
}
