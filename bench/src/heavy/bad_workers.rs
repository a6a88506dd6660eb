//! What workers that misbehave cost the others: the latencies of healthy workers where a fifth of all workers is healthy, too,
//! and where that fifth misbehaves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Redirect, Response};
use futures::{Stream, StreamExt as _, stream};
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

/// Handlers that answer challenges, and deliveries in one bad way after another.
async fn bad() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let count = Arc::new(AtomicUsize::new(0));
    let router = axum::Router::new().fallback(move |body| {
        let count = Arc::clone(&count);
        async move { misbehave(&count, body).await }
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn misbehave(count: &AtomicUsize, body: Bytes) -> Response {
    if let Ok(Control::Challenge { challenge, .. }) = serde_json::from_slice(&body) {
        return axum::Json(ChallengeResponse { challenge }).into_response();
    }
    let chunk = || Ok(Bytes::from_static(&[b' '; 1024]));
    match count.fetch_add(1, Ordering::Relaxed) % 7 {
        0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        1 => std::future::pending().await,
        2 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        3 => Redirect::temporary("/").into_response(),
        // Bodies without end, slow, and broken off.
        4 => answer(StatusCode::BAD_REQUEST, stream::repeat_with(chunk)),
        5 => answer(
            StatusCode::SERVICE_UNAVAILABLE,
            stream::repeat(()).then(async |()| {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Bytes::from_static(b" "))
            }),
        ),
        _ => answer(
            StatusCode::BAD_GATEWAY,
            stream::iter([chunk(), Err(io::ErrorKind::ConnectionReset.into())]),
        ),
    }
}

fn answer(
    status: StatusCode,
    body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response {
    (status, Body::from_stream(body)).into_response()
}
