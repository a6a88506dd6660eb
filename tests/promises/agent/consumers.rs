//! Consumers as they are: those that answer before they work, that check more of a request than its signature, that want headers
//! of their own, and that say that a request is wrong.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use local::samples::WORKSPACE;
use protocol::linear_signature::sign;
use serde_json::Value;

use super::handlers::session;
use crate::harness::agent::{Agent, Home, Inside, events, relay_and_home, run};
use crate::harness::{Answer, Received, Receiver, Relay, TOKEN, issue, numbers, until};

/// A relay, a handler, and an agent for it with these settings beside its address.
async fn consumer(settings: &str) -> (Relay, Home, Receiver, Inside) {
    let (relay, home) = relay_and_home().await;
    let handler = Receiver::start().await;
    let to = format!("[[handler]]\nto = ':{}/hook'\n", handler.port());
    home.write("edge-agent.toml", format!("{to}{settings}"));
    let agent = Inside::start(&relay, &home, &[]).await;
    (relay, home, handler, agent)
}

fn stamp(received: &Received) -> i64 {
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    body["webhookTimestamp"].as_i64().unwrap()
}

/// Waits until an event is due again, and lets so much time pass.
async fn passes(relay: &Relay, home: &Home, attempts: usize, time: u64) {
    until("its retry is due", async || {
        let event = events(home).await.pop();
        event.is_some_and(|event| event["attempts"] == attempts)
    })
    .await;
    relay.clock.advance(Duration::from_secs(time));
}

#[tokio::test]
async fn after_a_pause_the_next_event_of_the_issue_is_handed_over_and_no_other_waits() {
    let (relay, _home, handler, agent) = consumer("pause = '30s'\n").await;
    relay.post_all(0..3).await;
    relay.post(&issue("another", 9)).await;
    let received = handler.wait_for(2).await;
    assert_eq!(numbers(&received), [0, 9]);
    for number in 1..3 {
        relay.clock.advance(Duration::from_secs(29));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(handler.count(), number + 1);
        relay.clock.advance(Duration::from_secs(2));
        let received = handler.wait_for(number + 2).await;
        assert_eq!(numbers(&received[number + 1..]), [number]);
    }
    agent.stop().await;
}

#[tokio::test]
async fn with_linears_secret_a_request_is_as_linears_and_its_retries_are_the_same() {
    let secret = "linear-secret-file = 'webhook-secret'\n";
    let (relay, home) = relay_and_home().await;
    home.write("webhook-secret", "lin_wh_own\n");
    let handler = Receiver::start().await;
    let to = format!("[[handler]]\nto = ':{}/hook'\n{secret}", handler.port());
    home.write("edge-agent.toml", to);
    let agent = Inside::start(&relay, &home, &[]).await;
    handler.answer([Answer::Status(500)]);
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    passes(&relay, &home, 1, 2).await;
    handler.wait_for(2).await;
    passes(&relay, &home, 2, 6).await;
    handler.wait_for(3).await;
    passes(&relay, &home, 3, 60).await;
    let received = handler.wait_for(4).await;
    for request in &received {
        assert_eq!(request.header("user-agent"), "Linear-Webhook");
        assert_eq!(
            request.header("linear-timestamp"),
            stamp(request).to_string()
        );
        assert_eq!(
            request.header("linear-signature"),
            sign("lin_wh_own", &request.body)
        );
    }
    assert_eq!(received[0].body, received[1].body);
    assert_eq!(received[0].body, received[2].body);
    // After 45 seconds it would be too old.
    assert!(stamp(&received[3]) > stamp(&received[0]) + 45_000);
    agent.stop().await;
}

#[tokio::test]
async fn a_handler_gets_headers_of_its_own_and_they_are_never_shown() {
    let (relay, home) = relay_and_home().await;
    home.write("headers", "X-Twice: one\nX-Team:  the hush\n\n");
    let handler = Receiver::start().await;
    home.write(
        "edge-agent.toml",
        format!(
            "[[handler]]\nto = ':{}/hook'\nheaders-file = 'headers'\n\
             header = {{ Authorization = '$HOOK_AUTH', User-Agent = 'relay' }}\n",
            handler.port()
        ),
    );
    let mut up = Agent::up(&relay, &home);
    let file = home.join("edge-agent.toml");
    up.args(["-v", "--config", file.to_str().unwrap()]);
    let agent = Agent::start(up.env("HOOK_AUTH", "Bearer hush")).await;
    relay.post(&issue("i", 1)).await;
    let received = handler.wait_for(1).await.remove(0);
    assert_eq!(received.header("authorization"), "Bearer hush");
    assert_eq!(received.header("x-team"), "the hush");
    assert_eq!(received.header("user-agent"), "relay");
    let said = agent.stop().await.join("\n");
    assert!(!said.contains("hush"), "{said}");
}

#[tokio::test]
async fn what_a_header_cannot_be_is_said_without_its_value() {
    let (_relay, home) = relay_and_home().await;
    for (settings, expected) in [
        (
            "header = { A = '$EDGE_NOT_SET' }",
            "`$EDGE_NOT_SET`, which is not set",
        ),
        ("header = { A = '$LINEAR_TOKEN' }", "is the agent's alone"),
        ("header = { 'a b' = 'hush' }", "is not a header's name"),
        (
            "header = { Host = 'hush' }",
            "`host` is set by each connection itself",
        ),
        (
            "header = { A = \"hu\\nsh\" }",
            "the value of `a` has to be printable ASCII",
        ),
        ("headers-file = 'bad'", "`Name: value` in each line"),
        ("headers-file = 'missing'", "cannot read"),
        ("exec = ['true']\nheader = { A = 'b' }", "are for `to`"),
        ("retries = 1000", "`retries` has to be 0 to 150"),
        ("pause = 3", "is written like `3s`"),
    ] {
        home.write("bad", "hush\n");
        let to = if settings.contains("exec") {
            ""
        } else {
            "to = ':3000'\n"
        };
        let file = home.write("edge-agent.toml", format!("[[handler]]\n{to}{settings}\n"));
        let arguments = ["up", "--relay", "http://127.0.0.1:9", "--config"];
        let done = run(&home, &[&arguments[..], &[file.to_str().unwrap()]].concat()).await;
        let done = done.exits(2);
        done.warns(expected);
        assert!(!done.stderr.contains("hush"), "{}", done.stderr);
    }
}

#[tokio::test]
async fn what_its_handler_refuses_has_two_short_retries_and_then_the_next_event_comes() {
    let (relay, home, handler, agent) = consumer("").await;
    handler.answer([
        Answer::Status(404),
        Answer::Status(404),
        Answer::Status(404),
        Answer::Status(200),
    ]);
    relay.post(&issue("i", 1)).await;
    for (attempts, wait) in [(1, 2), (2, 6)] {
        handler.wait_for(attempts).await;
        passes(&relay, &home, attempts, wait).await;
    }
    handler.wait_for(3).await;
    relay.post(&issue("i", 2)).await;
    let received = handler.wait_for(4).await;
    assert_eq!(numbers(&received), [1, 1, 1, 2]);
    let found = run(&home, &["events", "--failed", "--json"]).await.json();
    assert_eq!(found["result"], "404");
    agent.stop().await;
}

#[tokio::test]
async fn a_handler_can_have_no_retries() {
    let (relay, home, handler, agent) = consumer("retries = 0\n").await;
    handler.answer([Answer::Status(500), Answer::Status(200)]);
    relay.post_all(1..3).await;
    assert_eq!(numbers(&handler.wait_for(2).await), [1, 2]);
    let found = run(&home, &["events", "--failed", "--json"]).await.json();
    assert_eq!(found["attempts"], 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_that_waited_behind_its_session_comes_after_it_and_not_beside_it() {
    let (relay, home, handler, agent) = consumer("pause = '3s'\n").await;
    for (action, signal) in [
        ("created", None),
        ("prompted", None),
        ("prompted", Some("stop")),
    ] {
        relay.post(&session(WORKSPACE, "s", action, signal)).await;
    }
    let stops = |received: &[Received]| {
        let is_stop = |r: &Received| r.body.windows(4).any(|part| part == b"stop");
        received.iter().map(is_stop).collect::<Vec<_>>()
    };
    assert_eq!(stops(&handler.wait_for(1).await), [false]);
    for count in 2..=3 {
        // The pause begins once the event before is done.
        until("the one before is done", async || {
            let events = events(&home).await;
            let is_done = |event: &&Value| event["state"] == "done";
            events.iter().filter(is_done).count() == count - 1
        })
        .await;
        assert_eq!(handler.count(), count - 1);
        relay.clock.advance(Duration::from_secs(4));
        handler.wait_for(count).await;
    }
    assert_eq!(stops(&handler.received()), [false, false, true]);
    agent.stop().await;
}

#[tokio::test]
async fn a_secret_that_others_can_read_is_refused_with_what_to_do() {
    let (relay, home) = relay_and_home().await;
    let token = home.write("linear-token", TOKEN);
    std::fs::set_permissions(&token, Permissions::from_mode(0o640)).unwrap();
    let url = relay.local.url();
    let up = ["up", "--relay", &url, "--linear-token-file", "linear-token"];
    let done = run(&home, &up).await.exits(2);
    done.warns("`chmod 600 linear-token`");
    assert!(!done.stderr.contains(TOKEN));
    assert_eq!(relay.linear.calls(), 0);
}
