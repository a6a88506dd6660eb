//! The metrics that CloudWatch takes from the log lines of the functions, by the metric filters of `template.yaml` (ADR 15).
//!
//! Most metrics are a field of their own name, in a line that is written anyway. `Accepted`, `Attempts`, `Deliveries` and
//! `DeliveryLatency` are taken from the fields of two lines that are written most often, which so need no further fields. A
//! dimension is the field with its name in lower case.
//!
//! Invariant: a dimension has few values. The ids of events and workers are fields, never dimensions.

/// The log target of lines that are written for a metric alone, which a terminal does not show.
pub const TARGET: &str = "metrics";

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A time.
    Milliseconds,
}

/// A metric that a function may emit.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The metric's name in CloudWatch.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// Its dimension, if it has one.
    pub dimension: Option<&'static str>,
    /// The functions that emit it.
    pub from: &'static [&'static str],
}

const fn count(
    name: &'static str,
    dimension: Option<&'static str>,
    from: &'static [&'static str],
) -> Metric {
    Metric {
        name,
        unit: Unit::Count,
        dimension,
        from,
    }
}

const fn latency(name: &'static str, from: &'static [&'static str]) -> Metric {
    Metric {
        name,
        unit: Unit::Milliseconds,
        dimension: None,
        from,
    }
}

/// All metrics.
///
/// | metric | means |
/// |---|---|
/// | `Accepted`, `Duplicate` | webhooks answered 200 |
/// | `Dropped` | webhooks answered 200 that no worker can get |
/// | `LinearLatency` | from Linear's timestamp to acceptance |
/// | `Refused` | requests answered 4xx, by the problem's code |
/// | `Failed` | requests answered 5xx; the problem's code is a field, `reason` |
/// | `Attempts` | POSTs of a delivery, by outcome: `delivered`, `gone`, `unreachable`, `rejected` |
/// | `Deliveries` | deliveries that ended: `delivered`, `gone`, `dead_lettered` |
/// | `Parked` | deliveries that were parked |
/// | `Withheld` | deliveries that were withheld until the worker's user is checked |
/// | `Revoked` | workers that were removed because the access of their users has ended |
/// | `DeliveryLatency` | from acceptance to the worker's 2xx |
/// | `Registered` | registrations |
/// | `Pulled` | events in the responses to pulls |
/// | `Expired` | events that were parked for longer than they are kept, when that is found |
/// | `LeasesEnded` | registrations that were not renewed |
/// | `QueueLatency` | how long a heartbeat, which `health` sends, was on the queue |
///
/// A metric costs as much a month as a million lines of a log, so what only a person looks at is a field of a line and no metric:
/// how many workers there are, by state, and what came of each probe.
pub const METRICS: [Metric; 17] = [
    count("Accepted", None, &["ingest"]),
    count("Duplicate", None, &["ingest"]),
    count("Dropped", None, &["ingest"]),
    latency("LinearLatency", &["ingest"]),
    count("Refused", Some("Reason"), &["ingest", "register"]),
    count("Failed", None, &["ingest", "register"]),
    count("Attempts", Some("Outcome"), &["deliver"]),
    count("Deliveries", Some("Outcome"), &["deliver"]),
    count("Parked", None, &["deliver"]),
    count("Withheld", None, &["deliver"]),
    count("Revoked", None, &["deliver", "register"]),
    latency("DeliveryLatency", &["deliver"]),
    count("Registered", None, &["register"]),
    count("Pulled", None, &["register"]),
    count("Expired", None, &["deliver", "health", "register"]),
    count("LeasesEnded", None, &["health"]),
    latency("QueueLatency", &["deliver"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_metrics_have_the_same_name() {
        for (at, one) in METRICS.iter().enumerate() {
            assert!(METRICS[at + 1..].iter().all(|other| other.name != one.name));
        }
    }
}
