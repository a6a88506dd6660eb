//! What each token opens: every one that there is or was, at every worker's doors, over two workspaces. The table is
//! `snapshots/promises__access__tokens__*.snap`.

use std::fmt::Write as _;
use std::time::Duration;

use local::samples::WORKSPACE;
use reqwest::header::AUTHORIZATION;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{ANOTHER, DAY, ENG, account, outcome};
use crate::harness::{Registration, Relay, relay};

const WORKERS: [&str; 6] = [
    "ana's one",
    "ana's two",
    "bo's one",
    "cyd's one, elsewhere",
    "ana's that was removed",
    "ana's whose lease has ended",
];

struct Holders {
    /// As in [`WORKERS`].
    workers: Vec<Registration>,
    /// What can stand in `Authorization`, by what it is.
    credentials: Vec<(String, Option<String>)>,
}

async fn register(relay: &Relay, user: &str, name: &str) -> Registration {
    let request = json!({"name": name, "linearToken": linear_token(user)});
    relay.register_as(request).await
}

fn linear_token(user: &str) -> String {
    format!("lin_oauth_{user}")
}

/// The same token with another last character.
fn almost(token: &str) -> String {
    let (head, last) = token.split_at(token.len() - 1);
    format!("{head}{}", if last == "A" { "B" } else { "A" })
}

async fn holders(relay: &Relay) -> Holders {
    let users = [("ana", WORKSPACE), ("bo", WORKSPACE), ("cyd", ANOTHER)];
    for (user, workspace) in users {
        (relay.linear).admit_as(&linear_token(user), account(user, workspace, ENG));
    }
    let expired = register(relay, "ana", "expired").await;
    relay.clock.advance(Duration::from_secs(2 * DAY));
    let removed = register(relay, "ana", "removed").await;
    let none = json!({});
    let gone = relay
        .call(Method::DELETE, &removed.path, Some(&removed.token), &none)
        .await;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    let oldest = register(relay, "ana", "one").await;
    let replaced = register(relay, "ana", "one").await;
    let workers = vec![
        register(relay, "ana", "one").await,
        register(relay, "ana", "two").await,
        register(relay, "bo", "one").await,
        register(relay, "cyd", "one").await,
        removed,
        expired,
    ];
    let bearer = |token: &str| Some(format!("Bearer {token}"));
    let own = &workers[0];
    let mut credentials: Vec<_> = (WORKERS.iter().zip(&workers))
        .map(|(name, worker)| (format!("the token of {name}"), bearer(&worker.token)))
        .collect();
    let more = [
        ("ana's one: the token before", bearer(&replaced.token)),
        ("ana's one: the token before that", bearer(&oldest.token)),
        ("ana's one: its signing secret", bearer(&own.secret)),
        ("ana's Linear token", bearer(&linear_token("ana"))),
        (
            "ana's one: another last character",
            bearer(&almost(&own.token)),
        ),
        (
            "ana's one: without its last character",
            bearer(&own.token[..own.token.len() - 1]),
        ),
        (
            "ana's one: as another scheme",
            Some(format!("Basic {}", own.token)),
        ),
        ("ana's one: without a scheme", Some(own.token.clone())),
        ("an empty token", bearer("")),
        ("nothing", None),
    ];
    credentials.extend(more.map(|(name, value)| (name.to_owned(), value)));
    Holders {
        workers,
        credentials,
    }
}

/// The answer at a door of a worker.
async fn knock(relay: &Relay, method: Method, path: &str, credential: Option<&str>) -> String {
    let url = format!("{}{path}", relay.local.url());
    let mut request = relay.client.request(method, url).json(&json!({}));
    if let Some(credential) = credential {
        request = request.header(AUTHORIZATION, credential);
    }
    outcome(request.send().await.unwrap()).await
}

/// The answers at all doors of a worker; the removal is tried where reading it is refused.
async fn knock_at_all(relay: &Relay, path: &str, credential: Option<&str>) -> String {
    let mailbox = format!("{path}/mailbox");
    let mut answers = Vec::new();
    for (method, path) in [
        (Method::GET, path),
        (Method::PUT, path),
        (Method::POST, &mailbox),
        (Method::DELETE, path),
    ] {
        if method == Method::DELETE && answers[0] == "200" {
            break;
        }
        answers.push(knock(relay, method, path, credential).await);
    }
    answers.dedup();
    answers.join(", ")
}

#[tokio::test]
async fn every_token_at_every_worker() {
    let relay = relay()
        .set("WORKSPACES", format!("{WORKSPACE}, {ANOTHER}"))
        .set("LEASE_SECONDS", DAY)
        .start()
        .await;
    let Holders {
        workers,
        credentials,
    } = holders(&relay).await;
    let mut table = String::from(
        "GET, PUT {worker}, POST {worker}/mailbox, DELETE {worker}; equal answers once\n",
    );
    for (name, credential) in &credentials {
        writeln!(table, "\n{name}").unwrap();
        for (whose, worker) in WORKERS.iter().zip(&workers) {
            let answers = knock_at_all(&relay, &worker.path, credential.as_deref()).await;
            writeln!(table, "  at {whose}: {answers}").unwrap();
        }
    }
    writeln!(table, "\nDELETE {{worker}}, by its own token").unwrap();
    for (at, worker) in workers.iter().enumerate() {
        let (name, credential) = (WORKERS[at], credentials[at].1.as_deref());
        let answer = knock(&relay, Method::DELETE, &worker.path, credential).await;
        writeln!(table, "  {name}: {answer}").unwrap();
    }
    insta::assert_snapshot!(table);
}
