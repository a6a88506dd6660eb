//! Ratios of each system's figures to those of edge-relay in memory in the same run.
//!
//! Invariant: each ratio is edge-relay's advantage, whether more or less of a figure is better. Above 1, edge-relay is
//! better; below 1, the other system is.

use serde::Serialize;

use crate::whole_way::{Row, System};

/// By how many times edge-relay in memory is better than a system; `None` where a figure is missing or zero.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Ratios {
    pub(crate) system: String,
    pub(crate) workers: usize,
    pub(crate) body: usize,
    /// Of deliveries a second.
    pub(crate) sustained: Option<f64>,
    /// Of CPU time for a delivery.
    pub(crate) cpu: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// Of the p50 of each event's last delivery.
    pub(crate) last_p50: Option<f64>,
}

/// The ratios of each row that has a row of edge-relay in memory with as many workers and bodies of the same size.
pub(crate) fn of(rows: &[Row]) -> Vec<Ratios> {
    let others = rows.iter().filter(|row| !is_relay(row));
    let ratios = others.filter_map(|other| {
        let relay = rows
            .iter()
            .find(|row| is_relay(row) && (row.workers, row.body) == (other.workers, other.body))?;
        Some(advantage(relay, other))
    });
    ratios.collect()
}

fn is_relay(row: &Row) -> bool {
    row.system == System::RelayInMemory.key()
}

fn advantage(relay: &Row, other: &Row) -> Ratios {
    let cpu = other.cpu_seconds.zip(relay.cpu_seconds);
    Ratios {
        system: other.system.clone(),
        workers: other.workers,
        body: other.body,
        sustained: ratio(relay.sustained, other.sustained),
        cpu: cpu.and_then(|(other, relay)| ratio(other, relay)),
        p50: ratio(other.each_ms.p50, relay.each_ms.p50),
        p99: ratio(other.each_ms.p99, relay.each_ms.p99),
        last_p50: ratio(other.last_ms.p50, relay.last_ms.p50),
    }
}

fn ratio(dividend: f64, divisor: f64) -> Option<f64> {
    let ratio = dividend / divisor;
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_advantage_of_edge_relay() {
        let relay = Row::example("relay-in-memory", 1_000.0, Some(0.5), 2.0);
        let rows = [
            relay.clone(),
            // Half as many deliveries, for twice the CPU time and three times the latency.
            Row::example("slow", 500.0, Some(1.0), 6.0),
            Row::example("fast", 4_000.0, None, 1.0),
            Row {
                workers: relay.workers + 1,
                ..Row::example("alone", 1.0, None, 1.0)
            },
        ];
        let [slow, fast]: [Ratios; 2] = of(&rows).try_into().unwrap();
        assert_eq!((&*slow.system, slow.workers), ("slow", relay.workers));
        assert_eq!((slow.sustained, slow.cpu), (Some(2.0), Some(2.0)));
        assert_eq!((slow.p50, slow.p99), (Some(3.0), Some(3.0)));
        assert_eq!(slow.last_p50, Some(3.0));
        assert_eq!((fast.sustained, fast.cpu), (Some(0.25), None));
        assert_eq!(fast.p50, Some(0.5));
        assert_eq!((ratio(0.0, 1.0), ratio(1.0, 0.0)), (None, None));
    }
}
