//! `edge-relay serve` where the disk is full or changes what is on it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use protocol::messages::Registered;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

#[cfg(target_os = "linux")]
use crate::harness::disk::Disk;
use crate::harness::served::Served;
use crate::harness::{Answer, Receiver, TOKEN, ids, issue, large_issue, linear, numbers, pulled};
use crate::harness::{damage, sorted, until};

/// Lets the relay write no byte to any file any more, or lets it again.
fn set_room(relay: &Served, bytes: Option<u64>) {
    let pid = Pid::from_raw(relay.child.id().try_into().unwrap());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

#[tokio::test]
async fn a_disk_that_was_full_is_used_again_without_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let receiver = Receiver::start().await;
    let relay = Served::start(directory.path(), &linear);
    let register = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    let _: Registered = relay.register(&register).await;
    relay.post(0).await;
    receiver.wait_for(1).await;
    set_room(&relay, Some(0));
    let webhooks: Vec<_> = (1..5).map(|at| relay.webhook(&issue("i", at))).collect();
    for webhook in &webhooks {
        assert_eq!(relay.send(webhook).await.status(), 503);
    }
    set_room(&relay, None);
    // Linear sends it again.
    for webhook in &webhooks {
        let is_accepted = async || relay.send(webhook).await.status() == 200;
        until("it is accepted", is_accepted).await;
    }
    let all = async || sorted(numbers(&receiver.received())) == (0..5).collect::<Vec<_>>();
    until("each arrives once", all).await;
}

/// What the disk has of the last commits is not known then (fsync(2)): only a new start reads it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_disk_that_cannot_keep_what_was_written_loses_nothing_that_was_accepted() {
    let disk = Disk::new(Duration::ZERO);
    let environment = disk.environment();
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let mut relay = Served::start_with(directory.path(), &linear, &environment);
    let register = json!({"name": "pull", "linearToken": TOKEN});
    let worker: Registered = relay.register(&register).await;
    for number in 0..3 {
        relay.post(number).await;
    }
    disk.fails();
    let webhook = relay.webhook(&issue("i", 3));
    let sent = webhook.request(&relay.client, &format!("{}/webhooks/linear", relay.url));
    let is_accepted = sent.send().await.is_ok_and(|answer| answer.status() == 200);
    assert!(!is_accepted, "it may be lost");
    // The queue may have refused the event before anything was written to the table.
    let registering = relay.client.post(format!("{}/edge/register", relay.url));
    let _ = registering.json(&register).send().await;
    let ended = tokio::task::spawn_blocking(move || relay.child.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(1));
    disk.works();
    let relay = Served::start_with(directory.path(), &linear, &environment);
    assert_eq!(relay.send(&webhook).await.status(), 200);
    until("each is there once", async || {
        let mailbox = relay.pull(&worker, &json!({"ack": []})).await;
        pulled(&mailbox) == [0, 1, 2, 3]
    })
    .await;
}

/// How many bytes the files have.
fn size(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

/// Four of twenty workers reject everything, each of which is written to the table.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn with_a_slow_disk_and_bad_workers_each_webhook_is_answered_in_time_by_few_threads() {
    const EVENTS: usize = 60;
    let disk = Disk::new(Duration::from_millis(30));
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let relay = Served::start_with(directory.path(), &linear, &disk.environment());
    let (good, bad) = (Receiver::start().await, Receiver::start().await);
    bad.answer([Answer::Status(500)]);
    for at in 0..20 {
        let url = if at % 5 == 0 { bad.url() } else { good.url() };
        let register = json!({"name": at.to_string(), "linearToken": TOKEN, "webhookUrl": url});
        let _: Registered = relay.register(&register).await;
    }
    let (client, url) = (&relay.client, &format!("{}/webhooks/linear", relay.url));
    let posts = (0..EVENTS).map(|number| {
        let webhook = relay.webhook(&issue(&format!("i{}", number % 50), number));
        async move {
            tokio::time::sleep(Duration::from_millis(50) * u32::try_from(number).unwrap()).await;
            let began = Instant::now();
            let answer = webhook.request(client, url).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{:?}", began.elapsed());
            began.elapsed()
        }
    });
    let slowest = join_all(posts).await.into_iter().max();
    let threads = relay.status("Threads");
    println!("slowest {slowest:?}, {threads} threads");
    assert!(threads < 64, "{threads} threads");
    good.wait_for(16 * EVENTS).await;
    assert_eq!(good.count(), 16 * EVENTS);
}

/// What waits behind the heads of few issues is in no worker's backoff.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_worker_that_rejects_all_about_few_issues_takes_no_hundreds_of_megabytes() {
    const ISSUES: usize = 5;
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let relay = Served::start(directory.path(), &linear);
    let receiver = Receiver::start().await;
    receiver.answer([Answer::Status(500)]);
    let register = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    let _: Registered = relay.register(&register).await;
    let before = relay.peak_megabytes();
    let (began, mut events) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(240) {
        let posts = (events..events + 20).map(|number| {
            let issue = issue(&format!("i{}", number % ISSUES), number);
            let webhook = relay.webhook(&issue.replace(
                "\"number\"",
                &format!("\"text\":\"{}\",\"number\"", "x".repeat(2_000)),
            ));
            let relay = &relay;
            async move { relay.send(&webhook).await.status().as_u16() }
        });
        let answers = join_all(posts).await;
        assert_eq!(answers, [200; 20]);
        events += 20;
    }
    let peak = relay.peak_megabytes();
    println!("{events} events: {before} MB before, {peak} MB at most");
    assert!(peak < before + 250, "{before} MB before, {peak} MB at most");
}

#[tokio::test]
async fn a_data_directory_shrinks_once_what_it_held_was_taken() {
    const EVENTS: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let relay = Served::start(directory.path(), &linear);
    let register = json!({"name": "pull", "linearToken": TOKEN});
    let worker: Registered = relay.register(&register).await;
    // Larger bodies, which several workers may share, are deleted when they expire.
    for number in 0..EVENTS {
        let answer = (relay.send(&relay.webhook(&large_issue("i", number, 10_000)))).await;
        assert_eq!(answer.status(), 200);
    }
    let held = size(directory.path());
    assert!(held > 2_000_000, "{held}");
    let (mut ack, mut taken) = (Vec::new(), 0);
    while taken < EVENTS || !ack.is_empty() {
        let mailbox = relay.pull(&worker, &json!({"ack": ack})).await;
        ack = ids(&mailbox);
        taken += ack.len();
    }
    until("it is small", async || size(directory.path()) < 600_000).await;
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// A data directory with a worker and what waits for it.
async fn filled(linear: &str) -> (tempfile::TempDir, Registered) {
    let directory = tempfile::tempdir().unwrap();
    let relay = Served::start(directory.path(), linear);
    let register = json!({"name": "pull", "linearToken": TOKEN});
    let worker: Registered = relay.register(&register).await;
    let away = json!({"name": "away", "linearToken": TOKEN, "webhookUrl": "http://127.0.0.1:9/"});
    let _: serde_json::Value = relay.register(&away).await;
    for number in 0..20 {
        relay.post(number).await;
    }
    // What is in the logs would mend the damage.
    let is_empty = |log| directory.path().join(log).metadata().unwrap().len() == 0;
    let are_empty = async || is_empty("dynamodb.db-wal") && is_empty("sqs.db-wal");
    until("the logs are empty", are_empty).await;
    relay.kill();
    (directory, worker)
}

#[tokio::test]
async fn damaged_files_are_refused_by_name_or_the_relay_works() {
    let (_, linear) = linear().await;
    let (intact, worker) = filled(&linear).await;
    let mut refused = BTreeSet::new();
    for name in ["dynamodb.db", "sqs.db"] {
        let length = intact.path().join(name).metadata().unwrap().len();
        for at in (0..12).map(|part| part * length / 12) {
            let damaged = tempfile::tempdir().unwrap();
            copy(intact.path(), damaged.path());
            damage(&damaged.path().join(name), at);
            match Served::run(&mut Served::command(damaged.path(), &linear, "127.0.0.1:0")) {
                Err(said) => {
                    let names_it = format!("{name}` is damaged");
                    assert!(said.contains(&names_it), "{at}: {said}");
                    refused.insert(name);
                }
                Ok(relay) => {
                    // Those bytes are not used.
                    relay.post(100).await;
                    until("it is in the mailbox", async || {
                        pulled(&relay.pull(&worker, &json!({})).await).contains(&100)
                    })
                    .await;
                }
            }
        }
    }
    // The first bytes say that it is a file of SQLite.
    assert_eq!(refused.len(), 2, "{refused:?}");
}

#[tokio::test]
async fn what_a_damaged_log_loses_is_said() {
    let (_, linear) = linear().await;
    for name in ["dynamodb.db-wal", "sqs.db-wal"] {
        let directory = tempfile::tempdir().unwrap();
        let relay = Served::start(directory.path(), &linear);
        let register = json!({"name": "pull", "linearToken": TOKEN});
        let _: Registered = relay.register(&register).await;
        let log = directory.path().join(name);
        let length = || log.metadata().unwrap().len();
        // It is killed before it is idle.
        let is_long = async || {
            relay.post(0).await;
            length() > 100_000
        };
        until("the log is long", is_long).await;
        relay.kill();
        damage(&log, length() / 2);
        let mut command = Served::command(directory.path(), &linear, "127.0.0.1:0");
        let relay = Served::run(&mut command).unwrap();
        let lost = format!("{name}` is damaged: its last ");
        assert!(relay.said.contains(&lost), "{}", relay.said);
        let copy = directory.path().join(format!("{name}-damaged"));
        assert!(copy.exists(), "{name}");
    }
}
