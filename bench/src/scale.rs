//! How far it goes: the deployment's limits against what was measured, and a burst played through them.
//!
//! A model, not a measurement: every limit is AWS's documented quota or the template's setting, every cost one of
//! those measured here, and what is only stated is named as such on the page.

use std::ops::Deref;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::calls::Found as Calls;
use crate::format::{grouped, table};
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
            health_reads: calls.health.read_units / calls.enrolled as f64,
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
#[derive(Deserialize)]
struct Limit {
    name: String,
    limit: String,
    given: f64,
    raised: f64,
    moved_by: String,
}

/// What a burst meets.
#[derive(Deserialize)]
struct Setup {
    name: String,
    rate: f64,
    burst: f64,
    concurrency: f64,
    /// The partitions that the workspace's workers are in.
    partitions: f64,
}

/// Where a limit is documented.
#[derive(Deserialize)]
struct Source {
    limit: String,
    source: String,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    toml::from_str(include_str!("../data/limits.toml")).expect("the inputs of the model are valid")
});

/// A limit, and how much of it is asked for.
struct Demand {
    asked: f64,
    limit: &'static Limit,
}

impl Deref for Demand {
    type Target = Limit;

    fn deref(&self) -> &Limit {
        self.limit
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
    let demand = |limit: &'static Limit| Demand {
        asked: asked(&limit.name),
        limit,
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
pub(crate) struct Played {
    pub(crate) name: &'static str,
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
        name: &setup.name,
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

/// The page; nothing without the costs that it goes by.
pub(crate) fn markdown(calls: &Calls, function: &Part<Function>) -> Option<String> {
    let cost = Cost::of(calls, &function.found)?;
    let mut out = format!(
        "# How far it goes\n\n\
         Made by `cargo run --release -p bench -- all` from what it measured on {} ({}, {} build); not to be edited. \
         A model: no AWS account was at hand. Demands are worked out from the measured calls, units and CPU times \
         ([bench/results/results.md](../bench/results/results.md)); limits are the template's settings and AWS's quotas \
         for us-east-1.\n\n\
         Stated, not measured: workspaces of {WORKSPACE} workers who all want every event, bodies of 2 KB; {:.0} % of the \
         workers without an address, looking into their mailbox every 3 s, and a renewal by each every 5 min; {:.0} ms for a \
         round of calls, {:.0} ms for a POST to a worker, {:.0} ms for a full page of a query; batches of {:.1} messages, as \
         counted here.\n\n\
         An event then keeps `ingest` for {:.0} ms and a batch `deliver` for {:.0} ms at the template's 512 MB, and uses {:.0} read \
         units, nearly all in its workspace's partition, and {:.0} write unit.\n",
        function.taken.date,
        function.taken.machine,
        function.taken.build,
        WITHOUT_ADDRESS * 100.0,
        ROUND * 1e3,
        POST * 1e3,
        PAGE * 1e3,
        WORKSPACE as f64 / cost.batches,
        cost.ingest * 1e3,
        cost.deliver * 1e3,
        cost.read_units,
        cost.write_units,
    );
    out += "\n## What breaks first\n\n\
            How much of each limit is asked for, as deployed, and raised: by settings, with AWS's quotas as they are \
            documented, and a concurrency of 10,000 in Lambda, which is on request. Over 100 % it breaks: webhooks are \
            answered 429 and Linear tries again, or deliveries wait. The five that are nearest.\n";
    for workers in [100_usize, 10_000, 1_000_000] {
        let usual = workers as f64 / WORKSPACE as f64 * USUAL;
        for (events, title) in [
            (usual, "one event a minute in each workspace"),
            (1_000.0, "1,000 events a second, spread over all workspaces"),
        ] {
            out += &case(&cost, workers, events, title);
        }
    }
    out += &settings(&cost);
    out += &burst(calls, &function.found);
    out += "\n## Where the limits are from\n\n";
    out += &table(
        "limit | source",
        "l l",
        (MODEL.source.iter()).map(|s| format!("{} | {}", s.limit, s.source)),
    );
    Some(out)
}

fn case(cost: &Cost, workers: usize, events: f64, title: &str) -> String {
    let mut demands = demands(cost, workers as f64, events);
    demands.sort_by(|a, b| (b.asked / b.given).total_cmp(&(a.asked / a.given)));
    let first = &demands[0];
    let verdict = if first.asked > first.given {
        format!(
            "Breaks first: {}. Moved by: {}.",
            first.limit.limit, first.moved_by
        )
    } else {
        format!("Nothing breaks; nearest is: {}.", first.limit.limit)
    };
    let still: Vec<_> = (demands.iter())
        .filter(|demand| demand.asked > demand.raised)
        .map(|demand| demand.limit.limit.as_str())
        .collect();
    let still = if still.is_empty() {
        "With settings and requests to AWS alone, nothing does.".to_owned()
    } else {
        format!(
            "Settings and requests to AWS do not move: {}.",
            still.join("; ")
        )
    };
    let rows = demands.iter().take(5).map(|demand| {
        format!(
            "{} | {} | {} | {} | {}",
            demand.limit.limit,
            number(demand.asked),
            number(demand.given),
            percent(demand.asked / demand.given),
            percent(demand.asked / demand.raised)
        )
    });
    format!(
        "\n### {} workers, {title}\n\n{} deliveries a second. {verdict} {still}\n\n",
        grouped(workers),
        number(events * WORKSPACE as f64)
    ) + &table(
        "limit | asked | given | as deployed | raised",
        "l r r r r",
        rows,
    )
}

fn settings(cost: &Cost) -> String {
    let most = |given: fn(&Demand) -> f64| {
        demands(cost, WORKSPACE as f64, 1.0)
            .into_iter()
            .filter(|demand| !matches!(demand.name.as_str(), "edge" | "health_run"))
            .map(move |demand| (given(&demand) / demand.asked, demand))
    };
    let mut rows: Vec<_> = most(|demand| demand.given).collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rows = rows.iter().map(|(events, demand)| {
        format!(
            "{} | {} | {} | {}",
            demand.limit.limit,
            number(*events),
            number(demand.raised / demand.asked),
            demand.moved_by
        )
    });
    "\n## What one workspace's events can come to\n\nOne workspace of 100 workers alone: the most events a second before \
     each limit is reached.\n\n"
        .to_owned()
        + &table("limit | as deployed | raised | moved by", "l r r l", rows)
}

fn burst(calls: &Calls, function: &Function) -> String {
    let rows = bursts(calls, function)
        .into_iter()
        .zip(&MODEL.setup)
        .map(|(played, setup)| {
            format!(
                "{} | {} | {} | {} | {} | {} | {} | {} s | {} s",
                played.name,
                number(setup.rate),
                number(setup.concurrency),
                setup.partitions,
                number(played.refused),
                number(played.refused_again),
                number(played.waiting.iter().copied().fold(0.0, f64::max)),
                number(played.longest),
                grouped(played.waiting.len()),
            )
        });
    format!(
        "\n## A burst, played through\n\n{} events a second for {} s into one workspace of {WORKSPACE} workers: a bulk edit. \
         What the gateway refuses Linear sends again after a minute; the event source mapping begins with five batches at \
         once and adds 300 a minute. Second by second, as if everything flowed.\n\n",
        number(BURST.0),
        BURST.1
    ) + &table(
        "setup | `WebhookRate` | `DeliverMaximumConcurrency` | partitions | refused at first | refused again | messages waiting at most | longest wait | all delivered after",
        "l r r r r r r r r",
        rows,
    ) + "\n![Messages waiting over time](../bench/results/burst.svg)\n\n\
         What is refused again comes once more after an hour, and then after six; the burst is lost only if it is refused \
         then, too. What was accepted waits and is never lost.\n"
}

/// To three digits where it is small.
fn number(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else {
        grouped(value.round() as usize)
    }
}

fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent < 10.0 {
        format!("{percent:.1} %")
    } else {
        format!("{} %", grouped(percent.round() as usize))
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
        let text = case(&cost(), 100, 1_000.0, "");
        assert!(
            text.contains(
                "Breaks first: DynamoDB, read units a second of one workspace's partition"
            ),
            "{text}"
        );
        assert!(case(&cost(), 100, 1.0 / 60.0, "").contains("Nothing breaks"));
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
