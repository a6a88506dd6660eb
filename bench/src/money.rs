//! What the calls cost: by a list of prices with its date, Lambda's time by what the functions were measured to take
//! and a stated wait for the network.

use relay::metrics::METRICS;

use crate::calls::{Event, Found as Calls, Used};
use crate::function::Found as Function;
use crate::results::table;

/// A price: dollars for one of the unit.
struct Price {
    of: &'static str,
    unit: &'static str,
    dollars: f64,
    source: &'static str,
}

const REGION: &str = "us-east-1";
/// When the list was put together; each price has the date of its source.
const READ: &str = "2026-11-24";

const HTTP: Price = Price {
    of: "HTTP API",
    unit: "request of up to 512 KB",
    dollars: 1.00e-6,
    source: "https://aws.amazon.com/api-gateway/pricing, 2026-09-20",
};
const INVOCATION: Price = Price {
    of: "Lambda",
    unit: "invocation",
    dollars: 0.20e-6,
    source: "https://aws.amazon.com/lambda/pricing, as quoted in 2026 by https://amnic.com/blogs/aws-lambda-pricing",
};
const SECOND: Price = Price {
    of: "Lambda, x86_64",
    unit: "GB-second",
    dollars: 0.000_016_666_7,
    source: "the same",
};
const SQS: Price = Price {
    of: "SQS FIFO",
    unit: "request of up to 64 KB",
    dollars: 0.50e-6,
    source: "https://aws.amazon.com/sqs/pricing, as quoted in March 2026 by https://cloudburn.io/blog/amazon-sqs-pricing",
};
const READ_UNIT: Price = Price {
    of: "DynamoDB on demand",
    unit: "read request unit",
    dollars: 0.125e-6,
    source: "https://aws.amazon.com/dynamodb/pricing/on-demand, as quoted on 2025-07-21 by https://airbyte.com/data-engineering-resources/dynamodb-pricing",
};
const WRITE_UNIT: Price = Price {
    of: "DynamoDB on demand",
    unit: "write request unit",
    dollars: 0.625e-6,
    source: "the same",
};
const LOG: Price = Price {
    of: "CloudWatch Logs",
    unit: "GB taken in",
    dollars: 0.50,
    source: "https://aws.amazon.com/cloudwatch/pricing, as quoted in February 2026 by https://cloudburn.io/blog/amazon-cloudwatch-pricing",
};
const OUT: Price = Price {
    of: "data out to the internet",
    unit: "GB",
    dollars: 0.09,
    source: "https://aws.amazon.com/ec2/pricing/on-demand, as quoted on 2026-04-27 by https://leanopstech.com/blog/aws-data-transfer-pricing-2026",
};
const ALARM: Price = Price {
    of: "CloudWatch alarm",
    unit: "month",
    dollars: 0.10,
    source: "as for logs",
};
const METRIC: Price = Price {
    of: "CloudWatch metric of our own",
    unit: "month",
    dollars: 0.30,
    source: "as for logs",
};
const SECRET: Price = Price {
    of: "Secrets Manager",
    unit: "secret and month",
    dollars: 0.40,
    source: "https://aws.amazon.com/secrets-manager/pricing, as quoted by https://hivebook.wiki/wiki/aws-secrets-manager-rotated-secrets-dynamic-db-credentials-kms",
};

const PRICES: [Price; 11] = [
    HTTP, INVOCATION, SECOND, SQS, READ_UNIT, WRITE_UNIT, LOG, OUT, ALARM, METRIC, SECRET,
];

/// The template's default, MB.
const MEMORY: f64 = 512.0;
/// A function has a whole CPU at this many MB, and a share of one below (Lambda Developer Guide, "Memory").
const WHOLE_CPU: f64 = 1_769.0;
/// Stated, not measured: one round of calls to DynamoDB or SQS, seconds.
pub(crate) const ROUND: f64 = 0.008;
/// Stated, not measured: a POST to a worker and its answer over the internet, on an open connection, seconds.
pub(crate) const POST: f64 = 0.120;

/// Gigabytes are counted in thousands here, which is at most 7 % too much.
const GB: f64 = 1e9;

const SECONDS_A_MONTH: f64 = 30.0 * 24.0 * 3600.0;

/// Lambda's time for one invocation of `ingest`, seconds.
pub(crate) fn ingest_seconds(function: &Function, body: usize, workers: usize) -> f64 {
    let micros = function
        .handler("ingest", body, workers)
        .unwrap_or(f64::NAN);
    // Marker and workers at once, the body if it is stored, the batches sixteen at once, the marker.
    let stored = f64::from(u8::from(body > relay::queue::INLINE_LIMIT));
    share(micros) + (2.0 + stored + queue_rounds(workers)) * ROUND
}

/// Lambda's time for one batch of `deliver`, seconds.
pub(crate) fn deliver_seconds(function: &Function, body: usize, messages: f64) -> f64 {
    let micros = (function.handler("deliver", body, messages.round() as usize)).unwrap_or(f64::NAN);
    let stored = f64::from(u8::from(body > relay::queue::INLINE_LIMIT));
    share(micros) + (1.0 + stored) * ROUND + POST
}

/// CPU time as it passes at the function's share of a CPU, seconds.
fn share(micros: f64) -> f64 {
    micros / 1e6 * (WHOLE_CPU / MEMORY).max(1.0)
}

/// How often `ingest` waits for SQS: the batches go sixteen at once.
fn queue_rounds(workers: usize) -> f64 {
    workers.div_ceil(relay::queue::BATCH).div_ceil(16) as f64
}

fn lambda(seconds: f64, invocations: f64) -> f64 {
    invocations * INVOCATION.dollars + seconds * MEMORY / 1024.0 * SECOND.dollars
}

/// What a million events cost, by service.
struct Bill {
    http: f64,
    lambda: f64,
    sqs: f64,
    dynamodb: f64,
    log: f64,
    out: f64,
}

impl Bill {
    fn of(event: &Event, function: &Function) -> Self {
        let used = &event.used;
        let live = event.workers - event.asleep;
        let per_batch = event.workers as f64 / used.batches;
        // All but the webhook itself; each is three rounds for `register`.
        let pulls = used.http - 1.0;
        let seconds = ingest_seconds(function, event.body, event.workers)
            + used.batches * deliver_seconds(function, event.body, per_batch)
            + pulls * 3.0 * ROUND;
        let million = 1e6;
        Self {
            http: million * used.http * HTTP.dollars,
            lambda: million * lambda(seconds, 1.0 + used.batches + pulls),
            sqs: million * used.sqs * SQS.dollars,
            dynamodb: million * dynamodb(used),
            log: million * used.log / GB * LOG.dollars,
            out: million * (live * event.body) as f64 / GB * OUT.dollars,
        }
    }

    fn total(&self) -> f64 {
        self.http + self.lambda + self.sqs + self.dynamodb + self.log + self.out
    }
}

fn dynamodb(used: &Used) -> f64 {
    used.read_units * READ_UNIT.dollars + used.write_units * WRITE_UNIT.dollars
}

/// What one call of a worker costs: the gateway, `register`, and the table.
fn call(used: &Used) -> f64 {
    HTTP.dollars + lambda(2.0 * ROUND, 1.0) + dynamodb(used) + used.log / GB * LOG.dollars
}

/// What others publish, for a million deliveries a month.
const OTHERS: [(&str, &str, &str, &str); 5] = [
    (
        "Svix, Professional",
        "$585",
        "$490 a month with 50,000 messages, $0.0001 for each further one, if each delivery is one",
        "https://www.svix.com/pricing, 2026-09-20",
    ),
    (
        "Hookdeck, Team",
        "from $39",
        "10,000 events included, more by a meter whose price is not on the page",
        "https://hookdeck.com/pricing, 2026-09-20",
    ),
    (
        "Convoy, self-hosted Premium",
        "$999 and the servers",
        "PostgreSQL and Redis beside it; Community is free, with less",
        "https://www.getconvoy.io/pricing, 2026-09-20",
    ),
    (
        "EventBridge API destinations, one worker each event",
        "$1.20",
        "$1.00 a million events put on the bus and $0.20 a million invocations, each of up to 64 KB; no order, no \
         mailbox, given up after 24 hours, and whoever checks Linear's signature comes on top",
        "https://aws.amazon.com/eventbridge/pricing, as quoted in March 2026 by https://cloudburn.io/blog/amazon-eventbridge-pricing",
    ),
    (
        "EventBridge API destinations, ten workers each event",
        "$0.30",
        "the same, a rule for each worker",
        "https://aws.amazon.com/eventbridge/pricing, as quoted in March 2026 by https://cloudburn.io/blog/amazon-eventbridge-pricing",
    ),
];

pub(crate) fn markdown(calls: &Calls, function: &Function) -> String {
    let mut out = format!(
        "In {REGION}, by a list of prices of {READ}, free tiers not counted. Lambda's time is the measured CPU time of the whole \
         handler at the template's {MEMORY:.0} MB ({MEMORY:.0}/{WHOLE_CPU:.0} of a CPU), and stated waits: {:.0} ms for each round of \
         calls (three for a pull of a mailbox), {:.0} ms for a POST to a worker. Batches as they were counted here; if the queue handed out one message \
         at a time, `deliver` would be invoked once for each. Data out is bodies alone, headers not counted.\n\n",
        ROUND * 1e3,
        POST * 1e3
    );
    let head = "workers | asleep | body | HTTP API | Lambda | SQS | DynamoDB | logs | data out | a million events | a million deliveries";
    out += &table(
        head,
        "r r r r r r r r r r r",
        calls.events.iter().map(|event| {
            let bill = Bill::of(event, function);
            format!(
                "{} | {} | {} KB | {} | {} | {} | {} | {} | {} | **{}** | **{}**",
                event.workers,
                event.asleep,
                event.body / 1024,
                dollars(bill.http),
                dollars(bill.lambda),
                dollars(bill.sqs),
                dollars(bill.dynamodb),
                dollars(bill.log),
                dollars(bill.out),
                dollars(bill.total()),
                dollars(bill.total() / event.workers as f64),
            )
        }),
    );
    out += "\n### While nothing happens, a month\n\n";
    let polls = 5.0 * SECONDS_A_MONTH / 20.0 * SQS.dollars;
    let ticks = SECONDS_A_MONTH / 300.0;
    let health = &calls.health;
    let tick =
        lambda(health.total() * ROUND, 1.0) + dynamodb(health) + health.log / GB * LOG.dollars;
    // A name with a dimension is a metric for each of its values.
    let metrics: usize = (METRICS.iter())
        .map(|metric| if metric.dimension.is_some() { 4 } else { 1 })
        .sum();
    let rows = [
        (
            "ten alarms and a secret".to_owned(),
            10.0 * ALARM.dollars + SECRET.dollars,
        ),
        (
            format!(
                "our own metrics, were all {metrics} published all month, four values to a dimension"
            ),
            metrics as f64 * METRIC.dollars,
        ),
        (
            "five pollers of the event source mapping, every 20 s each".to_owned(),
            polls,
        ),
        (
            format!("`health`, every 5 min, {} workers", calls.enrolled),
            ticks * tick,
        ),
        (
            "a worker with an address: a renewal every 5 min".to_owned(),
            ticks * call(&calls.renewal),
        ),
        (
            "a worker without an address: the same, and a look every 3 s".to_owned(),
            ticks * call(&calls.renewal) + SECONDS_A_MONTH / 3.0 * call(&calls.look),
        ),
    ];
    out += &table(
        "what | dollars",
        "l r",
        rows.iter()
            .map(|(what, cost)| format!("{what} | {}", dollars(*cost))),
    );
    out += "\n### What others publish, for a million deliveries a month\n\n";
    out += &table(
        "what | dollars | for | source",
        "l r l l",
        OTHERS
            .iter()
            .map(|(what, cost, why, source)| format!("{what} | {cost} | {why} | {source}")),
    );
    out += &format!("\n### The prices, {REGION}, {READ}\n\n");
    out += &table(
        "of | unit | dollars | source and its date",
        "l l r l",
        PRICES.iter().map(|price| {
            format!(
                "{} | {} | {} | {}",
                price.of, price.unit, price.dollars, price.source
            )
        }),
    );
    out
}

/// To the cent, and smaller sums to two digits.
fn dollars(sum: f64) -> String {
    if sum < 0.1 {
        format!("${sum:.3}")
    } else {
        format!("${sum:.2}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::function::Row;

    fn event() -> Event {
        Event {
            workers: 10,
            asleep: 0,
            body: 2_048,
            used: Used {
                calls: BTreeMap::new(),
                read_units: 16.0,
                write_units: 1.0,
                sqs: 3.0,
                http: 1.0,
                batches: 1.0,
                log: 1_000.0,
            },
        }
    }

    fn function() -> Function {
        let row = |function: &str, workers, micros| Row {
            function: function.to_owned(),
            step: crate::function::HANDLER.to_owned(),
            body: 2_048,
            workers,
            micros,
            allocations: 0,
            allocated: 0,
        };
        Function {
            rows: vec![row("ingest", 10, 512.0), row("deliver", 10, 1_024.0)],
        }
    }

    #[test]
    fn a_bill_adds_up_what_was_used_at_the_listed_prices() {
        let bill = Bill::of(&event(), &function());
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(close(bill.http, 1.00));
        assert!(close(bill.sqs, 1.50));
        assert!(close(bill.dynamodb, 16.0 * 0.125 + 0.625));
        assert!(close(bill.log, 0.5));
        assert!(close(bill.out, 10.0 * 2_048.0 / 1e3 * 0.09));
        // 512 µs and 1,024 µs of a CPU of which there are 512/1769, three rounds and one, a POST; half a GB.
        let seconds = (512.0 + 1_024.0) * 1_769.0 / 512.0 / 1e6 + 4.0 * ROUND + POST;
        assert!(close(
            bill.lambda,
            2.0 * 0.20 + 1e6 * seconds * 0.5 * 0.000_016_666_7
        ));
    }

    #[test]
    fn the_largest_fan_out_waits_for_sqs_more_than_once() {
        assert_eq!(
            [1, 10, 160, 161, 1_000].map(queue_rounds),
            [1.0, 1.0, 1.0, 2.0, 7.0]
        );
    }
}
