//! The calls to the embedded servers: counted by action, metered as AWS bills them, passed to an observer, and interfered
//! with.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

/// Called for each call with the function, the SDK's target (`DynamoDB_20120810.GetItem`) and the request's body.
pub type Observer = Arc<dyn Fn(&'static str, &str, &[u8]) + Send + Sync>;

/// Called after each call with the function, the action, and when the call began.
pub type Timer = Arc<dyn Fn(&'static str, &str, Instant) + Send + Sync>;

/// What is done to a call: by the function, the SDK's target and the request's body.
pub type Interfere = Arc<dyn Fn(&'static str, &str, &[u8]) -> Interference + Send + Sync>;

/// What is done to a call. By default nothing.
#[derive(Debug, Clone, Default)]
pub struct Interference {
    /// How long it takes until the server gets it.
    pub delay: Duration,
    /// What the server gets instead of the request's body.
    pub body: Option<Vec<u8>>,
    /// What becomes of it.
    pub fault: Option<Fault>,
}

/// What can become of a call, other than its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server does not get it, and the connection breaks.
    Unsent,
    /// The server refuses it, with this status and code.
    Refused(u16, &'static str),
    /// The server carries it out, and the connection breaks before the answer.
    AnswerLost,
    /// The server does not get it, and there is never an answer.
    Swallowed,
    /// The server carries it out, and there is never an answer.
    Unanswered,
    /// The server does all of a batch but its last entry, and says so. Another call is carried out.
    Partly,
}

impl Fault {
    /// The body of a refusal with this code, as AWS writes it.
    pub fn refusal(code: &str) -> Vec<u8> {
        let mut refusal = json!({"__type": code, "message": "interfered"});
        if code == "TransactionCanceledException" {
            refusal["CancellationReasons"] = json!([{"Code": "TransactionConflict"}]);
        }
        refusal.to_string().into_bytes()
    }
}

/// What AWS bills for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Units {
    /// DynamoDB: read request units.
    pub read: f64,
    /// DynamoDB: write request units, those of the index among them.
    pub write: f64,
    /// SQS: requests, each 64 KB of a payload counting as one.
    pub sqs: u64,
}

/// SQS bills each 64 KB of a payload as a request (Amazon SQS pricing).
const SQS_REQUEST: usize = 64 * 1024;

/// Records calls. Clones record together.
#[derive(Clone, Default)]
pub struct Calls {
    counted: Arc<Mutex<BTreeMap<String, u64>>>,
    units: Option<Arc<Mutex<Units>>>,
    observer: Option<Observer>,
    timer: Option<Timer>,
    interfere: Option<Interfere>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("counted", &self.counted)
            .finish_non_exhaustive()
    }
}

impl Calls {
    /// Passes each call to `observer`.
    pub fn observed(observer: Observer) -> Self {
        Self {
            observer: Some(observer),
            ..Self::default()
        }
    }

    /// Tells `timer` of the end of each call.
    pub fn timed(timer: Timer) -> Self {
        Self {
            timer: Some(timer),
            ..Self::default()
        }
    }

    /// When a call begins, if that is asked.
    pub(crate) fn began(&self) -> Option<Instant> {
        self.timer.is_some().then(Instant::now)
    }

    /// Tells of the end of a call.
    pub(crate) fn ended(&self, function: &'static str, target: &str, began: Option<Instant>) {
        if let (Some(timer), Some(began)) = (&self.timer, began) {
            timer(function, target.rsplit('.').next().unwrap_or(target), began);
        }
    }

    /// Interferes with each call.
    #[must_use]
    pub fn interfered(self, interfere: Interfere) -> Self {
        Self {
            interfere: Some(interfere),
            ..self
        }
    }

    /// What is done to a call.
    pub(crate) fn interference(
        &self,
        function: &'static str,
        target: &str,
        body: &[u8],
    ) -> Interference {
        (self.interfere.as_ref()).map_or_else(Interference::default, |interfere| {
            interfere(function, target, body)
        })
    }

    /// Also meters what AWS would bill, which costs the embedded DynamoDB some work.
    pub fn metered() -> Self {
        Self {
            units: Some(Arc::default()),
            ..Self::default()
        }
    }

    /// The units since the last time, if they are metered.
    pub fn take_units(&self) -> Option<Units> {
        let units = self.units.as_ref()?;
        Some(std::mem::take(&mut *units.lock()))
    }

    /// Adds units, if they are metered.
    pub(crate) fn record_units(&self, add: impl FnOnce(&mut Units)) {
        if let Some(units) = &self.units {
            add(&mut units.lock());
        }
    }

    pub(crate) fn is_metered(&self) -> bool {
        self.units.is_some()
    }

    /// How often each action was called since the last time.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.counted.lock())
    }

    /// Meters a call to SQS with a payload of this many bytes.
    pub(crate) fn record_payload(&self, payload: usize) {
        self.record_units(|units| units.sqs += payload.div_ceil(SQS_REQUEST).max(1) as u64);
    }

    /// Counts one call.
    pub(crate) fn record(&self, function: &'static str, target: &str, body: &[u8]) {
        let action = target.rsplit('.').next().unwrap_or(target);
        {
            let mut counted = self.counted.lock();
            match counted.get_mut(action) {
                Some(count) => *count += 1,
                None => {
                    counted.insert(action.to_owned(), 1);
                }
            }
        }
        if let Some(observer) = &self.observer {
            observer(function, target, body);
        }
    }
}
