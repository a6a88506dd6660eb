//! Webhooks posted by the clock or as fast as they are delivered, and what came of them.
//!
//! Invariant: a latency counts from when its webhook was due, not from when it could be sent (open loop): a stall
//! shows in all that it delays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use local::samples::Webhook;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::payload::{body_of, delivery_id, workspace};
use crate::receiver::Arrival;

pub(crate) const SECRET: &str = "the bench's secret";
/// How long a delivery or a response may take before the measurement fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The wait before a webhook that was answered 503 is posted again.
const REPOST_DELAY: Duration = Duration::from_millis(100);

/// Posts webhooks to a system under load, and sees them arrive.
pub(crate) struct Load {
    pub(crate) client: reqwest::Client,
    /// Where webhooks go.
    pub(crate) url: String,
    pub(crate) arrivals: mpsc::UnboundedReceiver<Arrival>,
    /// How many get each event.
    pub(crate) workers: usize,
    pub(crate) body: usize,
    /// Events come from so many workspaces in turn.
    pub(crate) workspaces: usize,
}

/// Of sorted latencies, in ms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    pub(crate) fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self {
            p50: percentile(&times, 50.0),
            p95: percentile(&times, 95.0),
            p99: percentile(&times, 99.0),
        }
    }
}

/// The smallest value that so many percent do not exceed (nearest rank).
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    let at = rank.saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// The webhook of an event. The body contains its delivery id, too, for receivers that get no headers.
pub(crate) fn webhook(number: usize, size: usize, workspaces: usize) -> anyhow::Result<Webhook> {
    let body = body_of(&workspace(number % workspaces), number, size);
    let webhook = Webhook::signed(SECRET, body);
    let delivery = delivery_id(&webhook.body).context("the payload has no delivery id")?;
    Ok(Webhook {
        delivery,
        ..webhook
    })
}

impl Load {
    async fn arrival(&mut self) -> anyhow::Result<Arrival> {
        let arrival = tokio::time::timeout(PATIENCE, self.arrivals.recv()).await;
        arrival
            .context("a delivery is missing")?
            .context("the receiver ended")
    }

    /// Posts an event, and waits until every worker has it. Returns after how long it was answered.
    pub(crate) async fn one(&mut self, number: usize) -> anyhow::Result<Duration> {
        let webhook = webhook(number, self.body, self.workspaces)?;
        let began = Instant::now();
        post(&self.client, &self.url, webhook).await?;
        let answered = began.elapsed();
        for _ in 0..self.workers {
            self.arrival().await?;
        }
        Ok(answered)
    }

    /// Posts at a fixed rate; answers the latency of each delivery and of each event's last one, in ms.
    pub(crate) async fn paced(
        &mut self,
        per_second: f64,
        events: usize,
    ) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let webhooks = (0..events)
            .map(|number| webhook(number, self.body, self.workspaces))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let began = Instant::now() + Duration::from_millis(50);
        let due: HashMap<_, _> = (webhooks.iter().enumerate())
            .map(|(number, webhook)| {
                let at = began + Duration::from_secs_f64(number as f64 / per_second);
                (webhook.delivery.clone(), at)
            })
            .collect();
        let posting = {
            let (client, url, due) = (self.client.clone(), self.url.clone(), due.clone());
            let runtime = Handle::current();
            // The runtime's timers are true to a millisecond, a thread's sleep to a tenth of that.
            std::thread::spawn(move || {
                let mut posts = JoinSet::new();
                for webhook in webhooks {
                    if let Some(at) = due.get(&webhook.delivery) {
                        std::thread::sleep(at.saturating_duration_since(Instant::now()));
                    }
                    let (client, url) = (client.clone(), url.clone());
                    posts.spawn_on(async move { post(&client, &url, webhook).await }, &runtime);
                }
                posts
            })
        };
        let mut each = Vec::with_capacity(events * self.workers);
        let mut last: HashMap<String, f64> = HashMap::new();
        for _ in 0..events * self.workers {
            let (delivery, at) = self.arrival().await?;
            let due = due.get(&delivery).context("an unknown delivery arrived")?;
            let took_ms = at.saturating_duration_since(*due).as_secs_f64() * 1e3;
            each.push(took_ms);
            let latest = last.entry(delivery).or_default();
            *latest = latest.max(took_ms);
        }
        let mut posts = posting.join().ok().context("the poster panicked")?;
        while let Some(posted) = posts.join_next().await {
            posted??;
        }
        Ok((each, last.into_values().collect()))
    }

    /// Posts for so long, `outstanding` events at once; answers how many deliveries arrived and how long that took.
    pub(crate) async fn sustained(
        &mut self,
        outstanding: usize,
        during: Duration,
    ) -> anyhow::Result<(usize, Duration)> {
        let began = Instant::now();
        let free = Arc::new(Semaphore::new(outstanding));
        let mut posting = {
            let (client, url) = (self.client.clone(), self.url.clone());
            let (body_size, workspaces) = (self.body, self.workspaces);
            let free = Arc::clone(&free);
            tokio::spawn(async move {
                let mut posts = JoinSet::new();
                let mut events = 0;
                while began.elapsed() < during {
                    free.acquire().await?.forget();
                    let webhook = webhook(events, body_size, workspaces)?;
                    let (client, url) = (client.clone(), url.clone());
                    posts.spawn(async move { post(&client, &url, webhook).await });
                    events += 1;
                    while let Some(posted) = posts.try_join_next() {
                        posted??;
                    }
                }
                while let Some(posted) = posts.join_next().await {
                    posted??;
                }
                anyhow::Ok(events)
            })
        };
        let mut missing: HashMap<String, usize> = HashMap::new();
        let mut arrived = 0;
        let mut events = None;
        while events.is_none_or(|events| arrived < events * self.workers) {
            tokio::select! {
                posted = &mut posting, if events.is_none() => events = Some(posted??),
                arrival = self.arrivals.recv() => {
                    let (delivery, _) = arrival.context("the receiver ended")?;
                    arrived += 1;
                    let left = missing.entry(delivery.clone()).or_insert(self.workers);
                    *left -= 1;
                    if *left == 0 {
                        missing.remove(&delivery);
                        free.add_permits(1);
                    }
                }
                () = tokio::time::sleep(PATIENCE) => anyhow::bail!("deliveries are missing"),
            }
        }
        Ok((arrived, began.elapsed()))
    }
}

/// Posts a webhook, and again while the system answers 503, as Linear does, but sooner.
async fn post(client: &reqwest::Client, url: &str, webhook: Webhook) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answer = webhook.request(client, url).send().await?;
        let status = answer.status();
        answer.bytes().await?;
        if status.is_success() {
            return Ok(());
        }
        let is_full = status == StatusCode::SERVICE_UNAVAILABLE && began.elapsed() < PATIENCE;
        ensure!(is_full, "a webhook was answered {status}");
        tokio::time::sleep(REPOST_DELAY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_value_that_so_many_do_not_exceed() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let of = Percentiles::of(hundred);
        assert_eq!((of.p50, of.p95, of.p99), (50.0, 95.0, 99.0));
        let of = Percentiles::of(vec![7.0]);
        assert_eq!((of.p50, of.p95, of.p99), (7.0, 7.0, 7.0));
        assert!(Percentiles::of(Vec::new()).p50.is_nan());
    }
}
