//! Dead letters: reads, moves and deletes those of a worker or of an event.
//!
//! The queue is a FIFO queue. What is received is held, so that it is not received again, and given back afterwards. While a
//! message is held, those behind it in its group cannot be received, so that of a group at most ten are seen at once; those
//! behind are reached when they are moved or deleted.

use std::collections::HashSet;
use std::time::Duration;

use protocol::clock::UnixMillis;

use super::{Admin, AdminError};
use crate::queue::DeadLetter;

/// How long dead letters are held. Should the program end meanwhile, they are there again then.
const HELD: Duration = Duration::from_secs(300);

/// Which dead letters are meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only those of this worker.
    pub worker: Option<String>,
    /// Only those of this event.
    pub event: Option<String>,
    /// Only those that are as old as this: what comes back meanwhile is not.
    pub until: Option<UnixMillis>,
}

impl Selection {
    fn has(&self, letter: &DeadLetter) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        is(&self.worker, letter.worker())
            && is(&self.event, letter.event())
            && self.until.is_none_or(|until| letter.sent_at() <= until)
    }
}

/// What was read of the dead-letter queue.
#[derive(Debug)]
pub struct Read {
    /// Those that were asked for, each once, in the order of their groups. They are held.
    pub letters: Vec<DeadLetter>,
    /// About how many others there are that could not be read now, because they are behind these or somebody else reads them.
    pub hidden: u64,
}

impl Admin {
    /// Reads the dead letters that are selected, or about as many as `most` of them, and holds them. They have to be released.
    ///
    /// # Errors
    ///
    /// AWS failed. What was read is there again after five minutes.
    pub async fn read_dead_letters(
        &self,
        selection: &Selection,
        most: usize,
    ) -> Result<Read, AdminError> {
        let mut seen = HashSet::new();
        let (mut letters, mut others) = (Vec::new(), Vec::new());
        while letters.len() < most {
            let mut received = self.dead_letters.receive(HELD).await?;
            // On a queue that takes longer to read than they are held, the first come again.
            received.retain(|letter| seen.insert(letter.id().to_owned()));
            if received.is_empty() {
                break;
            }
            for letter in received {
                if selection.has(&letter) {
                    letters.push(letter);
                } else {
                    others.push(letter);
                }
            }
        }
        let hidden = self.dead_letters.count().await?;
        self.dead_letters.release(&others).await;
        Ok(Read {
            letters,
            hidden: hidden.saturating_sub(seen.len() as u64),
        })
    }

    /// Gives dead letters back that are held.
    pub async fn release(&self, letters: &[DeadLetter]) {
        self.dead_letters.release(letters).await;
    }

    /// Moves a dead letter that is held back to the queue, where it is attempted anew.
    ///
    /// # Errors
    ///
    /// AWS failed, or it is not held any more. It is on both queues then at most, and is delivered with the same id.
    pub async fn redrive(&self, letter: &DeadLetter) -> Result<(), AdminError> {
        self.queue.send_letter(letter).await?;
        Ok(self.dead_letters.delete_letter(letter).await?)
    }

    /// Deletes a dead letter that is held.
    ///
    /// # Errors
    ///
    /// AWS failed, or it is not held any more.
    pub async fn delete(&self, letter: &DeadLetter) -> Result<(), AdminError> {
        Ok(self.dead_letters.delete_letter(letter).await?)
    }
}
