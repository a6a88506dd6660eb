//! How long a webhook waits for its answer where it goes to many workers: Linear gives up after five seconds
//! (<https://linear.app/developers/webhooks>).

use std::time::Duration;

use anyhow::bail;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::load::Percentiles;
use crate::one_machine::{self, Busy};
use crate::payload::WORKSPACE;

const BODY: usize = 2_048;

/// The answers of `ingest` to webhooks that come one at a time, each after the deliveries of the one before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answers {
    pub(crate) workers: usize,
    pub(crate) events: usize,
    pub(crate) answered: Percentiles,
    /// In ms.
    pub(crate) longest: f64,
}

/// Measures with so many workers in one workspace, in memory.
pub(crate) async fn measure(quick: bool, progress: &ProgressBar) -> anyhow::Result<Vec<Answers>> {
    let (fan_outs, events): (&[usize], _) = if quick {
        (&[100], 3)
    } else {
        (&[100, 1_000, 10_000], 20)
    };
    progress.set_length((fan_outs.len() * events) as u64);
    let mut rows = Vec::new();
    for &workers in fan_outs {
        progress.set_message(format!("{workers} workers"));
        rows.push(answers(workers, events, progress).await?);
    }
    Ok(rows)
}

async fn answers(workers: usize, events: usize, progress: &ProgressBar) -> anyhow::Result<Answers> {
    let options = one_machine::options().await?;
    let Busy {
        local,
        workers: registered,
        mut load,
        ..
    } = Busy::start(options, 1, BODY).await?;
    let [registered] = registered.as_slice() else {
        bail!("one worker was to be registered");
    };
    let id = registered.worker.rsplit('/').next().unwrap_or_default();
    (local.copy_worker([WORKSPACE, id], workers, |_, item| item)).await?;
    load.workers = workers;
    load.one(0).await?;
    let mut times = Vec::new();
    for number in 1..=events {
        let answered: Duration = load.one(number).await?;
        times.push(answered.as_secs_f64() * 1e3);
        progress.inc(1);
    }
    local.stop().await;
    Ok(Answers {
        workers,
        events,
        longest: times.iter().copied().fold(0.0, f64::max),
        answered: Percentiles::of(times),
    })
}
