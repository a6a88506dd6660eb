//! Simulates the relay and its workers: thousands of histories in which machines come and go and calls fail, each from a
//! seed, in one thread, in simulated time. A history that breaks a promise is made smaller and printed.
//!
//! ```text
//! cargo run --profile simulation -p tests --bin simulate -- --seeds 100000
//! cargo run --profile simulation -p tests --bin simulate -- --sites --seeds 200
//! ```
//!
//! What is real: the functions with the AWS SDK, the embedded DynamoDB and SQS, and the agent from its receiver to its store.
//! What is simulated: the time, the network, Linear, the machines, the event source mapping, and what an agent does to stay
//! registered. What can happen is in [`history`], what has to hold in [`check`] and [`record`].

mod check;
mod history;
mod lambda;
mod linear;
mod machine;
mod old_faults;
mod places;
mod record;
mod run;
mod sites;
mod wire;
mod world;

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::ensure;
use clap::Parser;
use history::History;
use indicatif::{ProgressBar, ProgressStyle};
use old_faults::OldFault;
use parking_lot::Mutex;

/// One of so many histories is run twice, and has to be the same.
const REPLAYED: usize = 50;

thread_local! {
    /// The seed of the history that this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates the relay and its workers.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many histories are run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this history alone, and prints what happens.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Runs each place of the code that makes a call or a request with each fault there. The places are those of so many
    /// histories.
    #[arg(long, conflicts_with_all = ["from", "seed", "with"])]
    sites: bool,
    /// Runs only one of so many of them.
    #[arg(long, requires = "sites", default_value_t = 1)]
    every: usize,
    /// How many histories are run at the same time.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Runs with a fault of an earlier version, and counts the histories in which it is found.
    #[arg(long)]
    with: Option<OldFault>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        // A task that panics would only be missing.
        eprintln!("in the history of seed {}", SEED.get());
        std::process::exit(101);
    }));
    if let Some(seed) = arguments.seed {
        return replay(&History::new(seed), arguments.with);
    }
    let histories: Vec<_> = if arguments.sites {
        let all = sites::histories(arguments.seeds)?.into_iter();
        all.step_by(arguments.every.max(1)).collect()
    } else {
        (arguments.from..arguments.from + arguments.seeds)
            .map(History::new)
            .collect()
    };
    let count = histories.len();
    let violations = run_all(&arguments, &histories)?;
    println!("{count} histories, {} violations", violations.len());
    if arguments.with.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let Some((at, violation)) = violations.first() else {
        return Ok(ExitCode::SUCCESS);
    };
    for (at, violation) in &violations {
        let History { seed, at_site, .. } = &histories[*at];
        match at_site {
            None => println!("seed {seed}: {violation}"),
            Some(at_site) => println!("seed {seed} with {at_site:?}: {violation}"),
        }
    }
    println!("\nThe first one, made smaller: {violation}\n");
    let small = shrink(histories[*at].clone())?;
    println!("{small:#?}\n");
    replay(&small, None)
}

/// Runs the histories. Returns which of them have a violation, in their order.
fn run_all(arguments: &Arguments, histories: &[History]) -> anyhow::Result<Vec<(usize, String)>> {
    let style = "{bar:40} {pos}/{len} histories, {per_sec}, {eta} left {msg}";
    let style = ProgressStyle::with_template(style)?;
    let bar = ProgressBar::new(histories.len() as u64).with_style(style);
    let next = AtomicUsize::new(0);
    let violations = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let run_some = || -> anyhow::Result<()> {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(history) = histories.get(at) else {
                    return Ok(());
                };
                SEED.set(history.seed);
                let done = run::run(history, arguments.with, false)?;
                if at.is_multiple_of(REPLAYED) {
                    let again = run::run(history, arguments.with, false)?;
                    ensure!(
                        done.digest == again.digest,
                        "seed {} did not replay exactly",
                        history.seed
                    );
                }
                if let Some(violation) = done.violation {
                    violations.lock().push((at, violation));
                    bar.set_message(format!("{} violations", violations.lock().len()));
                }
                bar.inc(1);
            }
        };
        let running: Vec<_> = (0..arguments.threads.max(1))
            .map(|_| scope.spawn(run_some))
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().expect("a history does not panic"))
    })?;
    bar.finish();
    let mut violations = violations.into_inner();
    violations.sort();
    Ok(violations)
}

/// Runs a history twice: the second time it must be the same, and is printed.
fn replay(history: &History, old_fault: Option<OldFault>) -> anyhow::Result<ExitCode> {
    let once = run::run(history, old_fault, false)?;
    let again = run::run(history, old_fault, true)?;
    ensure!(
        once.digest == again.digest,
        "the history did not replay exactly"
    );
    match again.violation {
        Some(violation) => {
            println!("{violation}");
            Ok(ExitCode::FAILURE)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Leaves out what is not needed for a violation: first halves, then smaller and smaller parts.
fn shrink(mut history: History) -> anyhow::Result<History> {
    let mut size = history.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < history.len() {
            let less = history.without(at, at + size);
            if run::run(&less, None, false)?.violation.is_some() {
                history = less;
            } else {
                at += size;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    Ok(history)
}
