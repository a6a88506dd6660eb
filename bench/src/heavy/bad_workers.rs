//! What workers that misbehave cost the others: the latencies of healthy workers where a fifth of all workers is healthy, too,
//! and where that fifth misbehaves.

use anyhow::ensure;
use indicatif::ProgressBar;
use protocol::messages::Register;

use super::tricks::Handler;
use super::{BODY, Plan, WARM_UP};
use crate::load::{Load, Percentiles};
use crate::one_machine::{self, register_each, worker_at};
use crate::receiver::Receiver;

const HEALTHY: usize = 16;
const BAD: usize = 4;

/// Prints what was measured. Returns how many times as long the p99 of the healthy workers is beside those that misbehave.
pub(super) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<f64> {
    let Plan { events, .. } = plan;
    progress.set_message("all are healthy");
    let (others, ignored) = Receiver::start().await?;
    drop(ignored);
    let healthy = (HEALTHY..HEALTHY + BAD).map(|worker| worker_at(others.address, worker));
    let alone = beside(plan, events.div_ceil(5), healthy).await?;
    println!("  beside {BAD} others that are healthy: {alone}");
    progress.set_message("some misbehave");
    let handlers = [Handler::start(false).await?, Handler::start(true).await?];
    // The relay delivers what waits for them. Half of them are expected to show with each answer that it is theirs, and do not.
    let bad = (0..BAD).map(|at| Register {
        pulls: false,
        receipts: at >= BAD / 2,
        ..worker_at(handlers[at % 2].address, HEALTHY + at)
    });
    let beside = beside(plan, *events, bad).await?;
    println!("  beside {BAD} others that misbehave: {beside}");
    let [bad, mixed] = handlers.map(|handler| handler.answered());
    let times = beside.ms.p99 / alone.ms.p99;
    println!(
        "  p99: {times:.2} times; the two that always misbehave were tried {bad} times, the two that do so every second time {mixed} times"
    );
    ensure!(bad > 0 && mixed > 0, "no worker has misbehaved");
    Ok(times)
}

/// What healthy workers have of the events, and what that takes.
struct Taken {
    ms: Percentiles,
    peak_mb: f64,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Percentiles { p50, p95, p99 } = self.ms;
        let mb = self.peak_mb;
        write!(
            f,
            "p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, peak memory {mb:.0} MB"
        )
    }
}

/// Posts events to healthy workers beside these others.
async fn beside(
    plan: &Plan,
    events: usize,
    others: impl Iterator<Item = Register>,
) -> anyhow::Result<Taken> {
    let (program, url) = one_machine::serve(plan.in_files).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (receiver, arrivals) = Receiver::start().await?;
    let workers = (0..HEALTHY).map(|worker| worker_at(receiver.address, worker));
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
    let taken = Taken {
        ms: Percentiles::of(each),
        peak_mb: program.peak_memory()?,
    };
    program.end().await?;
    println!(
        "{events} events, {} a second, to {HEALTHY} healthy workers",
        plan.per_second
    );
    Ok(taken)
}
