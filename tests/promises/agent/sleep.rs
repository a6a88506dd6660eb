//! Sleep: events flow when the machine wakes, without waiting for the next renewal or poll.

use std::time::Duration;

use protocol::messages::WorkerState;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::agent::{Agent, Inside, free_port, reached_at, relay_and_home};
use crate::harness::agent::{with_handler, worker};
use crate::harness::{issue, numbers};

#[tokio::test]
async fn events_from_the_time_of_sleep_arrive_on_waking() {
    let (relay, home, handler) = with_handler().await;
    let mut arguments = vec![handler.port()];
    arguments.extend(reached_at(free_port().await));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let agent = Inside::start(&relay, &home, &arguments).await;
    relay.post(&issue("i", 0)).await;
    handler.wait_for(1).await;
    // The relay has marked the worker away while the laptop was asleep, so what came is parked.
    relay.go_offline(&worker(&home)).await;
    relay.post_all(1..4).await;
    relay.settled().await;
    // Less than the time until the next renewal, so that only the gap in the clock can be the cause.
    relay.clock.advance(Duration::from_secs(120));
    let received = handler.wait_for(4).await;
    assert_eq!(numbers(&received), [0, 1, 2, 3]);
    relay.becomes(&worker(&home), WorkerState::Live).await;
    agent.stop().await;
}

/// Stopped as a shell's Ctrl-Z does, or starved: both clocks go on.
#[tokio::test]
async fn events_from_a_time_in_which_the_process_was_stopped_arrive_when_it_goes_on() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pushed(&relay, &home, free_port().await).await;
    let signal = |signal| kill_process(Pid::from_raw(agent.id().cast_signed()).unwrap(), signal);
    signal(Signal::STOP).unwrap();
    relay.go_offline(&worker(&home)).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    signal(Signal::CONT).unwrap();
    assert_eq!(agent.number().await, 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_pull_worker_asks_at_once_when_it_wakes() {
    let (relay, home, handler) = with_handler().await;
    let agent = Inside::start(&relay, &home, &[&handler.port(), "--poll", "1h"]).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(120));
    handler.wait_for(1).await;
    agent.stop().await;
}
