//! What workers that misbehave cost the others: the latencies of healthy workers where a fifth of all workers is healthy, too,
//! and where that fifth misbehaves.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use indicatif::ProgressBar;
use protocol::messages::{ChallengeResponse, Control};
use tokio::net::TcpListener;

use super::{BODY, Plan, WARM_UP};
use crate::load::{Load, Percentiles};
use crate::one_machine::{self, register_each, worker_at};
use crate::receiver::Receiver;

const HEALTHY: usize = 16;
const BAD: usize = 4;

/// Prints what was measured.
pub(super) async fn measure(plan: &Plan, progress: &ProgressBar) -> anyhow::Result<()> {
    let (alone, alone_mb) = with(plan, false, progress).await?;
    let (beside, beside_mb) = with(plan, true, progress).await?;
    let Plan {
        events, per_second, ..
    } = plan;
    println!("{events} events, {per_second} a second, to {HEALTHY} healthy workers");
    for (others, ms, peak_mb) in [
        ("healthy", alone, alone_mb),
        ("misbehaving", beside, beside_mb),
    ] {
        println!(
            "beside {BAD} {others}: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, peak memory {peak_mb:.0} MB",
            ms.p50, ms.p95, ms.p99
        );
    }
    println!("p99: {:.2} times", beside.p99 / alone.p99);
    Ok(())
}

async fn with(
    plan: &Plan,
    misbehave: bool,
    progress: &ProgressBar,
) -> anyhow::Result<(Percentiles, f64)> {
    let (program, url) = one_machine::serve(plan.in_files).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let (receiver, arrivals) = Receiver::start().await?;
    let (others, ignored) = Receiver::start().await?;
    drop(ignored);
    let others = if misbehave {
        bad().await?
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
    progress.set_message(if misbehave {
        "some misbehave"
    } else {
        "all are healthy"
    });
    let (each, _) = load.paced(plan.per_second, plan.events).await?;
    let peak_mb = program.peak_memory()?;
    program.end().await?;
    Ok((Percentiles::of(each), peak_mb))
}

/// Handlers that answer challenges, and each delivery in one of four bad ways, by their path.
async fn bad() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = axum::Router::new().fallback(misbehave);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn misbehave(uri: Uri, body: Bytes) -> Response {
    if let Ok(Control::Challenge { challenge, .. }) = serde_json::from_slice(&body) {
        return axum::Json(ChallengeResponse { challenge }).into_response();
    }
    let worker: usize = uri.path().trim_matches('/').parse().unwrap_or_default();
    match worker % BAD {
        0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        1 => std::future::pending().await,
        2 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        // A body without end.
        _ => {
            let chunk = || Ok::<_, Infallible>(Bytes::from_static(&[b' '; 1024]));
            let endless = stream::repeat_with(chunk);
            (StatusCode::BAD_REQUEST, Body::from_stream(endless)).into_response()
        }
    }
}
