//! `edge-relay admin`: the operator's commands. What they do is in [`relay::admin`]; here are their arguments, their questions
//! and what they print.

mod connect;
mod letters;
mod show;
mod workers;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use edge_agent::printable::printable;
use relay::event::EventId;
use relay::worker::Worker;

use show::Show;

/// The arguments.
#[derive(Debug, Args)]
pub struct Admin {
    /// The name of the stack
    #[arg(long, global = true, default_value = "edge-relay", value_parser = stack)]
    stack: String,
    /// The AWS profile [default: as the AWS CLI]
    #[arg(long, global = true)]
    profile: Option<String>,
    /// The AWS region [default: as the AWS CLI]
    #[arg(long, global = true)]
    region: Option<String>,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List workers
    Workers {
        /// Only those of a workspace, by Linear's id
        #[arg(long, value_name = "ID")]
        workspace: Option<String>,
        /// Only those of a user
        #[arg(long, value_name = "E-MAIL")]
        user: Option<String>,
        /// Only those that are away or paused
        #[arg(long)]
        away: bool,
    },
    /// Show a worker: state, subscription, what waits for it, retries, last error
    Worker {
        /// As in `workers`
        id: String,
    },
    /// Show where an event's deliveries are now
    Event {
        /// `evt_…`, or Linear's id of the delivery
        #[arg(value_parser = event)]
        event: EventId,
    },
    /// Remove a worker, or all of a user, with what waits for them
    Remove {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        answer: Answer,
    },
    /// List what was given up, with its reason
    DeadLetters(Letters),
    /// Put dead letters back on the queue, where they are tried anew
    Redrive(Letters),
    /// Delete dead letters
    Drop {
        #[command(flatten)]
        letters: Letters,
        #[command(flatten)]
        answer: Answer,
    },
    /// Send an event to a worker again
    ///
    /// The event's body is looked for in the mailboxes of its workspace and on the dead-letter queue; one that was delivered to
    /// everybody is nowhere in the relay any more. An agent that has stored the event handles it no second time
    /// (`edge-agent replay` does).
    Resend {
        /// `evt_…`, or Linear's id of the delivery
        #[arg(value_parser = event)]
        event: EventId,
        /// As in `workers`
        #[arg(long, value_name = "ID")]
        worker: String,
        /// Its body, byte for byte, as `edge-agent events ID --body` prints it
        #[arg(long, value_name = "FILE")]
        body: Option<PathBuf>,
    },
    /// Pause a worker: its events are parked, and it gets none
    Pause {
        /// As in `workers`
        id: String,
    },
    /// Resume a paused worker: it gets what was parked, and is live again
    Resume {
        /// As in `workers`
        id: String,
    },
}

/// Which workers.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// As in `workers`
    id: Option<String>,
    /// All workers of a user
    #[arg(long, value_name = "E-MAIL")]
    user: Option<String>,
}

/// Which dead letters.
#[derive(Debug, Args)]
struct Letters {
    /// Only those of a worker
    #[arg(long, value_name = "ID")]
    worker: Option<String>,
    /// Only those of an event: `evt_…`, or Linear's id of the delivery
    #[arg(long, value_parser = event)]
    event: Option<EventId>,
}

/// The answer to the question before something is deleted.
#[derive(Debug, Args)]
struct Answer {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Answer {
    /// Asks whether to go on.
    fn confirm(&self, question: &str) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("{question} Nobody can be asked: use `--yes`");
        }
        eprint!("{question} [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            bail!("nothing was deleted")
        }
    }
}

fn event(text: &str) -> Result<EventId, String> {
    EventId::parse(text)
        .or_else(|| EventId::from_delivery(text))
        .ok_or_else(|| "use `evt_…`, or Linear's id of the delivery".to_owned())
}

/// A name that can stand in an address.
fn stack(text: &str) -> Result<String, String> {
    let is_name =
        !text.is_empty() && (text.bytes()).all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("use A-Z a-z 0-9 and -, as CloudFormation does".to_owned())
    }
}

/// The worker with this id.
async fn find(admin: &relay::admin::Admin, id: &str) -> anyhow::Result<Worker> {
    (admin.worker(id).await?).with_context(|| {
        let id = printable(id);
        format!("there is no worker `{id}`: `edge-relay admin workers` lists them")
    })
}

/// Connects, and carries a command out.
pub(crate) async fn run(arguments: Admin) -> anyhow::Result<()> {
    let show = Show {
        json: arguments.json,
    };
    let admin = connect::connect(&arguments).await?;
    match arguments.command {
        Command::Workers {
            workspace,
            user,
            away,
        } => workers::list(&admin, show, workspace.as_deref(), user.as_deref(), away).await,
        Command::Worker { id } => workers::one(&admin, show, &find(&admin, &id).await?).await,
        Command::Event { event } => workers::event(&admin, show, &event).await,
        Command::Remove { which, answer } => {
            let found = match &which.id {
                Some(id) => vec![find(&admin, id).await?],
                None => workers::of_user(&admin, &which.user.unwrap_or_default()).await?,
            };
            workers::remove(&admin, found, &answer).await
        }
        Command::DeadLetters(letters) => letters::list(&admin, show, letters).await,
        Command::Redrive(letters) => letters::redrive(&admin, letters).await,
        Command::Drop { letters, answer } => letters::delete(&admin, letters, &answer).await,
        Command::Resend {
            event,
            worker,
            body,
        } => {
            let worker = find(&admin, &worker).await?;
            workers::resend(&admin, event, &worker, body.as_deref()).await
        }
        Command::Pause { id } => workers::pause(&admin, &find(&admin, &id).await?).await,
        Command::Resume { id } => workers::resume(&admin, &find(&admin, &id).await?).await,
    }
}
