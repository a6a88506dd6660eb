//! AWS calls, and what AWS bills for them, counted at the embedded servers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use indicatif::ProgressBar;
use local::local_relay::{LocalRelay, Options, QUEUE};
use local::testing::calls::{Calls, Units};
use protocol::clock::{Clock, elapsed, millis};
use protocol::messages::{Filter, Register, Registered};
use relay::policy::PROBE_INTERVAL;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::load::Load;
use crate::logs;
use crate::one_machine::{self, Busy};
use crate::payload::ISSUES;

/// Workers in a group.
const GROUP: usize = 10;
/// Workers while nothing happens.
const IDLE: usize = 100;

/// What was counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct CallCounts {
    pub(crate) events: Vec<Event>,
    /// With filters and groups, and without.
    #[serde(default)]
    pub(crate) routed: Vec<Event>,
    /// One run of `health` over [`Self::idle_workers`] live workers.
    pub(crate) health: Used,
    pub(crate) idle_workers: usize,
    /// One renewal of a lease.
    pub(crate) renewal: Used,
    /// One look into an empty mailbox.
    pub(crate) look: Used,
}

/// What the workers of an event want of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wants {
    /// Each one everything.
    #[default]
    Everything,
    /// Every second one what concerns its user alone, which the event does not.
    Mine,
    /// In groups of ten, one of each; the groups have had no event with its ordering key.
    GroupsNewKey,
    /// In groups of ten, one of each; the groups have had events with its ordering key.
    GroupsKnownKey,
}

impl Wants {
    fn has_groups(self) -> bool {
        matches!(self, Self::GroupsNewKey | Self::GroupsKnownKey)
    }

    /// How many of so many workers get an event.
    fn deliveries(self, workers: usize) -> usize {
        match self {
            Self::Everything => workers,
            Self::Mine => workers / 2,
            Self::GroupsNewKey | Self::GroupsKnownKey => workers.div_ceil(GROUP),
        }
    }

    fn of(self, worker: usize, request: Register) -> Register {
        let filter = Filter {
            mine: true,
            ..Filter::default()
        };
        Register {
            filter: (self == Self::Mine && worker.is_multiple_of(2)).then_some(filter),
            group: self
                .has_groups()
                .then(|| format!("group-{}", worker / GROUP)),
            ..request
        }
    }
}

/// One event, on average.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) workers: usize,
    /// How many of them are away, and pull after all events.
    pub(crate) asleep: usize,
    pub(crate) body: usize,
    #[serde(default)]
    pub(crate) wants: Wants,
    pub(crate) used: Used,
}

/// What was used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Used {
    /// By action.
    pub(crate) calls: BTreeMap<String, f64>,
    pub(crate) read_units: f64,
    pub(crate) write_units: f64,
    /// SQS requests as they are billed.
    pub(crate) sqs: f64,
    /// Requests at the HTTP API.
    pub(crate) http: f64,
    /// The batches of `deliver`.
    pub(crate) batches: f64,
    /// Bytes of log.
    pub(crate) log: f64,
}

impl Used {
    fn take(calls: &Calls, http: usize, times: usize) -> Self {
        let units: Units = calls.take_units().unwrap_or_default();
        let times = times as f64;
        let each: BTreeMap<_, _> = (calls.take().into_iter())
            .map(|(action, count)| (action, count as f64 / times))
            .collect();
        Self {
            read_units: units.read / times,
            write_units: units.write / times,
            sqs: units.sqs as f64 / times,
            http: http as f64 / times,
            // What is done of a batch is deleted at its end.
            batches: each.get("DeleteMessageBatch").copied().unwrap_or_default(),
            log: logs::take() as f64 / times,
            calls: each,
        }
    }

    pub(crate) fn total(&self) -> f64 {
        self.calls.values().sum()
    }
}

impl CallCounts {
    pub(crate) fn event(&self, workers: usize, asleep: usize, body: usize) -> Option<&Event> {
        (self.events.iter())
            .find(|event| (event.workers, event.asleep, event.body) == (workers, asleep, body))
    }
}

/// A clock at the time of a scheduled run of `health`: the next one, whose calls are not an event's, is five minutes away.
fn after_health() -> Clock {
    let clock = Clock::system();
    let (now, every) = (clock.millis(), millis(PROBE_INTERVAL));
    clock.advance(elapsed(now, (now / every + 1) * every));
    clock
}

/// A relay in this process, with its workers.
struct Counted {
    local: LocalRelay,
    load: Load,
    workers: Vec<Registered>,
}

impl Counted {
    async fn start(workers: usize, wants: Wants, body: usize) -> anyhow::Result<Self> {
        let options = Options {
            calls: Calls::metered(),
            clock: after_health(),
            ..one_machine::options().await?
        };
        let Busy {
            local,
            workers,
            mut load,
            ..
        } = Busy::start_with(options, body, |receiver| {
            (0..workers).map(move |at| wants.of(at, one_machine::worker_at(receiver, at)))
        })
        .await?;
        load.workers = wants.deliveries(workers.len());
        Ok(Self {
            local,
            load,
            workers,
        })
    }

    /// Waits until the queue is empty and what was begun is done.
    async fn settle(&self) -> anyhow::Result<()> {
        for _ in 0..3_000 {
            let depth = self.local.sqs.depth(QUEUE)?;
            if depth.visible + depth.in_flight == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("the queue does not become empty")
    }

    fn take(&self, http: usize, times: usize) -> Used {
        Used::take(&self.local.calls, http, times)
    }

    async fn call(
        &self,
        worker: &Registered,
        put: bool,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let url = format!("{}{}{path}", self.local.url(), worker.worker);
        let client = &self.load.client;
        let request = if put {
            client.put(url)
        } else {
            client.post(url)
        };
        let answer = request.bearer_auth(&worker.token).json(body).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "a worker's call was answered {status}");
        Ok(answer.json().await?)
    }

    /// Pulls until the mailbox is empty. Returns the number of requests.
    async fn pull(&self, worker: &Registered) -> anyhow::Result<usize> {
        let mut ack: Vec<Value> = Vec::new();
        for requests in 1.. {
            let answer = self
                .call(
                    worker,
                    false,
                    "/mailbox",
                    &json!({"ack": ack, "limit": 100}),
                )
                .await?;
            let events = answer["events"]
                .as_array()
                .context("the mailbox has no events")?;
            if events.is_empty() {
                return Ok(requests);
            }
            ack = events.iter().map(|event| event["id"].clone()).collect();
        }
        unreachable!("a mailbox ends")
    }
}

/// What is counted.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Events to all workers: how many these are, how many of them are away, and the size of the body.
    events: Vec<(usize, usize, usize)>,
    /// With filters and groups, and without: how many workers there are.
    routed: Vec<usize>,
    /// How many events a figure is the average of.
    times: usize,
}

impl Plan {
    pub(crate) fn whole() -> Self {
        Self {
            events: Self::with_absent(&[2_048, 20_480, 204_800]),
            routed: vec![1, 100, 1_000],
            times: 50,
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            events: vec![(1, 0, 2_048), (10, 1, 2_048)],
            routed: vec![10],
            times: 2,
        }
    }

    /// What [`crate::counts`] compares.
    pub(crate) fn few() -> Self {
        Self {
            events: vec![
                (1, 0, 2_048),
                (10, 0, 2_048),
                (100, 0, 2_048),
                (1, 0, 204_800),
                (10, 0, 204_800),
                (10, 1, 2_048),
            ],
            routed: vec![10],
            times: 5,
        }
    }

    /// All fan-outs of bodies of these sizes, also with a tenth of the workers away.
    fn with_absent(bodies: &[usize]) -> Vec<(usize, usize, usize)> {
        let mut events = Vec::new();
        for workers in [1, 10, 100] {
            for &body in bodies {
                events.push((workers, 0, body));
                if workers >= 10 {
                    events.push((workers, workers / 10, body));
                }
            }
        }
        events
    }
}

/// Counts what is in the plan, and what is used while there is no event.
pub(crate) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<CallCounts> {
    logs::count();
    let routed = [
        Wants::Everything,
        Wants::Mine,
        Wants::GroupsNewKey,
        Wants::GroupsKnownKey,
    ];
    progress.set_length((plan.events.len() + routed.len() * plan.routed.len()) as u64 + 1);
    let mut found = CallCounts::default();
    for &(workers, asleep, body) in &plan.events {
        progress.set_message(format!("{workers} workers, {asleep} asleep, {body} bytes"));
        let event = event(workers, asleep, Wants::Everything, body, plan.times).await?;
        found.events.push(event);
        progress.inc(1);
    }
    for wants in routed {
        for &workers in &plan.routed {
            progress.set_message(format!("{workers} workers, {wants:?}"));
            found.routed.push(event(workers, 0, wants, 2_048, 5).await?);
            progress.inc(1);
        }
    }
    without_events(&mut found).await?;
    progress.inc(1);
    Ok(found)
}

/// Counts a run of `health`, renewals, and looks into empty mailboxes.
async fn without_events(found: &mut CallCounts) -> anyhow::Result<()> {
    let idle = Counted::start(IDLE, Wants::Everything, 2_048).await?;
    idle.take(0, 1);
    idle.local.run_health().await?;
    // Its heartbeat arrives.
    idle.settle().await?;
    found.idle_workers = IDLE;
    found.health = idle.take(0, 1);
    for worker in &idle.workers {
        idle.call(worker, true, "", &json!({})).await?;
    }
    found.renewal = idle.take(IDLE, IDLE);
    for worker in &idle.workers {
        idle.pull(worker).await?;
    }
    found.look = idle.take(IDLE, IDLE);
    idle.local.stop().await;
    Ok(())
}

async fn event(
    workers: usize,
    asleep: usize,
    wants: Wants,
    body: usize,
    times: usize,
) -> anyhow::Result<Event> {
    let mut counted = Counted::start(workers, wants, body).await?;
    // A worker's first success is recorded, once an hour.
    counted.load.one(0).await?;
    counted.settle().await?;
    if wants.has_groups() {
        warm_up(&mut counted, wants, times).await?;
    }
    for worker in &counted.workers[..asleep] {
        let away = json!({"state": "away"});
        counted.call(worker, true, "", &away).await?;
    }
    counted.load.workers -= asleep;
    counted.take(0, 1);
    let mut http = times;
    for number in 0..times {
        counted.load.one(number + 1).await?;
        counted.settle().await?;
    }
    for worker in &counted.workers[..asleep] {
        http += counted.pull(worker).await?;
    }
    let used = counted.take(http, times);
    counted.local.stop().await;
    Ok(Event {
        workers,
        asleep,
        body,
        wants,
        used,
    })
}

/// Has each worker of a group record its first success, and gives the groups the ordering keys that they shall know.
async fn warm_up(counted: &mut Counted, wants: Wants, times: usize) -> anyhow::Result<()> {
    let known = if wants == Wants::GroupsKnownKey {
        0..=times
    } else {
        times + 1..=ISSUES - 1
    };
    for number in known {
        counted.load.one(number).await?;
        counted.settle().await?;
    }
    Ok(())
}
