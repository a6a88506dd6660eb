//! Other webhook senders beside edge-relay, in one run, each over its [`Adapter`].
//!
//! Invariant: every system is posted to, received from and measured by the code of [`whole_way`], and takes its turn
//! within each pass, so that a change of the machine's load concerns all of them.

use anyhow::{Context as _, ensure};
use clap::Args;
use indicatif::ProgressBar;
use minijinja::context;

use crate::adapter::Adapter;
use crate::load::{Load, Percentiles};
use crate::receiver::Receiver;
use crate::taken::Part;
use crate::whole_way::{self, Row, Running, System};
use crate::{pages, ratios};

/// What is compared.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A sender: its name, and the base URL of its adapter; may be repeated
    #[arg(long = "peer", value_name = "NAME=URL", value_parser = Adapter::parse, required = true)]
    peers: Vec<Adapter>,
    /// With so many workers; 1,10,100 if not given
    #[arg(long, value_delimiter = ',')]
    workers: Option<Vec<usize>>,
    /// Bodies of so many bytes; 2048 if not given
    #[arg(long, value_delimiter = ',')]
    bodies: Option<Vec<usize>>,
    /// How often everything is measured; each figure is a median; 3 times if not given
    #[arg(long)]
    passes: Option<usize>,
    /// How long each measurement takes; 5 if not given
    #[arg(long)]
    seconds: Option<u64>,
}

/// What is measured of whom.
#[derive(Debug)]
pub(crate) struct Plan {
    peers: Vec<Adapter>,
    workers: Vec<usize>,
    bodies: Vec<usize>,
    pub(crate) passes: usize,
    seconds: u64,
}

impl Options {
    /// What these options ask for; `quick` changes the defaults.
    pub(crate) fn plan(self, quick: bool) -> anyhow::Result<Plan> {
        for peer in &self.peers {
            let is_own = System::of(&peer.name).is_some();
            ensure!(!is_own, "`{}` is the name of another system", peer.name);
        }
        let workers = if quick { vec![1, 10] } else { vec![1, 10, 100] };
        let plan = Plan {
            peers: self.peers,
            workers: self.workers.unwrap_or(workers),
            bodies: self.bodies.unwrap_or_else(|| vec![2_048]),
            passes: self.passes.unwrap_or(if quick { 1 } else { 3 }),
            seconds: self.seconds.unwrap_or(if quick { 1 } else { 5 }),
        };
        ensure!(plan.passes > 0, "at least one pass is needed");
        ensure!(!plan.workers.contains(&0), "at least one worker is needed");
        Ok(plan)
    }
}

/// A system that is compared.
enum Compared<'a> {
    Relay(System),
    Peer(&'a Adapter),
}

impl Compared<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Relay(system) => system.key(),
            Self::Peer(adapter) => &adapter.name,
        }
    }

    async fn start(&self, workers: usize, body: usize) -> anyhow::Result<Running> {
        match self {
            Self::Relay(system) => whole_way::start(*system, workers, body).await,
            Self::Peer(adapter) => start(adapter, workers, body).await,
        }
    }
}

/// Measures every combination; each figure is the median of all passes.
pub(crate) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<Vec<Row>> {
    // A wrong URL is an error now, not after minutes.
    remove_receivers(&plan.peers).await?;
    let relays = [System::RelayInMemory, System::RelayInFiles].map(Compared::Relay);
    let peers = plan.peers.iter().map(Compared::Peer);
    let systems: Vec<_> = relays.into_iter().chain(peers).collect();
    let rows = systems.len() * plan.workers.len() * plan.bodies.len();
    progress.set_length((rows * plan.passes) as u64);
    let mut medians = Vec::new();
    for &body in &plan.bodies {
        for &workers in &plan.workers {
            let mut measured = vec![Vec::new(); systems.len()];
            for _ in 0..plan.passes {
                for (system, rows) in systems.iter().zip(&mut measured) {
                    let name = system.name();
                    progress.set_message(format!("{name}, {workers} workers, {body} bytes"));
                    let running = system.start(workers, body).await?;
                    rows.push(whole_way::row(name, running, plan.seconds).await?);
                    progress.inc(1);
                }
            }
            for rows in &measured {
                medians.push(median(rows).context("no pass was measured")?);
            }
        }
    }
    remove_receivers(&plan.peers).await?;
    Ok(medians)
}

/// The page about what was measured.
pub(crate) fn page(compared: &Part<Vec<Row>>, passes: usize) -> anyhow::Result<String> {
    let context = context! {
        compared => compared.context(),
        ratios => ratios::of(&compared.found),
        passes,
    };
    pages::render("compare", context)
}

async fn remove_receivers(peers: &[Adapter]) -> anyhow::Result<()> {
    let client = whole_way::client()?;
    for peer in peers {
        peer.send_to(&client, Vec::new()).await?;
    }
    Ok(())
}

/// Makes so many workers the receivers of a sender.
async fn start(adapter: &Adapter, workers: usize, body: usize) -> anyhow::Result<Running> {
    let client = whole_way::client()?;
    let (receiver, arrivals) = Receiver::start().await?;
    let address = receiver.address;
    let urls = (0..workers).map(|worker| format!("http://{address}/{worker}"));
    adapter.send_to(&client, urls.collect()).await?;
    let pids = adapter.pids(&client).await?;
    let load = Load {
        client,
        url: format!("{}/events", adapter.url),
        arrivals,
        workers,
        body,
        workspaces: 1,
    };
    Ok(Running {
        load,
        pids,
        program: None,
    })
}

/// The median of each figure of one system; a figure that was not always measured has none.
fn median(rows: &[Row]) -> Option<Row> {
    let of = |figure: fn(&Row) -> f64| Percentiles::of(rows.iter().map(figure).collect()).p50;
    let of_measured = |figure: fn(&Row) -> Option<f64>| {
        let figures: Option<Vec<f64>> = rows.iter().map(figure).collect();
        figures.map(|figures| Percentiles::of(figures).p50)
    };
    let first = rows.first()?;
    Some(Row {
        each_ms: Percentiles {
            p50: of(|row| row.each_ms.p50),
            p95: of(|row| row.each_ms.p95),
            p99: of(|row| row.each_ms.p99),
        },
        last_ms: Percentiles {
            p50: of(|row| row.last_ms.p50),
            p95: of(|row| row.last_ms.p95),
            p99: of(|row| row.last_ms.p99),
        },
        sustained: of(|row| row.sustained),
        cpu_seconds: of_measured(|row| row.cpu_seconds),
        bench_cpu_seconds: of(|row| row.bench_cpu_seconds),
        memory: of_measured(|row| row.memory),
        ..first.clone()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::routing::{post, put};
    use axum::{Json, Router};
    use serde_json::Value;
    use tokio::net::TcpListener;

    use super::*;
    use crate::adapter::Receivers;
    use crate::taken::Taken;

    #[derive(Clone)]
    struct Rewriter {
        client: reqwest::Client,
        urls: Arc<Mutex<Vec<String>>>,
    }

    async fn replace(
        State(rewriter): State<Rewriter>,
        Json(receivers): Json<Receivers>,
    ) -> StatusCode {
        *rewriter.urls.lock().unwrap() = receivers.urls;
        StatusCode::NO_CONTENT
    }

    async fn accept(State(rewriter): State<Rewriter>, Json(event): Json<Value>) -> StatusCode {
        let urls = rewriter.urls.lock().unwrap().clone();
        for url in urls {
            let request = rewriter.client.post(url).json(&event);
            tokio::spawn(async move { request.send().await });
        }
        StatusCode::ACCEPTED
    }

    /// A sender that serialises bodies anew, passes no headers on, and does not name its processes.
    async fn rewriter() -> Adapter {
        let rewriter = Rewriter {
            client: whole_way::client().unwrap(),
            urls: Arc::default(),
        };
        let router = Router::new()
            .route("/receivers", put(replace))
            .route("/events", post(accept))
            .with_state(rewriter);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Adapter::parse(&format!("rewriter=http://{address}")).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_sender_that_passes_no_headers_on_is_measured_by_its_bodies() {
        let adapter = rewriter().await;
        let measured = async {
            let running = start(&adapter, 2, 2_048).await?;
            let row = whole_way::row(&adapter.name, running, 1).await?;
            remove_receivers(std::slice::from_ref(&adapter)).await?;
            anyhow::Ok(row)
        };
        let row = tokio::time::timeout(Duration::from_secs(120), measured).await;
        let row = row.unwrap().unwrap();
        assert_eq!(
            (&*row.system, row.workers, row.body),
            ("rewriter", 2, 2_048)
        );
        assert!(row.sustained > 0.0, "{row:?}");
        assert_eq!((row.cpu_seconds, row.memory), (None, None));
    }

    #[test]
    fn each_figure_is_the_median_of_all_passes() {
        let rows = [
            Row::example("a", 30.0, Some(1.0), 9.0),
            Row::example("a", 10.0, Some(5.0), 7.0),
            Row::example("a", 20.0, Some(3.0), 8.0),
        ];
        let row = median(&rows).unwrap();
        assert_eq!((row.sustained, row.cpu_seconds), (20.0, Some(3.0)));
        assert_eq!((row.each_ms.p99, row.last_ms.p50), (8.0, 8.0));
        let rows = [rows[0].clone(), Row::example("a", 10.0, None, 7.0)];
        assert_eq!(median(&rows).unwrap().cpu_seconds, None);
        assert!(median(&[]).is_none());
    }

    #[test]
    fn the_page_has_the_ratios_before_the_figures() {
        let compared = Part {
            taken: Taken::now(),
            found: vec![
                Row::example("relay-in-memory", 1_000.0, Some(0.5), 2.0),
                Row::example("svix", 500.0, None, 6.0),
            ],
        };
        let page = page(&compared, 3).unwrap();
        let ratios = page.find("| 10 | svix | 2.0 times |  | 3.0 times | 3.0 times | 3.0 times |");
        let figures = page.find("| 10 | svix | 50 | 6.00 |");
        assert!(
            ratios.unwrap() < figures.unwrap() && page.contains(&compared.taken.machine),
            "{page}"
        );
    }

    #[test]
    fn a_peer_cannot_have_the_name_of_another_system() {
        let options = |peer: &str| Options {
            peers: vec![Adapter::parse(peer).unwrap()],
            workers: None,
            bodies: None,
            passes: None,
            seconds: None,
        };
        assert!(options("hub=http://127.0.0.1:9").plan(true).is_err());
        let plan = options("svix=http://127.0.0.1:9").plan(false).unwrap();
        assert_eq!((plan.workers, plan.passes), (vec![1, 10, 100], 3));
    }
}
