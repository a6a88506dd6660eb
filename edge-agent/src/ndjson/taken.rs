//! How it is known that a printed event was taken.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;

use super::{Printed, reader};
use crate::output::warn;

/// How often it is looked whether the reader has taken more: at first, and at last if it does not.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// How many acknowledgements are recorded at once.
const BATCH: usize = 500;

/// The printed events that are not known to be taken.
pub(super) enum Taken {
    /// Their ids are read from stdin.
    Acknowledged {
        lines: mpsc::UnboundedReceiver<std::io::Result<String>>,
        expected: HashMap<String, i64>,
    },
    /// They are no longer in the pipe.
    Read {
        /// How many bytes were written.
        written: u64,
        /// Where each event ends in them.
        ends: VecDeque<(u64, i64)>,
        /// How long until the next look.
        look: Duration,
    },
}

impl Taken {
    pub(super) fn acknowledged() -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        // It reads also while lines are written: who waits until an acknowledgement is read does not read lines.
        tokio::spawn(async move {
            let mut stdin = BufReader::new(tokio::io::stdin()).lines();
            while let Some(line) = stdin.next_line().await.transpose() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self::Acknowledged {
            lines,
            expected: HashMap::new(),
        }
    }

    pub(super) fn read() -> Self {
        Self::Read {
            written: 0,
            ends: VecDeque::new(),
            look: FIRST_LOOK,
        }
    }

    /// Expects events in so many bytes that are written next.
    pub(super) fn expect(&mut self, events: Vec<Printed>, length: usize) {
        match self {
            Self::Acknowledged { expected, .. } => {
                expected.extend(events.into_iter().map(|event| (event.id, event.sequence)));
            }
            Self::Read {
                written,
                ends,
                look,
            } => {
                ends.extend(
                    (events.iter()).map(|event| (*written + event.end as u64, event.sequence)),
                );
                *written += length as u64;
                *look = FIRST_LOOK;
            }
        }
    }

    /// Waits until it may be known of more events. Never, if there is nothing to be known.
    pub(super) async fn next(&mut self) -> anyhow::Result<Vec<i64>> {
        match self {
            Self::Acknowledged { lines, expected } => {
                let mut read = Vec::new();
                lines.recv_many(&mut read, BATCH).await;
                anyhow::ensure!(
                    !read.is_empty(),
                    "stdin is closed, so that nothing can be acknowledged"
                );
                let mut taken = Vec::new();
                for id in read {
                    let id = id.context("cannot read stdin")?;
                    match expected.remove(id.trim()) {
                        Some(sequence) => taken.push(sequence),
                        None if id.trim().is_empty() => {}
                        None => warn(format_args!(
                            "`{}` was acknowledged and does not wait for it",
                            id.chars().take(100).collect::<String>()
                        )),
                    }
                }
                Ok(taken)
            }
            Self::Read { ends, look, .. } if !ends.is_empty() => {
                tokio::time::sleep(*look).await;
                *look = (*look * 2).min(LAST_LOOK);
                Ok(self.so_far())
            }
            Self::Read { .. } => std::future::pending().await,
        }
    }

    /// The same while lines are written. What is in the pipe says nothing then.
    pub(super) async fn next_while_writing(&mut self) -> anyhow::Result<Vec<i64>> {
        match self {
            Self::Acknowledged { .. } => self.next().await,
            Self::Read { .. } => std::future::pending().await,
        }
    }

    /// What was taken when the reader has ended: the acknowledgements that are on their way, too.
    pub(super) async fn last(&mut self) -> Vec<i64> {
        let mut taken = self.so_far();
        if let Self::Acknowledged { .. } = self {
            while let Ok(Ok(more)) = tokio::time::timeout(LAST_LOOK, self.next()).await {
                taken.extend(more);
            }
        }
        taken
    }

    /// What is no longer in the pipe.
    pub(super) fn so_far(&mut self) -> Vec<i64> {
        let Self::Read {
            written,
            ends,
            look,
        } = self
        else {
            return Vec::new();
        };
        let read = written.saturating_sub(reader::unread().unwrap_or(0));
        let count = ends.iter().take_while(|(end, _)| *end <= read).count();
        if count > 0 {
            *look = FIRST_LOOK;
        }
        ends.drain(..count).map(|(_, sequence)| sequence).collect()
    }
}
