//! What workers that misbehave cost the others: the latencies of healthy workers where a fifth of all workers is healthy, too,
//! and where that fifth misbehaves.

use indicatif::ProgressBar;

use super::{BODY, Plan, WARM_UP, tricks};
use crate::load::{Load, Percentiles};
use crate::one_machine::{self, register_each, worker_at};
use crate::receiver::Receiver;

const HEALTHY: usize = 16;
const BAD: usize = 4;

/// Prints what was measured.
pub(super) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<()> {
    let Plan { events, .. } = plan;
    progress.set_message("all are healthy");
    let alone = with(plan, events.div_ceil(5), false).await?;
    progress.set_message("some misbehave");
    let beside = with(plan, *events, true).await?;
    println!("p99: {:.2} times", beside.p99 / alone.p99);
    Ok(())
}

/// Prints the latencies of the healthy workers beside others.
async fn with(plan: &Plan, events: usize, misbehave: bool) -> anyhow::Result<Percentiles> {
    let (program, url) = one_machine::serve(plan.in_files).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (receiver, arrivals) = Receiver::start().await?;
    let (others, ignored) = Receiver::start().await?;
    drop(ignored);
    let others = if misbehave {
        tricks::start().await?
    } else {
        others.address
    };
    let workers = (0..HEALTHY).map(|worker| worker_at(receiver.address, worker));
    let others = (HEALTHY..HEALTHY + BAD).map(|worker| worker_at(others, worker));
    register_each(&client, &url, workers.chain(others)).await?;
    let mut load = Load {
        client,
        url: format!("{url}/webhooks/linear"),
        arrivals,
        workers: HEALTHY,
        body: BODY,
        workspaces: 1,
    };
    load.paced(plan.per_second, WARM_UP).await?;
    let (each, _) = load.paced(plan.per_second, events).await?;
    let (ms, peak_mb) = (Percentiles::of(each), program.peak_memory()?);
    program.end().await?;
    let (per_second, others) = (
        plan.per_second,
        if misbehave { "misbehaving" } else { "healthy" },
    );
    println!(
        "{events} events, {per_second} a second, to {HEALTHY} workers beside {BAD} {others}: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, \
         peak memory {peak_mb:.0} MB",
        ms.p50, ms.p95, ms.p99
    );
    Ok(ms)
}
