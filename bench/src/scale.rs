//! How far it goes: the deployment's limits against what was measured, and a burst played through them.
//!
//! A model, not a measurement: every limit is AWS's documented quota or the template's setting, every cost one of
//! those measured here, and what is only stated is named as such on the page.

use std::sync::LazyLock;

use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use crate::calls::{CallCounts, Used};
use crate::function::FunctionCosts;
use crate::money::{
    LOOK_SECONDS, MEMORY, POST_SECONDS, ROUND_SECONDS, deliver_seconds, ingest_seconds,
};
use crate::taken::Part;

/// Workers of one workspace, each wanting every event.
const WORKSPACE: usize = 100;
const BODY: usize = 2_048;
/// The part of the workers that have no address, and look into their mailbox every [`LOOK_SECONDS`].
const WITHOUT_ADDRESS: f64 = 0.1;

/// What the events cost.
#[derive(Serialize)]
struct Cost {
    /// Lambda's time for an event in `ingest`.
    ingest_seconds: f64,
    /// And for a batch in `deliver`.
    deliver_seconds: f64,
    send_calls: f64,
    event: Used,
    renewal: Used,
    look: Used,
    /// Read units of `health` for one worker.
    health_reads: f64,
}

impl Cost {
    fn of(calls: &CallCounts, function: &FunctionCosts) -> Option<Self> {
        let event = calls.event(WORKSPACE, 0, BODY)?.used.clone();
        Some(Self {
            ingest_seconds: ingest_seconds(function, MEMORY, BODY, WORKSPACE),
            deliver_seconds: deliver_seconds(
                function,
                MEMORY,
                BODY,
                WORKSPACE,
                WORKSPACE as f64 / event.batches,
            ),
            send_calls: *event.calls.get("SendMessageBatch")?,
            event,
            renewal: calls.renewal.clone(),
            look: calls.look.clone(),
            health_reads: calls.health.read_units / calls.idle_workers as f64,
        })
    }

    /// Read units of an event in the partition that its workspace's workers share, where their routes are.
    fn partition_reads(&self) -> f64 {
        // All but the look for the marker and one unit for each worker, which has a partition of its own.
        self.event.read_units - 0.5 - WORKSPACE as f64
    }
}

/// The inputs of the model.
#[derive(Deserialize)]
struct Model {
    limit: Vec<Limit>,
    setup: Vec<Setup>,
    /// Where the limits are documented; only shown.
    source: toml::Value,
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
    /// The partitions that the routes of the workspace's workers are in.
    partitions: f64,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    toml::from_str(include_str!("../data/limits.toml")).expect("the inputs of the model are valid")
});

/// A limit, and how much of it is asked for.
#[derive(Serialize)]
struct Demand {
    asked: f64,
    /// The part of the limit as deployed.
    part: f64,
    #[serde(flatten)]
    of: &'static Limit,
}

/// The nearest to its limit first.
fn demands(cost: &Cost, workers: f64, events: f64) -> Vec<Demand> {
    let workspaces = (workers / WORKSPACE as f64).max(1.0);
    let renewals = workers / 300.0;
    let looks = workers * WITHOUT_ADDRESS / LOOK_SECONDS;
    let batches = events * cost.event.batches;
    let delivering = batches * cost.deliver_seconds;
    let registering = (renewals + looks) * ROUND_SECONDS;
    let asked = |name: &str| match name {
        "webhooks" => events,
        "edge" => renewals + looks,
        "batches" => delivering,
        "lambda" => events * cost.ingest_seconds + delivering + registering,
        "sqs_calls" => (events * cost.send_calls).max(batches),
        "in_flight" => events * WORKSPACE as f64 * cost.deliver_seconds,
        "table_reads" => {
            events * cost.event.read_units
                + renewals * cost.renewal.read_units
                + looks * cost.look.read_units
                + workers * cost.health_reads / 300.0
        }
        "table_writes" => events * cost.event.write_units + renewals * cost.renewal.write_units,
        "partition_reads" => events / workspaces * cost.partition_reads(),
        "health_run" => workers * cost.health_reads / UNITS_A_PAGE * PAGE_SECONDS,
        _ => f64::NAN,
    };
    let demand = |of: &'static Limit| {
        let asked = asked(&of.name);
        let part = asked / of.given;
        Demand { asked, part, of }
    };
    let mut demands: Vec<_> = MODEL.limit.iter().map(demand).collect();
    demands.sort_by(|a, b| b.part.total_cmp(&a.part));
    demands
}

/// A Query answers up to 1 MB, 128 units of an eventually consistent read.
const UNITS_A_PAGE: f64 = 128.0;
/// Stated, not measured: seconds for one full page.
const PAGE_SECONDS: f64 = 0.05;

/// Events a second, and for how many seconds.
const BURST: (f64, usize) = (1_000.0, 10);
/// Linear tries again after a minute, then after an hour and after six.
const RETRY_SECONDS: usize = 60;
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
    /// The longest that a message waited.
    longest_seconds: usize,
}

/// Second by second, as if everything flowed.
fn play(cost: &Cost, setup: &'static Setup) -> Played {
    let mut tokens = setup.burst;
    let mut refused_at = [0.0; BURST.1];
    let mut refused_again = 0.0;
    let mut waiting = Vec::new();
    let mut longest_seconds = 0;
    // Messages so far: by second those sent, and those delivered.
    let (mut sent, mut done) = (Vec::<f64>::new(), 0.0);
    let (mut waits, mut busy_seconds): (f64, _) = (0.0, 0);
    for second in 0.. {
        let fresh = if second < BURST.1 { BURST.0 } else { 0.0 };
        let retried = (second.checked_sub(RETRY_SECONDS)).and_then(|at| refused_at.get(at));
        let asked = fresh + retried.copied().unwrap_or_default();
        tokens = (tokens + setup.rate).min(setup.burst.max(setup.rate));
        // `ingest` reads the routes for each event.
        let by_partition = PARTITION * setup.partitions / cost.partition_reads();
        let accepted = asked.min(tokens).min(by_partition);
        tokens -= accepted;
        *refused_at.get_mut(second).unwrap_or(&mut refused_again) += asked - accepted;
        let messages = accepted * WORKSPACE as f64;
        waits += messages;
        sent.push(sent.last().copied().unwrap_or_default() + messages);
        // Five batches at once, and 300 more a minute.
        let concurrency = setup.concurrency.min(5.0 + 5.0 * f64::from(busy_seconds));
        let by_lambda =
            concurrency / cost.deliver_seconds * (WORKSPACE as f64 / cost.event.batches);
        let delivered = waits.min(by_lambda);
        waits -= delivered;
        done += delivered;
        // What is delivered last in this second came when as many had been sent.
        if delivered > 0.0 {
            let came = sent.partition_point(|sent| *sent < done - 1e-6);
            longest_seconds = longest_seconds.max(second.saturating_sub(came));
        }
        waiting.push(waits);
        busy_seconds = if waits < 1.0 { 0 } else { busy_seconds + 1 };
        if second > RETRY_SECONDS + BURST.1 && waits < 1.0 {
            break;
        }
    }
    Played {
        setup,
        waiting,
        refused: refused_at.iter().sum(),
        refused_again,
        longest_seconds,
    }
}

/// Every setup's burst.
pub(crate) fn bursts(calls: &CallCounts, function: &FunctionCosts) -> Vec<Played> {
    let Some(cost) = Cost::of(calls, function) else {
        return Vec::new();
    };
    MODEL.setup.iter().map(|setup| play(&cost, setup)).collect()
}

/// What the page on scale shows; nothing without the costs that it goes by.
pub(crate) fn context(calls: &CallCounts, function: &Part<FunctionCosts>) -> Option<Value> {
    let cost = Cost::of(calls, &function.found)?;
    let shown_cost = Value::from_serialize(&cost);
    let partition_reads = cost.partition_reads();
    let demands =
        move |workers: f64, events: f64| Value::from_serialize(demands(&cost, workers, events));
    Some(context! {
        taken => function.taken,
        workspace => WORKSPACE,
        look_seconds => LOOK_SECONDS,
        without_address_percent => WITHOUT_ADDRESS * 100.0,
        round_ms => ROUND_SECONDS * 1e3,
        post_ms => POST_SECONDS * 1e3,
        page_ms => PAGE_SECONDS * 1e3,
        demands => Value::from_function(demands),
        bursts => bursts(calls, &function.found),
        burst_rate => BURST.0,
        burst_seconds => BURST.1,
        sources => MODEL.source,
        cost => shown_cost,
        partition_reads,
        memory => MEMORY,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost() -> Cost {
        let used = |read_units, write_units| Used {
            read_units,
            write_units,
            batches: 10.0,
            ..Used::default()
        };
        Cost {
            ingest_seconds: 0.03,
            deliver_seconds: 0.15,
            send_calls: 10.0,
            event: used(106.5, 1.0),
            renewal: used(1.0, 2.0),
            look: used(1.0, 0.0),
            health_reads: 0.1,
        }
    }

    #[test]
    fn what_breaks_first_is_asked_for_most_of_what_is_given() {
        let first = |events| demands(&cost(), 100.0, events).swap_remove(0);
        let Demand { part, of, .. } = first(1_000.0);
        let name = &of.name;
        assert!(name == "batches" && part > 1.0, "{name} {part}");
        assert!(first(1.0 / 60.0).part < 1.0);
    }

    #[test]
    fn a_burst_loses_nothing_that_was_accepted() {
        let cost = cost();
        let played: Vec<_> = MODEL.setup.iter().map(|setup| play(&cost, setup)).collect();
        let [deployed, raised, spread] = &played[..] else {
            panic!("there are three setups");
        };
        // 3,000 units a second are the routes of 500 events.
        for played in [deployed, raised] {
            assert!(
                (played.refused - 5_000.0).abs() < 1e-6,
                "{}",
                played.refused
            );
        }
        assert!(spread.refused.abs() < 1e-6);
        // Five batches at once take longer than a thousand.
        assert!(deployed.waiting.len() > raised.waiting.len());
        for played in [deployed, raised, spread] {
            assert!(played.refused_again.abs() < 1e-6);
            assert!(played.waiting.last().is_some_and(|waiting| *waiting < 1.0));
        }
    }
}
