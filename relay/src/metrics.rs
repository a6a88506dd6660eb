//! Metrics in CloudWatch's embedded metric format: a log line with a metric is both a line and a metric.
//!
//! A metric is a field of a log event with the metric's name and a number or a list of numbers. Its dimensions are fields
//! of the same event. The attempts of `deliver` have one line for each batch and outcome, beside a plain line each.
//!
//! Invariant: a dimension has few values. The ids of events and workers are fields, never dimensions.
//!
//! Source: the CloudWatch User Guide, "Specification: Embedded metric format".

use protocol::clock::UnixMillis;
use serde::Serialize;

/// The namespace of all metrics.
pub(crate) const NAMESPACE: &str = "EdgeRelay";

/// The log target of lines that hold only metrics, which a terminal does not show.
pub const TARGET: &str = "metrics";

/// The dimension of all metrics: the stack's name.
pub const STACK: &str = "Stack";

/// The unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A time; CloudWatch keeps it to the second.
    Milliseconds,
}

/// A metric that a function may emit.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The field's name in the log, and the metric's in CloudWatch.
    pub name: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// The dimension beside [`STACK`], if it has one.
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
/// | `Dropped` | ingest | webhooks answered 200 that no worker can get |
/// | `LinearLatency` | ingest | from Linear's timestamp to acceptance |
/// | `Refused` | ingest, register | requests answered 4xx, by the problem's code |
/// | `Failed` | ingest, register | requests answered 5xx; the problem's code is a field |
/// | `Attempts` | deliver | POSTs of a delivery, by outcome: `delivered`, `gone`, `unreachable`, `rejected` |
/// | `Deliveries` | deliver | deliveries that ended: `delivered`, `gone`, `dead_lettered` |
/// | `Parked` | deliver | deliveries that were parked |
/// | `Withheld` | deliver | deliveries that were withheld until the worker's user is checked |
/// | `Revoked` | deliver, register | workers that were removed because the access of their users has ended |
/// | `DeliveryLatency` | deliver | from acceptance to the worker's 2xx |
/// | `Registered` | register | registrations |
/// | `Pulled` | register | events in the responses to pulls |
/// | `Expired` | register, deliver | events that were parked for longer than they are kept, found when the mailbox is read |
/// | `LeasesEnded` | health | registrations that were not renewed |
/// | `QueueLatency` | deliver | how long a heartbeat, which `health` sends, was on the queue |
///
/// A metric costs as much a month as a million lines of a log, so what only a person looks at is a field of a line and no metric:
/// how many workers there are, by state, and what came of each probe.
pub const METRICS: [Metric; 17] = [
    count("Accepted", None),
    count("Duplicate", None),
    count("Dropped", None),
    latency("LinearLatency"),
    count("Refused", Some("Reason")),
    count("Failed", None),
    count("Attempts", Some("Outcome")),
    count("Deliveries", Some("Outcome")),
    count("Parked", None),
    count("Withheld", None),
    count("Revoked", None),
    latency("DeliveryLatency"),
    count("Registered", None),
    count("Pulled", None),
    count("Expired", None),
    count("LeasesEnded", None),
    latency("QueueLatency"),
];

/// The metric with the name of a field in the log.
pub(crate) fn metric(field: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == field)
}

/// The member `_aws` of a line, by which CloudWatch finds the line's metrics.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Metadata {
    timestamp: UnixMillis,
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
    /// The metadata of a line with these metrics.
    pub(crate) fn of(metrics: &[&'static Metric], now: UnixMillis) -> Self {
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
    fn no_two_metrics_have_the_same_name() {
        for (at, one) in METRICS.iter().enumerate() {
            assert!(METRICS[at + 1..].iter().all(|other| other.name != one.name));
        }
    }
}
