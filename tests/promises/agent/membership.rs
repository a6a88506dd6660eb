//! Being registered: refused, expired, unreachable, replaced, rotated; nothing of it ends the agent.

use std::future::IntoFuture as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use local::linear_api::Account;
use local::samples::{TEAM_KEY, WORKSPACE};
use protocol::clock::rfc3339;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket};

use crate::harness::agent::{
    Agent, Home, Inside, command, deliver, free_port, in_time, kept, output,
};
use crate::harness::agent::{reached_at, relay_and_home, run, signed, with_handler, worker};
use crate::harness::{Receiver, TOKEN, issue, relay, until};

#[tokio::test]
async fn it_waits_for_a_relay_that_is_down_and_reports_it_once() {
    let (relay, home, handler) = with_handler().await;
    // Nothing listens there, and no other test can.
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", held.local_addr().unwrap());
    let mut command = Agent::up(&relay, &home);
    let mut agent = Agent::begin(command.args(["--relay", &url, &handler.port()])).await;
    let said = agent.says("the relay cannot be reached").await;
    assert!(said.contains("going on with what is here"), "{said}");
    let again = agent.says("the relay cannot be reached");
    let again = tokio::time::timeout(Duration::from_secs(4), again).await;
    again.expect_err("it was said again");
    let status = run(&home, &["status", "--json"]).await.exits(3).json();
    let problem = status["problem"].as_str().unwrap();
    assert!(problem.contains("cannot be reached"));
    agent.stop().await;
}

#[tokio::test]
async fn a_machine_whose_name_changes_stays_the_worker_that_it_was() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    let before = worker(&home).path;
    agent.stop().await;
    // This machine is not called so.
    let mut unnamed = command(&home);
    unnamed.args([
        "up",
        "--relay",
        &relay.local.url(),
        "--listen",
        "127.0.0.1:0",
    ]);
    let mut agent = Agent::begin(&mut unnamed).await;
    agent.says("ready: `laptop`").await;
    assert_eq!(worker(&home).path, before);
    agent.stop().await;
}

#[tokio::test]
async fn it_registers_again_when_its_registration_has_ended() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    relay.remove(&worker(&home)).await;
    agent.says("registered as `laptop`").await;
    agent.says("ready:").await;
    relay.post(&issue("i", 1)).await;
    assert_eq!(agent.number().await, 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_that_ended_over_a_long_sleep_is_followed_by_a_new_registration() {
    let (relay, home, handler) = with_handler().await;
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    let before = worker(&home);
    relay.clock.advance(Duration::from_secs(8 * 86_400));
    until("it registers again", async || {
        worker(&home).token != before.token
    })
    .await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_registration_that_ended_and_a_token_that_is_refused_end_nothing() {
    let (relay, home, handler) = with_handler().await;
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    home.write("linear-token", "lin_api_refused");
    let gone = worker(&home);
    relay.remove(&gone).await;
    let problem = || agent.status().map(|status| status["problem"].clone());
    until("it says what is wrong", async || {
        problem().is_some_and(|problem| problem.to_string().contains("Linear does not accept"))
    })
    .await;
    // What is delivered here is still handled.
    let body = issue("i", 1);
    let status = agent.status().unwrap();
    let address = format!("http://{}/webhook", status["listen"].as_str().unwrap());
    let headers = signed(&home, "evt_1", &body);
    assert_eq!(deliver(&address, &headers, &body).await.0, 202);
    handler.wait_for(1).await;
    // A new token in the file is enough.
    home.write("linear-token", TOKEN);
    until("it is well again", async || {
        problem() == Some(json!(null)) && worker(&home).token != gone.token
    })
    .await;
    relay.post(&issue("i", 2)).await;
    handler.wait_for(2).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_killed_before_its_registration_was_written_registers_again() {
    let relay = relay().start().await;
    let home = Home::new();
    let agent = Agent::pulling(&relay, &home).await;
    agent.kill().await;
    std::fs::remove_file(home.join("registration.json")).unwrap();
    relay.post(&issue("i", 1)).await;
    let mut again = Agent::pulling(&relay, &home).await;
    again.event().await;
    again.stop().await;
}

#[tokio::test]
async fn of_two_agents_with_one_name_the_second_has_to_take_over_and_the_first_does_not_register_again()
 {
    let relay = relay().start().await;
    let (one, two) = (Home::new(), Home::new());
    let mut first = Agent::pulling(&relay, &one).await;
    let refused = output(&mut Agent::up(&relay, &two)).await.exits(4);
    refused.warns("another edge-agent of yours is `laptop` and in use");
    refused.warns("take over with `--replace`");
    relay.read(&worker(&one)).await;
    let mut second = Agent::begin(Agent::up(&relay, &two).arg("--replace")).await;
    second.says("`laptop` was registered before").await;
    second.says("ready:").await;
    let replaced = "another edge-agent has registered this name";
    first.says(replaced).await;
    let asked = relay.linear.calls();
    relay.post(&issue("i", 1)).await;
    second.event().await;
    // The first one does not register again.
    assert_eq!(relay.linear.calls(), asked);
    // The same directory is refused outright.
    let third = output(&mut Agent::up(&relay, &two)).await.exits(2);
    third.warns("another edge-agent uses");
    third.warns("`laptop`, listening on 127.0.0.1:");
    third.warns("`--data` and `--name`, and `--listen` if");
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_secret_rotates_without_losing_a_delivery() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    let body = issue("i", 1);
    let on_its_way = signed(&home, "evt_old", &body);
    let old = worker(&home);
    relay.remove(&old).await;
    agent.says("ready:").await;
    assert_ne!(worker(&home).secret, old.secret);
    assert_eq!(deliver(&agent.address, &on_its_way, &body).await.0, 202);
    relay.post(&issue("i", 2)).await;
    for expected in [1, 2] {
        assert_eq!(agent.number().await, expected);
    }
    agent.stop().await;
}

#[tokio::test]
async fn the_registration_is_its_owners_alone_and_linears_token_is_not_in_it() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    let file = home.join("registration.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = kept(&home).to_string();
    assert!(!kept.contains(TOKEN), "Linear's token is used once");
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", agent.id())).unwrap();
    let secret = worker(&home);
    for hidden in [TOKEN, &secret.token, &secret.secret] {
        assert!(!arguments.contains(hidden));
        let status = std::fs::read_to_string(home.join("status.json")).unwrap();
        assert!(!status.contains(hidden));
        for command in ["status", "doctor", "events"] {
            let output = run(&home, &[command, "--json", "-v"]).await;
            assert!(!format!("{output:?}").contains(hidden), "{command}");
        }
    }
    agent.stop().await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = output(&mut Agent::up(&relay, &home)).await.exits(2);
    refused.warns("chmod 600");
}

#[tokio::test]
async fn stopping_keeps_the_worker_and_forget_removes_it() {
    let (relay, home) = relay_and_home().await;
    // There is nothing to forget.
    run(&home, &["forget"]).await.exits(3);
    let agent = Agent::pulling(&relay, &home).await;
    let worker = worker(&home);
    run(&home, &["forget"])
        .await
        .exits(2)
        .warns("stop it first");
    agent.stop().await;
    relay.read(&worker).await;
    let forgotten = run(&home, &["forget", "--json"]).await.exits(0).json();
    assert_eq!(forgotten, json!({"worker": "laptop", "removed": true}));
    relay.assert_removed(&worker).await;
    assert!(!home.join("registration.json").exists());
}

#[tokio::test]
async fn while_it_registers_it_answers_only_the_challenge_of_its_own_registration() {
    let (relay, home) = relay_and_home().await;
    // A relay that has taken the registration and does not answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let reached = reached_at(free_port().await);
    let agent = Agent::begin(
        Agent::up(&relay, &home)
            .args(reached)
            .args(["--relay", &url]),
    )
    .await;
    let (mut connection, _) = in_time(listener.accept()).await.unwrap();
    let mut request = String::new();
    let mut part = [0; 4096];
    while !request.ends_with('}') {
        let length = in_time(connection.read(&mut part)).await.unwrap();
        request.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    let (_, body) = request.split_once("\r\n\r\n").unwrap();
    let nonce = serde_json::from_str::<serde_json::Value>(body).unwrap()["nonce"].take();
    assert!(nonce.as_str().is_some_and(|nonce| nonce.len() >= 32));
    let challenge = async |nonce: serde_json::Value| {
        let body = json!({"type": "edge.challenge", "challenge": "x", "nonce": nonce});
        deliver(&agent.address, &[], &body.to_string()).await
    };
    for stranger in [json!(null), json!(""), json!("x"), json!("0".repeat(64))] {
        let (status, problem) = challenge(stranger).await;
        assert_eq!((status, &problem["code"]), (403, &json!("not_registering")));
    }
    assert_eq!(challenge(nonce).await, (200, json!({"challenge": "x"})));
    drop(connection);
    agent.kill().await;
}

#[tokio::test]
async fn a_small_answer_that_becomes_a_large_one_is_not_read_to_its_end() {
    let (relay, home) = relay_and_home().await;
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..48 {
        bomb.write_all(&vec![b' '; 1024 * 1024]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hostile = axum::Router::new().fallback(move || {
        let bomb = bomb.clone();
        async move { ([("content-encoding", "gzip")], bomb) }
    });
    let hostile = tokio::spawn(axum::serve(listener, hostile).into_future());
    let mut agent = Agent::begin(Agent::up(&relay, &home).args(["--relay", &url])).await;
    agent.says("the relay's answer is longer than").await;
    agent.kill().await;
    hostile.abort();
}

#[tokio::test]
async fn a_workspace_that_is_not_served_yet_is_tried_again_within_seconds() {
    let relay = relay().set("WORKSPACES", "").start().await;
    let home = Home::new();
    let mut agent = Agent::begin(&mut Agent::up(&relay, &home)).await;
    let said = agent.says("no webhook of the workspace").await;
    assert!(said.contains("trigger any change in Linear"), "{said}");
    relay.post(&issue("i", 1)).await;
    agent.says("ready:").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_filter_is_registered_and_a_team_that_does_not_exist_is_named() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    let refused = output(up.args(["--team", "HER,NOPE"])).await.exits(4);
    refused.warns("NOPE");
    let filter = ["--mine", "--team", TEAM_KEY];
    let agent = Agent::start(Agent::up(&relay, &home).args(filter)).await;
    let filter = relay.read(&worker(&home)).await.filter.unwrap();
    assert_eq!(
        (filter.mine, filter.teams),
        (true, Some(vec![TEAM_KEY.to_owned()]))
    );
    agent.stop().await;
    // Without the flags, it is renewed without them.
    let agent = Agent::pulling(&relay, &home).await;
    assert_eq!(relay.read(&worker(&home)).await.filter, None);
    agent.stop().await;
}

#[tokio::test]
async fn told_that_events_are_withheld_it_shows_its_token_and_gets_them() {
    let (relay, home, handler) = with_handler().await;
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    let withheld = issue("i", 1).replace("\"number\"", "\"teamId\":\"new\",\"number\"");
    relay.post(&withheld).await;
    relay.settled().await;
    assert_eq!(relay.read(&worker(&home)).await.withheld, 1);
    let mut account = Account::member("ana", WORKSPACE);
    account.teams.push(("new".to_owned(), "NEW".to_owned()));
    relay.linear.admit_as(TOKEN, account);
    // Not more than once in a minute.
    relay.clock.advance(Duration::from_secs(61));
    handler.wait_for(1).await;
    assert_eq!(relay.read(&worker(&home)).await.withheld, 0);
    agent.stop().await;
}

#[tokio::test]
async fn the_token_is_shown_daily_and_while_linear_is_down_the_lease_is_renewed_without_it() {
    let (relay, home, handler) = with_handler().await;
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    let asked = relay.linear.calls();
    relay.linear.fail(Some((503, "")));
    relay.clock.advance(Duration::from_secs(86_400));
    until("it is asked for the membership", async || {
        relay.linear.calls() > asked
    })
    .await;
    until("the lease is renewed", async || {
        let worker = relay.read(&worker(&home)).await;
        worker.expires_at > rfc3339(relay.clock.millis() + 6 * 86_400_000 + 86_000_000)
    })
    .await;
    agent.stop().await;
}

#[tokio::test]
async fn a_membership_that_ends_soon_is_reported_and_renewed_once_there_is_a_token() {
    let relay = relay()
        .set("MEMBERSHIP_SECONDS", 8 * 86_400)
        .set("LEASE_SECONDS", 30 * 86_400)
        .start()
        .await;
    let (home, handler) = (Home::new(), Receiver::start().await);
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    // The token is gone, and the membership is overdue.
    std::fs::remove_file(home.join("linear-token")).unwrap();
    relay.clock.advance(Duration::from_secs(7 * 86_400));
    let is_reported = |name: &'static str, part: &'static str| {
        let status = agent.status().unwrap_or_default();
        status[name]
            .as_str()
            .is_some_and(|text| text.contains(part))
    };
    until("it is reported", async || {
        is_reported("membershipDueAt", "T")
    })
    .await;
    relay.clock.advance(Duration::from_secs(2 * 86_400));
    until("it is refused", async || {
        is_reported("problem", "seen again")
    })
    .await;
    relay.post(&issue("i", 1)).await;
    home.write("linear-token", TOKEN);
    handler.wait_for(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_name_is_free_once_its_agent_has_stopped_or_has_been_gone_for_two_hours() {
    let relay = relay().start().await;
    let (one, two, three) = (Home::new(), Home::new(), Home::new());
    let agent = Agent::pulling(&relay, &one).await;
    agent.kill().await;
    relay.clock.advance(Duration::from_secs(10 * 60));
    output(&mut Agent::up(&relay, &two)).await.exits(4);
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let agent = Agent::pulling(&relay, &two).await;
    agent.stop().await;
    let agent = Agent::pulling(&relay, &three).await;
    agent.stop().await;
}

/// 4747 is taken by the first, if by nobody else, and neither was told where to listen.
#[tokio::test]
async fn a_second_agent_that_only_pulls_finds_a_port_of_its_own() {
    let relay = relay().start().await;
    let (one, two) = (Home::new(), Home::new());
    let start = |home: &Home, name: &str| {
        let mut up = command(home);
        up.args(["up", "--name", name, "--relay", &relay.local.url()])
            .env("LINEAR_TOKEN", TOKEN);
        up
    };
    let first = Agent::start(&mut start(&one, "one")).await;
    let second = Agent::start(&mut start(&two, "two")).await;
    assert_ne!(first.address, second.address);
    first.stop().await;
    second.stop().await;
}
