//! The store under a full disk, a damaged file and age; its unit tests hold the rest.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::harness::agent::{
    Agent, Inside, deliver, events, free_port, in_time, output, reached_at,
};
use crate::harness::agent::{Home, relay_and_home, run, signed, with_handler, worker};
use crate::harness::{Relay, damage, issue, until};
#[cfg(target_os = "linux")]
use crate::harness::{disk::Disk, sorted};

#[tokio::test]
async fn a_full_disk_refuses_deliveries_and_the_agent_goes_on_once_there_is_room() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    up.args(reached_at(free_port().await));
    // A write beyond the limit is to fail, as on a full disk, instead of ending the process.
    let mut command = Command::new("sh");
    let variables = up.as_std().get_envs();
    command
        .args(["-c", "trap '' 25; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_agent"))
        .args(up.as_std().get_args())
        .env_clear()
        .envs(variables.filter_map(|(name, value)| Some((name, value?))))
        .current_dir(&*home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut agent = Agent::start(&mut command).await;
    let pid = Pid::from_raw(agent.id().cast_signed());
    let room = |current: Option<u64>| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        let limit = Rlimit { current, maximum };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    };
    room(Some(64 * 1024));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(500_000));
    let headers = signed(&home, "evt_1", &large);
    for _ in 0..2 {
        assert_eq!(deliver(&agent.address, &headers, &large).await.0, 503);
    }
    let full = "events cannot be stored, and wait at the relay";
    agent.says(full).await;
    // What is needed just now can be read.
    let mut events = Command::new("sh");
    events
        .args(["-c", "trap '' 25; ulimit -f 0; exec \"$0\" events"])
        .arg(env!("CARGO_BIN_EXE_agent"))
        .env("EDGE_AGENT_DATA", &*home)
        .env("HOME", &*home);
    let read = output(&mut events).await.exits(3);
    read.warns("no event matches");
    // The relay has noticed, too. Nothing but the room is needed.
    relay.go_offline(&worker(&home)).await;
    relay.post(&issue("i", 7)).await;
    room(None);
    assert_eq!(deliver(&agent.address, &headers, &large).await.0, 202);
    agent.says("events can be stored again").await;
    assert_eq!(agent.event().await["id"], "evt_1");
    assert_eq!(agent.number().await, 7);
    agent.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_the_disk_cannot_keep_is_not_taken_and_comes_again() {
    let (relay, home) = relay_and_home().await;
    let disk = Disk::new(Duration::ZERO);
    let mut up = Agent::up(&relay, &home);
    up.args(reached_at(free_port().await));
    let mut agent = Agent::start(up.envs(disk.environment())).await;
    disk.fails();
    relay.post(&issue("i", 1)).await;
    agent
        .says("events cannot be stored, and wait at the relay")
        .await;
    let headers = signed(&home, "evt_2", "{}");
    assert_eq!(deliver(&agent.address, &headers, "{}").await.0, 503);
    disk.works();
    agent.says("events can be stored again").await;
    assert_eq!(deliver(&agent.address, &headers, "{}").await.0, 202);
    let taken = [agent.event().await, agent.event().await];
    let is_delivered = taken.map(|event| event["id"] == "evt_2");
    assert_eq!(sorted(is_delivered), [false, true]);
    agent.stop().await;
}

#[tokio::test]
async fn a_damaged_store_is_moved_aside_with_a_warning_and_events_arrive_again() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    agent.stop().await;
    home.write("events.db", "x".repeat(10_000));
    let _ = std::fs::remove_file(home.join("events.db-wal"));
    run(&home, &["events"]).await.exits(1);
    let mut agent = Agent::begin(&mut Agent::up(&relay, &home)).await;
    relay.post(&issue("i", 1)).await;
    agent.event().await;
    agent.stop().await;
    let is_aside = |name: &str| name.starts_with("events.damaged-") && name.ends_with(".db");
    assert_eq!(names(&home).iter().filter(|name| is_aside(name)).count(), 1);
}

/// The names of the files in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

/// Runs `up` until an event with this number is printed. Returns whether it was, before the agent ended.
async fn prints(up: &mut Command, number: usize) -> bool {
    let mut agent = up.spawn().unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    let is_printed = loop {
        let Some(line) = in_time(lines.next_line()).await.unwrap() else {
            break false;
        };
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        let body = event["body"].as_str();
        if body.is_some_and(|body| crate::harness::number(body.as_bytes()) == number) {
            break true;
        }
    };
    agent.kill().await.unwrap();
    is_printed
}

/// An agent that has printed twenty events.
async fn with_twenty_events() -> (Relay, Home, Agent) {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    for number in 0..20 {
        relay.post(&issue("i", number)).await;
        agent.event().await;
    }
    (relay, home, agent)
}

#[tokio::test]
async fn whatever_bytes_of_the_store_change_new_events_are_printed_after_one_restart_at_most() {
    let (relay, home, agent) = with_twenty_events().await;
    agent.stop().await;
    let intact = std::fs::read(home.join("events.db")).unwrap();
    for part in 0..12 {
        for log in ["events.db-wal", "events.db-shm"] {
            let _ = std::fs::remove_file(home.join(log));
        }
        let store = home.write("events.db", &intact);
        damage(&store, part as u64 * intact.len() as u64 / 12);
        let mut up = Agent::up(&relay, &home);
        relay.post(&issue("i", 100 + part)).await;
        if !prints(&mut up, 100 + part).await {
            // What it had taken may be in the file that was moved aside.
            relay.post(&issue("i", 200 + part)).await;
            assert!(prints(&mut up, 200 + part).await, "{part} of 12");
        }
    }
}

/// An agent that was killed after twenty events, and whose log was damaged then. Returns the log, too.
async fn with_a_damaged_log() -> (Relay, Home, Vec<u8>) {
    let (relay, home, agent) = with_twenty_events().await;
    // It does not put its log into the file.
    agent.kill().await;
    let log = home.join("events.db-wal");
    damage(&log, log.metadata().unwrap().len() / 2);
    let damaged = std::fs::read(log).unwrap();
    (relay, home, damaged)
}

#[tokio::test]
async fn what_a_damaged_log_loses_is_said_once_and_new_events_are_printed() {
    let (relay, home, damaged) = with_a_damaged_log().await;
    relay.post(&issue("i", 100)).await;
    let said = home.join("stderr");
    let mut up = Agent::up(&relay, &home);
    up.stderr(std::fs::File::create(&said).unwrap());
    assert!(prints(&mut up, 100).await);
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("warning: `"), "{said}");
    let lost = "events.db-wal` is damaged: its last ";
    assert!(said.contains(lost), "{said}");
    relay.post(&issue("i", 101)).await;
    assert!(prints(&mut Agent::up(&relay, &home), 101).await);
    let mut names = names(&home);
    names.retain(|name| name.starts_with("events.damaged-"));
    let [copy] = names.as_slice() else {
        panic!("it is copied once: {names:?}");
    };
    assert!(copy.ends_with(".wal"), "{copy}");
    assert_eq!(std::fs::read(home.join(copy)).unwrap(), damaged);
}

#[tokio::test]
async fn a_command_that_writes_says_what_a_damaged_log_loses() {
    let (_relay, home, _) = with_a_damaged_log().await;
    let stored = events(&home).await;
    let id = stored[0]["id"].as_str().unwrap();
    let replayed = run(&home, &["replay", id]).await;
    replayed.warns("events.db-wal` is damaged: its last ");
}

#[tokio::test]
async fn handled_events_go_when_they_are_old_and_what_waits_stays() {
    let (relay, home, handler) = with_handler().await;
    let arguments = [&handler.port(), "--keep", "1d"];
    let agent = Inside::start(&relay, &home, &arguments).await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    until("it is done", async || {
        let events = events(&home).await;
        events.first().is_some_and(|event| event["state"] == "done")
    })
    .await;
    relay.clock.advance(Duration::from_secs(2 * 86_400));
    until("it is gone", async || events(&home).await.is_empty()).await;
    agent.stop().await;
}
