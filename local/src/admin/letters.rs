//! The commands about dead letters.

use std::io::IsTerminal as _;

use protocol::clock::{Clock, rfc3339};
use relay::admin::{Admin, AdminError, Selection};
use relay::queue::DeadLetter;
use serde::Serialize;

use super::show::Show;
use super::{Answer, Letters};

/// How many are moved or deleted before more are read: what is read is held for five minutes.
const ROUND: usize = 500;
/// How often progress is printed.
const EVERY: usize = 100;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    event: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    worker: Option<&'a str>,
    user: Option<&'a str>,
    workspace: Option<&'a str>,
    reason: &'a str,
    first_attempt: Option<&'a str>,
    dead_since: String,
}

fn row(letter: &DeadLetter) -> Row<'_> {
    Row {
        event: letter.event(),
        kind: letter.kind(),
        worker: letter.worker(),
        user: letter.user(),
        workspace: letter.workspace(),
        reason: (letter.reason()).unwrap_or("SQS moved it here: `deliver` could not finish it"),
        first_attempt: letter.first_attempt(),
        dead_since: rfc3339(letter.sent_at()),
    }
}

fn selection(letters: Letters) -> Selection {
    Selection {
        worker: letters.worker,
        event: letters.event.map(|event| event.to_string()),
        until: Some(Clock::system().millis()),
    }
}

/// Says how many dead letters could not be read.
pub(super) fn tell_hidden(hidden: u64) {
    if hidden > 0 {
        eprintln!(
            "about {hidden} more cannot be read now: they wait behind others of the same ordering key, or somebody else reads them"
        );
    }
}

pub(super) async fn list(admin: &Admin, show: Show, letters: Letters) -> anyhow::Result<()> {
    let mut read = (admin.read_dead_letters(&selection(letters), usize::MAX)).await?;
    admin.release(&read.letters).await;
    read.letters.sort_by_key(DeadLetter::sent_at);
    let rows: Vec<_> = read.letters.iter().map(row).collect();
    let header = ["DEAD SINCE", "EVENT", "TYPE", "WORKER", "USER", "REASON"];
    show.rows(header, &rows, |row| {
        let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
        [
            row.dead_since.clone(),
            text(row.event),
            text(row.kind),
            text(row.worker),
            text(row.user),
            row.reason.to_owned(),
        ]
    })?;
    if rows.is_empty() {
        eprintln!("no dead letter");
    }
    tell_hidden(read.hidden);
    Ok(())
}

pub(super) async fn redrive(admin: &Admin, letters: Letters) -> anyhow::Result<()> {
    let selection = selection(letters);
    let mut moved = 0;
    // In rounds: those behind others of their group are seen when these are gone.
    let hidden = loop {
        let read = admin.read_dead_letters(&selection, ROUND).await?;
        if read.letters.is_empty() {
            break read.hidden;
        }
        each(
            admin,
            &read.letters,
            &mut moved,
            "redriven",
            async |letter| admin.redrive(letter).await,
        )
        .await?;
    };
    eprintln!("redriven: {moved}");
    tell_hidden(hidden);
    Ok(())
}

pub(super) async fn delete(admin: &Admin, letters: Letters, answer: &Answer) -> anyhow::Result<()> {
    let selection = selection(letters);
    let found = admin.read_dead_letters(&selection, usize::MAX).await?;
    admin.release(&found.letters).await;
    if !found.letters.is_empty() {
        answer.confirm(&format!(
            "Delete {} dead letters, and those behind them? Their events are lost.",
            found.letters.len()
        ))?;
    }
    let mut deleted = 0;
    let hidden = loop {
        let read = admin.read_dead_letters(&selection, ROUND).await?;
        if read.letters.is_empty() {
            break read.hidden;
        }
        let act = async |letter: &DeadLetter| admin.delete(letter).await;
        each(admin, &read.letters, &mut deleted, "deleted", act).await?;
    };
    eprintln!("deleted: {deleted}");
    tell_hidden(hidden);
    Ok(())
}

/// Does something with each of these, and gives those back that are left if it fails.
async fn each(
    admin: &Admin,
    letters: &[DeadLetter],
    done: &mut usize,
    what: &str,
    act: impl AsyncFn(&DeadLetter) -> Result<(), AdminError>,
) -> anyhow::Result<()> {
    for (at, letter) in letters.iter().enumerate() {
        if let Err(error) = act(letter).await {
            admin.release(&letters[at..]).await;
            eprintln!("{what}: {done}");
            return Err(error.into());
        }
        *done += 1;
        if done.is_multiple_of(EVERY) && std::io::stderr().is_terminal() {
            eprintln!("{what}: {done}");
        }
    }
    Ok(())
}
