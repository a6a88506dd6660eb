//! The lines that the functions write when they run in this process: made as on Lambda, counted, and dropped.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use relay::logging::{Json, filter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::steps;

static WRITTEN: AtomicU64 = AtomicU64::new(0);

struct Counter;

impl Write for Counter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        WRITTEN.fetch_add(line.len() as u64, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on lines are counted, and steps can be watched.
pub(crate) fn count() {
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Json)
        .with_writer(|| Counter);
    // A second time it is counted already.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter("info")))
        .with(steps::layer())
        .try_init();
}

/// How many bytes were written since the last time.
pub(crate) fn take() -> u64 {
    WRITTEN.swap(0, Ordering::Relaxed)
}
