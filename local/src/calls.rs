//! The calls at the embedded servers: counted by action, metered as AWS bills them, and shown to who watches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Is shown each call: the function, the SDK's target (`DynamoDB_20120810.GetItem`), the request's body.
pub type Watcher = Arc<dyn Fn(&'static str, &str, &[u8]) + Send + Sync>;

/// What AWS bills for calls.
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

/// Counts calls; clones count together.
#[derive(Clone, Default)]
pub struct Calls {
    counted: Arc<Mutex<BTreeMap<String, u64>>>,
    units: Option<Arc<Mutex<Units>>>,
    watcher: Option<Watcher>,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("counted", &self.counted)
            .finish_non_exhaustive()
    }
}

impl Calls {
    /// Shows each call to `watcher`.
    pub fn watched(watcher: Watcher) -> Self {
        Self {
            watcher: Some(watcher),
            ..Self::default()
        }
    }

    /// Meters what AWS would bill, too; it costs the embedded DynamoDB some work.
    pub fn metered() -> Self {
        Self {
            units: Some(Arc::default()),
            ..Self::default()
        }
    }

    /// What was used since the last time, if it is metered.
    pub fn take_units(&self) -> Option<Units> {
        let units = self.units.as_ref()?;
        Some(std::mem::take(
            &mut *units.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Adds to what was used, if it is metered.
    pub(crate) fn used(&self, add: impl FnOnce(&mut Units)) {
        if let Some(units) = &self.units {
            add(&mut units.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn is_metered(&self) -> bool {
        self.units.is_some()
    }

    /// How often each action was called since the last time.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a call to SQS that carried so many bytes.
    pub(crate) fn carried(&self, payload: usize) {
        self.used(|units| units.sqs += payload.div_ceil(SQS_REQUEST).max(1) as u64);
    }

    /// Counts one call.
    pub(crate) fn saw(&self, function: &'static str, target: &str, body: &[u8]) {
        let action = target.rsplit('.').next().unwrap_or(target);
        {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            match counted.get_mut(action) {
                Some(count) => *count += 1,
                None => {
                    counted.insert(action.to_owned(), 1);
                }
            }
        }
        if let Some(watcher) = &self.watcher {
            watcher(function, target, body);
        }
    }
}
