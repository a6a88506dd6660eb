//! How long `edge-relay serve --data` takes to start where many events wait for a worker.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use protocol::messages::Register;
use tokio::sync::mpsc;

use super::{BODY, Plan};
use crate::load::Load;
use crate::one_machine::{register_each, serve_from, worker_at};

const STARTS: usize = 5;
/// Events come so many times as fast as in the other measurements: they are for one worker, and are not delivered.
const FASTER: f64 = 4.0;

/// Prints what was measured.
pub(super) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<()> {
    progress.set_message("a start with many events");
    let data = tempfile::tempdir()?;
    fill(data.path(), plan).await?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let began = Instant::now();
        let (program, _) = serve_from(Some(data.path()), 1).await?;
        times.push(began.elapsed());
        program.end().await?;
    }
    let first = milliseconds(times.remove(0));
    times.sort();
    println!(
        "start with {} events in {:.0} MB of files: {first:.0} ms after the process was killed, {:.0} ms later",
        plan.events,
        size(data.path())? as f64 / 1e6,
        milliseconds(times[times.len() / 2]),
    );
    Ok(())
}

/// Has events wait in the files.
async fn fill(data: &Path, plan: &Plan) -> anyhow::Result<()> {
    let (program, url) = serve_from(Some(data), 1).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let worker = Register {
        webhook_url: None,
        ..worker_at(nowhere, 0)
    };
    register_each(&client, &url, [worker].into_iter()).await?;
    let (_sender, arrivals) = mpsc::unbounded_channel();
    let mut load = Load {
        client,
        url: format!("{url}/webhooks/linear"),
        arrivals,
        // Nothing arrives.
        workers: 0,
        body: BODY,
        workspaces: 1,
    };
    load.paced(plan.per_second * FASTER, plan.events).await?;
    // As after a crash: there is a write-ahead log to be read.
    program.end().await
}

fn size(directory: &Path) -> anyhow::Result<u64> {
    let sizes = fs::read_dir(directory)?.map(|file| Ok(file?.metadata()?.len()));
    sizes.sum()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
