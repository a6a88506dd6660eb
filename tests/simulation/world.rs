//! What is between everything: the relay, the machines, Linear and AWS, with the faults of a history.
//!
//! Invariant: all that happens follows from the history. Latencies are a hash of the seed and the number of the call.

use std::collections::HashMap;
use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, Response, StatusCode};
use lambda_http::Body;
use local::local_relay::Options;
use local::testing::bare::BareRelay;
use local::testing::calls::{Calls, Fault, Interference};
use parking_lot::Mutex;
use protocol::clock::Clock;
use relay::outbound::{Network, SendError};
use serde_json::json;
use tokio::sync::Notify;

use crate::history::{BatchFault, CallFault, History, Loss};
use crate::machine::Machine;
use crate::old_faults::OldFault;
use crate::record::Record;

/// The workspace of all workers.
pub(crate) const WORKSPACE: &str = "f6fadfa7-e5c1-4b62-9362-da5cc13da58a";
/// Linear's webhook secret.
pub(crate) const SECRET: &str = "simulated";
/// When every history begins: milliseconds since the Unix epoch.
const BEGINNING: i64 = 1_795_000_000_000;

tokio::task_local! {
    /// Ends the invocation that is running.
    static CRASH: Arc<Notify>;
}

/// Everything.
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) machines: Vec<Machine>,
    pub(crate) record: Mutex<Record>,
    relay: OnceLock<BareRelay>,
    seed: u64,
    slowness: u32,
    faults: HashMap<u64, CallFault>,
    losses: HashMap<u64, Loss>,
    batches: HashMap<u64, BatchFault>,
    /// No fault comes any more.
    is_calm: std::sync::atomic::AtomicBool,
    calls: AtomicU64,
    requests: AtomicU64,
    batch: AtomicU64,
    /// What happened, as far as it does not depend on random ids.
    pub(crate) trace: Mutex<Trace>,
}

/// A digest of what happened, and its text if somebody wants to read it.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) digest: u64,
    pub(crate) is_printed: bool,
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl World {
    /// The world of a history, with nobody there yet.
    pub(crate) async fn new(
        history: &History,
        old_fault: Option<OldFault>,
        is_printed: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let clock = Clock::of_runtime(BEGINNING);
        let mut machines = Vec::new();
        for (number, spec) in history.machines.iter().enumerate() {
            machines.push(Machine::new(number, *spec, old_fault));
        }
        let world = Arc::new(Self {
            clock: clock.clone(),
            machines,
            record: Mutex::default(),
            relay: OnceLock::new(),
            seed: history.seed,
            slowness: history.slowness,
            faults: history.faults.iter().copied().collect(),
            losses: history.losses.iter().copied().collect(),
            batches: history.batches.iter().copied().collect(),
            is_calm: false.into(),
            calls: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            batch: AtomicU64::new(0),
            trace: Mutex::new(Trace {
                is_printed,
                ..Trace::default()
            }),
        });
        let mut options = Options::read(&|name| setting(history, name))?;
        options.clock = clock;
        let interfering = Arc::downgrade(&world);
        options.calls =
            Calls::default().interfered(Arc::new(move |function, target, body: &[u8]| {
                let Some(world) = interfering.upgrade() else {
                    return Interference::default();
                };
                Interference {
                    body: old_fault.and_then(|fault| fault.changed(target, body)),
                    ..world.interference(function, target)
                }
            }));
        let reaching = Arc::downgrade(&world);
        let network = Network::Simulated(Arc::new(move |request| {
            let world = reaching.upgrade();
            Box::pin(async move {
                match world {
                    Some(world) => world.reach(request).await,
                    None => Err(SendError::Closed),
                }
            })
        }));
        let relay = BareRelay::start(options, &network).await?;
        for machine in &world.machines {
            machine.boot(&world)?;
        }
        let _ = world.relay.set(relay);
        Ok(world)
    }

    pub(crate) fn relay(&self) -> &BareRelay {
        self.relay
            .get()
            .expect("the relay is started with the world")
    }

    /// From now on nothing goes wrong by itself.
    pub(crate) fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
        self.note(|| "calm".to_owned());
    }

    fn next<T: Copy>(&self, counter: &AtomicU64, marks: &HashMap<u64, T>) -> (u64, Option<T>) {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        let is_calm = self.is_calm.load(Ordering::Relaxed);
        (number, marks.get(&number).copied().filter(|_| !is_calm))
    }

    /// Between 1 and 2^`scale` milliseconds, mostly few.
    fn latency(&self, number: u64, scale: u32) -> Duration {
        let mut rng =
            fastrand::Rng::with_seed(self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Duration::from_millis(1 + (rng.u64(..) % (1 << scale)) / (1 + rng.u64(..8)))
    }

    /// What is done to a call to AWS.
    fn interference(&self, function: &'static str, target: &str) -> Interference {
        if self.relay.get().is_none() {
            return Interference::default();
        }
        let (number, fault) = self.next(&self.calls, &self.faults);
        let mut delay = self.latency(number, self.slowness);
        let fault = match fault {
            None => None,
            Some(CallFault::Slow(millis)) => {
                delay = Duration::from_millis(millis);
                None
            }
            Some(CallFault::Fault(fault)) => Some(fault),
            Some(CallFault::CrashBefore) => Some(crash(delay, Fault::Swallowed)),
            Some(CallFault::CrashAfter) => Some(crash(delay, Fault::Unanswered)),
        };
        self.note(|| {
            let action = target.rsplit('.').next().unwrap_or(target);
            format!("{function} {action} #{number} {fault:?}")
        });
        Interference {
            delay,
            body: None,
            fault,
        }
    }

    /// A request of the relay to the outside.
    async fn reach(&self, request: Request<Bytes>) -> Result<Response<Bytes>, SendError> {
        let (number, loss) = self.next(&self.requests, &self.losses);
        tokio::time::sleep(self.latency(number, 6)).await;
        if let Some(Loss::Request) = loss {
            return Err(SendError::Closed);
        }
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = match Machine::at(&host, &self.machines) {
            Some(machine) => {
                let life = machine.life();
                let answer = machine.answer(self, &host, request).await;
                tokio::time::sleep(self.latency(!number, 6)).await;
                // What has left in between has stored the event, perhaps, and has not answered.
                (answer).and_then(|a| {
                    if machine.life() == life {
                        Ok(a)
                    } else {
                        Err(SendError::Closed)
                    }
                })
            }
            None => Ok(linear(&request)),
        };
        self.note(|| match &answer {
            Ok(answer) => format!("{host} answered {}", answer.status()),
            Err(error) => format!("{host}: {error}"),
        });
        match loss {
            Some(Loss::Answer) => Err(SendError::Closed),
            _ => answer,
        }
    }

    /// A request of an agent to the relay. What it has begun goes on if the agent ends.
    pub(crate) fn call(
        self: &Arc<Self>,
        request: Request<Bytes>,
    ) -> Pending<Result<Response<Bytes>, String>> {
        let world = Arc::clone(self);
        Box::pin(async move {
            let (number, loss) = world.next(&world.requests, &world.losses);
            tokio::time::sleep(world.latency(number, 6)).await;
            if let Some(Loss::Request) = loss {
                return Err("lost".to_owned());
            }
            let register = Arc::clone(&world.relay().functions.register);
            let request = request.map(|body| Body::Binary(body.to_vec()));
            let running = tokio::spawn(invocation(async move {
                register::handle(&register, request).await
            }));
            let answer = running.await.ok().flatten();
            tokio::time::sleep(world.latency(!number, 6)).await;
            let (Some(Ok(answer)), None) = (answer, loss) else {
                return Err("no answer".to_owned());
            };
            let (parts, body) = answer.into_parts();
            let body = match body {
                Body::Text(text) => text.into(),
                Body::Binary(bytes) => bytes.into(),
                _ => Bytes::new(),
            };
            Ok(Response::from_parts(parts, body))
        })
    }

    /// What becomes of the next batch of messages.
    pub(crate) fn next_batch(&self) -> Option<BatchFault> {
        self.next(&self.batch, &self.batches).1
    }

    /// Notes what happened.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        use std::hash::{Hash as _, Hasher as _};
        let (now, what) = (self.clock.millis() - BEGINNING, what());
        let mut trace = self.trace.lock();
        if trace.is_printed {
            let at = Duration::from_millis(now.unsigned_abs()).as_secs_f64();
            let _ = writeln!(std::io::stdout(), "{at:>10.3} {what}");
        }
        let mut hasher = std::hash::DefaultHasher::new();
        (trace.digest, now, what).hash(&mut hasher);
        trace.digest = hasher.finish();
    }
}

/// Runs an invocation of a function until it ends or crashes.
pub(crate) async fn invocation<T>(function: impl Future<Output = T>) -> Option<T> {
    let crash = Arc::new(Notify::new());
    let crashed = Arc::clone(&crash);
    CRASH
        .scope(crash, async {
            tokio::select! {
                biased;
                () = crashed.notified() => None,
                done = function => Some(done),
            }
        })
        .await
}

/// Ends the running invocation soon after this time. What an invocation has left running fails instead.
fn crash(after: Duration, fault: Fault) -> Fault {
    let Ok(crash) = CRASH.try_with(Arc::clone) else {
        return Fault::Unsent;
    };
    tokio::spawn(async move {
        tokio::time::sleep(after + Duration::from_millis(1)).await;
        crash.notify_one();
    });
    fault
}

fn setting(history: &History, name: &str) -> Option<String> {
    let limits = history.limits;
    match name {
        "LINEAR_WEBHOOK_SECRETS" => Some(SECRET.to_owned()),
        "GIVE_UP_SECONDS" => Some(limits.give_up.to_string()),
        "GIVE_UP_4XX_SECONDS" => Some(limits.give_up_4xx.to_string()),
        "DELIVERIES_IN_BACKOFF" => Some(limits.deliveries_in_backoff.to_string()),
        "REGISTRATIONS_PER_MINUTE" => Some("100000".to_owned()),
        _ => None,
    }
}

/// Linear's API knows everybody. A token is the name of its user.
fn linear(request: &Request<Bytes>) -> Response<Bytes> {
    let token = request
        .headers()
        .get("authorization")
        .map(|value| value.as_bytes());
    let user = String::from_utf8_lossy(token.unwrap_or_default()).into_owned();
    let body = json!({"data": {
        "viewer": {"id": user, "active": true, "guest": false},
        "organization": {"id": WORKSPACE, "urlKey": "simulated", "name": "Simulated"},
    }});
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = StatusCode::OK;
    answer
}
