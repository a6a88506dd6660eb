//! CPU time and allocations of the functions, for one event: step by step with the SDK's calls taken out, beside the
//! bare HMAC, which is the limit; and the whole handlers, their calls answered at once.
//!
//! CPU time of the thread, by criterion: what else the machine does counts little.

mod handlers;
mod steps;

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use allocation_counter::AllocationInfo;
use anyhow::Context as _;
use criterion::Criterion;
use indicatif::ProgressBar;
use relay::queue::BATCH_SIZE;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::logs;

pub(crate) use handlers::handle;
use handlers::{deliver_handler, ingest_handler};

/// The sizes of bodies.
const SMALL: usize = 2_048;
const MIDDLE: usize = 20_480;
const LARGE: usize = 204_800;

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FunctionCosts {
    pub(crate) rows: Vec<StepCost>,
}

/// One step for one event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StepCost {
    pub(crate) function: String,
    pub(crate) step: String,
    pub(crate) body: usize,
    /// How many workers want the event, or how many messages the batch has.
    pub(crate) workers: usize,
    /// CPU time, µs.
    pub(crate) micros: f64,
    pub(crate) allocations: u64,
    pub(crate) allocated: u64,
}

/// The rows of the whole handlers.
pub(crate) const HANDLER: &str = "the whole handler, every call answered at once";
/// The rows of all steps together.
const ALL: &str = "all of these";

impl FunctionCosts {
    /// CPU time of the whole handler, µs: for the nearest number of workers that was measured.
    pub(crate) fn handler(&self, function: &str, body: usize, workers: usize) -> Option<f64> {
        (self.rows.iter())
            .filter(|row| row.function == function && row.step == HANDLER && row.body == body)
            .min_by_key(|row| row.workers.abs_diff(workers))
            .map(|row| row.micros)
    }
}

/// CPU time that this thread used so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// What one run allocates on this thread.
fn allocated<T>(run: &mut impl FnMut() -> T) -> AllocationInfo {
    allocation_counter::measure(|| drop(black_box(run())))
}

/// Measures steps one after the other.
struct Bench<'a> {
    criterion: Criterion,
    progress: &'a ProgressBar,
    estimates: tempfile::TempDir,
    rows: Vec<StepCost>,
}

impl<'a> Bench<'a> {
    fn new(quick: bool, progress: &'a ProgressBar) -> anyhow::Result<Self> {
        let estimates = tempfile::tempdir()?;
        let (warm_up, measured) = if quick { (10, 50) } else { (300, 2_000) };
        let criterion = Criterion::default()
            .without_plots()
            .output_directory(estimates.path())
            .sample_size(if quick { 10 } else { 50 })
            .nresamples(1_001)
            .warm_up_time(Duration::from_millis(warm_up))
            .measurement_time(Duration::from_millis(measured));
        Ok(Self {
            criterion,
            progress,
            estimates,
            rows: Vec::new(),
        })
    }

    fn step<T>(
        &mut self,
        (function, step): (&str, &str),
        (body, workers): (usize, usize),
        mut run: impl FnMut() -> T,
    ) -> anyhow::Result<()> {
        let allocated = allocated(&mut run);
        let name = format!("{}", self.rows.len());
        self.progress.set_message(format!("{function}: {step}"));
        self.criterion.bench_function(&name, |bencher| {
            bencher.iter_custom(|times| {
                let began = thread_time();
                for _ in 0..times {
                    drop(black_box(run()));
                }
                thread_time() - began
            });
        });
        self.progress.inc(1);
        self.rows.push(StepCost {
            function: function.to_owned(),
            step: step.to_owned(),
            body,
            workers,
            micros: median(self.estimates.path(), &name)? / 1e3,
            allocations: allocated.count_total,
            allocated: allocated.bytes_total,
        });
        Ok(())
    }
}

/// In nanoseconds, as criterion wrote it down.
fn median(directory: &Path, name: &str) -> anyhow::Result<f64> {
    let file = directory.join(name).join("new/estimates.json");
    let estimates: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    (estimates["median"]["point_estimate"].as_f64()).context("criterion wrote no median")
}

/// How often the allocations of a handler are counted.
const RUNS: usize = 10;

/// What a whole handler allocates for one event of [`SMALL`] bytes.
#[derive(Debug)]
pub(crate) struct Allocations {
    pub(crate) function: &'static str,
    /// How many workers want the event, or how many messages the batch has.
    pub(crate) workers: usize,
    pub(crate) allocations: u64,
    pub(crate) allocated: u64,
}

impl Allocations {
    /// The least of several runs: what a table that grows, or an answer that comes in pieces, adds to some of them is not
    /// the event's.
    fn least(function: &'static str, workers: usize, mut handle: impl FnMut() -> bool) -> Self {
        let mut least = Self {
            function,
            workers,
            allocations: u64::MAX,
            allocated: u64::MAX,
        };
        for _ in 0..RUNS {
            let run = allocated(&mut handle);
            least.allocations = least.allocations.min(run.count_total);
            least.allocated = least.allocated.min(run.bytes_total);
        }
        least
    }
}

/// Counts the allocations of the whole handlers; takes its thread for itself.
pub(crate) fn allocations() -> anyhow::Result<Vec<Allocations>> {
    logs::count();
    let mut found = Vec::new();
    for workers in [1, 10, 100] {
        let handler = ingest_handler(SMALL, workers)?;
        found.push(Allocations::least("ingest", workers, handler));
    }
    for messages in [1, BATCH_SIZE] {
        let handler = deliver_handler(SMALL, messages)?;
        found.push(Allocations::least("deliver", messages, handler));
    }
    Ok(found)
}

/// Does work on a thread on which no runtime is, and waits for it.
pub(crate) fn without_runtime<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let done = scope.spawn(work).join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Each size with each number.
fn each(sizes: &[usize], numbers: &[usize]) -> Vec<(usize, usize)> {
    let with_all = |size: &usize| {
        let size = *size;
        numbers.iter().map(move |number| (size, *number))
    };
    sizes.iter().flat_map(with_all).collect()
}

/// Measures everything; takes its thread for itself.
pub(crate) fn measure(quick: bool, progress: &ProgressBar) -> anyhow::Result<FunctionCosts> {
    logs::count();
    let mut bench = Bench::new(quick, progress)?;
    for size in [SMALL, MIDDLE] {
        steps::ingest(&mut bench, size)?;
    }
    let all = [SMALL, MIDDLE, LARGE];
    let (fanned_out, batches) = if quick {
        (
            vec![(SMALL, 1), (SMALL, 10), (LARGE, 1)],
            vec![(SMALL, 1), (SMALL, BATCH_SIZE)],
        )
    } else {
        let mut fanned_out = each(&all, &[1, 10, 100]);
        fanned_out.push((SMALL, 1_000));
        (fanned_out, each(&all, &[1, BATCH_SIZE]))
    };
    for (size, workers) in fanned_out {
        let handler = ingest_handler(size, workers)?;
        bench.step(("ingest", HANDLER), (size, workers), handler)?;
    }
    for size in [SMALL, MIDDLE] {
        steps::deliver(&mut bench, size)?;
    }
    for (size, messages) in batches {
        let handler = deliver_handler(size, messages)?;
        bench.step(("deliver", HANDLER), (size, messages), handler)?;
    }
    Ok(FunctionCosts { rows: bench.rows })
}
