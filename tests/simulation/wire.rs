//! What lies between everything: the clock, the faults of a history, how long a call takes, and a note of what happened.
//!
//! Invariant: all that happens follows from the history. Latencies are a hash of the seed and the number of the call.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use local::testing::calls::{Fault, Interference};
use parking_lot::Mutex;
use protocol::clock::Clock;
use tokio::sync::Notify;

use crate::history::{BatchFault, CallFault, History, Loss};
use crate::record::Record;
use crate::sites::Sites;

/// When every history begins: milliseconds since the Unix epoch.
const BEGINNING: i64 = 1_795_000_000_000;

tokio::task_local! {
    /// Ends the invocation that is running.
    static CRASH: Arc<Notify>;
}

/// What may become of one thing after another, by their numbers.
struct Numbered<T> {
    next: AtomicU64,
    marked: HashMap<u64, T>,
}

impl<T: Copy> Numbered<T> {
    fn new(marked: &[(u64, T)]) -> Self {
        Self {
            next: AtomicU64::new(0),
            marked: marked.iter().copied().collect(),
        }
    }

    fn next(&self, is_calm: &AtomicBool) -> (u64, Option<T>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let is_calm = is_calm.load(Ordering::Relaxed);
        (
            number,
            self.marked.get(&number).copied().filter(|_| !is_calm),
        )
    }
}

/// A digest of what happened, as far as it does not depend on random ids.
#[derive(Debug, Default)]
struct Trace {
    digest: u64,
    is_printed: bool,
}

/// What lies between everything.
pub(crate) struct Wire {
    pub(crate) clock: Clock,
    pub(crate) record: Mutex<Record>,
    seed: u64,
    slowness: u32,
    /// No fault comes any more.
    is_calm: AtomicBool,
    calls: Numbered<CallFault>,
    requests: Numbered<Loss>,
    batches: Numbered<BatchFault>,
    trace: Mutex<Trace>,
    pub(crate) sites: Sites,
}

impl Wire {
    pub(crate) fn new(history: &History, is_printed: bool) -> Self {
        Self {
            clock: Clock::of_runtime(BEGINNING),
            record: Mutex::default(),
            seed: history.seed,
            slowness: history.slowness,
            is_calm: false.into(),
            calls: Numbered::new(&history.faults),
            requests: Numbered::new(&history.losses),
            batches: Numbered::new(&history.batches),
            trace: Mutex::new(Trace {
                is_printed,
                ..Trace::default()
            }),
            sites: Sites::new(history.at_site.clone()),
        }
    }

    /// From now on nothing goes wrong by itself.
    pub(crate) fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
        self.note(|| "calm".to_owned());
    }

    /// Between 1 and 2^`scale` milliseconds, mostly few.
    fn latency(&self, number: u64, scale: u32) -> Duration {
        let seed = self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = fastrand::Rng::with_seed(seed);
        Duration::from_millis(1 + (rng.u64(..) % (1 << scale)) / (1 + rng.u64(..8)))
    }

    /// What is done to a call to AWS.
    pub(crate) fn interference(
        &self,
        function: &'static str,
        target: &str,
        body: &[u8],
    ) -> Interference {
        let (number, mut fault) = self.calls.next(&self.is_calm);
        if !self.is_calm.load(Ordering::Relaxed) {
            fault = fault.or(self.sites.call(function, target, body));
        }
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

    /// Takes a request to the other side and its answer back, if neither is lost.
    pub(crate) async fn carry<T>(
        &self,
        what: &str,
        exchange: impl Future<Output = T>,
    ) -> Option<T> {
        let (number, mut loss) = self.requests.next(&self.is_calm);
        if !self.is_calm.load(Ordering::Relaxed) {
            loss = loss.or(self.sites.request(what));
        }
        tokio::time::sleep(self.latency(number, 6)).await;
        if let Some(Loss::Request) = loss {
            return None;
        }
        let answer = exchange.await;
        tokio::time::sleep(self.latency(!number, 6)).await;
        Some(answer).filter(|_| loss.is_none())
    }

    /// What becomes of the next batch of messages.
    pub(crate) fn next_batch(&self) -> Option<BatchFault> {
        self.batches.next(&self.is_calm).1
    }

    /// Notes what happened.
    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let (now, what) = (self.clock.millis() - BEGINNING, what());
        let mut trace = self.trace.lock();
        if trace.is_printed {
            let at = Duration::from_millis(now.unsigned_abs()).as_secs_f64();
            let _ = writeln!(std::io::stdout(), "{at:>10.3} {what}");
        }
        let mut hasher = DefaultHasher::new();
        (trace.digest, now, what).hash(&mut hasher);
        trace.digest = hasher.finish();
    }

    /// A digest of all that was noted.
    pub(crate) fn digest(&self) -> u64 {
        self.trace.lock().digest
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
