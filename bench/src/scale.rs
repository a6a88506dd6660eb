//! How far it goes: the deployment's limits against what was measured, and a burst played through them.
//!
//! A model, not a measurement: every limit is AWS's documented quota or the template's setting, every cost one of
//! those measured here, and what is only stated is named as such on the page.

use std::sync::LazyLock;

use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use crate::calls::Found as Calls;
use crate::function::Found as Function;
use crate::money::{POST, ROUND, deliver_seconds, ingest_seconds};
use crate::taken::Part;

/// Workers of one workspace, each wanting every event.
const WORKSPACE: usize = 100;
const BODY: usize = 2_048;
/// Events a second of a workspace on a usual day: one a minute.
const USUAL: f64 = 1.0 / 60.0;
/// The part of the workers that have no address, and look into their mailbox every 3 s.
const WITHOUT_ADDRESS: f64 = 0.1;

/// What the events cost.
#[derive(Serialize)]
struct Cost {
    /// Lambda's time for an event in `ingest`, seconds.
    ingest: f64,
    /// And for a batch in `deliver`.
    deliver: f64,
    batches: f64,
    send_calls: f64,
    read_units: f64,
    write_units: f64,
    renewal_reads: f64,
    renewal_writes: f64,
    look_reads: f64,
    /// Read units of `health` for one worker.
    health_reads: f64,
}

impl Cost {
    fn of(calls: &Calls, function: &Function) -> Option<Self> {
        let used = &calls.event(WORKSPACE, 0, BODY)?.used;
        Some(Self {
            ingest: ingest_seconds(function, BODY, WORKSPACE),
            deliver: deliver_seconds(function, BODY, WORKSPACE as f64 / used.batches),
            batches: used.batches,
            send_calls: *used.calls.get("SendMessageBatch")?,
            read_units: used.read_units,
            write_units: used.write_units,
            renewal_reads: calls.renewal.read_units,
            renewal_writes: calls.renewal.write_units,
            look_reads: calls.look.read_units,
            health_reads: calls.health.read_units / calls.idle_workers as f64,
        })
    }

    /// Read units of an event in the workspace's own partition, where its workers are.
    fn partition_reads(&self) -> f64 {
        // All but the look for the marker.
        self.read_units - 1.0
    }
}

/// The inputs of the model.
#[derive(Deserialize)]
struct Model {
    limit: Vec<Limit>,
    setup: Vec<Setup>,
    source: Vec<Source>,
}

/// A limit as deployed, and raised.
#[derive(Serialize, Deserialize)]
struct Limit {
    name: String,
    limit: String,
    given: f64,
    raised: f64,
    moved_by: String,
}

/// What a burst meets.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) name: String,
    rate: f64,
    burst: f64,
    concurrency: f64,
    /// The partitions that the workspace's workers are in.
    partitions: f64,
}

/// Where a limit is documented.
#[derive(Serialize, Deserialize)]
struct Source {
    limit: String,
    source: String,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    toml::from_str(include_str!("../data/limits.toml")).expect("the inputs of the model are valid")
});

/// A limit, and how much of it is asked for.
#[derive(Serialize)]
struct Demand {
    asked: f64,
    #[serde(flatten)]
    of: &'static Limit,
}

impl Demand {
    /// The part of the limit as deployed.
    fn asked_part(&self) -> f64 {
        self.asked / self.of.given
    }
}

fn demands(cost: &Cost, workers: f64, events: f64) -> Vec<Demand> {
    let workspaces = (workers / WORKSPACE as f64).max(1.0);
    let renewals = workers / 300.0;
    let looks = workers * WITHOUT_ADDRESS / 3.0;
    let batches = events * cost.batches;
    let delivering = batches * cost.deliver;
    let registering = (renewals + looks) * 2.0 * ROUND;
    let asked = |name: &str| match name {
        "webhooks" => events,
        "edge" => renewals + looks,
        "batches" => delivering,
        "lambda" => events * cost.ingest + delivering + registering,
        "sqs_calls" => (events * cost.send_calls).max(batches),
        "in_flight" => events * WORKSPACE as f64 * cost.deliver,
        "table_reads" => {
            events * cost.read_units
                + renewals * cost.renewal_reads
                + looks * cost.look_reads
                + workers * cost.health_reads / 300.0
        }
        "table_writes" => events * cost.write_units + renewals * cost.renewal_writes,
        "partition_reads" => events / workspaces * cost.partition_reads(),
        "health_run" => workers * cost.health_reads / UNITS_A_PAGE * PAGE,
        _ => f64::NAN,
    };
    let demand = |of: &'static Limit| Demand {
        asked: asked(&of.name),
        of,
    };
    MODEL.limit.iter().map(demand).collect()
}

/// A Query answers up to 1 MB, 128 units of an eventually consistent read.
const UNITS_A_PAGE: f64 = 128.0;
/// Stated, not measured: seconds for one full page.
const PAGE: f64 = 0.05;

/// Events a second, and for how many seconds.
const BURST: (f64, usize) = (1_000.0, 10);
/// Linear tries again after a minute, then after an hour and after six.
const AGAIN: usize = 60;
const PARTITION: f64 = 3_000.0;

/// A burst played through.
#[derive(Serialize)]
pub(crate) struct Played {
    pub(crate) setup: &'static Setup,
    /// Messages that wait, by the second.
    pub(crate) waiting: Vec<f64>,
    /// Webhooks that were refused at first, and those that were refused again a minute later.
    refused: f64,
    refused_again: f64,
    /// The longest that a message waited, seconds.
    longest: f64,
}

/// Second by second, as if everything flowed.
fn play(cost: &Cost, setup: &'static Setup) -> Played {
    let mut tokens = setup.burst;
    let mut waiting: f64 = 0.0;
    let mut played = Played {
        setup,
        waiting: Vec::new(),
        refused: 0.0,
        refused_again: 0.0,
        longest: 0.0,
    };
    let mut again = vec![0.0; BURST.1];
    let (mut busy_since, mut sent, mut done) = (None, 0.0, 0.0);
    let mut arrivals: Vec<(usize, f64)> = Vec::new();
    for second in 0.. {
        let fresh = if second < BURST.1 { BURST.0 } else { 0.0 };
        let retried = second.checked_sub(AGAIN).and_then(|at| again.get(at));
        let asked = fresh + retried.copied().unwrap_or_default();
        tokens = (tokens + setup.rate).min(setup.burst.max(setup.rate));
        let accepted = asked.min(tokens);
        tokens -= accepted;
        let refused = asked - accepted;
        if second < BURST.1 {
            again[second] = refused;
            played.refused += refused;
        } else {
            played.refused_again += refused;
        }
        let messages = accepted * WORKSPACE as f64;
        waiting += messages;
        sent += messages;
        arrivals.push((second, sent));
        if waiting > 0.0 && busy_since.is_none() {
            busy_since = Some(second);
        }
        // Five batches at once, and 300 more a minute.
        let since = busy_since.map_or(0, |since| second - since);
        let concurrency = setup.concurrency.min(5.0 + 5.0 * since as f64);
        let by_lambda = concurrency / cost.deliver * (WORKSPACE as f64 / cost.batches);
        // `ingest` reads the workers of every event, `deliver` each message's worker.
        let ingest_reads = accepted * (cost.partition_reads() - WORKSPACE as f64).max(0.0);
        let by_partition = (PARTITION * setup.partitions - ingest_reads).max(0.0);
        let delivered = waiting.min(by_lambda).min(by_partition);
        waiting -= delivered;
        done += delivered;
        // What is delivered last in this second came when as many had been sent.
        if delivered > 0.0 {
            let came = arrivals.partition_point(|(_, sent)| *sent < done - 1e-6);
            let came = arrivals.get(came).map_or(second, |(second, _)| *second);
            played.longest = played.longest.max((second - came) as f64);
        }
        played.waiting.push(waiting);
        if second > AGAIN + BURST.1 && waiting < 1.0 {
            break;
        }
        if waiting < 1.0 {
            busy_since = None;
        }
    }
    played
}

/// Every setup's burst.
pub(crate) fn bursts(calls: &Calls, function: &Function) -> Vec<Played> {
    let Some(cost) = Cost::of(calls, function) else {
        return Vec::new();
    };
    MODEL.setup.iter().map(|setup| play(&cost, setup)).collect()
}

/// What the page on scale shows; nothing without the costs that it goes by.
pub(crate) fn context(calls: &Calls, function: &Part<Function>) -> Option<Value> {
    let cost = Cost::of(calls, &function.found)?;
    let cases = [100, 10_000, 1_000_000].into_iter().flat_map(|workers| {
        let usual = workers as f64 / WORKSPACE as f64 * USUAL;
        [
            (usual, "one event a minute in each workspace"),
            (1_000.0, "1,000 events a second, spread over all workspaces"),
        ]
        .map(|(events, title)| Case::new(&cost, workers, events, title))
    });
    let cases: Vec<_> = cases.collect();
    let mut most = demands(&cost, WORKSPACE as f64, 1.0);
    most.retain(|demand| !matches!(demand.of.name.as_str(), "edge" | "health_run"));
    most.sort_by(|a, b| b.asked_part().total_cmp(&a.asked_part()));
    Some(context! {
        taken => function.taken,
        workspace => WORKSPACE,
        without_address_percent => WITHOUT_ADDRESS * 100.0,
        round_ms => ROUND * 1e3,
        post_ms => POST * 1e3,
        page_ms => PAGE * 1e3,
        cases,
        most,
        bursts => bursts(calls, &function.found),
        burst_rate => BURST.0,
        burst_seconds => BURST.1,
        sources => MODEL.source,
        cost,
    })
}

/// So many workers and events, and what breaks.
#[derive(Serialize)]
struct Case {
    workers: usize,
    title: &'static str,
    deliveries: f64,
    /// The nearest to its limit first.
    demands: Vec<Demand>,
    /// The limits that break even if raised.
    unmoved: Vec<&'static str>,
}

impl Case {
    fn new(cost: &Cost, workers: usize, events: f64, title: &'static str) -> Self {
        let mut demands = demands(cost, workers as f64, events);
        demands.sort_by(|a, b| b.asked_part().total_cmp(&a.asked_part()));
        let broken = demands
            .iter()
            .filter(|demand| demand.asked > demand.of.raised);
        Self {
            workers,
            title,
            deliveries: events * WORKSPACE as f64,
            unmoved: broken.map(|demand| demand.of.limit.as_str()).collect(),
            demands,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost() -> Cost {
        Cost {
            ingest: 0.03,
            deliver: 0.15,
            batches: 10.0,
            send_calls: 10.0,
            read_units: 117.0,
            write_units: 1.0,
            renewal_reads: 1.0,
            renewal_writes: 2.0,
            look_reads: 1.0,
            health_reads: 0.1,
        }
    }

    #[test]
    fn what_breaks_first_is_asked_for_most_of_what_is_given() {
        let first = |events| {
            let case = Case::new(&cost(), 100, events, "");
            (
                case.demands[0].of.name.clone(),
                case.demands[0].asked_part(),
            )
        };
        let (name, part) = first(1_000.0);
        assert!(name == "partition_reads" && part > 1.0, "{name} {part}");
        assert!(first(1.0 / 60.0).1 < 1.0);
    }

    #[test]
    fn a_burst_loses_nothing_that_was_accepted() {
        let cost = cost();
        let played: Vec<_> = MODEL.setup.iter().map(|setup| play(&cost, setup)).collect();
        let [deployed, raised, spread] = &played[..] else {
            panic!("there are three setups");
        };
        // 500 at once and 100 a second for ten seconds are let in of 10,000.
        assert!(
            (deployed.refused - 8_500.0).abs() < 101.0,
            "{}",
            deployed.refused
        );
        assert!(raised.refused.abs() < 1e-6 && raised.refused_again.abs() < 1e-6);
        // A million messages, at 3,000 a second.
        assert!(
            (320..360).contains(&raised.waiting.len()),
            "{}",
            raised.waiting.len()
        );
        assert!(spread.waiting.len() < raised.waiting.len() && spread.longest < raised.longest);
        for played in [deployed, raised, spread] {
            assert!(played.waiting.last().is_some_and(|waiting| *waiting < 1.0));
        }
    }
}
