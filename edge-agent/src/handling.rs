//! Passes stored events to the handlers: which event is handled when.
//!
//! Invariant: events with the same ordering key are handled one after another, in the order in which they were stored. The
//! result of an event is recorded before the next one of its key begins.

mod attempt;
mod queue;
mod stops;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::clock::{UnixMillis, millis};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::delivery::stopped_key;
use crate::handler::{Clients, Running};
use crate::output::{info, warn};
use crate::report::Report;
use crate::state::AgentState;
use crate::store::Waiting;
use attempt::{Disposition, Handling, LONGEST_WAIT, Stamps};
use queue::Queue;
use stops::Stops;

/// How often a handler is probed: while it is present, and while it is absent.
const PRESENT_INTERVAL: Duration = Duration::from_secs(2);
const ABSENT_INTERVAL: Duration = Duration::from_millis(500);
/// How often the store is checked for writes of another process, which `replay` makes.
const OTHER_WRITERS_INTERVAL: Duration = Duration::from_secs(1);
/// By how much a clock may go back that was not set.
const SET_BACK: Duration = Duration::from_secs(5);
/// How long running handlers have when the agent shuts down.
pub(crate) const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// The result of probing a handler: its name, and what is missing if it is absent.
type Probe = (String, Result<(), String>);

/// An event that is being handled.
struct Begun {
    key: String,
    sequence: i64,
    is_stop: bool,
    /// Whether it is a stop that passed the line: its key is blocked by what it stops.
    is_beside: bool,
}

struct Scheduler {
    state: Arc<AgentState>,
    report: Report,
    clients: Clients,
    config: Arc<Config>,
    queue: Queue,
    /// The stops in the queue, by the ordering key of their session.
    stops: Stops,
    /// What is being handled, by its key, but for the stops that have passed it.
    begun: HashMap<String, stops::Begun>,
    /// How many stops that have passed the line are being handled, by their key.
    beside: HashMap<String, usize>,
    /// The commands that a stop ends.
    commands: Running,
    /// The sequence of the newest event in the queue.
    last: i64,
    /// When the clock was last looked at.
    seen_at: UnixMillis,
    /// The store could not be read, and has to be read from the beginning.
    is_behind: bool,
    running: JoinSet<(Begun, Disposition)>,
    /// The keys that are blocked, by the absent handler that they wait for.
    absent: HashMap<String, Vec<String>>,
    stamps: Stamps,
    watchers: JoinSet<()>,
    probes: mpsc::UnboundedSender<Probe>,
}

/// Handles events until the shutdown. Then running handlers have [`GRACE_PERIOD`] to end.
pub(crate) async fn run(
    state: Arc<AgentState>,
    report: Report,
    mut config: watch::Receiver<Arc<Config>>,
) -> anyhow::Result<()> {
    let (probes, mut probed) = mpsc::unbounded_channel();
    let mut scheduler = Scheduler {
        clients: Clients::default(),
        config: Arc::clone(&config.borrow_and_update()),
        queue: Queue::default(),
        stops: Stops::default(),
        begun: HashMap::new(),
        beside: HashMap::new(),
        commands: Running::default(),
        last: 0,
        seen_at: state.clock.millis(),
        is_behind: false,
        running: JoinSet::new(),
        absent: HashMap::new(),
        stamps: Stamps::default(),
        watchers: JoinSet::new(),
        probes,
        report,
        state: Arc::clone(&state),
    };
    scheduler.watch_handlers();
    scheduler.load(0).await;
    let mut paused = state.paused.subscribe();
    let mut other_writers = tokio::time::interval(OTHER_WRITERS_INTERVAL);
    other_writers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !state.shutdown.is_cancelled() {
        let is_paused = *paused.borrow_and_update();
        if !is_paused {
            scheduler.begin_due();
        }
        let next = scheduler.next_due().filter(|_| !is_paused);
        tokio::select! {
            () = state.shutdown.cancelled() => {}
            () = state.stored.notified() => scheduler.load(scheduler.last).await,
            () = state.replayed.notified() => scheduler.load(0).await,
            Ok(()) = paused.changed() => {}
            Some(ended) = scheduler.running.join_next() => scheduler.settle(ended?),
            Some((handler, presence)) = probed.recv() => scheduler.record_probe(&handler, presence),
            () = state.clock.until(next.unwrap_or_default()), if next.is_some() => {}
            Ok(()) = config.changed() => {
                let new = Arc::clone(&config.borrow_and_update());
                let old = std::mem::replace(&mut scheduler.config, new);
                if old.rules != scheduler.config.rules {
                    scheduler.queue.hasten(state.clock.millis());
                    scheduler.unblock_absent();
                }
                scheduler.watch_handlers();
            }
            _ = other_writers.tick() => {
                scheduler.look_at_clock();
                if scheduler.is_behind || state.store.changed_by_another().await.unwrap_or(true) {
                    scheduler.load(0).await;
                }
            }
        }
    }
    scheduler.end().await;
    Ok(())
}

impl Scheduler {
    /// Queues the waiting events that are newer than `after`, but for those that are being handled: a stop that has passed the line
    /// would be begun again.
    async fn load(&mut self, after: i64) {
        let waiting = self.state.store.waiting(after, u32::MAX).await;
        self.is_behind = waiting.is_err();
        (self.state).record_store_result(waiting.as_ref().map(|_| ()));
        for mut event in waiting.into_iter().flatten() {
            self.last = self.last.max(event.sequence);
            if self.state.in_hand.lock().contains(&event.sequence) {
                continue;
            }
            // The clock may have been set back since it was stored.
            event.due_at = (event.due_at).min(self.state.clock.millis() + millis(LONGEST_WAIT));
            // What has failed at another handler is not kept waiting for this one.
            let tried = event.tried.take();
            if tried.is_some_and(|handler| !self.is_configured(&handler)) {
                event.due_at = 0;
            }
            if let Some(session) = stopped_key(&event.ordering_key) {
                event.ordering_key = session.to_owned();
                self.stops.add(&event.ordering_key, event.sequence);
            }
            self.queue.add(event);
        }
    }

    /// Finds out whether the clock was set back. What was due in an hour would have to wait for the difference, too.
    fn look_at_clock(&mut self) {
        let now = self.state.clock.millis();
        if now + millis(SET_BACK) < self.seen_at {
            info("the clock was set back: what waits is tried now");
            self.queue.set_back(now);
            for begun in self.begun.values_mut() {
                begun.since = begun.since.min(now);
            }
        }
        self.seen_at = now;
    }

    fn begin_due(&mut self) {
        let now = self.state.clock.millis();
        // A stop does not wait until fewer events are being handled: it may be the one that ends them.
        for (due_at, key, sequence) in self.passing_stops() {
            if due_at > now {
                continue;
            }
            self.queue.remove(&key, sequence);
            if self.commands.stop(&key) {
                info("a stop ends the running command of its session");
            }
            *self.beside.entry(key.clone()).or_default() += 1;
            self.begin(key, sequence, true);
        }
        while self.running.len() < self.config.concurrency {
            let Some((key, sequence)) = self.queue.take_due(now) else {
                return;
            };
            let since = stops::Begun {
                since: now,
                sequence,
            };
            self.begun.insert(key.clone(), since);
            self.begin(key, sequence, false);
        }
    }

    fn begin(&mut self, key: String, sequence: i64, is_beside: bool) {
        self.state.in_hand.lock().insert(sequence);
        let begun = Begun {
            is_stop: self.stops.remove(&key, sequence),
            key,
            sequence,
            is_beside,
        };
        let handling = Handling {
            state: Arc::clone(&self.state),
            clients: self.clients.clone(),
            config: Arc::clone(&self.config),
            running: self.commands.clone(),
            absent: self.absent.keys().cloned().collect(),
            stamps: self.stamps.clone(),
        };
        self.running.spawn(async move {
            let disposition = handling.handle(sequence).await;
            (begun, disposition)
        });
    }

    /// When the next event can begin.
    fn next_due(&self) -> Option<UnixMillis> {
        let next = (self.queue.next_due()).filter(|_| self.running.len() < self.config.concurrency);
        let stops = self.passing_stops();
        (next.into_iter())
            .chain(stops.into_iter().map(|(due_at, ..)| due_at))
            .min()
    }

    /// The stops that pass the line, and when: not before they are due themselves.
    fn passing_stops(&self) -> Vec<(UnixMillis, String, i64)> {
        let passing = self.stops.passing(&self.begun);
        (passing.into_iter())
            .filter_map(|(passes_at, key, sequence)| {
                let due_at = self.queue.due_at(&key, sequence)?;
                Some((due_at.max(passes_at), key, sequence))
            })
            .collect()
    }

    fn settle(&mut self, (begun, disposition): (Begun, Disposition)) {
        let Begun { key, sequence, .. } = begun;
        self.state.in_hand.lock().remove(&sequence);
        if begun.is_stop && !matches!(disposition, Disposition::Settled(_)) {
            self.stops.add(&key, sequence);
        }
        if begun.is_beside {
            self.settle_beside(key, sequence, disposition);
            return;
        }
        self.begun.remove(&key);
        match disposition {
            Disposition::Settled(pause) => {
                let until = self.state.clock.millis() + millis(pause);
                self.queue.remove(&key, sequence);
                self.queue.pause(&key, until);
            }
            Disposition::Retry(due_at) => self.queue.retry_at(&key, sequence, due_at),
            // The key stays blocked until the handler is present.
            Disposition::HandlerAbsent(handler) if self.is_configured(&handler) => {
                self.absent.entry(handler).or_default().push(key);
                return;
            }
            // The configuration has changed meanwhile.
            Disposition::HandlerAbsent(_) => {}
        }
        self.unblock(&key);
    }

    /// Puts a stop that passed the line back into it, unless it is settled. Its key is unblocked if that waited for the stop alone.
    fn settle_beside(&mut self, key: String, sequence: i64, disposition: Disposition) {
        let due_at = match disposition {
            Disposition::Settled(_) => None,
            Disposition::Retry(due_at) => Some(due_at),
            Disposition::HandlerAbsent(_) => {
                Some(self.state.clock.millis() + millis(ABSENT_INTERVAL))
            }
        };
        if let Some(due_at) = due_at {
            self.queue.add(Waiting {
                sequence,
                ordering_key: key.clone(),
                due_at,
                tried: None,
            });
        }
        let beside = self.beside.remove(&key).unwrap_or_default();
        if beside > 1 {
            self.beside.insert(key, beside - 1);
        } else if !self.begun.contains_key(&key)
            && !self.absent.values().flatten().any(|k| *k == key)
        {
            self.unblock(&key);
        }
    }

    /// Lets the next event of a key begin, unless a stop is being handled that has passed the one before.
    fn unblock(&mut self, key: &str) {
        if self.beside.contains_key(key) {
            return;
        }
        let now = self.state.clock.millis();
        self.queue.unblock(key, now);
    }

    fn is_configured(&self, handler: &str) -> bool {
        let rules = &self.config.rules;
        rules.iter().any(|rule| rule.action.to_string() == handler)
    }

    /// Probes every handler from now on.
    fn watch_handlers(&mut self) {
        self.watchers.abort_all();
        let handlers: Vec<_> = (self.config.rules.iter())
            .map(|rule| rule.action.to_string())
            .collect();
        self.report.change(|status| status.keep_handlers(&handlers));
        for (at, rule) in self.config.rules.iter().enumerate() {
            let handler = rule.action.to_string();
            if handlers[..at].contains(&handler) {
                continue;
            }
            let (action, probes) = (rule.action.clone(), self.probes.clone());
            self.watchers.spawn(async move {
                loop {
                    let presence = action.presence().await;
                    let wait = match presence {
                        Ok(()) => PRESENT_INTERVAL,
                        Err(_) => ABSENT_INTERVAL,
                    };
                    if probes.send((handler.clone(), presence)).is_err() {
                        return;
                    }
                    tokio::time::sleep(wait).await;
                }
            });
        }
        // The keys that wait for a handler that was removed have another one now, or none.
        let removed: Vec<_> = (self.absent.keys())
            .filter(|handler| !handlers.contains(handler))
            .cloned()
            .collect();
        for handler in removed {
            self.unblock_waiting_for(&handler);
        }
    }

    /// Has all that waits for an absent handler look for its handler again: it may have another one now.
    fn unblock_absent(&mut self) {
        let handlers: Vec<_> = self.absent.keys().cloned().collect();
        for handler in handlers {
            self.unblock_waiting_for(&handler);
            self.absent.insert(handler, Vec::new());
        }
    }

    fn unblock_waiting_for(&mut self, handler: &str) {
        for key in self.absent.remove(handler).unwrap_or_default() {
            self.unblock(&key);
        }
    }

    /// Records whether a handler is present, and reports a change.
    fn record_probe(&mut self, handler: &str, presence: Result<(), String>) {
        let before = self
            .report
            .change(|status| status.set_presence(handler, &presence));
        match presence {
            Ok(()) => {
                if before.is_some_and(|before| before.is_there == Some(false)) {
                    info(format_args!("{handler} is there"));
                }
                self.unblock_waiting_for(handler);
            }
            Err(why) => {
                if before.is_none_or(|before| before.why.as_ref() != Some(&why)) {
                    warn(format_args!(
                        "{handler} is not there: {why}; events wait for it"
                    ));
                }
                self.absent.entry(handler.to_owned()).or_default();
            }
        }
    }

    /// Waits for the running handlers and ends the rest, whose events are handled again at the next start.
    async fn end(&mut self) {
        if !self.running.is_empty() {
            info(format_args!(
                "waiting up to {} s for {} running",
                GRACE_PERIOD.as_secs(),
                self.running.len()
            ));
        }
        let ending = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE_PERIOD, ending).await.is_err() {
            warn(format_args!(
                "{} did not end in time: handled again at the next start",
                self.running.len()
            ));
            self.running.shutdown().await;
        }
    }
}
