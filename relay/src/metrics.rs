//! Metrics, in CloudWatch's embedded metric format: a log line that carries one is both.
//!
//! A metric is a field of an event in the log, called as it is called here, with a number or the list of its numbers;
//! its dimensions are fields beside it.
//! `deliver`'s attempts are one line for each batch and outcome, beside a plain line for each of them.
//!
//! Invariant: no dimension has more values than a person can read. What identifies one event or one worker is a
//! field of the line, never a dimension.
//!
//! Source: the CloudWatch User Guide, "Specification: Embedded metric format".

use serde::Serialize;

/// The namespace of all metrics.
pub const NAMESPACE: &str = "EdgeRelay";

/// The target of lines that are nothing but metrics: no reading for a terminal.
pub const TARGET: &str = "metrics";

/// The dimension that all metrics have: the stack's name.
pub const STACK: &str = "Stack";

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Things.
    Count,
    /// Time; kept to the second.
    Milliseconds,
}

/// A metric that a function may emit.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The field's name in the log, and the metric's in CloudWatch.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// The dimension beside [`STACK`], if there is one.
    pub dimension: Option<&'static str>,
}

const fn count(name: &'static str, dimension: Option<&'static str>) -> Metric {
    Metric {
        name,
        unit: Unit::Count,
        dimension,
    }
}

const fn latency(name: &'static str) -> Metric {
    Metric {
        name,
        unit: Unit::Milliseconds,
        dimension: None,
    }
}

/// All metrics.
///
/// | metric | from | means |
/// |---|---|---|
/// | `Accepted`, `Duplicate` | ingest | webhooks answered 200 |
/// | `LinearLatency` | ingest | from Linear's stamp to the moment of acceptance |
/// | `Refused` | ingest, register | requests answered 4xx, by the problem's code |
/// | `Failed` | ingest, register | requests answered 5xx; the problem's code is a field |
/// | `Attempts` | deliver | POSTs of a delivery, by outcome: `delivered`, `gone`, `unreachable`, `rejected` |
/// | `Deliveries` | deliver | deliveries that came to their end there: `delivered`, `gone`, `buried` |
/// | `Parked` | deliver | deliveries put into a mailbox |
/// | `DeliveryLatency` | deliver | from the moment of acceptance to the worker's 2xx |
/// | `Registered` | register | registrations |
/// | `Pulled` | register | deliveries handed out from mailboxes |
/// | `Live`, `Away`, `Pull` | health | workers, by state |
/// | `Waiting` | health | workers with something in their mailbox |
/// | `Pings` | health | pings, by outcome |
pub const METRICS: [Metric; 16] = [
    count("Accepted", None),
    count("Duplicate", None),
    latency("LinearLatency"),
    count("Refused", Some("Reason")),
    count("Failed", None),
    count("Attempts", Some("Outcome")),
    count("Deliveries", Some("Outcome")),
    count("Parked", None),
    latency("DeliveryLatency"),
    count("Registered", None),
    count("Pulled", None),
    count("Live", None),
    count("Away", None),
    count("Pull", None),
    count("Waiting", None),
    count("Pings", Some("Outcome")),
];

/// What a field in the log is, if it is a metric.
pub(crate) fn metric(field: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == field)
}

/// The member `_aws` of a line: what makes CloudWatch read the line's metrics.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Metadata {
    timestamp: i64,
    cloud_watch_metrics: Vec<Directive>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: [Vec<&'static str>; 1],
    metrics: Vec<Definition>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    name: &'static str,
    unit: Unit,
    /// 1 second: "high resolution"; otherwise CloudWatch's own 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_resolution: Option<u8>,
}

impl Metadata {
    /// Of a line with these metrics; `now` in Unix milliseconds.
    pub(crate) fn of(metrics: &[&'static Metric], now: i64) -> Self {
        let mut directives: Vec<Directive> = Vec::new();
        for metric in metrics {
            let definition = Definition {
                name: metric.name,
                unit: metric.unit,
                storage_resolution: (metric.unit == Unit::Milliseconds).then_some(1),
            };
            let dimensions = [STACK].into_iter().chain(metric.dimension);
            match (directives.iter_mut())
                .find(|d| d.dimensions[0].iter().copied().eq(dimensions.clone()))
            {
                Some(directive) => directive.metrics.push(definition),
                None => directives.push(Directive {
                    namespace: NAMESPACE,
                    dimensions: [dimensions.collect()],
                    metrics: vec![definition],
                }),
            }
        }
        Self {
            timestamp: now,
            cloud_watch_metrics: directives,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metrics_are_grouped_by_their_dimensions_and_latencies_are_of_high_resolution() {
        let metrics =
            ["Attempts", "DeliveryLatency", "Deliveries"].map(|name| metric(name).unwrap());
        let metadata = Metadata::of(&metrics, 1_700_000_000_000);
        let latency =
            json!([{"Name": "DeliveryLatency", "Unit": "Milliseconds", "StorageResolution": 1}]);
        let counts =
            json!([{"Name": "Attempts", "Unit": "Count"}, {"Name": "Deliveries", "Unit": "Count"}]);
        assert_eq!(
            serde_json::to_value(metadata).unwrap(),
            json!({
                "Timestamp": 1_700_000_000_000_i64,
                "CloudWatchMetrics": [
                    {"Namespace": "EdgeRelay", "Dimensions": [["Stack", "Outcome"]], "Metrics": counts},
                    {"Namespace": "EdgeRelay", "Dimensions": [["Stack"]], "Metrics": latency},
                ],
            })
        );
    }

    #[test]
    fn no_name_is_given_twice() {
        for (at, one) in METRICS.iter().enumerate() {
            assert!(METRICS[at + 1..].iter().all(|other| other.name != one.name));
        }
    }
}
