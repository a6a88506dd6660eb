//! Which counts are not as they were recorded.

use std::collections::BTreeSet;

use super::{Counts, INSTRUCTIONS};

/// How far a count may be from the recorded one, as a part of that.
const TOLERANCE: f64 = 0.05;
/// How far it may be in any case, for counts near zero.
const SLACK: f64 = 0.01;

/// A count that is not as recorded.
#[derive(Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) name: String,
    /// None: it is new.
    pub(super) recorded: Option<f64>,
    /// None: it is gone.
    pub(super) counted: Option<f64>,
}

impl Difference {
    fn exceeds_the_tolerance(&self) -> bool {
        let (Some(recorded), Some(counted)) = (self.recorded, self.counted) else {
            return true;
        };
        (counted - recorded).abs() > (recorded.abs() * TOLERANCE).max(SLACK)
    }

    /// Whether it is a change of this repository. Another compiler or processor changes the number of instructions, too.
    pub(super) fn is_failure(&self, is_same_machine: bool) -> bool {
        let is_change = self.recorded.is_some() && self.counted.is_some();
        is_same_machine || !is_change || !self.name.starts_with(INSTRUCTIONS)
    }

    /// In percent, or in a word.
    pub(super) fn change(&self) -> String {
        match (self.recorded, self.counted) {
            (Some(recorded), Some(counted)) if recorded > 0.0 => {
                format!("{:+.1} %", (counted / recorded - 1.0) * 100.0)
            }
            (Some(_), Some(_)) => "from zero".to_owned(),
            (Some(_), None) => "gone".to_owned(),
            (None, _) => "new".to_owned(),
        }
    }
}

/// The counts that differ by more than the tolerance, are new, or are gone.
pub(super) fn differences(recorded: &Counts, counted: &Counts) -> Vec<Difference> {
    let names: BTreeSet<_> = recorded.keys().chain(counted.keys()).collect();
    (names.into_iter())
        .map(|name| Difference {
            name: name.clone(),
            recorded: recorded.get(name).copied(),
            counted: counted.get(name).copied(),
        })
        .filter(Difference::exceeds_the_tolerance)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts<const N: usize>(counts: [(&str, f64); N]) -> Counts {
        counts.map(|(name, count)| (name.to_owned(), count)).into()
    }

    #[test]
    fn a_count_that_differs_by_more_than_five_percent_either_way_is_found() {
        let recorded = counts([
            ("fewer", 100.0),
            ("just-fewer", 100.0),
            ("just-more", 100.0),
            ("more", 100.0),
            ("none", 0.0),
            ("nearly-none", 0.0),
        ]);
        let counted = counts([
            ("fewer", 94.0),
            ("just-fewer", 96.0),
            ("just-more", 104.0),
            ("more", 106.0),
            ("none", 1.0),
            ("nearly-none", 0.005),
        ]);
        let found = differences(&recorded, &counted);
        let changes: Vec<_> = (found.iter())
            .map(|difference| (difference.name.as_str(), difference.change()))
            .collect();
        let expected = [
            ("fewer", "-6.0 %"),
            ("more", "+6.0 %"),
            ("none", "from zero"),
        ];
        assert_eq!(
            changes,
            expected.map(|(name, change)| (name, change.to_owned()))
        );
        assert!(differences(&recorded, &recorded).is_empty());
    }

    #[test]
    fn a_count_that_is_new_or_gone_is_found() {
        let found = differences(&counts([("old", 0.0)]), &counts([("new", 1.0)]));
        let changes: Vec<_> = found.iter().map(Difference::change).collect();
        assert_eq!(changes, ["new", "gone"]);
    }

    #[test]
    fn with_another_compiler_or_processor_only_instructions_may_change() {
        let recorded = counts([
            ("instructions/a", 1.0),
            ("instructions/b", 1.0),
            ("calls", 1.0),
        ]);
        let counted = counts([("instructions/a", 2.0), ("calls", 2.0)]);
        let failures = |is_same_machine| {
            let found = differences(&recorded, &counted);
            let failures = found.into_iter().filter(|d| d.is_failure(is_same_machine));
            failures.map(|d| d.name).collect::<Vec<_>>()
        };
        assert_eq!(
            failures(true),
            ["calls", "instructions/a", "instructions/b"]
        );
        assert_eq!(failures(false), ["calls", "instructions/b"]);
    }
}
