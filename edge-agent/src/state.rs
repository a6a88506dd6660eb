//! What the tasks of a running agent share.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};
use protocol::clock::{Clock, UnixMillis};
use protocol::envelope::digest;
use protocol::signature::{Secret, SignatureError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::output::warn;
use crate::problem::Problem;
use crate::registration::Registration;
use crate::store::{Store, is_damage};

/// The state of a running agent.
#[derive(Debug)]
pub(crate) struct AgentState {
    pub(crate) clock: Clock,
    /// The path of this program, which supervises others.
    pub(crate) program: PathBuf,
    pub(crate) store: Store,
    registration: RwLock<Option<Registration>>,
    /// Only a challenge with one of these nonces is answered, so that nobody else can register this agent's address, not even
    /// while this agent registers.
    nonces: Mutex<BTreeSet<String>>,
    /// Cancelled when the agent shuts down: it accepts no more deliveries and begins no more events.
    pub(crate) shutdown: CancellationToken,
    /// Something was stored.
    pub(crate) stored: Notify,
    /// Events that were settled are to be handled again.
    pub(crate) replayed: Notify,
    /// The events that are being handled, or are printed and not taken.
    pub(crate) in_hand: Mutex<BTreeSet<i64>>,
    /// Whether no event is handled until that is resumed.
    pub(crate) paused: watch::Sender<bool>,
    /// The mailbox is not empty.
    pub(crate) mail_waits: Notify,
    /// Events are withheld until the membership is checked.
    pub(crate) withheld: Notify,
    /// What the relay knows of this agent may not be true any more: it is renewed and pulled soon.
    pub(crate) doubted: Notify,
    /// By how much this clock is ahead of the relay's, in milliseconds.
    ahead: AtomicI64,
    refusals: Mutex<Refusals>,
    /// The store is damaged, and the agent has to shut down.
    pub(crate) store_is_damaged: Notify,
    store_problem: Mutex<Problem>,
}

impl AgentState {
    pub(crate) fn new(
        clock: Clock,
        program: PathBuf,
        store: Store,
        registration: Option<Registration>,
    ) -> Self {
        Self {
            clock,
            program,
            store,
            registration: RwLock::new(registration),
            nonces: Mutex::default(),
            shutdown: CancellationToken::new(),
            stored: Notify::new(),
            replayed: Notify::new(),
            in_hand: Mutex::default(),
            paused: watch::Sender::new(false),
            mail_waits: Notify::new(),
            withheld: Notify::new(),
            doubted: Notify::new(),
            ahead: AtomicI64::new(0),
            refusals: Mutex::default(),
            store_is_damaged: Notify::new(),
            store_problem: Mutex::new(Problem::none()),
        }
    }

    /// The registration, if there is one.
    pub(crate) fn registration(&self) -> Option<Registration> {
        self.registration.read().clone()
    }

    pub(crate) fn set_registration(&self, registration: Registration) {
        *self.registration.write() = Some(registration);
    }

    /// Every secret that deliveries may be signed with at `now`.
    pub(crate) fn secrets(&self, now: UnixMillis) -> Vec<Secret> {
        let registration = self.registration.read();
        (registration.iter().flat_map(|r| r.secrets.valid_at(now)))
            .cloned()
            .collect()
    }

    /// Records what the relay's clock showed just now. Returns by how many seconds this one is ahead, if that is news and much.
    pub(crate) fn compare_clocks(&self, relay: UnixMillis) -> Option<i64> {
        let ahead = self.clock.millis() - relay;
        // The header `Date` is to the second, and some time ago.
        let ahead = if ahead.abs() > CLOCK_TOLERANCE {
            ahead
        } else {
            0
        };
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        ((ahead - before).abs() > CLOCK_TOLERANCE).then_some(ahead / 1000)
    }

    /// The time by the relay's clock, by which deliveries are signed.
    pub(crate) fn relay_millis(&self) -> UnixMillis {
        self.clock.millis() - self.ahead.load(Ordering::Relaxed)
    }

    /// Records a delivery that was accepted, or why one was refused. Strangers can cause refusals, so that few are written.
    pub(crate) fn record_delivery(&self, refused: Option<&SignatureError>) {
        let now = self.clock.millis();
        let mut refusals = self.refusals.lock();
        let Some(error) = refused else {
            if refusals.last.take().is_some() {
                self.doubted.notify_one();
            }
            return;
        };
        refusals.last = Some((now, error.to_string()));
        refusals.recent.push_front((now, error.to_string()));
        refusals.recent.truncate(REFUSALS_KEPT);
        refusals.unsaid += 1;
        if (now - refusals.said_at).abs() < REFUSALS_INTERVAL {
            return;
        }
        match std::mem::take(&mut refusals.unsaid) {
            1 => warn(format_args!("a delivery was refused: {error}")),
            count => warn(format_args!(
                "{count} deliveries were refused, the last one: {error}"
            )),
        }
        refusals.said_at = now;
        self.doubted.notify_one();
    }

    /// When and why a delivery was refused, unless one was accepted since.
    pub(crate) fn refused(&self) -> Option<(UnixMillis, String)> {
        self.refusals.lock().last.clone()
    }

    /// When and why deliveries were refused, the newest first.
    pub(crate) fn refusals(&self) -> Vec<(UnixMillis, String)> {
        self.refusals.lock().recent.iter().cloned().collect()
    }

    /// Expects challenges with a new nonce, until what is returned is dropped.
    pub(crate) fn expect_challenge(&self) -> ExpectedChallenge<'_> {
        let nonce = digest(Secret::generate().expose().as_bytes());
        self.nonces.lock().insert(nonce.clone());
        ExpectedChallenge { state: self, nonce }
    }

    /// Whether a challenge with this nonce is expected.
    pub(crate) fn expects(&self, nonce: Option<&str>) -> bool {
        nonce.is_some_and(|nonce| self.nonces.lock().contains(nonce))
    }

    /// Records the result of using the store. Reports a failure once, and once that the store works again.
    pub(crate) fn record_store_result(&self, result: Result<(), &anyhow::Error>) {
        let mut problem = self.store_problem.lock();
        match result {
            Ok(()) => {
                if problem.ends() {
                    warn("events can be stored again");
                    self.doubted.notify_one();
                }
            }
            Err(error) => {
                if is_damage(error) {
                    self.store_is_damaged.notify_one();
                }
                let text = format!("{error:#}");
                problem.occurs(&text, || {
                    warn(format_args!(
                        "events cannot be stored, and wait at the relay: {text}"
                    ));
                });
            }
        }
    }

    /// Repeats a write to the store until it succeeds, because what it records has already happened.
    pub(crate) async fn write_until_stored<T, W>(&self, write: impl Fn() -> W) -> T
    where
        W: Future<Output = anyhow::Result<T>>,
    {
        loop {
            let written = write().await;
            self.record_store_result(written.as_ref().map(|_| ()));
            if let Ok(written) = written {
                return written;
            }
            tokio::time::sleep(STORE_RETRY).await;
        }
    }
}

/// What is known of refused deliveries.
#[derive(Debug, Default)]
struct Refusals {
    /// The last one, unless a delivery was accepted since.
    last: Option<(UnixMillis, String)>,
    /// The last ones, the newest first.
    recent: VecDeque<(UnixMillis, String)>,
    /// How many have not been written about.
    unsaid: u64,
    said_at: UnixMillis,
}

/// How many refused deliveries are remembered.
const REFUSALS_KEPT: usize = 20;

/// How long after a refused delivery the next ones are written about, together.
const REFUSALS_INTERVAL: UnixMillis = 60_000;

/// By how many milliseconds two clocks may differ.
const CLOCK_TOLERANCE: UnixMillis = 60_000;

/// Challenges with this nonce are answered.
#[derive(Debug)]
pub(crate) struct ExpectedChallenge<'a> {
    state: &'a AgentState,
    nonce: String,
}

impl ExpectedChallenge<'_> {
    /// Random text of 64 hex digits.
    pub(crate) fn nonce(&self) -> String {
        self.nonce.clone()
    }
}

impl Drop for ExpectedChallenge<'_> {
    fn drop(&mut self) {
        self.state.nonces.lock().remove(&self.nonce);
    }
}

/// The wait before a write to the store is tried again.
const STORE_RETRY: std::time::Duration = std::time::Duration::from_secs(1);
