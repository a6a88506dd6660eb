//! From the store to the handlers: which event is handled when, and what becomes of it.
//!
//! Invariant: events with the same ordering key are handled one after another, in the order in which they were
//! stored; an event is settled in the store before the next one of its key begins.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::handler::{self, Answer, Outcome};
use crate::receiver::Shared;
use crate::report::Report;
use crate::store::{Attempt, Event, State, Waiting, name};
use crate::talk::{say, warn};

/// When a failed event is tried again, counted from the end of the last attempt; after the last one it is *failed*.
const RETRIES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
];

/// How often a handler is looked for: while it is there, and while it is not.
const WATCH_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often another process is asked after: `replay` writes into the store.
const OTHERS_EVERY: Duration = Duration::from_secs(1);
/// How long running handlers have when the agent ends.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// The events of one ordering key that wait.
#[derive(Debug, Default)]
struct Line {
    /// When each is due, Unix milliseconds; the oldest first.
    waiting: BTreeMap<i64, i64>,
    /// Either running, or kept back for an absent handler; otherwise it stands in `due`.
    is_busy: bool,
}

impl Line {
    /// When the oldest is due, and which it is.
    fn next(&self) -> Option<(i64, i64)> {
        (self.waiting.first_key_value()).map(|(sequence, due_at)| (*due_at, *sequence))
    }
}

/// What became of a line's first event.
enum Verdict {
    /// Settled, one way or another.
    Settled,
    /// Again, not before this time in Unix milliseconds.
    Again(i64),
    /// This handler is not there.
    Absent(String),
}

struct Engine {
    shared: Arc<Shared>,
    report: Report,
    client: reqwest::Client,
    config: Arc<Config>,
    lines: HashMap<String, Line>,
    /// The lines that could be gone on with, by when, then by age.
    due: BinaryHeap<Reverse<(i64, i64, String)>>,
    /// The newest event that is known of.
    last: i64,
    /// The store could not be read: it is read from the beginning again.
    is_behind: bool,
    running: JoinSet<(String, i64, Verdict)>,
    /// The lines that wait for a handler to be there.
    absent: HashMap<String, Vec<String>>,
    watchers: JoinSet<()>,
    sightings: mpsc::UnboundedSender<(String, Result<(), String>)>,
}

/// Handles events until `stop` says so; then what runs has [`GRACE`] to end.
pub(crate) async fn run(
    shared: Arc<Shared>,
    report: Report,
    mut config: watch::Receiver<Arc<Config>>,
    mut stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (sightings, mut seen) = mpsc::unbounded_channel();
    let now = Arc::clone(&config.borrow_and_update());
    let mut engine = Engine {
        client: handler::client()?,
        config: now,
        lines: HashMap::new(),
        due: BinaryHeap::new(),
        last: 0,
        is_behind: false,
        running: JoinSet::new(),
        absent: HashMap::new(),
        watchers: JoinSet::new(),
        sightings,
        report,
        shared: Arc::clone(&shared),
    };
    engine.watch_handlers();
    engine.load(0).await;
    let mut others = tokio::time::interval(OTHERS_EVERY);
    others.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !*stop.borrow() {
        engine.begin_what_is_due();
        let next = engine.next_due();
        tokio::select! {
            _ = stop.changed() => {}
            () = shared.stored.notified() => engine.load(engine.last).await,
            Some(ended) = engine.running.join_next() => engine.settle(ended?),
            Some((handler, presence)) = seen.recv() => engine.see(&handler, presence),
            () = shared.clock.until(next.unwrap_or_default()), if next.is_some() => {}
            Ok(()) = config.changed() => {
                engine.config = Arc::clone(&config.borrow_and_update());
                engine.watch_handlers();
            }
            _ = others.tick() => {
                if engine.is_behind || shared.store.changed_by_another().await.unwrap_or(true) {
                    engine.load(0).await;
                }
            }
        }
    }
    engine.end().await;
    Ok(())
}

impl Engine {
    /// Takes up what waits in the store, and is newer than `after`.
    async fn load(&mut self, after: i64) {
        let waiting = self.shared.store.waiting(after, u32::MAX).await;
        self.is_behind = waiting.is_err();
        match waiting {
            Err(error) => self.shared.note_store(Err(&error)),
            Ok(waiting) => {
                self.shared.note_store(Ok(()));
                for event in waiting {
                    self.last = self.last.max(event.sequence);
                    self.enqueue(event);
                }
            }
        }
    }

    fn enqueue(&mut self, event: Waiting) {
        let line = self.lines.entry(event.ordering_key.clone()).or_default();
        // What is known already may be running: it keeps the time that it has.
        line.waiting.entry(event.sequence).or_insert(event.due_at);
        if let (false, Some((due_at, sequence))) = (line.is_busy, line.next())
            && sequence == event.sequence
        {
            self.due
                .push(Reverse((due_at, sequence, event.ordering_key)));
        }
    }

    fn begin_what_is_due(&mut self) {
        let now = self.shared.clock.millis();
        while self.running.len() < self.config.concurrency {
            match self.due.peek() {
                Some(Reverse((due_at, ..))) if *due_at <= now => {}
                _ => return,
            }
            let Some(Reverse((due_at, sequence, key))) = self.due.pop() else {
                return;
            };
            // A line that was replayed into has another first event now: it stands here again.
            let Some(line) = (self.lines.get_mut(&key))
                .filter(|line| !line.is_busy && line.next() == Some((due_at, sequence)))
            else {
                continue;
            };
            line.is_busy = true;
            let task = Task {
                shared: Arc::clone(&self.shared),
                client: self.client.clone(),
                config: Arc::clone(&self.config),
                absent: self.absent.keys().cloned().collect(),
            };
            self.running.spawn(async move {
                let verdict = task.handle(sequence).await;
                (key, sequence, verdict)
            });
        }
    }

    /// When to look again, in Unix milliseconds.
    fn next_due(&self) -> Option<i64> {
        let Reverse((due_at, ..)) = self.due.peek()?;
        (self.running.len() < self.config.concurrency).then_some(*due_at)
    }

    fn settle(&mut self, (key, sequence, verdict): (String, i64, Verdict)) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        match verdict {
            Verdict::Settled => {
                line.waiting.remove(&sequence);
            }
            Verdict::Again(due_at) => {
                line.waiting.insert(sequence, due_at);
            }
            // It stays busy, and takes no place among those that could be gone on with.
            Verdict::Absent(handler) if self.is_configured(&handler) => {
                self.absent.entry(handler.clone()).or_default().push(key);
                self.see(&handler, Err(String::new()));
                return;
            }
            // Another configuration has come meanwhile.
            Verdict::Absent(_) => {}
        }
        self.go_on(&key);
    }

    /// Lets a line go on, once its oldest event is due.
    fn go_on(&mut self, key: &str) {
        let Some(line) = self.lines.get_mut(key) else {
            return;
        };
        line.is_busy = false;
        match line.next() {
            Some((due_at, sequence)) => {
                self.due.push(Reverse((due_at, sequence, key.to_owned())));
            }
            None => {
                self.lines.remove(key);
            }
        }
    }

    fn is_configured(&self, handler: &str) -> bool {
        let rules = &self.config.rules;
        rules.iter().any(|rule| rule.action.to_string() == handler)
    }

    /// Looks for every handler from now on, and says when one comes or goes.
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
            let (action, sightings) = (rule.action.clone(), self.sightings.clone());
            self.watchers.spawn(async move {
                loop {
                    let presence = action.presence().await;
                    let wait = if presence.is_ok() {
                        WATCH_EVERY
                    } else {
                        LOOK_EVERY
                    };
                    if sightings.send((handler.clone(), presence)).is_err() {
                        return;
                    }
                    tokio::time::sleep(wait).await;
                }
            });
        }
        // What waited for a handler that is no more has another one now, or none.
        let gone: Vec<_> = (self.absent.keys())
            .filter(|handler| !handlers.contains(handler))
            .cloned()
            .collect();
        for handler in gone {
            for key in self.absent.remove(&handler).unwrap_or_default() {
                self.go_on(&key);
            }
        }
    }

    /// A handler was seen to be there, or not to be.
    fn see(&mut self, handler: &str, presence: Result<(), String>) {
        let is_there = presence.is_ok();
        let was_there = self
            .report
            .change(|status| status.see_handler(handler, is_there));
        match presence {
            Ok(()) if was_there == Some(false) => say(format_args!("{handler} is there")),
            Err(_) if was_there != Some(false) => {
                warn(format_args!("{handler} is not there: events wait for it"));
                self.absent.entry(handler.to_owned()).or_default();
            }
            _ => {}
        }
        if is_there {
            for key in self.absent.remove(handler).unwrap_or_default() {
                self.go_on(&key);
            }
        }
    }

    /// Waits for what runs, and ends the rest: it is handled again at the next start.
    async fn end(&mut self) {
        if !self.running.is_empty() {
            say(format_args!(
                "waiting up to {} s for {} running",
                GRACE.as_secs(),
                self.running.len()
            ));
        }
        let ending = async { while self.running.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ending).await.is_err() {
            warn(format_args!(
                "{} did not end in time: handled again at the next start",
                self.running.len()
            ));
            self.running.shutdown().await;
        }
    }
}

/// What an attempt at an event needs.
struct Task {
    shared: Arc<Shared>,
    client: reqwest::Client,
    config: Arc<Config>,
    /// The handlers that are known not to be there.
    absent: Vec<String>,
}

impl Task {
    async fn handle(&self, sequence: i64) -> Verdict {
        let (event, attempts) = match self.shared.store.load(sequence).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Verdict::Settled,
            Err(error) => {
                self.shared.note_store(Err(&error));
                return Verdict::Again(self.shared.clock.millis() + 1_000);
            }
        };
        let rules = &self.config.rules;
        let Some(rule) = handler::rule(rules, &event.kind, &event.action) else {
            let answer = Answer {
                outcome: Outcome::Dropped,
                result: "no handler is for it".to_owned(),
                body: Vec::new(),
            };
            return self
                .record(sequence, &event, "", answer, attempts, Instant::now())
                .await;
        };
        let handler = rule.action.to_string();
        if self.absent.contains(&handler) {
            return Verdict::Absent(handler);
        }
        let began = Instant::now();
        let answer = (rule.action)
            .handle(
                &self.client,
                self.config.linear_secret.as_ref(),
                &event,
                attempts + 1,
                rule.time_limit,
                self.shared.clock.millis(),
            )
            .await;
        if answer.outcome == Outcome::Absent {
            return Verdict::Absent(handler);
        }
        self.record(sequence, &event, &handler, answer, attempts, began)
            .await
    }

    /// Records the attempt, for as long as it takes: what was done must not be done again.
    async fn record(
        &self,
        sequence: i64,
        event: &Event,
        handler: &str,
        answer: Answer,
        attempts: u64,
        began: Instant,
    ) -> Verdict {
        let now = self.shared.clock.millis();
        let took = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let (state, outcome, due_at) = settled(&answer.outcome, attempts, now);
        let named = name(&event.kind, &event.action);
        let id = &event.id;
        let what = match (handler, &answer.result) {
            ("", result) => result.clone(),
            (handler, result) => format!("{handler} {result} in {took} ms"),
        };
        match state {
            State::Done | State::Dropped => say(format_args!("{named} {id}: {what}")),
            State::Waiting => warn(format_args!(
                "{named} {id}: {what}; again in {} s",
                (due_at - now) / 1000
            )),
            State::Failed => warn(format_args!(
                "{named} {id}: {what}; failed, and kept for `edge-agent replay {id}`"
            )),
        }
        let attempt = Attempt {
            at: now - took,
            took,
            handler: handler.to_owned(),
            outcome: outcome.to_owned(),
            result: answer.result,
            answer: answer.body,
        };
        loop {
            let recorded = (self.shared.store)
                .record(sequence, attempt.clone(), state, due_at)
                .await;
            match recorded {
                Ok(()) => {
                    self.shared.note_store(Ok(()));
                    return match state {
                        State::Waiting => Verdict::Again(due_at),
                        State::Done | State::Dropped | State::Failed => Verdict::Settled,
                    };
                }
                Err(error) => {
                    self.shared.note_store(Err(&error));
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// What an outcome makes of an event that was tried `attempts` times before: its state, the word for the attempt,
/// and when it is due again.
fn settled(outcome: &Outcome, attempts: u64, now: i64) -> (State, &'static str, i64) {
    match outcome {
        Outcome::Done => (State::Done, "done", 0),
        Outcome::Dropped => (State::Dropped, "dropped", 0),
        Outcome::Failed => (State::Failed, "failed", 0),
        Outcome::Retry | Outcome::Absent => {
            let retry = usize::try_from(attempts).ok().and_then(|n| RETRIES.get(n));
            match retry {
                Some(wait) => {
                    let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                    (State::Waiting, "retry", now + wait)
                }
                None => (State::Failed, "retry", 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_comes_after_1_5_30_120_and_600_seconds_and_then_it_has_failed() {
        let mut waits = Vec::new();
        for attempts in 0..7 {
            match settled(&Outcome::Retry, attempts, 1_000) {
                (State::Waiting, "retry", due_at) => waits.push((due_at - 1_000) / 1_000),
                (state, ..) => assert_eq!(state, State::Failed, "{attempts}"),
            }
        }
        assert_eq!(waits, [1, 5, 30, 120, 600]);
        assert_eq!(settled(&Outcome::Failed, 0, 0).0, State::Failed);
    }
}
