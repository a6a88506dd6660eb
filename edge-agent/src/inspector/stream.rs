//! What changes, as it changes, in server-sent events (HTML Standard, section 9.2).

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use futures::stream::unfold;
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::Inspector;
use super::status::{KEPT, status_facts};
use crate::facts::EventFacts;
use crate::output::warn;
use crate::report::Status;

/// What changes within this time is told together: an event that is stored, begun and done at once is told once.
const TOGETHER: Duration = Duration::from_millis(50);
/// How often it is looked whether the status has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After how many looks the status is told in any case: the hour moves on, and the relay may know something new.
const LOOKS: u32 = 15;

/// `GET /api/stream`. Too many changes at once are told as `reload`: whoever gets it reads the list again.
pub(super) async fn stream(
    State(inspector): State<Arc<Inspector>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let follower = Follower {
        changes: inspector.state.store.changes(),
        inspector,
        looks,
        looked: 0,
        last: None,
        changed_at: Some(Instant::now()),
        ready: VecDeque::new(),
    };
    let events = unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// One reader of the stream.
struct Follower {
    inspector: Arc<Inspector>,
    changes: Receiver<i64>,
    looks: Interval,
    /// How often the status was looked at since it was told.
    looked: u32,
    /// The status that was told last.
    last: Option<Status>,
    /// When an event has changed that the status, as it was told, may not count.
    changed_at: Option<Instant>,
    ready: VecDeque<Event>,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            tokio::select! {
                () = self.inspector.state.shutdown.cancelled() => return None,
                changed = self.changes.recv() => match changed {
                    Ok(sequence) => self.tell_events(sequence).await?,
                    Err(RecvError::Lagged(_)) => {
                        let event = Event::default().event("reload").data("{}");
                        self.ready.push_back(event);
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ = self.looks.tick() => self.tell_status().await,
            }
        }
    }

    async fn tell_events(&mut self, first: i64) -> Option<()> {
        tokio::time::sleep(TOGETHER).await;
        let mut sequences = BTreeSet::from([first]);
        while let Ok(sequence) = self.changes.try_recv() {
            sequences.insert(sequence);
        }
        self.changed_at = Some(Instant::now());
        let listed = self.inspector.state.store.listed(sequences).await;
        let listed = listed.inspect_err(log).ok()?;
        let events = (listed.into_iter()).map(|event| told("event", &EventFacts::from(event)));
        self.ready.extend(events);
        Some(())
    }

    async fn tell_status(&mut self) {
        self.looked += 1;
        let status = self.inspector.report.status();
        let is_news = self.changed_at.is_some() || self.last.as_ref() != Some(&status);
        if !is_news && self.looked < LOOKS {
            return;
        }
        if let Ok(facts) = status_facts(&self.inspector).await.inspect_err(log) {
            self.ready.push_back(told("status", &facts));
            // What was counted just before the change may have been told.
            self.changed_at = self.changed_at.filter(|at| at.elapsed() <= KEPT);
            (self.looked, self.last) = (0, Some(status));
        }
    }
}

fn told(name: &str, facts: &impl Serialize) -> Event {
    let event = Event::default().event(name);
    event.json_data(facts).expect("facts are JSON")
}

fn log(error: &anyhow::Error) {
    warn(format_args!("the inspector: {error:#}"));
}
