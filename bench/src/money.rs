//! What the calls cost: by a list of prices with its date, Lambda's time by what the functions were measured to take
//! and a stated wait for the network.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::{Value, context};
use relay::metrics::METRICS;
use relay::transport::{self, Way};
use serde::{Deserialize, Serialize};

use crate::calls::{CallCounts, Event, Used};
use crate::function::FunctionCosts;
use crate::{payload, ways};

/// The list of prices.
#[derive(Serialize, Deserialize)]
struct PriceList {
    region: String,
    read: String,
    price: Vec<Price>,
    /// What other services publish; only shown.
    other: toml::Value,
}

/// A price: dollars for one of the unit.
#[derive(Serialize, Deserialize)]
struct Price {
    name: String,
    of: String,
    unit: String,
    dollars: f64,
    source: String,
}

static LIST: LazyLock<PriceList> = LazyLock::new(|| {
    toml::from_str(include_str!("../data/prices.toml")).expect("the list of prices is valid")
});

pub(crate) fn price(name: &str) -> f64 {
    let price = LIST.price.iter().find(|price| price.name == name);
    price.expect("the price is in the list").dollars
}

/// The template's default, MB.
pub(crate) const MEMORY: f64 = 128.0;
/// Those that are compared.
const MEMORIES: [f64; 4] = [128.0, 256.0, 512.0, 1_024.0];
/// A function has a whole CPU at this many MB, and a share of one below (Lambda Developer Guide, "Memory").
pub(crate) const WHOLE_CPU: f64 = 1_769.0;
/// Stated, not measured: one round of calls to DynamoDB or SQS, seconds.
pub(crate) const ROUND_SECONDS: f64 = 0.008;
/// Stated, not measured: a POST to a worker and its answer over the internet, on an open connection, seconds.
pub(crate) const POST_SECONDS: f64 = 0.120;

/// How often a worker without an address looks into its mailbox when nothing has happened for a while.
const IDLE_LOOK_SECONDS: f64 = 8.0;
/// And when something happens.
pub(crate) const LOOK_SECONDS: f64 = 2.0;

/// Stated, not measured: the line that the HTTP API writes to its log for each request, with what CloudWatch counts beside each
/// line, bytes.
const ACCESS_LOG_BYTES: f64 = 170.0;

/// Gigabytes are counted in thousands here, which is at most 7 % too much.
const GB: f64 = 1e9;

/// Lambda's time for one invocation of `ingest`, seconds.
pub(crate) fn ingest_seconds(
    function: &FunctionCosts,
    memory: f64,
    body: usize,
    workers: usize,
) -> f64 {
    // Marker and workers at once, the body if it is stored, the batches sixteen at once, the marker.
    let rounds = 2.0 + stored(body, workers) + queue_rounds(workers);
    function.seconds("ingest", memory, body, workers) + rounds * ROUND_SECONDS
}

/// Lambda's time for one batch of `deliver`, seconds.
pub(crate) fn deliver_seconds(
    function: &FunctionCosts,
    memory: f64,
    body: usize,
    workers: usize,
    messages: f64,
) -> f64 {
    let handler = function.seconds("deliver", memory, body, messages.round() as usize);
    handler + (1.0 + stored(body, workers)) * ROUND_SECONDS + POST_SECONDS
}

impl FunctionCosts {
    /// CPU time of the whole handler as it passes at its share of a CPU, seconds; no number if not measured.
    fn seconds(&self, name: &str, memory: f64, body: usize, count: usize) -> f64 {
        let micros = self.handler(name, body, count).unwrap_or(f64::NAN);
        micros / 1e6 * (WHOLE_CPU / memory).max(1.0)
    }
}

/// A round for the body where it is stored beside its messages.
fn stored(size: usize, workers: usize) -> f64 {
    f64::from(transport::way(payload::body(0, size).as_bytes(), workers) == Way::Stored)
}

/// How often `ingest` waits for SQS: the batches go sixteen at once.
fn queue_rounds(workers: usize) -> f64 {
    workers.div_ceil(relay::queue::BATCH_SIZE).div_ceil(16) as f64
}

fn lambda(memory: f64, seconds: f64, invocations: f64) -> f64 {
    invocations * price("invocation") + seconds * memory / 1024.0 * price("second")
}

/// What a million events cost with so much memory, by service.
fn bill(event: &Event, function: &FunctionCosts, memory: f64) -> BTreeMap<&'static str, f64> {
    let used = &event.used;
    let live = event.workers - event.asleep;
    let per_batch = event.workers as f64 / used.batches;
    // All but the webhook itself; each is three rounds for `register`.
    let pulls = used.http - 1.0;
    let seconds = ingest_seconds(function, memory, event.body, event.workers)
        + used.batches * deliver_seconds(function, memory, event.body, event.workers, per_batch)
        + pulls * 3.0 * ROUND_SECONDS;
    let million = 1e6;
    let lambda = lambda(memory, seconds, 1.0 + used.batches + pulls);
    let out = million * (live * event.body) as f64 / GB * price("out");
    BTreeMap::from([
        ("http", million * used.http * price("http")),
        ("lambda", million * lambda),
        ("sqs", million * used.sqs * price("sqs")),
        ("dynamodb", million * dynamodb(used)),
        (
            "log",
            million * log(used.log + used.http * ACCESS_LOG_BYTES),
        ),
        ("out", out),
    ])
}

fn log(bytes: f64) -> f64 {
    bytes / GB * price("log")
}

fn dynamodb(used: &Used) -> f64 {
    used.read_units * price("read_unit") + used.write_units * price("write_unit")
}

/// What one run of a function costs: its time, what it calls, one call after another, and its log.
fn run(used: &Used) -> f64 {
    lambda(MEMORY, used.total() * ROUND_SECONDS, 1.0)
        + dynamodb(used)
        + used.sqs * price("sqs")
        + log(used.log)
}

/// What one call of a worker costs, by service: the gateway, and `register`, which makes one call after another.
fn call(used: &Used) -> BTreeMap<&'static str, f64> {
    BTreeMap::from([
        ("http", price("http")),
        ("lambda", lambda(MEMORY, used.total() * ROUND_SECONDS, 1.0)),
        ("dynamodb", dynamodb(used)),
        ("log", log(ACCESS_LOG_BYTES + used.log)),
    ])
}

/// How long the functions take for an event of 2 KB to one worker with so much memory, ms, and what a million cost, data out
/// aside.
fn with_memory(calls: &CallCounts, function: &FunctionCosts, memory: f64) -> Value {
    let (workers, body) = (1, 2_048);
    let dollars = calls.event(workers, 0, body).map(|event| {
        let mut bill = bill(event, function, memory);
        bill.remove("out");
        bill.values().sum::<f64>()
    });
    context! {
        memory,
        ingest => ingest_seconds(function, memory, body, workers) * 1e3,
        deliver => deliver_seconds(function, memory, body, workers, 1.0) * 1e3,
        dollars,
    }
}

/// What the page on money shows.
pub(crate) fn context(calls: &CallCounts, function: &FunctionCosts) -> Value {
    let bills = (calls.events.iter())
        .map(|event| context! { event, dollars => bill(event, function, MEMORY) });
    // A name with a dimension is a metric for each of its values.
    let metrics = (METRICS.iter()).map(|metric| if metric.dimension.is_some() { 4 } else { 1 });
    context! {
        prices => &*LIST,
        price => Value::from_function(price),
        memory => MEMORY,
        whole_cpu => WHOLE_CPU,
        round_ms => ROUND_SECONDS * 1e3,
        post_ms => POST_SECONDS * 1e3,
        bills => bills.collect::<Vec<_>>(),
        ways => ways::all(),
        memories => MEMORIES.map(|memory| with_memory(calls, function, memory)),
        metrics => metrics.sum::<u32>(),
        // With `deliver`, which takes its heartbeat.
        health => run(&calls.health) + lambda(MEMORY, 0.0, 1.0),
        // A call that does nothing.
        access_log => ACCESS_LOG_BYTES,
        warm => lambda(MEMORY, ROUND_SECONDS, 1.0),
        look_seconds => IDLE_LOOK_SECONDS,
        renewal => call(&calls.renewal),
        look => call(&calls.look),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::Wants;
    use crate::function::{HANDLER, StepCost};

    #[test]
    fn a_bill_adds_up_what_was_used_at_the_listed_prices() {
        let used = Used {
            read_units: 16.0,
            write_units: 1.0,
            sqs: 3.0,
            http: 1.0,
            batches: 1.0,
            log: 1_000.0,
            ..Used::default()
        };
        let (workers, asleep, body) = (10, 0, 2_048);
        let rows = [("ingest", 512.0), ("deliver", 1_024.0)].map(|(function, micros)| StepCost {
            function: function.to_owned(),
            step: HANDLER.to_owned(),
            body,
            workers,
            micros,
            allocations: 0,
            allocated: 0,
        });
        let event = Event {
            workers,
            asleep,
            body,
            wants: Wants::default(),
            used,
        };
        let bill = bill(&event, &FunctionCosts { rows: rows.into() }, 512.0);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(close(bill["http"], 1.00));
        assert!(close(bill["sqs"], 1.50));
        assert!(close(bill["dynamodb"], 16.0 * 0.125 + 0.625));
        assert!(close(bill["log"], 0.5 + 0.085));
        assert!(close(bill["out"], 10.0 * 2_048.0 / 1e3 * 0.09));
        // 512 µs and 1,024 µs of a CPU of which there are 512/1769, three rounds and one, a POST; half a GB.
        let seconds =
            (512.0 + 1_024.0) * 1_769.0 / 512.0 / 1e6 + 4.0 * ROUND_SECONDS + POST_SECONDS;
        let lambda = 2.0 * 0.20 + 1e6 * seconds * 0.5 * 0.000_016_666_7;
        assert!(close(bill["lambda"], lambda));
    }

    #[test]
    fn the_largest_fan_out_waits_for_sqs_more_than_once() {
        let rounds = [1, 10, 160, 161, 1_000].map(queue_rounds);
        assert_eq!(rounds, [1.0, 1.0, 1.0, 2.0, 7.0]);
    }
}
