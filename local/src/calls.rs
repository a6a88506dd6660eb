//! The calls at the embedded servers: counted by action, and shown to who watches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Is shown each call: the function, the SDK's target (`DynamoDB_20120810.GetItem`), the request's body.
pub type Watcher = Arc<dyn Fn(&'static str, &str, &[u8]) + Send + Sync>;

/// Counts calls; clones count together.
#[derive(Clone, Default)]
pub struct Calls {
    counted: Arc<Mutex<BTreeMap<String, u64>>>,
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

    /// How often each action was called since the last time.
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut *self.counted.lock().unwrap_or_else(PoisonError::into_inner))
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
