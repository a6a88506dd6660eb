//! The store under a full disk, a damaged file and age; its unit tests hold the rest.

use std::process::Stdio;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::agent::{Agent, deliver, run, signed};
use crate::harness::{Receiver, eventually, issue, relay};

#[tokio::test]
async fn a_full_disk_refuses_deliveries_and_the_agent_goes_on_once_there_is_room() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let up = Agent::up(&relay, home.path());
    // A write beyond the limit is to fail, as on a full disk, instead of ending the process.
    let mut command = tokio::process::Command::new("sh");
    command
        .args([
            "-c",
            "trap '' 25; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_agent"),
        ])
        .args(up.as_std().get_args())
        .env_clear()
        .envs(
            up.as_std()
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut agent = Agent::start(&mut command).await;
    let pid = Pid::from_raw(agent.id().cast_signed());
    let room = |bytes: Option<u64>| {
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(
            pid,
            Resource::Fsize,
            Rlimit {
                current: bytes,
                maximum,
            },
        )
        .unwrap();
    };
    room(Some(64 * 1024));
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(500_000));
    let headers = signed(home.path(), "evt_1", &large);
    for _ in 0..2 {
        assert_eq!(deliver(&agent.address, &headers, &large).await.0, 503);
    }
    agent
        .says("events cannot be stored, and wait at the relay")
        .await;
    room(None);
    assert_eq!(deliver(&agent.address, &headers, &large).await.0, 202);
    agent.says("events can be stored again").await;
    assert_eq!(agent.event().await["id"], "evt_1");
    agent.stop().await;
}

#[tokio::test]
async fn a_damaged_store_is_moved_aside_with_a_warning_and_events_arrive_again() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    agent.stop().await;
    std::fs::write(home.path().join("events.db"), "x".repeat(10_000)).unwrap();
    let _ = std::fs::remove_file(home.path().join("events.db-wal"));
    let status = run(home.path(), &["events"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    let mut agent = Agent::begin(&mut Agent::up(&relay, home.path())).await;
    relay.post(&issue("i", 1)).await;
    agent.event().await;
    agent.stop().await;
    let aside = std::fs::read_dir(home.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        let name = name.to_string_lossy();
        name.starts_with("events.damaged-") && name.ends_with(".db")
    });
    assert_eq!(aside.count(), 1);
}

#[tokio::test]
async fn handled_events_go_when_they_are_old_and_what_waits_stays() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let agent =
        crate::harness::agent::Inside::start(&relay, home.path(), &[&to, "--keep", "1d"]).await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    let count = || async { run(home.path(), &["events", "--json"]).await.lines().len() };
    eventually("it is done", || async {
        let lines = run(home.path(), &["events", "--json"]).await.lines();
        (lines.first()?["state"] == "done").then_some(())
    })
    .await;
    relay
        .clock
        .advance(std::time::Duration::from_secs(2 * 86_400));
    eventually("it is gone", || async {
        (count().await == 0).then_some(())
    })
    .await;
    agent.stop().await;
}
