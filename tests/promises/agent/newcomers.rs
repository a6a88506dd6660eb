//! The first ten minutes: from nothing to the first event in one's own handler, and what is said on the way.

use tokio::process::Command;

use super::targets::answering;
use crate::harness::agent::{Agent, Home, command, output, relay_and_home, run, with_handler};
use crate::harness::page::commands_for;
use crate::harness::{Relay, TOKEN, issue};

/// `edge-agent`, as somebody types it in a project: with nothing but a token.
fn typed(home: &Home, arguments: &[&str]) -> Command {
    let mut command = command(home);
    command.args(arguments).env("LINEAR_TOKEN", TOKEN);
    command
}

#[tokio::test]
async fn the_quickstart_of_the_readme_works() {
    let test = "the_quickstart_of_the_readme_works";
    let lines = commands_for(include_str!("../../../README.md"), test);
    let agents = include_str!("../../../edge-agent/README.md");
    assert_eq!(commands_for(agents, test), lines);
    let (relay, home, handler) = with_handler().await;
    let [init, up] = [&lines[0], &lines[1]].map(|line| {
        let line = line.replace("<RelayUrl>", &relay.local.url());
        line.replace("3000", &handler.port())
    });
    let init: Vec<_> = init.split(' ').skip(1).collect();
    let written = run(&home, &init).await.exits(0);
    written.warns("is a relay");
    written.warns("https://linear.app/settings/account/security");
    written.warns("next, with an API key");
    let text = std::fs::read_to_string(home.join("edge-agent.toml")).unwrap();
    home.write("edge-agent.toml", format!("listen = '127.0.0.1:0'\n{text}"));
    let up = up
        .strip_prefix("LINEAR_TOKEN=lin_api_… edge-agent ")
        .unwrap();
    let mut agent = Agent::begin(&mut typed(&home, &[up])).await;
    agent.says("ready:").await;
    let sent = run(&home, &["send"]).await.exits(0);
    let received = handler.wait_for(1).await.remove(0);
    assert_eq!(received.header("webhook-id"), sent.stdout.trim());
    assert_eq!(received.header("linear-event"), "Issue");
    assert!(!received.header("linear-delivery").is_empty());
    let posted = relay.post(&issue("i", 1)).await;
    let received = handler.wait_for(2).await.remove(1);
    assert_eq!(received.header("webhook-id"), posted.event);
    // What has to be there for the service is there.
    let install = run(&home, &["service", "install", "--dry-run"]).await;
    install.exits(0);
    agent.stop().await;
}

#[tokio::test]
async fn init_says_what_is_wrong_with_the_relay_and_what_is_missing() {
    let (relay, home) = relay_and_home().await;
    let other = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let port = answering(other.to_vec()).await;
    for (url, part) in [
        (
            format!("http://127.0.0.1:{port}"),
            "something else than a relay",
        ),
        (
            "http://127.0.0.1:1".to_owned(),
            "the relay cannot be reached",
        ),
    ] {
        let init = run(&home, &["init", "--force", "--relay", &url])
            .await
            .exits(0);
        init.warns(part);
        init.warns("set `to` or `exec` in it");
    }
    // As AWS's HTTP API answers where it has no route, and a proxy that is not there.
    let none = b"HTTP/1.1 404 Not Found\r\ncontent-length: 23\r\n\r\n{\"message\":\"Not Found\"}";
    let gateway = format!("http://127.0.0.1:{}", answering(none.to_vec()).await);
    let init = run(&home, &["init", "--force", "--relay", &gateway]).await;
    init.warns("its address is `RelayUrl`");
    let mut proxied = command(&home);
    proxied
        .args(["init", "--force", "--relay", "https://relay.test"])
        .env("HTTPS_PROXY", "http://127.0.0.1:1");
    output(&mut proxied)
        .await
        .exits(0)
        .warns("the proxy of `HTTPS_PROXY`");
    let mixed_up = format!("{}/webhooks/linear", relay.local.url());
    run(&home, &["up", "--relay", &mixed_up])
        .await
        .exits(2)
        .warns("is `WebhookUrl`, for Linear");
    run(&home, &["init", "nowhere"])
        .await
        .exits(2)
        .warns("this is no target");
}

fn with_project(relay: &Relay, home: &Home) {
    let settings = "listen = '127.0.0.1:0'\nname = 'laptop'\n";
    home.write(
        "edge-agent.toml",
        format!("relay = '{}'\n{settings}", relay.local.url()),
    );
}

#[tokio::test]
async fn a_relay_that_a_project_alone_names_gets_no_token_until_the_user_says_so() {
    let (relay, home) = relay_and_home().await;
    with_project(&relay, &home);
    let refused = output(&mut typed(&home, &["up"])).await.exits(2);
    refused.warns("alone names the relay");
    refused.warns("`--trust-project`");
    assert_eq!(relay.linear.calls(), 0);
    // A user who names it, or says that the project is to be trusted, knows it.
    for arguments in [
        vec!["up", "--relay", &relay.local.url()],
        vec!["up", "--trust-project"],
    ] {
        let home = Home::new();
        with_project(&relay, &home);
        let replace = [arguments, vec!["--replace"]].concat();
        let mut agent = Agent::begin(&mut typed(&home, &replace)).await;
        agent.says("ready:").await;
        agent.stop().await;
        // It is registered there from now on.
        let mut agent = Agent::begin(&mut typed(&home, &["up"])).await;
        agent.says("ready:").await;
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_project_cannot_vouch_for_itself_by_a_directory_of_its_own() {
    let (relay, home) = relay_and_home().await;
    with_project(&relay, &home);
    let settings = std::fs::read_to_string(home.join("edge-agent.toml")).unwrap();
    home.write("edge-agent.toml", format!("data = 'state'\n{settings}"));
    std::fs::create_dir(home.join("state")).unwrap();
    let url = relay.local.url();
    home.write("state/relays", format!("{url}/\n"));
    let registration = serde_json::json!({
        "relay": format!("{url}/"), "name": "laptop", "worker": "/edge/x", "token": "x",
        "workspace": {"id": "w", "urlKey": "w", "name": "w"},
        "secret": protocol::signature::Secret::generate().expose(), "replaced": [],
    });
    home.write("state/registration.json", registration.to_string());
    let mut up = typed(&home, &["up"]);
    let refused = output(up.env_remove("EDGE_AGENT_DATA")).await.exits(2);
    refused.warns("alone names the relay");
    assert_eq!(relay.linear.calls(), 0);
}

#[tokio::test]
async fn the_settings_and_the_relay_are_always_said() {
    let (relay, home) = relay_and_home().await;
    with_project(&relay, &home);
    let mut agent = Agent::begin(&mut typed(&home, &["up", "--trust-project"])).await;
    let said = agent.says("settings from").await;
    let file = home.join("edge-agent.toml").canonicalize().unwrap();
    let relay = relay.local.url();
    let expected = format!("relay {relay}/, settings from {}", file.display());
    assert!(said.ends_with(&expected), "{said}");
    agent.stop().await;
}
