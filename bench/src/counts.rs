//! Counts of an event, compared with those in the repository: calls and units of AWS, allocations, and instructions.
//!
//! A count does not depend on what else the machine does, so a test can compare it. Invariant: what is recorded is the
//! same on each run. What depends on the time, such as the number of batches of a large fan-out, is left out.

mod comparison;
mod instructions;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use indicatif::ProgressBar;
use relay::queue::BATCH_SIZE;
use serde::{Deserialize, Serialize};

use crate::calls::{self, CallCounts, Event, Used, Wants};
use crate::function;
use crate::taken::Taken;
use crate::ways;
use comparison::Difference;

/// Counts by their names.
type Counts = BTreeMap<String, f64>;

const FILE: &str = "counts.json";
/// What the names of the counts of callgrind begin with.
const INSTRUCTIONS: &str = "instructions/";
const TO_RECORD: &str =
    "run `target/debug/bench counts --record`, and commit `bench/results/counts.json`";
/// Calls that are made for each batch of `deliver`.
const FOR_EACH_BATCH: [&str; 3] = ["BatchGetItem", "DeleteMessageBatch", "ReceiveMessage"];

/// What is done with the counts.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Write the counts to the repository, instead of comparing them
    #[arg(long, conflicts_with = "without_instructions")]
    record: bool,
    /// Count no instructions, which need valgrind and release builds of the functions
    #[arg(long)]
    without_instructions: bool,
}

/// What `counts.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    taken: Taken,
    /// Its version; none, if no instructions were counted.
    valgrind: Option<String>,
    counts: Counts,
}

impl Record {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let json = std::fs::read(file).with_context(|| {
            let file = file.display();
            format!("cannot read `{file}`; to record the counts, {TO_RECORD}")
        })?;
        serde_json::from_slice(&json)
            .with_context(|| format!("`{}` is of another version", file.display()))
    }

    fn write(&self, file: &Path) -> anyhow::Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        std::fs::write(file, json).with_context(|| format!("cannot write `{}`", file.display()))
    }
}

/// Counts, and compares with the record in this directory or writes it.
///
/// # Errors
///
/// A count is not as recorded. An instruction count that was taken with another compiler or processor is shown, but is no
/// error: neither is a regression of this repository.
pub(crate) async fn run(
    options: &Options,
    taken: Taken,
    directory: &Path,
    progress: &ProgressBar,
) -> anyhow::Result<()> {
    let file = directory.join(FILE);
    let recorded = (!options.record).then(|| Record::read(&file)).transpose()?;
    if let Some(Record { taken: other, .. }) = &recorded {
        ensure!(
            other.build == taken.build,
            "the record is of a {} build of the bench, and a {} build allocates differently",
            other.build,
            taken.build
        );
    }
    let valgrind = if options.without_instructions {
        None
    } else {
        Some(instructions::valgrind()?)
    };
    let counts = count(valgrind.is_some(), progress).await?;
    progress.finish_and_clear();
    let counted = Record {
        taken,
        valgrind,
        counts,
    };
    if let Some(recorded) = recorded {
        return compare(recorded, &counted);
    }
    counted.write(&file)?;
    println!("{} counts are recorded", counted.counts.len());
    Ok(())
}

async fn count(has_valgrind: bool, progress: &ProgressBar) -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    // First, because they need what may not be there.
    if has_valgrind {
        instructions::count(&mut counts, progress).await?;
    }
    progress.set_position(0);
    let used = calls::measure(&calls::Plan::few(), progress).await?;
    verify_requests(&used)?;
    add_used(&mut counts, &used);
    progress.set_message("allocations");
    for handler in function::without_runtime(function::allocations)? {
        let name = format!("{}/{}", handler.function, handler.workers);
        counts.insert(format!("allocations/{name}"), handler.allocations as f64);
        counts.insert(format!("allocated-bytes/{name}"), handler.allocated as f64);
    }
    Ok(counts)
}

/// Verifies that an event is as many requests of SQS as the relay compares when it chooses the way of the body.
fn verify_requests(found: &CallCounts) -> anyhow::Result<()> {
    let in_one_batch = (found.events.iter()).filter(|e| e.workers <= BATCH_SIZE && e.asleep == 0);
    for Event {
        workers,
        body,
        used,
        ..
    } in in_one_batch
    {
        let expected = ways::sqs_requests(*body, *workers);
        let counted = used.sqs;
        ensure!(
            counted == expected as f64,
            "{body} bytes to {workers} workers are {counted} requests of SQS, and the relay chooses the way of the body by {expected}"
        );
    }
    Ok(())
}

fn add_used(counts: &mut Counts, found: &CallCounts) {
    for event in found.events.iter().chain(&found.routed) {
        let mut name = format!("event/{}-workers/{}-bytes", event.workers, event.body);
        if event.asleep > 0 {
            name.push_str(&format!("/{}-away", event.asleep));
        }
        match event.wants {
            Wants::Everything => {}
            wants => name.push_str(&format!("/{wants:?}")),
        }
        // How many batches there are of more depends on the time.
        add(counts, &name, &event.used, event.workers <= BATCH_SIZE);
    }
    add(counts, "renewal", &found.renewal, true);
    add(counts, "look-into-an-empty-mailbox", &found.look, true);
}

/// Adds what was used, without what depends on the number of batches unless it `is_one_batch`.
fn add(counts: &mut Counts, name: &str, used: &Used, is_one_batch: bool) {
    for (action, count) in &used.calls {
        if is_one_batch || !FOR_EACH_BATCH.contains(&action.as_str()) {
            counts.insert(format!("{name}/{action}"), *count);
        }
    }
    counts.insert(format!("{name}/read-units"), used.read_units);
    counts.insert(format!("{name}/write-units"), used.write_units);
    if is_one_batch {
        counts.insert(format!("{name}/sqs-requests"), used.sqs);
        counts.insert(format!("{name}/log-bytes"), used.log);
    }
}

fn compare(mut recorded: Record, counted: &Record) -> anyhow::Result<()> {
    if counted.valgrind.is_none() {
        (recorded.counts).retain(|name, _| !name.starts_with(INSTRUCTIONS));
    }
    let differences = comparison::differences(&recorded.counts, &counted.counts);
    let of = |taken: &Taken| (taken.rustc.clone(), taken.machine.clone());
    let is_same_machine = of(&recorded.taken) == of(&counted.taken);
    let failed = (differences.iter())
        .filter(|difference| difference.is_failure(is_same_machine))
        .count();
    if !differences.is_empty() {
        print(&differences);
        println!("recorded: {}", taken_with(&recorded));
        println!("counted:  {}", taken_with(counted));
    }
    if failed > 0 {
        bail!("{failed} counts are not as recorded. If that is intended, {TO_RECORD}.");
    }
    if !differences.is_empty() {
        println!(
            "{} instruction counts are not as recorded. They are of another compiler or processor, which is no failure.",
            differences.len()
        );
    }
    let same = counted.counts.len() - differences.len();
    println!("{same} counts are as recorded");
    Ok(())
}

fn taken_with(record: &Record) -> String {
    format!(
        "{}, {}, {}, {}",
        record.taken.date,
        record.taken.machine,
        record.taken.rustc,
        record.valgrind.as_deref().unwrap_or("no valgrind")
    )
}

fn print(differences: &[Difference]) {
    let shown = |count: Option<f64>| count.map_or_else(|| "-".to_owned(), |c| format!("{c:.2}"));
    let header = ["name", "recorded", "counted", "change"].map(str::to_owned);
    let mut rows = vec![header];
    rows.extend(differences.iter().map(|difference| {
        [
            difference.name.clone(),
            shown(difference.recorded),
            shown(difference.counted),
            difference.change(),
        ]
    }));
    let width = rows.iter().map(|[name, ..]| name.len()).max();
    let width = width.unwrap_or_default();
    for [name, recorded, counted, change] in rows {
        println!("{name:width$} {recorded:>16} {counted:>16} {change:>10}");
    }
}
