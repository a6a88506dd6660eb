//! Being registered: refused, expired, unreachable, replaced, rotated; nothing of it ends the agent.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::agent::{Agent, Inside, deliver, free_port, kept, output, run, signed, worker};
use crate::harness::{Receiver, TOKEN, eventually, issue, relay};

#[tokio::test]
async fn it_waits_for_a_relay_that_is_down_and_reports_it_once() {
    let home = tempfile::tempdir().unwrap();
    let relay = relay().start().await;
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let url = format!("http://127.0.0.1:{}", free_port().await);
    let mut command = Agent::up(&relay, home.path());
    let mut agent = Agent::begin(command.args(["--relay", &url, &to])).await;
    let said = agent.says("the relay cannot be reached").await;
    assert!(said.contains("going on with what is here"), "{said}");
    tokio::time::timeout(
        Duration::from_secs(4),
        agent.says("the relay cannot be reached"),
    )
    .await
    .expect_err("it was said again");
    let status = run(home.path(), &["status", "--json"]).await;
    assert_eq!(status.code, Some(3));
    assert!(
        status.json()["problem"]
            .as_str()
            .unwrap()
            .contains("cannot be reached")
    );
    agent.stop().await;
}

#[tokio::test]
async fn it_registers_again_when_its_registration_has_ended() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut agent = Agent::pulling(&relay, home.path()).await;
    let gone = worker(home.path());
    let removed = relay
        .call(Method::DELETE, &gone.path, Some(&gone.token), &json!({}))
        .await;
    assert_eq!(removed.status(), 204);
    agent.says("registered as `laptop`").await;
    agent.says("ready:").await;
    relay.post(&issue("i", 1)).await;
    assert_eq!(agent.number().await, 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_lease_that_ended_over_a_long_sleep_is_followed_by_a_new_registration() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let agent = Inside::start(&relay, home.path(), &[&to]).await;
    let before = worker(home.path());
    relay.clock.advance(Duration::from_secs(8 * 86_400));
    eventually("it registers again", || async {
        (worker(home.path()).token != before.token).then_some(())
    })
    .await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_registration_that_ended_and_a_token_that_is_refused_end_nothing() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let agent = Inside::start(&relay, home.path(), &[&to]).await;
    let token = home.path().join("linear-token");
    std::fs::write(&token, "lin_api_refused").unwrap();
    let gone = worker(home.path());
    relay
        .call(Method::DELETE, &gone.path, Some(&gone.token), &json!({}))
        .await;
    eventually("it says what is wrong", || async {
        agent.status()?["problem"]
            .as_str()?
            .contains("Linear does not accept")
            .then_some(())
    })
    .await;
    // What is delivered here is still handled.
    let body = issue("i", 1);
    let address = format!(
        "http://{}/webhook",
        agent.status().unwrap()["listen"].as_str().unwrap()
    );
    assert_eq!(
        deliver(&address, &signed(home.path(), "evt_1", &body), &body)
            .await
            .0,
        202
    );
    handler.wait_for(1).await;
    // A new token in the file is enough.
    std::fs::write(&token, TOKEN).unwrap();
    eventually("it is well again", || async {
        (agent.status()?["problem"].is_null() && worker(home.path()).token != gone.token)
            .then_some(())
    })
    .await;
    relay.post(&issue("i", 2)).await;
    handler.wait_for(2).await;
    agent.stop().await;
}

#[tokio::test]
async fn of_two_agents_with_one_name_the_second_warns_and_the_first_does_not_register_again() {
    let relay = relay().start().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = Agent::pulling(&relay, one.path()).await;
    let mut second = Agent::begin(&mut Agent::up(&relay, two.path())).await;
    second.says("`laptop` was registered before").await;
    second.says("ready:").await;
    first
        .says("another edge-agent has registered this name")
        .await;
    let asked = relay.linear.calls();
    relay.post(&issue("i", 1)).await;
    second.event().await;
    assert_eq!(
        relay.linear.calls(),
        asked,
        "the first one does not register again"
    );
    // The same directory is refused outright.
    let third = output(&mut Agent::up(&relay, two.path())).await;
    assert_eq!(third.code, Some(2));
    third.warns("another edge-agent uses");
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_secret_rotates_without_losing_a_delivery() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut agent = Agent::pulling(&relay, home.path()).await;
    let body = issue("i", 1);
    let on_its_way = signed(home.path(), "evt_old", &body);
    let old = worker(home.path());
    relay
        .call(Method::DELETE, &old.path, Some(&old.token), &json!({}))
        .await;
    agent.says("ready:").await;
    assert_ne!(worker(home.path()).secret, old.secret);
    assert_eq!(deliver(&agent.address, &on_its_way, &body).await.0, 202);
    relay.post(&issue("i", 2)).await;
    for expected in [1, 2] {
        assert_eq!(agent.number().await, expected);
    }
    agent.stop().await;
}

#[tokio::test]
async fn the_registration_is_its_owners_alone_and_linears_token_is_not_in_it() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    let file = home.path().join("registration.json");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept = kept(home.path()).to_string();
    assert!(!kept.contains(TOKEN), "Linear's token is used once");
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", agent.id())).unwrap();
    let secret = worker(home.path());
    for hidden in [TOKEN, &secret.token, &secret.secret] {
        assert!(!arguments.contains(hidden));
        let status = std::fs::read_to_string(home.path().join("status.json")).unwrap();
        assert!(!status.contains(hidden));
        for command in ["status", "doctor", "events"] {
            let output = run(home.path(), &[command, "--json", "-v"]).await;
            assert!(!format!("{output:?}").contains(hidden), "{command}");
        }
    }
    agent.stop().await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = output(&mut Agent::up(&relay, home.path())).await;
    assert_eq!(refused.code, Some(2));
    refused.warns("chmod 600");
}

#[tokio::test]
async fn stopping_keeps_the_worker_and_forget_removes_it() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    assert_eq!(
        run(home.path(), &["forget"]).await.code,
        Some(3),
        "nothing to forget"
    );
    let agent = Agent::pulling(&relay, home.path()).await;
    let worker = worker(home.path());
    let running = run(home.path(), &["forget"]).await;
    assert_eq!(running.code, Some(2), "{running:?}");
    agent.stop().await;
    relay.read(&worker).await;
    let forgotten = run(home.path(), &["forget", "--json"]).await;
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    assert_eq!(
        forgotten.json(),
        json!({"worker": "laptop", "removed": true})
    );
    relay.assert_removed(&worker).await;
    assert!(!home.path().join("registration.json").exists());
}
