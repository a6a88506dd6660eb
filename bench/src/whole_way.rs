//! Webhook POST sent → body in the worker's handler.
//!
//! Latencies are paced by the clock, not by the answers (open loop), so a stall shows in all that it delays.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use local::linear_api::LinearApi;
use local::machine::{Machine, Options};
use local::samples::Webhook;
use protocol::messages::Register;
use relay::clock::Clock;
use tokio::sync::mpsc;

use crate::receiver::{Arrival, Receiver};
use crate::relay_process::RelayProcess;

pub(crate) const SECRET: &str = "bench";
const TOKEN: &str = "lin_api_bench";
const WORKSPACE: &str = "bench";
/// Webhooks posted at once when as many as possible are.
const SIDE_BY_SIDE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    client: reqwest::Client,
    url: String,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    workers: usize,
    body: usize,
}

impl Bench {
    async fn start(url: String, workers: usize, body: usize) -> anyhow::Result<Self> {
        let (address, arrivals) = Receiver::start().await?;
        let client = reqwest::Client::new();
        register(&client, &url, address, workers).await?;
        Ok(Self {
            client,
            url,
            arrivals,
            workers,
            body,
        })
    }

    /// Posts an event now; about one of 64 issues, so that order is kept and asked for.
    fn post(
        &self,
        number: usize,
    ) -> (
        Webhook,
        impl Future<Output = anyhow::Result<Instant>> + use<>,
    ) {
        let webhook = Webhook::signed(SECRET, body(number, self.body));
        let request = webhook.request(&self.client, &format!("{}/webhooks/linear", self.url));
        let post = async move {
            let sent = Instant::now();
            let answer = request.send().await?;
            ensure!(
                answer.status() == 200,
                "the relay answered {}",
                answer.status()
            );
            answer.bytes().await?;
            Ok(sent)
        };
        (webhook, post)
    }

    async fn arrival(&mut self) -> anyhow::Result<Arrival> {
        let arrival = tokio::time::timeout(PATIENCE, self.arrivals.recv()).await;
        arrival
            .context("a delivery is missing")?
            .context("the receiver ended")
    }

    /// Posts at a fixed rate; answers the latency of each delivery and of each event's last one, in ms.
    async fn paced(
        &mut self,
        per_second: f64,
        seconds: u64,
    ) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let events = (per_second * seconds as f64) as usize;
        let began = Instant::now();
        let mut due = HashMap::new();
        let mut posts = Vec::new();
        for number in 0..events {
            let at = began + Duration::from_secs_f64(number as f64 / per_second);
            let (webhook, post) = self.post(number);
            due.insert(webhook.delivery.clone(), at);
            posts.push(tokio::spawn(async move {
                tokio::time::sleep_until(at.into()).await;
                post.await
            }));
        }
        let mut each = Vec::new();
        let mut last: HashMap<String, f64> = HashMap::new();
        for _ in 0..events * self.workers {
            let (delivery, at) = self.arrival().await?;
            let due = due.get(&delivery).context("an unknown delivery arrived")?;
            let took = at.saturating_duration_since(*due).as_secs_f64() * 1e3;
            each.push(took);
            let latest = last.entry(delivery).or_default();
            *latest = latest.max(took);
        }
        for post in posts {
            post.await??;
        }
        Ok((each, last.into_values().collect()))
    }

    /// Posts as many as possible; answers how many deliveries arrived and how long that took.
    async fn sustained(&mut self, seconds: u64) -> anyhow::Result<(usize, Duration)> {
        let began = Instant::now();
        let until = began + Duration::from_secs(seconds);
        let posted = Arc::new(AtomicUsize::new(0));
        let mut posting = Vec::new();
        for poster in 0..SIDE_BY_SIDE {
            let bench = Bench {
                client: self.client.clone(),
                url: self.url.clone(),
                arrivals: mpsc::unbounded_channel().1,
                workers: self.workers,
                body: self.body,
            };
            let posted = Arc::clone(&posted);
            posting.push(tokio::spawn(async move {
                let mut number = poster;
                while Instant::now() < until {
                    bench.post(number).1.await?;
                    posted.fetch_add(1, Ordering::Relaxed);
                    number += SIDE_BY_SIDE;
                }
                anyhow::Ok(())
            }));
        }
        let mut arrived = 0;
        while posting.iter().any(|p| !p.is_finished())
            || arrived < posted.load(Ordering::Relaxed) * self.workers
        {
            if let Ok(arrival) =
                tokio::time::timeout(Duration::from_millis(50), self.arrivals.recv()).await
            {
                arrival.context("the receiver ended")?;
                arrived += 1;
            }
            ensure!(began.elapsed() < PATIENCE * 4, "deliveries are missing");
        }
        let took = began.elapsed();
        for posting in posting {
            posting.await??;
        }
        Ok((arrived, took))
    }
}

/// A payload of about `bytes`, unlike any other.
fn body(number: usize, bytes: usize) -> String {
    let now = Clock::system().millis();
    let issue = number % 64;
    let head = format!(
        r#"{{"action":"update","type":"Issue","organizationId":"{WORKSPACE}","webhookTimestamp":{now},"data":{{"id":"issue-{issue}","number":{number},"description":""#
    );
    let text = "The consumer exits before the final flush. \\\"Only\\\" 1000 rows arrive. ";
    let fill = text.repeat(bytes.saturating_sub(head.len()) / text.len() + 1);
    let fill = &fill[..fill.len().min(bytes.saturating_sub(head.len() + 3))];
    format!("{head}{}\"}}}}", fill.trim_end_matches('\\'))
}

async fn register(
    client: &reqwest::Client,
    url: &str,
    receiver: SocketAddr,
    workers: usize,
) -> anyhow::Result<()> {
    for worker in 0..workers {
        let request = Register {
            webhook_url: Some(format!("http://{receiver}/{worker}")),
            linear_token: TOKEN.to_owned(),
            name: format!("worker-{worker}"),
            capabilities: None,
        };
        let answer = client
            .post(format!("{url}/edge/register"))
            .json(&request)
            .send()
            .await?;
        ensure!(
            answer.status() == 201,
            "registration: {}",
            answer.text().await?
        );
    }
    Ok(())
}

fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let at = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted
        .get(at.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

async fn linear() -> anyhow::Result<SocketAddr> {
    let (linear, address) = LinearApi::start().await?;
    linear.admit(TOKEN, "user", WORKSPACE);
    Ok(address)
}

pub(crate) async fn run(
    workers: &[usize],
    body: usize,
    durable: bool,
    seconds: u64,
) -> anyhow::Result<()> {
    let kept = if durable { "in files" } else { "in memory" };
    println!("whole way, {body} byte bodies, kept {kept}, {seconds} s each\n");
    println!(
        "| workers | paced events/s | p50 ms | p95 | p99 | last worker p50 | p95 | p99 | deliveries/s | CPU s per 1,000 | peak MB |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for &workers in workers {
        let relay = RelayProcess::start(linear().await?, durable).await?;
        let mut bench = Bench::start(relay.url.clone(), workers, body).await?;
        bench.paced(20.0, 1).await?;
        // A third of what the design wants sustained.
        let rate = match workers {
            0..=1 => 100.0,
            2..=10 => 50.0,
            11..=100 => 10.0,
            _ => 1.0,
        };
        let (mut each, mut last) = bench.paced(rate, seconds).await?;
        each.sort_by(f64::total_cmp);
        last.sort_by(f64::total_cmp);
        let before = relay.cpu()?;
        let (deliveries, took) = bench.sustained(seconds).await?;
        let cpu = relay.cpu()? - before;
        println!(
            "| {workers} | {rate} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} | {:.2} | {:.0} |",
            percentile(&each, 50.0),
            percentile(&each, 95.0),
            percentile(&each, 99.0),
            percentile(&last, 50.0),
            percentile(&last, 95.0),
            percentile(&last, 99.0),
            deliveries as f64 / took.as_secs_f64(),
            cpu / (deliveries as f64 / 1000.0),
            relay.peak_memory()?
        );
    }
    Ok(())
}

pub(crate) async fn memory(events: usize) -> anyhow::Result<()> {
    let relay = RelayProcess::start(linear().await?, true).await?;
    let mut bench = Bench::start(relay.url.clone(), 1, 2048).await?;
    let before = relay.peak_memory()?;
    let mut done = 0;
    while done < events {
        done += bench.sustained(5).await?.0;
    }
    println!(
        "peak memory of `edge-relay serve --data`: {before:.0} MB before, {:.0} MB after {done} events",
        relay.peak_memory()?
    );
    Ok(())
}

/// AWS calls by action, for one event at a time.
pub(crate) async fn calls() -> anyhow::Result<()> {
    const EVENTS: usize = 50;
    println!("| workers | body | calls per event | of them |");
    println!("|---:|---:|---:|---|");
    for (workers, body) in [
        (1, 2048),
        (10, 2048),
        (100, 2048),
        (1, 20_480),
        (1, 204_800),
        (10, 204_800),
    ] {
        let machine = in_process(linear().await?).await?;
        let mut bench = Bench::start(machine.url(), workers, body).await?;
        machine.calls.take();
        for number in 0..EVENTS {
            bench.post(number).1.await?;
            for _ in 0..workers {
                bench.arrival().await?;
            }
        }
        let calls = machine.calls.clone();
        machine.stop().await;
        let calls = calls.take();
        let total: u64 = calls.values().sum();
        let of: Vec<_> = (calls.iter())
            .map(|(action, count)| format!("{action} {:.2}", *count as f64 / EVENTS as f64))
            .collect();
        println!(
            "| {workers} | {body} | {:.2} | {} |",
            total as f64 / EVENTS as f64,
            of.join(", ")
        );
    }
    Ok(())
}

async fn in_process(linear: SocketAddr) -> anyhow::Result<Machine> {
    let options = Options::read(&|name| match name {
        "LINEAR_WEBHOOK_SECRETS" => Some(SECRET.to_owned()),
        "LINEAR_API_URL" => Some(format!("http://{linear}/")),
        "REGISTRATIONS_PER_MINUTE" => Some("100000".to_owned()),
        _ => None,
    })?;
    Machine::start(options).await
}
