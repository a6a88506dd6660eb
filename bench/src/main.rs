//! The measurements that the README quotes: speed, cost and scale, beside simpler systems.
//!
//! Each part measures one thing. `results/` holds the measurements as JSON, Markdown and plots, from which `docs/scale.md`
//! is calculated. `data/` holds the prices and limits, `pages/` the templates of the pages.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and times are far below 2^52 and not negative"
)]

mod adapter;
mod agent;
mod calls;
mod cold_start;
mod compare;
mod counts;
mod fan_out;
mod function;
mod heavy;
mod load;
mod logs;
mod memory_sizes;
mod money;
mod one_machine;
mod pages;
mod payload;
mod peers;
mod plots;
mod programs;
mod ratios;
mod receiver;
mod results;
mod scale;
mod steps;
mod streams;
mod taken;
mod timeline;
mod ways;
mod whole_way;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::programs::{FUNCTIONS, MACHINE};
use crate::results::Results;
use crate::taken::{Part, Taken};
use crate::whole_way::{Plan, System};

/// Where the repository keeps what was measured.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results");
/// And what was worked out of it.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
/// Where `compare` writes. Its results are not committed: they depend on what is installed beside edge-relay.
const COMPARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench");

#[derive(Debug, Parser)]
#[command(
    name = "bench",
    about = "Measures edge-relay on this machine, and keeps what it found"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Little of everything: shows that it works, and measures nothing well
    #[arg(long, global = true)]
    quick: bool,
    /// Where results go [default: bench/results, and docs/scale.md; target/bench for compare]
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every part
    All,
    /// From the webhook's POST to the worker's handler, beside a streaming hub and an outbox
    WholeWay(Only),
    /// Other webhook senders beside edge-relay, each over an adapter: bench/adapters/README.md
    Compare(compare::Options),
    /// CPU time and allocations of the functions
    Function,
    /// AWS calls of an event, and what AWS would bill for it
    Calls,
    /// Compares calls, allocations and instructions of an event with those in the repository
    Counts(counts::Options),
    /// How long a webhook waits for its answer where it goes to many workers
    FanOut,
    /// Where the time of one event goes, from its POST to the last worker
    Timeline {
        /// With so many workers
        #[arg(long, default_value_t = 100)]
        workers: usize,
        /// Keep the queues and the table in files
        #[arg(long)]
        in_files: bool,
    },
    /// Cold starts of the functions' bootstraps
    ColdStart,
    /// The agent: its start, its deliveries a second on one core, its memory
    Agent,
    /// What a fifth of 20 workers costs the others if it misbehaves; 1,000 workers of one workspace; 10,000 workspaces; a start with many
    /// events
    Heavy(heavy::Plan),
    /// Peak memory of `edge-relay serve` over many events
    Memory {
        /// How many
        #[arg(long, default_value_t = 100_000)]
        events: usize,
    },
    /// What 128, 256 and 512 MB of memory, with their share of a CPU, mean for ingest and deliver: needs root, and version 1 of
    /// control groups
    MemorySizes,
    /// Only writes again what is made from results.json
    Render,
    /// Only hands a function the same event again and again, for a profiler
    #[command(hide = true)]
    Handle {
        #[arg(value_parser = ["ingest", "deliver"])]
        function: String,
        #[arg(long, default_value_t = 2_048)]
        body: usize,
        #[arg(long, default_value_t = 10)]
        workers: usize,
        #[arg(long, default_value_t = 100)]
        times: usize,
    },
    /// Be what the relay is measured beside
    #[command(subcommand, hide = true)]
    Peer(peers::Peer),
}

/// What of the whole way.
#[derive(Debug, Default, Args)]
struct Only {
    /// Only with so many workers
    #[arg(long, value_delimiter = ',')]
    workers: Option<Vec<usize>>,
    /// Only bodies of so many bytes
    #[arg(long, value_delimiter = ',')]
    bodies: Option<Vec<usize>>,
    /// Only these
    #[arg(long, value_delimiter = ',')]
    systems: Option<Vec<System>>,
    /// How long each measurement takes
    #[arg(long)]
    seconds: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Command::Peer(peer) = cli.command {
        return peers::run(peer).await;
    }
    programs::open_many_files();
    if let Command::Compare(options) = cli.command {
        let out = cli.out.unwrap_or_else(|| COMPARED.into());
        return compare_systems(options.plan(cli.quick)?, &out).await;
    }
    let docs = cli.out.clone().unwrap_or_else(|| DOCS.into());
    let out = cli.out.unwrap_or_else(|| RESULTS.into());
    let mut results = Results::read(&out)?;
    let run = Run {
        taken: Taken::now(),
        quick: cli.quick,
        out,
        docs,
    };
    match cli.command {
        Command::All => {
            run.cold_start(&mut results).await?;
            run.agent(&mut results).await?;
            run.calls(&mut results).await?;
            run.fan_out(&mut results).await?;
            run.function(&mut results)?;
            run.timeline(100, false).await?;
            run.whole_way(&mut results, Only::default()).await?;
        }
        Command::WholeWay(some) => run.whole_way(&mut results, some).await?,
        Command::Function => run.function(&mut results)?,
        Command::Calls => run.calls(&mut results).await?,
        Command::Counts(options) => run.counts(&options).await?,
        Command::FanOut => run.fan_out(&mut results).await?,
        Command::ColdStart => run.cold_start(&mut results).await?,
        Command::Agent => run.agent(&mut results).await?,
        Command::Memory { events } => memory(events).await?,
        Command::Heavy(plan) => {
            programs::build(&MACHINE).await?;
            let bar = bar("heavy");
            heavy::measure(&plan, &bar).await?;
            bar.finish_and_clear();
        }
        Command::MemorySizes => {
            let bar = bar("memory sizes");
            memory_sizes::measure(cli.quick, &bar).await?;
            bar.finish_and_clear();
        }
        Command::Timeline { workers, in_files } => run.timeline(workers, in_files).await?,
        Command::Render => run.keep(&results)?,
        Command::Handle {
            function,
            body,
            workers,
            times,
        } => {
            tokio::task::spawn_blocking(move || function::handle(&function, body, workers, times))
                .await??
        }
        Command::Compare(_) | Command::Peer(_) => {}
    }
    Ok(())
}

/// Prints the peak memory of a relay with files over many events.
async fn memory(events: usize) -> anyhow::Result<()> {
    programs::build(&MACHINE).await?;
    let bar = bar("memory");
    let (before, after) = whole_way::memory(events, &bar).await?;
    bar.finish_and_clear();
    println!(
        "peak memory of `edge-relay serve --data`: {before:.0} MB before, {after:.0} MB after {events} events"
    );
    Ok(())
}

/// Prints the page, and writes it into the directory.
async fn compare_systems(plan: compare::Plan, out: &Path) -> anyhow::Result<()> {
    programs::build(&MACHINE).await?;
    let bar = bar("compare");
    let compared = Part {
        taken: Taken::now(),
        found: compare::measure(&plan, &bar).await?,
    };
    bar.finish_and_clear();
    let page = compare::page(&compared, plan.passes)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot use `{}`", out.display()))?;
    std::fs::write(out.join("compare.md"), &page)?;
    print!("{page}");
    eprintln!("written: {}", shown(&out.join("compare.md")));
    Ok(())
}

/// How parts are run, and where what they find goes.
struct Run {
    taken: Taken,
    quick: bool,
    out: PathBuf,
    docs: PathBuf,
}

impl Run {
    fn part<T>(&self, found: T) -> Part<T> {
        Part {
            taken: self.taken.clone(),
            found,
        }
    }

    /// After each part: what was measured is not lost when a later one fails.
    fn keep(&self, results: &Results) -> anyhow::Result<()> {
        results.write(&self.out)?;
        if let Some(scale) = results.scale()? {
            std::fs::write(self.docs.join("scale.md"), scale)?;
        }
        println!("written: {}", shown(&self.out.join("results.md")));
        Ok(())
    }

    /// Only draws it.
    async fn timeline(&self, workers: usize, in_files: bool) -> anyhow::Result<()> {
        let bar = bar("timeline");
        let events = if self.quick { 3 } else { 31 };
        timeline::draw(workers, in_files, events, &self.out, &bar).await?;
        bar.finish_and_clear();
        Ok(())
    }

    async fn whole_way(&self, results: &mut Results, some: Only) -> anyhow::Result<()> {
        let plan = if self.quick {
            Plan::quick()
        } else {
            Plan::whole()
        };
        let plan = Plan {
            systems: some.systems.unwrap_or(plan.systems),
            workers: some.workers.unwrap_or(plan.workers),
            bodies: some.bodies.unwrap_or(plan.bodies),
            seconds: some.seconds.unwrap_or(plan.seconds),
        };
        programs::build(&MACHINE).await?;
        let bar = bar("whole way");
        results.whole_way = Some(self.part(whole_way::measure(&plan, &bar).await?));
        bar.finish_and_clear();
        self.keep(results)
    }

    fn function(&self, results: &mut Results) -> anyhow::Result<()> {
        let bar = bar("in the function");
        let quick = self.quick;
        let measured = function::without_runtime(|| function::measure(quick, &bar));
        results.function = Some(self.part(measured?));
        bar.finish_and_clear();
        self.keep(results)
    }

    async fn calls(&self, results: &mut Results) -> anyhow::Result<()> {
        let bar = bar("calls");
        let plan = if self.quick {
            calls::Plan::quick()
        } else {
            calls::Plan::whole()
        };
        results.calls = Some(self.part(calls::measure(&plan, &bar).await?));
        bar.finish_and_clear();
        self.keep(results)
    }

    /// They are kept apart from the results, which they do not change.
    async fn counts(&self, options: &counts::Options) -> anyhow::Result<()> {
        counts::run(options, self.taken.clone(), &self.out, &bar("counts")).await
    }

    async fn fan_out(&self, results: &mut Results) -> anyhow::Result<()> {
        let bar = bar("fan-out");
        results.fan_out = Some(self.part(fan_out::measure(self.quick, &bar).await?));
        bar.finish_and_clear();
        self.keep(results)
    }

    async fn cold_start(&self, results: &mut Results) -> anyhow::Result<()> {
        programs::build(&FUNCTIONS).await?;
        let bar = bar("start-up");
        let times = if self.quick { 3 } else { 20 };
        results.cold_start = Some(self.part(cold_start::measure(times, &bar).await?));
        bar.finish_and_clear();
        self.keep(results)
    }

    async fn agent(&self, results: &mut Results) -> anyhow::Result<()> {
        programs::build(&MACHINE).await?;
        let bar = bar("the agent");
        let (starts, events) = if self.quick { (3, 200) } else { (21, 100_000) };
        results.agent = Some(self.part(agent::measure(starts, events, &bar).await?));
        bar.finish_and_clear();
        self.keep(results)
    }
}

/// On stderr; nothing where that is no terminal.
fn bar(part: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>15} [{bar:32}] {pos}/{len} {elapsed} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style).with_prefix(part);
    bar.enable_steady_tick(std::time::Duration::from_millis(500));
    bar
}

fn shown(file: &Path) -> String {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let here = std::env::current_dir().unwrap_or_default();
    file.strip_prefix(here)
        .unwrap_or(&file)
        .display()
        .to_string()
}
