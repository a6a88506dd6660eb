//! The pages for consumers: what they say to write is run, against stand-ins that do what the consumers do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use local::samples::WORKSPACE;
use parking_lot::Mutex;
use protocol::linear_signature::sign;
use serde_json::Value;
use tokio::process::Command;

use super::handlers::session;
use crate::harness::agent::{Agent, Home, command, events, relay_and_home};
use crate::harness::page::{blocks, commands_for};
use crate::harness::{Relay, TOKEN, until};

/// The settings that a page tells to write, with this relay, port and path of a socket in the place of its own.
fn settings(page: &str, relay: &Relay, port: u16) -> String {
    let blocks = blocks(page);
    let block = blocks.iter().find(|block| block.language == "toml");
    let block = &block.expect("it has settings").text;
    let theirs = "https://abc123.execute-api.us-east-1.amazonaws.com";
    assert!(block.contains(theirs), "{block}");
    let block = block.replace(theirs, &relay.local.url());
    let text = block
        .replace(":3456/", &format!(":{port}/"))
        .replace("\"3000\"", &format!("\"{port}\""));
    assert!(text.contains(&port.to_string()), "{text}");
    format!("listen = '127.0.0.1:0'\n{text}")
}

/// Does what the page says, and returns the secret that it has made.
async fn write(home: &Home, page: &str, test: &str, settings: &str) -> String {
    home.write("edge-agent.toml", settings);
    home.write("linear-token", TOKEN);
    for line in commands_for(page, test) {
        let mut shell = Command::new("sh");
        let done = shell.args(["-c", &line]).current_dir(&**home).status();
        assert!(done.await.unwrap().success(), "{line}");
    }
    let secret = std::fs::read_to_string(home.join("webhook-secret")).unwrap();
    secret.trim().to_owned()
}

/// As Cyrus's transport: it verifies and answers at once, and starts a runner for a session a second later.
#[derive(Debug, Default)]
struct Cyrus {
    secret: String,
    /// What each session's runners were: how many were started, and how many of them run.
    runners: HashMap<String, (usize, usize)>,
    taken: usize,
}

const STARTING: Duration = Duration::from_millis(1_000);

async fn cyrus(state: Arc<Mutex<Cyrus>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let given = headers
        .get("linear-signature")
        .map(|value| value.to_str().unwrap());
    let parsed: Value = serde_json::from_slice(&body).unwrap();
    let age =
        protocol::clock::Clock::system().millis() - parsed["webhookTimestamp"].as_i64().unwrap();
    if given != Some(&sign(&state.lock().secret, &body)) || age.abs() > 60_000 {
        return StatusCode::UNAUTHORIZED;
    }
    state.lock().taken += 1;
    tokio::spawn(async move {
        let session = parsed["agentSession"]["id"].as_str().unwrap().to_owned();
        let is_stop = parsed["agentActivity"]["signal"] == "stop";
        let runs = state
            .lock()
            .runners
            .get(&session)
            .is_some_and(|(_, running)| *running > 0);
        if is_stop {
            // What does not run yet cannot be stopped.
            if let Some((_, running)) = state.lock().runners.get_mut(&session) {
                *running = 0;
            }
        } else if !runs {
            tokio::time::sleep(STARTING).await;
            let mut state = state.lock();
            let (started, running) = state.runners.entry(session).or_default();
            (*started, *running) = (*started + 1, *running + 1);
        }
    });
    StatusCode::OK
}

/// The sessions' runners after `created`, `prompted` and a stop have waited for the laptop.
async fn runners_after_a_night(pause: bool) -> (usize, usize) {
    let (relay, home) = relay_and_home().await;
    let state = Arc::new(Mutex::new(Cyrus::default()));
    let served = Arc::clone(&state);
    let app = Router::new().route(
        "/linear-webhook",
        post(move |headers, body| cyrus(Arc::clone(&served), headers, body)),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let page = include_str!("../../../docs/cyrus.md");
    let mut text = settings(page, &relay, port);
    if !pause {
        text = text.replace("pause = ", "# pause = ");
    }
    let test = "cyrus_as_its_page_has_it_starts_one_runner_after_a_night_and_stops_it";
    state.lock().secret = write(&home, page, test, &text).await;
    let up = || {
        let mut up = command(&home);
        up.args(["up", "--name", "laptop", "--trust-project"]);
        up
    };
    Agent::start(&mut up()).await.stop().await;
    for (action, signal) in [
        ("created", None),
        ("prompted", None),
        ("prompted", Some("stop")),
    ] {
        relay.post(&session(WORKSPACE, "s", action, signal)).await;
    }
    let agent = Agent::start(&mut up()).await;
    until("all are taken", async || state.lock().taken == 3).await;
    until("all are done", async || {
        let events = events(&home).await;
        events.len() == 3 && events.iter().all(|event| event["state"] == "done")
    })
    .await;
    // What the last of them has begun.
    tokio::time::sleep(STARTING * 2).await;
    agent.stop().await;
    let state = state.lock();
    state.runners["s"]
}

#[tokio::test]
async fn cyrus_as_its_page_has_it_starts_one_runner_after_a_night_and_stops_it() {
    assert_eq!(runners_after_a_night(true).await, (1, 0));
    // Without the pause: that is what the page is about.
    let (started, running) = runners_after_a_night(false).await;
    assert!(started > 1 || running > 0, "{started} {running}");
}

#[tokio::test]
async fn the_settings_for_ones_own_agent_hand_over_what_linears_sdk_takes() {
    let (relay, home, handler) = crate::harness::agent::with_handler().await;
    let page = include_str!("../../../docs/agents.md");
    let port = handler.port().parse().unwrap();
    let test = "the_settings_for_ones_own_agent_hand_over_what_linears_sdk_takes";
    let secret = write(&home, page, test, &settings(page, &relay, port)).await;
    let mut up = command(&home);
    up.args(["up", "--name", "laptop", "--trust-project"]);
    let agent = Agent::start(&mut up).await;
    relay.post(&session(WORKSPACE, "s", "created", None)).await;
    let received = handler.wait_for(1).await.remove(0);
    assert_eq!(
        received.header("linear-signature"),
        sign(&secret, &received.body)
    );
    assert_eq!(received.header("linear-event"), "AgentSessionEvent");
    // The same code as the one that is run against the SDK itself.
    for line in include_str!("../../linear-sdk/handler.mjs")
        .lines()
        .skip(1)
        .take(3)
    {
        assert!(page.contains(line), "{line}");
    }
    agent.stop().await;
}
