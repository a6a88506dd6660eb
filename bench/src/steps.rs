//! The steps of the functions that run in this process: the spans of the relay, with their beginnings and ends, while they are watched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tracing::Subscriber;
use tracing::span::{Attributes, Id};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

static WATCHED: AtomicBool = AtomicBool::new(false);
static ENDED: Mutex<Vec<Step>> = Mutex::new(Vec::new());

/// A step that has ended.
pub(crate) struct Step {
    /// As `ingest: verify`.
    pub(crate) what: String,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// Notes steps while they are watched.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    let is_watched = filter_fn(|span| {
        span.is_span() && span.target().starts_with("relay::") && WATCHED.load(Ordering::Relaxed)
    });
    Notes.with_filter(is_watched)
}

/// From now on steps are noted.
pub(crate) fn watch() {
    WATCHED.store(true, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// The steps that have ended since the last time.
pub(crate) fn take() -> Vec<Step> {
    std::mem::take(&mut *ENDED.lock())
}

struct Notes;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Notes {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Instant::now());
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let ended = Instant::now();
        let Some(span) = context.span(&id) else {
            return;
        };
        let Some(began) = span.extensions().get::<Instant>().copied() else {
            return;
        };
        let metadata = span.metadata();
        // The module that has the function's rules is called like the function.
        let function = metadata.target().split("::").nth(1).unwrap_or_default();
        ENDED.lock().push(Step {
            what: format!("{function}: {}", metadata.name()),
            began,
            ended,
        });
    }
}
