//! Prints events as lines of JSON on stdout, in the order in which they were stored, if there is no handler.
//!
//! The body is a JSON string, so that it is the raw body byte for byte, line breaks and all.
//!
//! Invariant: an event is done once its reader has taken it: it is no longer in the pipe, or its id was acknowledged on stdin. Where
//! stdout is no pipe, as a socket or a file, what is written counts as taken.
//! What was not taken when the agent ends is printed again at the next start.

mod line;
mod reader;
mod taken;

use std::io::Write as _;
use std::time::Duration;

use crate::output::{short, warn};
use crate::state::AgentState;
use crate::store::{Attempt, Content, DAMAGED, Loaded, State};
use anyhow::Context as _;
use taken::Taken;

pub(crate) use reader::is_null_device;

/// How many events are printed at once.
const BATCH: u32 = 100;
/// After how many bytes the next one waits for the next batch.
const BATCH_BYTES: usize = 1_000_000;
/// How often the store is checked for writes of another process, which `replay` makes.
const OTHER_WRITERS_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the events that are not done, then each that is stored. Ends with an error once nobody reads any more; at the shutdown,
/// once everything that was printed is taken.
pub(crate) async fn run(state: &AgentState, acknowledged: bool) -> anyhow::Result<()> {
    let mut printer = Printer {
        state,
        after: 0,
        has_begun: false,
        taken: if acknowledged {
            Taken::acknowledged()
        } else {
            Taken::read()
        },
    };
    let gone = reader::watch();
    let mut other_writers = tokio::time::interval(OTHER_WRITERS_INTERVAL);
    other_writers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut paused = state.paused.subscribe();
    loop {
        let is_ending = state.shutdown.is_cancelled();
        let is_paused = *paused.borrow_and_update();
        if is_ending && state.in_hand.lock().is_empty() {
            return Ok(());
        }
        if !is_ending && !is_paused && printer.print().await? {
            continue;
        }
        tokio::select! {
            () = state.stored.notified(), if !is_ending => {}
            () = state.replayed.notified(), if !is_ending => printer.after = 0,
            Ok(()) = paused.changed() => {}
            () = state.shutdown.cancelled(), if !is_ending => {}
            taken = printer.taken.next() => printer.settle(taken?).await,
            () = gone.notified() => {
                let taken = printer.taken.last().await;
                printer.settle(taken).await;
                anyhow::bail!("nothing reads stdout any more: what it has not taken is printed at the next start");
            }
            _ = other_writers.tick(), if !is_ending => {
                if state.store.changed_by_another().await.unwrap_or(true) {
                    printer.after = 0;
                }
            }
        }
    }
}

struct Printer<'a> {
    state: &'a AgentState,
    /// The newest event that was printed.
    after: i64,
    /// Whether anything was written, or nothing had waited at the start.
    has_begun: bool,
    taken: Taken,
}

impl Printer<'_> {
    /// Prints the next events. Returns whether there were any. An error of stdout is the end; one of the store may pass.
    async fn print(&mut self) -> anyhow::Result<bool> {
        let batch = match self.next_batch().await {
            Ok(batch) => batch,
            Err(error) => {
                self.state.record_store_result(Err(&error));
                self.after = 0;
                return Ok(false);
            }
        };
        self.has_begun = true;
        let Some(Batch {
            lines,
            events,
            last,
        }) = batch
        else {
            return Ok(false);
        };
        self.after = last;
        (self.state.in_hand.lock()).extend(events.iter().map(|event| event.sequence));
        self.taken.expect(events, lines.len());
        let mut written = tokio::task::spawn_blocking(move || {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&lines)?;
            stdout.flush()
        });
        let written = loop {
            tokio::select! {
                written = &mut written => break written,
                taken = self.taken.next_while_writing() => self.settle(taken?).await,
            }
        };
        let Err(error) = written? else {
            let taken = self.taken.so_far();
            self.settle(taken).await;
            return Ok(true);
        };
        let taken = self.taken.last().await;
        self.settle(taken).await;
        Err(error).context("cannot write to stdout")
    }

    /// The next events that are not printed; none if there are none.
    async fn next_batch(&self) -> anyhow::Result<Option<Batch>> {
        let mut batch = Batch {
            lines: Vec::new(),
            events: Vec::new(),
            last: self.after,
        };
        if !self.has_begun {
            // The end of an earlier process may have torn its last line.
            batch.lines.push(b'\n');
        }
        for waiting in self.state.store.waiting(self.after, BATCH).await? {
            if batch.lines.len() > BATCH_BYTES {
                break;
            }
            batch.last = waiting.sequence;
            if self.state.in_hand.lock().contains(&waiting.sequence) {
                continue;
            }
            if let Some(Loaded { content, .. }) = self.state.store.load(waiting.sequence).await? {
                let Content { event, is_intact } = content;
                if !is_intact || line::write(&mut batch.lines, &event).is_err() {
                    self.give_up(waiting.sequence, &event.id).await?;
                    continue;
                }
                batch.events.push(Printed {
                    sequence: waiting.sequence,
                    end: batch.lines.len(),
                    id: event.id,
                });
            }
        }
        Ok((batch.last > self.after).then_some(batch))
    }

    /// Records that an event cannot be printed.
    async fn give_up(&self, sequence: i64, id: &str) -> anyhow::Result<()> {
        warn(format_args!("{}: {DAMAGED}", short(id)));
        let attempt = Attempt {
            at: self.state.clock.millis(),
            took_ms: 0,
            handler: String::new(),
            outcome: "failed".to_owned(),
            result: DAMAGED.to_owned(),
            answer: Vec::new(),
        };
        let store = &self.state.store;
        store
            .record(sequence, attempt, None, State::Failed, 0)
            .await
    }

    /// Marks events that were taken as done.
    async fn settle(&mut self, taken: Vec<i64>) {
        if taken.is_empty() {
            return;
        }
        let (store, now) = (&self.state.store, self.state.clock.millis());
        // An event that was taken must not be printed again.
        (self
            .state
            .write_until_stored(|| store.mark_printed(taken.clone(), now)))
        .await;
        let mut in_hand = self.state.in_hand.lock();
        for sequence in &taken {
            in_hand.remove(sequence);
        }
    }
}

/// Lines that are written at once.
struct Batch {
    lines: Vec<u8>,
    events: Vec<Printed>,
    /// The last event that was looked at.
    last: i64,
}

/// An event in a batch.
struct Printed {
    sequence: i64,
    id: String,
    /// Where its line ends.
    end: usize,
}
