//! Without a handler: stored, answered, printed; once, in order, and over restarts.

use local::samples::{FIVE_KINDS, WORKSPACE};
use protocol::messages::WorkerState;
use serde_json::{Value, json};

use crate::harness::agent::{Agent, PATIENCE, command, deliver, free_port, output, signed, worker};
use crate::harness::{TOKEN, issue, relay, terminate};

#[tokio::test]
async fn every_event_is_printed_once_with_all_that_came_with_it() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut agent = Agent::pushed(&relay, home.path(), free_port().await).await;
    for sample in FIVE_KINDS {
        let posted = relay.post(sample).await;
        let event = agent.event().await;
        let body: Value = serde_json::from_slice(&posted.webhook.body).unwrap();
        assert_eq!(event["id"], posted.event);
        assert_eq!(
            event["body"].as_str().unwrap().as_bytes(),
            posted.webhook.body
        );
        assert_eq!(
            (&event["type"], &event["action"]),
            (&body["type"], &body["action"])
        );
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
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let mut agent = Agent::pushed(&relay, home.path(), port).await;
    relay.post(&issue("i", 0)).await;
    agent.event().await;
    agent.stop().await;
    let asked = relay.linear.calls();
    for at in 1..6 {
        relay.post(&issue("i", at)).await;
    }
    relay.settled().await;
    let mut agent = Agent::pushed(&relay, home.path(), port).await;
    relay.post(&issue("i", 6)).await;
    for at in 1..7 {
        assert_eq!(agent.number().await, at);
    }
    assert_eq!(
        relay.linear.calls(),
        asked,
        "the registration is kept: Linear is not asked again"
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_pull_worker_gets_its_events_without_an_address() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    relay.post(&issue("i", 0)).await;
    let mut agent = Agent::pulling(&relay, home.path()).await;
    for at in 1..4 {
        relay.post(&issue("i", at)).await;
    }
    for at in 1..4 {
        assert_eq!(agent.number().await, at);
    }
    agent.stop().await;
}

#[tokio::test]
async fn an_id_that_is_stored_is_answered_and_not_printed_again_also_after_a_kill() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut agent = Agent::pulling(&relay, home.path()).await;
    let body = issue("i", 1);
    for _ in 0..3 {
        agent.accepts(home.path(), "evt_a", &body).await;
    }
    assert_eq!(agent.event().await["id"], "evt_a");
    agent.kill().await;
    let mut agent = Agent::pulling(&relay, home.path()).await;
    agent.accepts(home.path(), "evt_a", &body).await;
    agent.accepts(home.path(), "evt_b", &body).await;
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
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    let body = issue("i", 1);
    let good = signed(home.path(), "evt_a", &body);
    let with = |name: &'static str, value: &str| {
        let mut headers = good.clone();
        headers.retain(|(n, _)| *n != name);
        headers.push((name, value.to_owned()));
        headers
    };
    let old = (relay.clock.seconds() - 301).to_string();
    for (headers, body, code) in [
        (vec![], body.as_str(), "signature_format"),
        (with("webhook-id", ""), &body, "signature_format"),
        (with("webhook-timestamp", "now"), &body, "signature_format"),
        (with("webhook-signature", "v2,x"), &body, "signature_format"),
        (with("webhook-timestamp", &old), &body, "signature_age"),
        (good.clone(), "{}", "signature_digest"),
        (with("webhook-id", "evt_b"), &body, "signature_digest"),
    ] {
        let (status, problem) = deliver(&agent.address, &headers, body).await;
        assert_eq!(
            (status, &problem["code"]),
            (401, &json!(code)),
            "{headers:?}"
        );
    }
    let challenge = r#"{"type":"edge.challenge","challenge":"x"}"#;
    assert_eq!(
        deliver(&agent.address, &[], challenge).await.1["code"],
        "not_registering"
    );
    let large = "x".repeat(10_000_001);
    assert_eq!(
        deliver(
            &agent.address,
            &signed(home.path(), "evt_c", &large),
            &large
        )
        .await
        .0,
        413
    );
    let base = agent.address.trim_end_matches("/webhook").to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_eq!(
        client
            .get(format!("{base}/health"))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        client
            .get(format!("{base}/webhook"))
            .send()
            .await
            .unwrap()
            .status(),
        405
    );
    assert_eq!(
        client
            .get(format!("{base}/"))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    assert_eq!(agent.stop().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_ping_for_a_mailbox_with_events_makes_it_pull() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let mut agent = Agent::pushed(&relay, home.path(), port).await;
    let worker = worker(home.path());
    relay.go_offline(&worker).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let ping = r#"{"type":"edge.ping","waiting":true}"#;
    assert_eq!(
        deliver(&agent.address, &signed(home.path(), "ping_1", ping), ping)
            .await
            .0,
        204
    );
    assert_eq!(agent.number().await, 1);
    crate::harness::eventually("it is live again", || async {
        (relay.read(&worker).await.state == WorkerState::Live).then_some(())
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn an_action_of_null_hides_nothing_else() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut agent = Agent::pulling(&relay, home.path()).await;
    let body =
        json!({"type": "New", "action": null, "organizationId": WORKSPACE, "webhookTimestamp": 0});
    relay.post(&body.to_string()).await;
    let event = agent.event().await;
    assert_eq!(
        (&event["type"], &event["action"]),
        (&json!("New"), &json!(""))
    );
    assert_eq!(event["workspace"], WORKSPACE);
    agent.stop().await;
}

#[tokio::test]
async fn it_ends_also_when_nobody_reads_what_it_prints() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    let large = json!({
        "type": "New", "organizationId": WORKSPACE, "webhookTimestamp": 0, "text": "x".repeat(500_000),
    });
    relay.post(&large.to_string()).await;
    crate::harness::eventually("it was pulled", || async {
        let name = home.path().join("events.db-wal");
        std::fs::metadata(name)
            .is_ok_and(|file| file.len() > 500_000)
            .then_some(())
    })
    .await;
    let mut child = agent.child;
    terminate(child.id().unwrap());
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    assert_eq!(ended.unwrap().unwrap().code(), Some(0));
    drop(agent.lines);
}

#[tokio::test]
async fn the_error_for_a_wrong_start_names_the_setting() {
    let relay = relay().start().await;
    let url = relay.local.url();
    let run = |arguments: Vec<String>, token: Option<&'static str>, home: std::path::PathBuf| async move {
        let mut command = command(&home);
        command
            .args(["up", "--listen", "127.0.0.1:0"])
            .args(arguments);
        if let Some(token) = token {
            command.env("LINEAR_TOKEN", token);
        }
        let output = output(&mut command).await;
        assert!(output.stdout.is_empty(), "stdout is data");
        (output.code, output.stderr)
    };
    let up = |more: &[&str]| -> Vec<String> {
        ["--relay", &url, "--name", "laptop"]
            .iter()
            .chain(more)
            .map(|a| (*a).to_owned())
            .collect()
    };
    for (arguments, token, code, part) in [
        (up(&[]), None, 2, "LINEAR_TOKEN"),
        (
            up(&["--linear-token-file", "/nowhere"]),
            None,
            2,
            "/nowhere",
        ),
        (up(&["--poll", "0"]), Some(TOKEN), 2, "--poll"),
        (
            up(&["--public-url", "nowhere"]),
            Some(TOKEN),
            2,
            "--public-url",
        ),
        (up(&["--type", "no pattern"]), Some(TOKEN), 2, "`type[0]`"),
        (
            up(&["--public-url", "https://10.0.0.1/"]),
            Some(TOKEN),
            4,
            "public https address",
        ),
        (up(&[]), Some("lin_api_hush"), 4, "Linear does not accept"),
        (
            vec![
                "--name".into(),
                "x".into(),
                "--relay".into(),
                "http://example.com".into(),
            ],
            Some(TOKEN),
            2,
            "https://",
        ),
    ] {
        let home = tempfile::tempdir().unwrap();
        let (status, said) = run(arguments.clone(), token, home.path().to_owned()).await;
        assert_eq!(status, Some(code), "{arguments:?}: {said}");
        assert!(
            said.contains(part) && !said.contains("hush"),
            "{arguments:?}: {said}"
        );
    }
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    let (status, said) = run(up(&[]), Some(TOKEN), home.path().to_owned()).await;
    assert_eq!(status, Some(2));
    assert!(said.contains("another edge-agent"), "{said}");
    agent.stop().await;
}
