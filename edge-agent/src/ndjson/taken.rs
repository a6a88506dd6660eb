//! How it is known that a printed event was taken.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::sync::mpsc;

use super::{Printed, reader};
use crate::output::warn;

/// How often it is looked whether the reader has taken more: at first, and at last if it does not.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(200);

/// How many acknowledgements are recorded at once, and wait for that.
const BATCH: usize = 500;
/// No line is longer: an id has up to 256 characters.
const LINE_LIMIT: u64 = 4096;
/// How often a wrong acknowledgement is reported.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The printed events that are not known to be taken.
pub(super) enum Taken {
    /// Their ids are read from stdin.
    Acknowledged {
        lines: mpsc::Receiver<std::io::Result<String>>,
        expected: HashMap<String, i64>,
        unknown: Unknown,
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

/// The acknowledgements of what was not printed, or was acknowledged before.
#[derive(Default)]
pub(super) struct Unknown {
    untold: u64,
    told_at: Option<Instant>,
}

impl Unknown {
    fn tell(&mut self, id: &str) {
        self.untold += 1;
        if self.told_at.is_some_and(|at| at.elapsed() < TOLD_EVERY) {
            return;
        }
        let others = match std::mem::take(&mut self.untold) - 1 {
            0 => String::new(),
            others => format!(", nor did {others} others since the last warning"),
        };
        self.told_at = Some(Instant::now());
        let id: String = id.chars().take(100).collect();
        warn(format_args!(
            "`{id}` was acknowledged and does not wait for it{others}"
        ));
    }
}

/// The next line, or as much of it as may be in one. None at the end.
async fn next_line(from: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let read = from.take(LINE_LIMIT).read_until(b'\n', &mut line).await?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
}

impl Taken {
    pub(super) fn acknowledged() -> Self {
        let (sender, lines) = mpsc::channel(BATCH);
        // It reads also while lines are written: who waits until an acknowledgement is read does not read lines.
        tokio::spawn(async move {
            let mut stdin = BufReader::new(tokio::io::stdin());
            while let Some(line) = next_line(&mut stdin).await.transpose() {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
        Self::Acknowledged {
            lines,
            expected: HashMap::new(),
            unknown: Unknown::default(),
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
            Self::Acknowledged {
                lines,
                expected,
                unknown,
            } => {
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
                        None => unknown.tell(id.trim()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_without_an_end_is_read_in_parts() {
        let endless = vec![b'x'; 10_000];
        let mut from = endless.as_slice();
        let mut lengths = Vec::new();
        while let Some(line) = next_line(&mut from).await.unwrap() {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [4096, 4096, 1808]);
        let mut from = b"a\n\xff\nb".as_slice();
        for expected in [Some("a\n"), Some("\u{fffd}\n"), Some("b"), None] {
            assert_eq!(next_line(&mut from).await.unwrap().as_deref(), expected);
        }
    }
}
