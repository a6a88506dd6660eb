//! Without a handler: stored, answered, printed; once, in order, and over restarts.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use local::samples::{FIVE_KINDS, WORKSPACE};
use protocol::messages::WorkerState;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::harness::agent::{Agent, Home, command, deliver, events, free_port, in_time, output};
use crate::harness::agent::{relay_and_home, run, signed, signed_at, worker};
use crate::harness::{TOKEN, client, issue, large_issue, relay, terminate, until};

#[tokio::test]
async fn every_event_is_printed_once_with_all_that_came_with_it() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pushed(&relay, &home, free_port().await).await;
    for sample in FIVE_KINDS {
        let posted = relay.post(sample).await;
        let event = agent.event().await;
        let body: Value = serde_json::from_slice(&posted.webhook.body).unwrap();
        assert_eq!(event["id"], posted.event);
        let printed = event["body"].as_str().unwrap();
        assert_eq!(printed.as_bytes(), posted.webhook.body);
        assert_eq!(event["type"], body["type"]);
        assert_eq!(event["action"], body["action"]);
        assert_eq!(event["workspace"], WORKSPACE);
        assert_eq!(event["attempt"], 1);
        assert_eq!(event["headers"]["webhook-id"], posted.event);
        assert!(event["receivedAt"].as_str().unwrap().ends_with('Z'));
    }
    relay.settled().await;
    assert_eq!(agent.stop().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_happened_while_it_was_away_comes_from_the_mailbox_in_order() {
    let (relay, home) = relay_and_home().await;
    let port = free_port().await;
    let mut agent = Agent::pushed(&relay, &home, port).await;
    relay.post(&issue("i", 0)).await;
    agent.event().await;
    agent.stop().await;
    let asked = relay.linear.calls();
    relay.post_all(1..6).await;
    relay.settled().await;
    let mut agent = Agent::pushed(&relay, &home, port).await;
    relay.post(&issue("i", 6)).await;
    for at in 1..7 {
        assert_eq!(agent.number().await, at);
    }
    // The registration is kept: Linear is asked for the membership alone.
    assert_eq!(relay.linear.calls(), asked + 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_pull_worker_gets_its_events_without_an_address() {
    let (relay, home) = relay_and_home().await;
    relay.post(&issue("i", 0)).await;
    let mut agent = Agent::pulling(&relay, &home).await;
    relay.post_all(1..4).await;
    for at in 1..4 {
        assert_eq!(agent.number().await, at);
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_id_that_is_stored_is_answered_and_not_printed_again_also_after_a_kill() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    let body = issue("i", 1);
    for _ in 0..3 {
        agent.accepts(&home, "evt_a", &body).await;
    }
    assert_eq!(agent.event().await["id"], "evt_a");
    agent.kill().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    agent.accepts(&home, "evt_a", &body).await;
    agent.accepts(&home, "evt_b", &body).await;
    // Printed but perhaps not yet marked as such when it was killed: at most the one that was under way.
    let mut next = agent.event().await;
    if next["id"] == "evt_a" {
        next = agent.event().await;
    }
    assert_eq!(next["id"], "evt_b");
    assert_eq!(agent.stop().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_error_for_a_delivery_names_the_check_that_failed() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    let body = issue("i", 1);
    let good = signed(&home, "evt_a", &body);
    let with = |name: &'static str, value: &str| {
        let mut headers = good.clone();
        headers.retain(|(n, _)| *n != name);
        headers.push((name, value.to_owned()));
        headers
    };
    let old = signed_at(&home, "evt_1", &body, relay.clock.seconds() - 301);
    for (headers, body, code) in [
        (vec![], body.as_str(), "signature_format"),
        (with("webhook-id", ""), &body, "signature_format"),
        (with("webhook-timestamp", "now"), &body, "signature_format"),
        (with("webhook-signature", "v2,x"), &body, "signature_format"),
        (old, &body, "signature_age"),
        (good.clone(), "{}", "signature_digest"),
        (with("webhook-id", "evt_b"), &body, "signature_digest"),
    ] {
        agent.refuses(&headers, body, (401, code)).await;
    }
    let challenge = r#"{"type":"edge.challenge","challenge":"x"}"#;
    let (_, problem) = deliver(&agent.address, &[], challenge).await;
    assert_eq!(problem["code"], "not_registering");
    let large = "x".repeat(10_000_001);
    let headers = signed(&home, "evt_c", &large);
    assert_eq!(deliver(&agent.address, &headers, &large).await.0, 413);
    let base = agent.address.trim_end_matches("/webhook").to_owned();
    let client = client();
    for (path, status) in [("/health", 200), ("/webhook", 405), ("/", 404)] {
        let answer = client.get(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    assert_eq!(agent.stop().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_ping_for_a_mailbox_with_events_makes_it_pull() {
    let (relay, home) = relay_and_home().await;
    let port = free_port().await;
    let mut agent = Agent::pushed(&relay, &home, port).await;
    let worker = worker(&home);
    relay.go_offline(&worker).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let ping = r#"{"type":"edge.ping","waiting":true}"#;
    let headers = signed(&home, "ping_1", ping);
    assert_eq!(deliver(&agent.address, &headers, ping).await.0, 204);
    assert_eq!(agent.number().await, 1);
    relay.becomes(&worker, WorkerState::Live).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_action_of_null_hides_nothing_else() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    let body =
        json!({"type": "New", "action": null, "organizationId": WORKSPACE, "webhookTimestamp": 0});
    relay.post(&body.to_string()).await;
    let event = agent.event().await;
    assert_eq!(event["type"], "New");
    assert_eq!(event["action"], "");
    assert_eq!(event["workspace"], WORKSPACE);
    agent.stop().await;
}

#[tokio::test]
async fn it_ends_also_when_nobody_reads_what_it_prints() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    let large = json!({
        "type": "New", "organizationId": WORKSPACE, "webhookTimestamp": 0, "text": "x".repeat(500_000),
    });
    relay.post(&large.to_string()).await;
    let log = home.join("events.db-wal");
    until("it was pulled", async || {
        std::fs::metadata(&log).is_ok_and(|file| file.len() > 500_000)
    })
    .await;
    let mut child = agent.child;
    terminate(child.id().unwrap());
    let ended = in_time(child.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(0));
    drop(agent.lines);
}

/// The numbers of the events that are not done.
async fn waiting(home: &Path) -> usize {
    let events = events(home).await;
    events
        .iter()
        .filter(|event| event["state"] == "waiting")
        .count()
}

#[tokio::test]
async fn what_a_reader_has_not_taken_when_it_dies_is_printed_to_the_next_one() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    relay.post(&issue("i", 0)).await;
    assert_eq!(agent.number().await, 0);
    until("the one that is read is done", async || {
        waiting(&home).await == 0 && events(&home).await.len() == 1
    })
    .await;
    relay.post_all(1..21).await;
    until("all are stored", async || events(&home).await.len() == 21).await;
    // They are in the pipe by now, or soon; nobody reads them.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(waiting(&home).await, 20);
    drop(agent.lines);
    // Noticed at once, and not by the next event.
    let ended = in_time(agent.child.wait()).await.unwrap();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(waiting(&home).await, 20);

    let mut agent = Agent::begin(&mut Agent::up(&relay, &home)).await;
    let first = agent.lines.next_line().await.unwrap().unwrap();
    assert_eq!(first, "", "the end of a line that the first may have begun");
    for at in 1..21 {
        assert_eq!(agent.number().await, at);
    }
    until("all are done", async || waiting(&home).await == 0).await;
    assert_eq!(agent.stop().await, Vec::<String>::new());
}

#[tokio::test]
async fn with_ack_an_event_is_done_once_its_id_comes_on_stdin() {
    let (relay, home) = relay_and_home().await;
    let up = || {
        let mut up = Agent::up(&relay, &home);
        up.arg("--ack").stdin(Stdio::piped());
        up
    };
    let mut agent = Agent::start(&mut up()).await;
    relay.post_all(0..3).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(agent.event().await["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(waiting(&home).await, 3);
    let mut stdin = agent.child.stdin.take().unwrap();
    let acks = format!("{}\n\x1b[2Jnonsense\n\n{}\n", ids[2], ids[0]);
    stdin.write_all(acks.as_bytes()).await.unwrap();
    until("two are done", async || waiting(&home).await == 1).await;
    agent
        .says("`\\u{1b}[2Jnonsense` was acknowledged and does not wait for it")
        .await;
    agent.kill().await;

    let mut agent = Agent::start(&mut up()).await;
    assert_eq!(agent.event().await["id"], ids[1]);
    // A replay has it printed again, and what waits for its acknowledgement is not.
    run(&home, &["replay", &ids[0]]).await.exits(0);
    assert_eq!(agent.event().await["id"], ids[0]);
    drop(agent.child.stdin.take());
    agent.says("stdin is closed").await;
    assert_eq!(agent.ends().await, Some(1));
    assert_eq!(waiting(&home).await, 2);
    let handled = ["up", "3000", "--ack", "--relay", &relay.local.url()];
    run(&home, &handled)
        .await
        .exits(2)
        .warns("there is a handler");
}

#[tokio::test]
async fn an_acknowledgement_counts_also_while_lines_wait_for_their_reader() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    up.arg("--ack").stdin(Stdio::piped());
    let mut agent = Agent::start(&mut up).await;
    for number in 0..10 {
        // More than a pipe holds.
        relay.post(&large_issue("i", number, 50_000)).await;
    }
    until("all are stored", async || events(&home).await.len() == 10).await;
    let first = agent.event().await["id"].as_str().unwrap().to_owned();
    let mut stdin = agent.child.stdin.take().unwrap();
    let ack = format!("{first}\n");
    stdin.write_all(ack.as_bytes()).await.unwrap();
    until("it is done", async || waiting(&home).await == 9).await;
    // What a reader acknowledges last counts, too, when it ends.
    let second = agent.event().await["id"].as_str().unwrap().to_owned();
    let ack = format!("{second}\n");
    stdin.write_all(ack.as_bytes()).await.unwrap();
    drop(agent.lines);
    drop(stdin);
    assert_eq!(in_time(agent.child.wait()).await.unwrap().code(), Some(1));
    assert_eq!(waiting(&home).await, 8);
}

#[tokio::test]
async fn events_are_not_printed_to_nowhere() {
    let (relay, home) = relay_and_home().await;
    let mut to_null = Agent::up(&relay, &home);
    to_null.stdout(Stdio::null());
    let agent = env!("CARGO_BIN_EXE_agent");
    let url = relay.local.url();
    let mut shell = tokio::process::Command::new("sh");
    shell
        .args(["-c", "exec \"$0\" up --relay \"$1\" >&-", agent, &url])
        .env("EDGE_AGENT_DATA", &*home)
        .env("LINEAR_TOKEN", TOKEN)
        .current_dir(&*home)
        .stderr(Stdio::piped());
    for mut command in [to_null, shell] {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let output = in_time(child.wait_with_output()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("stdout is closed or /dev/null"), "{said}");
    }
}

#[tokio::test]
async fn the_error_for_a_wrong_start_names_the_setting() {
    let relay = relay().start().await;
    let url = relay.local.url();
    let start = async |arguments: &[&str], token: Option<&str>, home: &Path| {
        let mut command = command(home);
        command
            .args(["up", "--listen", "127.0.0.1:0"])
            .args(arguments);
        if let Some(token) = token {
            command.env("LINEAR_TOKEN", token);
        }
        let output = output(&mut command).await;
        assert!(output.stdout.is_empty(), "stdout is data");
        output
    };
    let up = |more: &[&'static str]| [&["--relay", &url, "--name", "laptop"], more].concat();
    let plain = vec!["--name", "x", "--relay", "http://example.com"];
    let blocked = up(&["--public-url", "https://10.0.0.1/"]);
    let no_file = up(&["--linear-token-file", "/nowhere"]);
    let no_url = up(&["--public-url", "nowhere"]);
    for (arguments, token, code, part) in [
        (up(&[]), None, 2, "LINEAR_TOKEN"),
        (no_file, None, 2, "/nowhere"),
        (up(&["--poll", "0"]), Some(TOKEN), 2, "--poll"),
        (no_url, Some(TOKEN), 2, "--public-url"),
        (up(&["--type", "no pattern"]), Some(TOKEN), 2, "`type[0]`"),
        (blocked, Some(TOKEN), 4, "public https address"),
        (up(&[]), Some("lin_api_hush"), 4, "Linear does not accept"),
        (plain, Some(TOKEN), 2, "https://"),
    ] {
        let output = start(&arguments, token, &Home::new()).await;
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:?}");
        let said = output.stderr;
        let is_named = said.contains(part) && !said.contains("hush");
        assert!(is_named, "{arguments:?}: {said}");
    }
    let home = Home::new();
    let agent = Agent::pulling(&relay, &home).await;
    let second = start(&up(&[]), Some(TOKEN), &home).await.exits(2);
    second.warns("another edge-agent");
    agent.stop().await;
}
