//! Measurements of the whole way on one machine; every figure is printed with what it was measured on.
//!
//! The relay runs as a process of its own, so that its CPU time and memory are its own; webhooks are posted and
//! received in this one.

mod agent;
mod cold_start;
mod receiver;
mod relay_process;
mod whole_way;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures edge-relay on this machine")]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Latency and throughput from the webhook's POST to the worker's handler
    WholeWay {
        /// How many workers
        #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
        workers: Vec<usize>,
        /// How many bytes a body has
        #[arg(long, default_value_t = 2048)]
        body: usize,
        /// Keep everything in files
        #[arg(long)]
        durable: bool,
        /// How many seconds each measurement takes
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// The agent: its start, its deliveries a second on one core, its memory
    Agent {
        /// How many deliveries
        #[arg(long, default_value_t = 100_000)]
        events: usize,
    },
    /// Cold starts of the functions' bootstraps
    ColdStart {
        /// How many of each
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// AWS calls of an event, counted at the embedded servers
    Calls,
    /// Peak memory of `edge-relay serve` after many events
    Memory {
        /// How many
        #[arg(long, default_value_t = 100_000)]
        events: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    println!("build: {build}, machine: {}\n", machine());
    match Cli::parse().part {
        Part::WholeWay {
            workers,
            body,
            durable,
            seconds,
        } => whole_way::run(&workers, body, durable, seconds).await,
        Part::Agent { events } => agent::run(events).await,
        Part::ColdStart { times } => cold_start::run(times).await,
        Part::Calls => whole_way::calls().await,
        Part::Memory { events } => whole_way::memory(events).await,
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = (info.lines())
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    format!("{cores} cores, {model}")
}
