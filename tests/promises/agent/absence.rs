//! Sleep: events flow within seconds of waking, whatever happened meanwhile.

use std::time::{Duration, Instant};

use protocol::messages::WorkerState;

use crate::harness::agent::{Inside, free_port, worker};
use crate::harness::{Receiver, eventually, issue, number, relay};

/// The promise, in real time: everything but the clock runs as it does on a laptop.
const WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_happened_during_sleep_comes_within_ten_seconds_of_waking() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let port = free_port().await;
    let listen = format!("127.0.0.1:{port}");
    let agent = Inside::start(
        &relay,
        home.path(),
        &[
            &handler.address.port().to_string(),
            "--listen",
            &listen,
            "--public-url",
            &format!("http://{listen}/webhook"),
        ],
    )
    .await;
    relay.post(&issue("i", 0)).await;
    handler.wait_for(1).await;
    // The relay has given it up while the lid was closed: what came is parked.
    relay.go_offline(&worker(home.path())).await;
    for at in 1..4 {
        relay.post(&issue("i", at)).await;
    }
    relay.settled().await;
    let woken = Instant::now();
    // Less than until the next renewal: it is the gap that is noticed.
    relay.clock.advance(Duration::from_secs(120));
    let received = handler.wait_for(4).await;
    assert!(woken.elapsed() < WITHIN, "{:?}", woken.elapsed());
    let numbers: Vec<_> = received.iter().map(|r| number(&r.body)).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    eventually("it is live again", || async {
        (relay.read(&worker(home.path())).await.state == WorkerState::Live).then_some(())
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn a_pull_worker_asks_at_once_when_it_wakes() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let agent = Inside::start(&relay, home.path(), &[&to, "--poll", "1h"]).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let woken = Instant::now();
    relay.clock.advance(Duration::from_secs(120));
    handler.wait_for(1).await;
    assert!(woken.elapsed() < WITHIN, "{:?}", woken.elapsed());
    agent.stop().await;
}
