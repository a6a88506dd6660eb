//! `edge-relay admin`, run as the operator runs it: over the wire, with the key that `serve` prints.

use std::fs;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures::future::join_all;
use local::dynamodb::TABLE;
use local::samples::WORKSPACE;
use protocol::messages::{AwayReason, Renew, WorkerState};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::agent::{Agent, relay_and_home, run as run_agent, worker};
use crate::harness::page::commands_of;
use crate::harness::{
    Answer, Receiver, Registration, Relay, TOKEN, eventually, issue, large_issue, numbers, pulled,
    registration, relay, until,
};

/// Runs a command on a relay.
async fn run(relay: &Relay, arguments: &[&str]) -> Output {
    let aws = relay.aws_endpoint();
    Command::new(env!("CARGO_BIN_EXE_edge"))
        .arg("admin")
        .args(arguments)
        .env_clear()
        .env("NO_PROXY", "127.0.0.1")
        .env("AWS_ENDPOINT_URL", aws.url())
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", &aws.key.id)
        .env("AWS_SECRET_ACCESS_KEY", &aws.key.secret)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command that has to succeed. Returns what it printed, and what it said.
pub(crate) async fn does(relay: &Relay, arguments: &[&str]) -> (String, String) {
    let done = run(relay, arguments).await;
    let (printed, said) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{arguments:?}: {printed}{said}");
    (printed, said)
}

/// The objects that a command prints with `--json`.
async fn objects(relay: &Relay, arguments: &[&str]) -> Vec<Value> {
    let (printed, _) = does(relay, &[arguments, &["--json"]].concat()).await;
    let lines = printed.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs a command that has to fail with this code. Returns what it said.
async fn fails(relay: &Relay, arguments: &[&str], code: i32) -> String {
    let done = run(relay, arguments).await;
    assert_eq!(done.status.code(), Some(code), "{arguments:?}: {done:?}");
    assert!(done.stdout.is_empty(), "{done:?}");
    text(&done.stderr)
}

fn id(worker: &Registration) -> String {
    let [_, id] = worker.names();
    id
}

/// A relay on which what a worker answers with 400 is soon a dead letter.
async fn impatient() -> Relay {
    relay().set("GIVE_UP_4XX_SECONDS", 1).start().await
}

/// Waits until there are so many dead letters. Time does not pass for those who compare it with that of this machine.
async fn dead(relay: &Relay, count: usize) {
    until("they are given up", async || {
        relay.dead_letters().len() == count
    })
    .await;
}

#[tokio::test]
async fn workers_are_listed_and_shown_without_anything_secret() {
    let (relay, receiver) = (relay().start().await, Receiver::start().await);
    relay.linear.admit("lin_api_bob", "bob", WORKSPACE);
    let secret = format!("{}?key=hush", receiver.url());
    let one = relay.register("one", &secret).await;
    let two = relay
        .register_as(json!({"name": "two", "linearToken": "lin_api_bob"}))
        .await;
    relay.go_offline(&one).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;

    let ids = async |arguments: &[&str]| {
        let found = objects(&relay, &[&["workers"], arguments].concat()).await;
        let ids = found
            .iter()
            .map(|worker| worker["workerId"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let (one, two) = (id(&one), id(&two));
    assert_eq!(ids(&[]).await, [one.as_str(), two.as_str()]);
    assert_eq!(ids(&["--away"]).await, [one.as_str()]);
    assert_eq!(ids(&["--user", "Bob@example.com"]).await, [two.as_str()]);
    assert_eq!(
        ids(&["--workspace", WORKSPACE]).await,
        [one.clone(), two.clone()]
    );
    assert!(ids(&["--workspace", "another"]).await.is_empty());

    let (table, _) = does(&relay, &["workers"]).await;
    let lines: Vec<_> = table.lines().collect();
    assert!(
        lines[0].starts_with("WORKER ") && lines.len() == 3,
        "{table}"
    );
    for expected in [
        one.as_str(),
        "one",
        "ana@example.com",
        WORKSPACE,
        "away: offline",
        "yes",
    ] {
        assert!(lines[1].contains(expected), "{expected} in {table}");
    }
    let (shown, _) = does(&relay, &["worker", &one]).await;
    for expected in ["1 mailbox", "all events", "evt_", "Issue"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    let detail = objects(&relay, &["worker", &one]).await.remove(0);
    assert_eq!(detail["events"][0]["place"], "mailbox");
    for text in [table, shown, detail.to_string()] {
        for secret in ["hush", "whsec_", "edge_", "token", "secret"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn an_event_is_found_wherever_it_is() {
    let relay = impatient().await;
    let receivers = [
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    ];
    let [rejecting, failing, well] = &receivers;
    rejecting.answer([Answer::Status(400)]);
    failing.answer([Answer::Status(500)]);
    let dead_at = relay.register("rejecting", &rejecting.url()).await;
    let tried_at = relay.register("failing", &failing.url()).await;
    relay.register("well", &well.url()).await;
    let parked_at = relay.register_pull("sleeping").await;
    let mut uninterested = registration("uninterested", &well.url());
    uninterested["capabilities"] = json!(["Comment"]);
    let uninterested = relay.register_as(uninterested).await;
    let posted = relay.post(&issue("i", 1)).await;
    dead(&relay, 1).await;
    until("it is tried", async || failing.count() > 0).await;

    let places = async |event: &str| {
        let rows = objects(&relay, &["event", event]).await;
        let place = |worker: &Registration| {
            let row = rows.iter().find(|row| row["worker"] == *id(worker));
            row.unwrap_or_else(|| panic!("{rows:?}"))["place"].clone()
        };
        [&dead_at, &tried_at, &parked_at, &uninterested].map(place)
    };
    let expected = ["dead letter", "backoff", "mailbox", "not for it"];
    assert_eq!(places(&posted.event).await, expected);
    assert_eq!(places(&posted.webhook.delivery).await, expected);
    let (table, said) = does(&relay, &["event", &posted.event]).await;
    assert!(table.contains("rejected: answered 400"), "{table}");
    assert!(said.contains("for 1 others"), "{said}");
    relay.remove(&dead_at).await;
    let (table, _) = does(&relay, &["event", &posted.event]).await;
    assert!(table.contains("removed"), "{table}");
}

#[tokio::test]
async fn removing_asks_first_and_then_removes_all_of_a_user() {
    let relay = relay().start().await;
    relay.linear.admit("lin_api_bob", "bob", WORKSPACE);
    let (one, two) = (
        relay.register_pull("one").await,
        relay.register_pull("two").await,
    );
    let other = relay
        .register_as(json!({"name": "other", "linearToken": "lin_api_bob"}))
        .await;
    // Nobody is there to answer.
    let said = fails(&relay, &["remove", "--user", "ana@example.com"], 1).await;
    assert!(said.contains(&id(&one)) && said.contains("--yes"), "{said}");
    for worker in [&one, &two, &other] {
        relay.read(worker).await;
    }
    does(&relay, &["remove", "--yes", "--user", "ana@example.com"]).await;
    relay.assert_removed(&one).await;
    relay.assert_removed(&two).await;
    relay.read(&other).await;
    does(&relay, &["remove", "--yes", &id(&other)]).await;
    relay.assert_removed(&other).await;
}

#[tokio::test]
async fn dead_letters_are_listed_once_and_redriven_in_order() {
    let (relay, receiver, other) = (
        impatient().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    for receiver in [&receiver, &other] {
        receiver.answer([Answer::Status(400)]);
    }
    let worker = relay.register("one", &receiver.url()).await;
    relay.register("other", &other.url()).await;
    // More of one ordering key than a receive returns.
    let first = relay.post(&issue("i", 0)).await;
    relay.post_all(1..12).await;
    let last = relay.post(&issue("i", 12)).await;
    dead(&relay, 26).await;
    // One that cannot be read is not taken for one that was delivered.
    let (table, said) = does(&relay, &["event", &last.event]).await;
    assert_eq!(table.matches("given up").count(), 2, "{table}");
    assert!(said.contains("cannot be read now"), "{said}");
    let tried = receiver.count();

    let (table, said) = does(&relay, &["dead-letters", "--worker", &id(&worker)]).await;
    assert_eq!(
        table.matches("rejected: answered 400").count(),
        10,
        "{table}"
    );
    assert!(said.contains("about 6 more"), "{said}");
    let of_event = objects(&relay, &["dead-letters", "--event", &first.event]).await;
    assert_eq!(of_event.len(), 2);
    assert_eq!(of_event[0]["user"], "ana@example.com");
    assert_eq!(of_event[0]["workspace"], WORKSPACE);
    assert_eq!(of_event[0]["reason"], "rejected: answered 400");

    receiver.answer([Answer::Status(200)]);
    let (_, said) = does(&relay, &["redrive", "--worker", &id(&worker)]).await;
    assert!(said.contains("redriven: 13"), "{said}");
    receiver.wait_for(tried + 13).await;
    assert_eq!(
        numbers(&receiver.received()[tried..]),
        (0..13).collect::<Vec<_>>()
    );
    assert_eq!(relay.dead_letters().len(), 13);

    does(&relay, &["redrive", "--event", &first.event]).await;
    let (tried, at) = (other.count(), relay.dead_letters().len());
    assert!((12..=13).contains(&at) && tried > 0);
    // It is rejected again, and is not moved for ever.
    dead(&relay, 13).await;
}

#[tokio::test]
async fn the_stored_body_of_a_dead_letter_is_there_as_long_as_the_letter_and_a_mailbox() {
    let (relay, receiver) = (impatient().await, Receiver::start().await);
    receiver.answer([Answer::Status(400)]);
    relay.register("one", &receiver.url()).await;
    relay.post(&large_issue("i", 1, 400_000)).await;
    dead(&relay, 1).await;
    let stored = relay.dynamodb("Scan", &json!({"TableName": TABLE})).await;
    let chunks = (stored["Items"].as_array().unwrap().iter())
        .filter(|item| item["pk"]["S"].as_str().unwrap().contains("#BODY#"));
    let ends: Vec<i64> = chunks
        .map(|item| item["expires_at"]["N"].as_str().unwrap().parse().unwrap())
        .collect();
    let days = |end: &i64| (end - relay.clock.seconds()) / (24 * 3600);
    // 14 on the dead-letter queue and 30 in the mailbox that keeps events longest.
    assert!(
        !ends.is_empty() && ends.iter().all(|end| days(end) >= 44),
        "{ends:?}"
    );
}

#[tokio::test]
async fn dead_letters_are_dropped_after_a_question() {
    let (relay, receiver) = (impatient().await, Receiver::start().await);
    receiver.answer([Answer::Status(400)]);
    relay.register("one", &receiver.url()).await;
    relay.post_all(0..12).await;
    dead(&relay, 12).await;
    let said = fails(&relay, &["drop"], 1).await;
    assert!(said.contains("Delete 10 dead letters"), "{said}");
    assert_eq!(relay.dead_letters().len(), 12);
    let (_, said) = does(&relay, &["drop", "--yes"]).await;
    assert!(said.contains("deleted: 12"), "{said}");
    assert!(relay.dead_letters().is_empty());
    let (printed, said) = does(&relay, &["dead-letters"]).await;
    assert_eq!((printed.as_str(), said.as_str()), ("", "no dead letter\n"));
}

#[tokio::test]
async fn an_event_is_sent_again_as_long_as_there_is_a_copy() {
    let (relay, receiver) = (impatient().await, Receiver::start().await);
    let worker = relay.register("one", &receiver.url()).await;
    let sleeping = relay.register_pull("sleeping").await;
    let posted = [
        relay.post(&issue("i", 1)).await,
        relay.post(&large_issue("i", 2, 100_000)).await,
    ];
    receiver.wait_for(2).await;
    relay.settled().await;
    for (at, posted) in posted.iter().enumerate() {
        does(&relay, &["resend", &posted.event, "--worker", &id(&worker)]).await;
        let again = &receiver.wait_for(3 + at).await[2 + at];
        assert_eq!(again.body, posted.webhook.body);
        assert_eq!(again.header("webhook-id"), posted.event);
        assert!(again.verifies(&worker.secret));
    }
    // The copy is gone with the worker whose mailbox held it.
    relay.remove(&sleeping).await;
    let event = &posted[0].event;
    let resend = ["resend", event, "--worker", &id(&worker)];
    let said = fails(&relay, &resend, 1).await;
    assert!(said.contains("--body FILE"), "{said}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &posted[0].webhook.body).unwrap();
    let file = file.path().to_str().unwrap();
    does(&relay, &[&resend[..], &["--body", file]].concat()).await;
    assert_eq!(receiver.wait_for(5).await[4].body, posted[0].webhook.body);
    // A dead letter is a copy, too.
    receiver.answer([Answer::Status(400)]);
    let dead_one = relay.post(&issue("j", 3)).await;
    dead(&relay, 1).await;
    receiver.answer([Answer::Status(200)]);
    let tried = receiver.count();
    does(
        &relay,
        &["resend", &dead_one.event, "--worker", &id(&worker)],
    )
    .await;
    receiver.wait_for(tried + 1).await;
    assert_eq!(relay.dead_letters().len(), 1);
}

#[tokio::test]
async fn nobody_is_sent_what_they_may_not_see() {
    let (relay, receiver) = (relay().start().await, Receiver::start().await);
    let worker = relay.register("one", &receiver.url()).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let of_team = issue("i", 1).replace("\"number\"", "\"teamId\":\"secret-team\",\"number\"");
    for (body, expected) in [
        (
            issue("i", 1).replace(WORKSPACE, "another"),
            "another workspace",
        ),
        (of_team, "could not see the event's team"),
        ("{".to_owned(), "not JSON"),
        ("{}".to_owned(), "organizationId"),
    ] {
        fs::write(file.path(), body).unwrap();
        let resend = ["resend", "evt_x", "--worker", &id(&worker), "--body", path];
        let said = fails(&relay, &resend, 1).await;
        assert!(said.contains(expected), "{said}");
    }
    assert!(relay.queued().is_empty());
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn a_paused_worker_gets_nothing_until_it_is_resumed() {
    let (relay, receiver) = (relay().start().await, Receiver::start().await);
    let worker = relay.register_receiving("one", &receiver.url()).await;
    does(&relay, &["pause", &id(&worker)]).await;
    relay.post_all(0..3).await;
    until("they are parked", async || {
        relay.read(&worker).await.waiting
    })
    .await;
    relay.settled().await;
    // Nothing that brings back a worker that is away brings back this one.
    relay.renew(&worker, &Renew::default()).await;
    assert!(pulled(&relay.pull(&worker, &[], None).await).is_empty());
    relay.clock.advance(Duration::from_secs(400));
    relay.local.run_health().await.unwrap();
    let mut again = registration("one", &receiver.url());
    again["pulls"] = json!(false);
    let worker = relay.register_as(again).await;
    assert!(pulled(&relay.pull(&worker, &[], None).await).is_empty());
    let paused = relay.read(&worker).await;
    let expected = (WorkerState::Away, Some(AwayReason::Paused));
    assert_eq!((paused.state, paused.away_reason), expected);
    assert_eq!(receiver.count(), 0);
    let said = fails(&relay, &["pause", &id(&worker)], 1).await;
    assert!(said.contains("paused already"), "{said}");

    does(&relay, &["resume", &id(&worker)]).await;
    eventually("it is live", async || {
        relay.clock.advance(Duration::from_secs(1));
        (relay.read(&worker).await.state == WorkerState::Live).then_some(())
    })
    .await;
    assert_eq!(numbers(&receiver.received()), [0, 1, 2]);
    let said = fails(&relay, &["resume", &id(&worker)], 1).await;
    assert!(said.contains("not paused"), "{said}");
}

#[tokio::test]
async fn a_pull_worker_can_be_paused_too() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    does(&relay, &["pause", &id(&worker)]).await;
    assert!(pulled(&relay.pull(&worker, &[], None).await).is_empty());
    let (shown, _) = does(&relay, &["worker", &id(&worker)]).await;
    assert!(shown.contains("pull: paused"), "{shown}");
    does(&relay, &["resume", &id(&worker)]).await;
    assert_eq!(pulled(&relay.pull(&worker, &[], None).await), [1]);
}

#[tokio::test]
async fn a_paused_worker_counts_as_away_in_its_group() {
    let relay = relay().set("GROUP_FAILOVER_SECONDS", 60).start().await;
    let member = async |name: &str| {
        let request = json!({"name": name, "linearToken": TOKEN, "group": "g"});
        relay.register_as(request).await
    };
    let workers = [member("one").await, member("two").await];
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let got = async |worker: &Registration| pulled(&relay.pull(worker, &[], None).await);
    let chosen = usize::from(got(&workers[1]).await == [1]);
    let (chosen, other) = (&workers[chosen], &workers[1 - chosen]);
    does(&relay, &["pause", &id(chosen)]).await;
    // A renewal writes the route anew.
    let renewal = Renew {
        receipts: Some(true),
        ..Renew::default()
    };
    relay.renew(chosen, &renewal).await;
    relay.clock.advance(Duration::from_secs(61));
    relay.post(&issue("i", 2)).await;
    relay.settled().await;
    assert_eq!(got(other).await, [2]);
    does(&relay, &["resume", &id(chosen)]).await;
    assert_eq!(got(chosen).await, [1]);
}

#[tokio::test]
async fn the_agent_says_that_it_is_paused_and_resumed() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    let worker = id(&worker(&home));
    agent.stop().await;
    does(&relay, &["pause", &worker]).await;
    let mut agent = Agent::begin(&mut Agent::up(&relay, &home)).await;
    agent.says("has paused this worker").await;
    agent.says("`laptop` is paused").await;
    let status = run_agent(&home, &["status", "--json"]).await.json();
    assert_eq!(status["state"], "paused");
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_what_can() {
    let relay = relay().start().await;
    let none = format!("wrk_{}", "0".repeat(32));
    for (arguments, code, expected) in [
        (&["worker", &none][..], 1, "there is no worker"),
        (
            &["worker", "\u{1b}[31mred"],
            1,
            "there is no worker `\\u{1b}[31mred`",
        ),
        (&["remove"], 2, "--user"),
        (&["remove", &none, "--user", "a"], 2, "cannot be used with"),
        (
            &["remove", "--yes", "--user", "nobody@example.com"],
            1,
            "no worker is of",
        ),
        (&["event", "a/b"], 2, "evt_"),
        (
            &["resend", "evt_x", "--worker", &none],
            1,
            "there is no worker",
        ),
        (
            &["workers", "--stack", "other"],
            1,
            "there is no stack `other` in us-east-1",
        ),
        (&["workers", "--stack", "a/b"], 2, "as CloudFormation does"),
    ] {
        let said = fails(&relay, arguments, code).await;
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let bare = |name: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge"));
        command.args(["admin", "workers"]).env_clear();
        command
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env(name, value);
        command
    };
    for (name, value, expected) in [
        ("HOME", "/nonexistent", "no AWS region is set"),
        ("AWS_REGION", "us-east-1", "no AWS credentials can be used"),
    ] {
        let done = bare(name, value).output().await.unwrap();
        assert_eq!(done.status.code(), Some(1));
        let said = text(&done.stderr);
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn every_command_of_the_operators_page_does_what_it_says() {
    let pages = [
        include_str!("../../docs/operations.md"),
        include_str!("../../docs/deploy.md"),
    ];
    let mut found = pages
        .map(|page| commands_of(page, &["edge-relay"]))
        .concat();
    found.retain(|command| command.starts_with("edge-relay admin "));
    found.sort_unstable();
    found.dedup();
    assert!(found.len() > 15, "{found:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), issue("i", 1)).unwrap();
    let file = file.path().to_str().unwrap();
    join_all(
        found
            .iter()
            .map(|command| does_as_documented(command, file)),
    )
    .await;
}

/// Runs a command of the page on a relay with a worker that has a dead letter, and another one that has mail.
async fn does_as_documented(command: &str, file: &str) {
    let (relay, receiver) = (impatient().await, Receiver::start().await);
    receiver.answer([Answer::Status(400)]);
    let worker = relay.register("one", &receiver.url()).await;
    relay.register_pull("sleeping").await;
    let posted = relay.post(&issue("i", 1)).await;
    dead(&relay, 1).await;
    if command.contains(" resume ") {
        does(&relay, &["pause", &id(&worker)]).await;
    }
    let command = command
        .replace("<worker>", &id(&worker))
        .replace("<event>", &posted.event)
        .replace("<e-mail>", "ana@example.com")
        .replace("<workspace>", WORKSPACE)
        .replace("<file>", file);
    let mut arguments: Vec<_> = command.split(' ').skip(2).collect();
    if ["remove", "drop"].contains(&arguments[0]) {
        arguments.push("--yes");
    }
    does(&relay, &arguments).await;
}
