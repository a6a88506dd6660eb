//! Sleep: events flow when the machine wakes, without waiting for the next renewal or poll.

use std::time::Duration;

use protocol::messages::WorkerState;

use crate::harness::agent::{Inside, free_port, worker};
use crate::harness::{Receiver, eventually, issue, number, relay};

#[tokio::test]
async fn events_from_the_time_of_sleep_arrive_on_waking() {
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
    // The relay has marked the worker away while the laptop was asleep, so what came is parked.
    relay.go_offline(&worker(home.path())).await;
    for at in 1..4 {
        relay.post(&issue("i", at)).await;
    }
    relay.settled().await;
    // Less than the time until the next renewal, so that only the gap in the clock can be the cause.
    relay.clock.advance(Duration::from_secs(120));
    let received = handler.wait_for(4).await;
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
    relay.clock.advance(Duration::from_secs(120));
    handler.wait_for(1).await;
    agent.stop().await;
}
