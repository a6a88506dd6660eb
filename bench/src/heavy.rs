//! What is heavy: workers that misbehave, many workers of one workspace, many workspaces, and many events that wait at a start. It
//! prints latencies, memory and times, and fails if workers that misbehave delay the others too much.

mod bad_workers;
mod start;
mod tricks;

use anyhow::ensure;
use indicatif::ProgressBar;
use protocol::messages::Register;

use crate::load::{Load, Percentiles};
use crate::one_machine::{self, register_each, token, worker_at};
use crate::receiver::Receiver;

const BODY: usize = 2_048;
/// By how much workers that misbehave may raise the p99 of the others.
const MOST_TIMES: f64 = 2.0;
/// With fewer events, a few slow ones decide the p99.
const JUDGED_FROM: usize = 50_000;
/// Connections and caches are there after so many events.
const WARM_UP: usize = 20;

/// How much is posted.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Plan {
    /// Events with 20 workers; a fifth of them if none misbehaves, a 500th with 1,000 workers, a fifth with 10,000 workspaces
    #[arg(long, default_value_t = 100_000)]
    events: usize,
    /// Events a second; a 25th with 1,000 workers
    #[arg(long, default_value_t = 50.0)]
    per_second: f64,
    /// Keep the queues and the table in files
    #[arg(long)]
    in_files: bool,
}

/// Workers with the same events, and the workspaces that these come from.
struct Crowd {
    workspaces: usize,
    /// Of each workspace.
    workers: usize,
    events: usize,
    per_second: f64,
}

/// Prints what was measured.
pub(crate) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<()> {
    let times = bad_workers::measure(plan, progress).await?;
    let one_workspace = Crowd {
        workspaces: 1,
        workers: 1_000,
        events: plan.events.div_ceil(500),
        per_second: plan.per_second / 25.0,
    };
    let many_workspaces = Crowd {
        workspaces: 10_000,
        workers: 1,
        events: plan.events.div_ceil(5),
        per_second: plan.per_second,
    };
    for crowd in [one_workspace, many_workspaces] {
        crowd.measure(plan.in_files, progress).await?;
    }
    start::measure(plan, progress).await?;
    ensure!(
        times <= MOST_TIMES || plan.events < JUDGED_FROM,
        "workers that misbehave delay the others: their p99 is {times:.2} times as long, and may be {MOST_TIMES}"
    );
    Ok(())
}

impl Crowd {
    async fn measure(&self, in_files: bool, progress: &ProgressBar) -> anyhow::Result<()> {
        let Self {
            workspaces,
            workers,
            events,
            per_second,
        } = *self;
        progress.set_message(format!(
            "{workers} workers in each of {workspaces} workspaces"
        ));
        let (program, url) = one_machine::serve_workspaces(in_files, workspaces).await?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let (receiver, arrivals) = Receiver::start().await?;
        let of_each = (0..workspaces).flat_map(|workspace| {
            (0..workers).map(move |worker| Register {
                linear_token: token(workspace),
                ..worker_at(receiver.address, worker)
            })
        });
        register_each(&client, &url, of_each).await?;
        let registered_mb = program.peak_memory()?;
        let mut load = Load {
            client,
            url: format!("{url}/webhooks/linear"),
            arrivals,
            workers,
            body: BODY,
            workspaces,
        };
        load.paced(per_second, WARM_UP).await?;
        let (each, _) = load.paced(per_second, events).await?;
        let (ms, peak_mb) = (Percentiles::of(each), program.peak_memory()?);
        program.end().await?;
        println!(
            "{workers} workers in each of {workspaces} workspaces, {events} events, {per_second} a second: p50 {:.1} ms, p95 {:.1} ms, \
             p99 {:.1} ms, peak memory {registered_mb:.0} MB before and {peak_mb:.0} MB after",
            ms.p50, ms.p95, ms.p99
        );
        Ok(())
    }
}
