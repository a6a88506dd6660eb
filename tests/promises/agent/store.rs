//! The store under a full disk, a damaged file and age; its unit tests hold the rest.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::agent::{Agent, Inside, deliver, events, free_port, output, reached_at};
use crate::harness::agent::{relay_and_home, run, signed, with_handler, worker};
#[cfg(target_os = "linux")]
use crate::harness::{disk::Disk, sorted};
use crate::harness::{issue, until};

#[tokio::test]
async fn a_full_disk_refuses_deliveries_and_the_agent_goes_on_once_there_is_room() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    up.args(reached_at(free_port().await));
    // A write beyond the limit is to fail, as on a full disk, instead of ending the process.
    let mut command = tokio::process::Command::new("sh");
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
    let mut events = tokio::process::Command::new("sh");
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
    let aside = std::fs::read_dir(&*home).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        let name = name.to_string_lossy();
        name.starts_with("events.damaged-") && name.ends_with(".db")
    });
    assert_eq!(aside.count(), 1);
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
