//! Which webhooks each secret may sign: every one that there is or was, for every workspace. And what a user's Linear token does to
//! the worker of another. The tables are `snapshots/promises__access__secrets__*.snap`.

use std::fmt::Write as _;
use std::time::Duration;

use local::linear_api::Account;
use local::samples::{WORKSPACE, Webhook};
use protocol::messages::Registered;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{ANOTHER, DAY, ENG, account, outcome};
use crate::harness::{Registration, Relay, issue, relay};

/// What can sign, by what it is.
const SECRETS: [(&str, &str); 6] = [
    ("the workspace's secret", "the secret of the workspace"),
    (
        "the other workspace's secret",
        "the secret of the other one",
    ),
    (
        "a secret for every workspace",
        "the secret of every workspace",
    ),
    ("a secret that was replaced", "the secret that was replaced"),
    ("an empty secret", ""),
    ("a stranger's secret", "the secret of a stranger"),
];

/// The secrets of the relay, and the one that the last of them has replaced.
fn secrets(last: &str) -> String {
    let [(_, of_one), (_, of_other), ..] = SECRETS;
    json!([
        {"secret": of_one, "workspace": WORKSPACE}, {"secret": of_other, "workspace": ANOTHER},
        {"secret": last},
    ])
    .to_string()
}

#[tokio::test]
async fn every_secret_for_every_workspace() {
    let [_, _, (_, of_every), (_, replaced), ..] = SECRETS;
    let relay = relay().set("LINEAR_WEBHOOK_SECRETS", secrets(replaced));
    let relay = relay.start().await;
    relay.put_secrets(&secrets(of_every)).await;
    // Longer than a secret that was removed is accepted.
    relay.clock.advance(Duration::from_secs(70));
    let mut table = String::new();
    let mut number = 0;
    for (what, secret) in SECRETS {
        for (whose, workspace) in [
            ("the workspace", WORKSPACE),
            ("the other workspace", ANOTHER),
            ("a workspace that has no secret", "a-third-workspace"),
        ] {
            number += 1;
            let payload = issue("i", number).replace(WORKSPACE, workspace);
            let webhook = Webhook::sample(secret, &payload, relay.clock.millis());
            let answer = outcome(relay.send(&webhook).await).await;
            writeln!(table, "{what}, for {whose}: {answer}").unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

/// The users, and whether Linear accepts their tokens in the end.
fn users() -> [(&'static str, Account); 5] {
    let guest = Account {
        is_guest: true,
        ..account("guest", WORKSPACE, ENG)
    };
    [
        ("ana", account("ana", WORKSPACE, ENG)),
        ("bo", account("bo", WORKSPACE, ENG)),
        ("cyd, elsewhere", account("cyd", ANOTHER, ENG)),
        ("a guest", guest),
        ("revoked", account("revoked", WORKSPACE, ENG)),
    ]
}

fn token(user: &str) -> String {
    format!("lin_oauth_{}", user.replace([' ', ','], "-"))
}

async fn register(relay: &Relay, user: &str, replace: Value) -> reqwest::Response {
    let request = json!({"name": "one", "linearToken": token(user), "replace": replace});
    (relay.call(Method::POST, "/edge/register", None, &request)).await
}

/// Registers the worker of a user.
async fn registered(relay: &Relay, user: &str) -> Registration {
    let answer = register(relay, user, json!(null)).await;
    answer.json::<Registered>().await.unwrap().into()
}

/// Whether a worker is there, in words.
async fn state(relay: &Relay, worker: &Registration) -> &'static str {
    let (token, none) = (Some(worker.token.as_str()), json!({}));
    let read = relay.call(Method::GET, &worker.path, token, &none).await;
    if read.status() == StatusCode::OK {
        "is there"
    } else {
        "is removed"
    }
}

#[tokio::test]
async fn every_linear_token_at_the_worker_of_each_user() {
    let relay = relay()
        .set("WORKSPACES", format!("{WORKSPACE}, {ANOTHER}"))
        .set("LEASE_SECONDS", 30 * DAY)
        .start()
        .await;
    for (user, account) in users() {
        relay.linear.admit_as(&token(user), account);
    }
    relay.linear.revoke(&token("revoked"));
    let mut table = String::new();
    for owner in ["ana", "bo", "cyd, elsewhere"] {
        for (user, _) in users() {
            let worker = registered(&relay, owner).await;
            let check = json!({"linearToken": token(user)});
            let call = relay.call(Method::PUT, &worker.path, Some(&worker.token), &check);
            let checked = outcome(call.await).await;
            let left = state(&relay, &worker).await;
            writeln!(
                table,
                "{owner}'s worker, shown the token of {user}: {checked}; it {left}"
            )
            .unwrap();
            // So that the limits of registrations are not met.
            relay.clock.advance(Duration::from_secs(60));
        }
        let worker = registered(&relay, owner).await;
        for (user, _) in users().into_iter().filter(|(user, _)| *user != owner) {
            for replace in [json!(false), json!(true)] {
                let answer = outcome(register(&relay, user, replace.clone()).await).await;
                let left = state(&relay, &worker).await;
                writeln!(table, "{owner}'s name, registered by {user}, replace: {replace}: {answer}; {owner}'s {left}").unwrap();
                relay.clock.advance(Duration::from_secs(60));
            }
        }
    }
    insta::assert_snapshot!(table);
}
