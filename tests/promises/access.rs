//! Who may do what: every caller at every door, over two workspaces. The table is `snapshots/promises__access__*.snap`.

mod secrets;
mod tokens;

use std::fmt::Write as _;
use std::time::Duration;

use local::linear_api::Account;
use local::samples::WORKSPACE;
use protocol::messages::{Pull, Registered};
use protocol::problem::Problem;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Registration, Relay, pulled, relay, until};

const ANOTHER: &str = "another-workspace";
const ENG: &str = "team-eng";
const OPS: &str = "team-ops";
const DAY: u64 = 86_400;

/// Somebody, with what they hold.
struct Caller {
    name: &'static str,
    linear_token: String,
    worker: Option<Registration>,
}

impl Caller {
    /// What they show at the door of a worker.
    fn token(&self) -> &str {
        let worker = self.worker.as_ref();
        worker.map_or(&self.linear_token, |worker| &worker.token)
    }
}

/// Admits this account to Linear and has it register a worker.
async fn caller(relay: &Relay, name: &'static str, account: Account) -> (Caller, String) {
    let linear_token = format!("lin_oauth_{name}");
    relay.linear.admit_as(&linear_token, account);
    let request = json!({"name": "one", "linearToken": linear_token});
    let answer = relay
        .call(Method::POST, "/edge/register", None, &request)
        .await;
    let (worker, cell) = if answer.status() == StatusCode::CREATED {
        let registered: Registered = answer.json().await.unwrap();
        (Some(registered.into()), "201".to_owned())
    } else {
        (None, outcome(answer).await)
    };
    let caller = Caller {
        name,
        linear_token,
        worker,
    };
    (caller, cell)
}

/// A status, and the code of a problem.
async fn outcome(answer: reqwest::Response) -> String {
    let status = answer.status().as_u16();
    if status < 400 {
        return status.to_string();
    }
    let problem: Problem = answer.json().await.unwrap();
    format!("{status} {}", problem.code.as_str())
}

fn account(user: &str, workspace: &str, team: &str) -> Account {
    Account {
        teams: vec![(team.to_owned(), team.to_uppercase())],
        ..Account::member(user, workspace)
    }
}

/// All callers, and how each one's registration was answered.
async fn callers(relay: &Relay) -> Vec<(Caller, String)> {
    // The one whose membership is overdue has a worker from before.
    let overdue = caller(relay, "overdue", account("overdue", WORKSPACE, ENG)).await;
    relay.clock.advance(Duration::from_secs(21 * DAY));
    let mut callers = vec![overdue];
    let guest = Account {
        is_guest: true,
        ..account("guest", WORKSPACE, ENG)
    };
    let app = Account {
        is_app: true,
        ..account("app", WORKSPACE, ENG)
    };
    for (name, account) in [
        ("ana, of ENG", account("ana", WORKSPACE, ENG)),
        ("bo, of OPS", account("bo", WORKSPACE, OPS)),
        ("an application of ENG", app),
        ("cyd, of another workspace", account("cyd", ANOTHER, ENG)),
        ("a guest", guest),
        ("removed", account("removed", WORKSPACE, ENG)),
    ] {
        callers.push(caller(relay, name, account).await);
    }
    let removed = &callers.last().unwrap().0;
    relay.linear.revoke(&removed.linear_token);
    let data = json!({"data": {"id": "removed", "number": 0}});
    relay
        .post(&payload("User", "remove", WORKSPACE, data))
        .await;
    let worker = removed.worker.as_ref().unwrap();
    until("the removed user's worker is removed", async || {
        let (token, none) = (Some(worker.token.as_str()), json!({}));
        let read = relay.call(Method::GET, &worker.path, token, &none).await;
        read.status() == 401
    })
    .await;
    let again = json!({"name": "again", "linearToken": removed.linear_token});
    let again = relay
        .call(Method::POST, "/edge/register", None, &again)
        .await;
    let again = format!("201; once removed {}", outcome(again).await);
    callers.last_mut().unwrap().1 = again;
    let stranger = Caller {
        name: "a stranger",
        linear_token: "lin_oauth_unknown".to_owned(),
        worker: None,
    };
    let request = json!({"name": "one", "linearToken": stranger.linear_token});
    let cell = relay
        .call(Method::POST, "/edge/register", None, &request)
        .await;
    callers.push((stranger, outcome(cell).await));
    callers
}

fn payload(kind: &str, action: &str, workspace: &str, more: Value) -> String {
    let mut payload = json!({
        "type": kind, "action": action, "organizationId": workspace, "webhookTimestamp": 0,
    });
    let fields = payload.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    payload.to_string()
}

/// The events, each with its number in it.
fn events() -> Vec<(&'static str, String)> {
    let issue = |number: usize, team: &str| json!({"data": {"id": format!("i{number}"), "number": number, "teamId": team}});
    let session = json!({
        "data": {"number": 5}, "appUserId": "app", "oauthClientId": "client",
        "agentSession": {"id": "s", "appUserId": "app", "issue": {"id": "i", "teamId": OPS}},
    });
    vec![
        (
            "an issue of ENG",
            payload("Issue", "update", WORKSPACE, issue(1, ENG)),
        ),
        (
            "an issue of OPS",
            payload("Issue", "update", WORKSPACE, issue(2, OPS)),
        ),
        (
            "a project without a team",
            payload(
                "Project",
                "update",
                WORKSPACE,
                json!({"data": {"id": "p", "number": 3}}),
            ),
        ),
        (
            "an issue of another workspace",
            payload("Issue", "update", ANOTHER, issue(4, ENG)),
        ),
        (
            "a session of the application, on an issue of OPS",
            payload("AgentSessionEvent", "created", WORKSPACE, session),
        ),
    ]
}

/// What each verb answers at the door of a worker, the removal last.
async fn verbs(relay: &Relay, caller: &Caller, path: &str) -> [String; 4] {
    let mailbox = format!("{path}/mailbox");
    let calls = [
        (Method::GET, path),
        (Method::PUT, path),
        (Method::POST, &mailbox),
        (Method::DELETE, path),
    ];
    let call = |(method, path)| async move {
        let answer = relay
            .call(method, path, Some(caller.token()), &json!({}))
            .await;
        outcome(answer).await
    };
    let [get, put, post, delete] = calls.map(call);
    [get.await, put.await, post.await, delete.await]
}

/// The numbers of the events that are in a caller's mailbox, or why it does not say.
async fn mailbox(relay: &Relay, caller: &Caller) -> String {
    let Some(worker) = &caller.worker else {
        return "no worker".to_owned();
    };
    let path = format!("{}/mailbox", worker.path);
    let pull = serde_json::to_value(Pull::default()).unwrap();
    let answer = relay
        .call(Method::POST, &path, Some(&worker.token), &pull)
        .await;
    if answer.status() != StatusCode::OK {
        return outcome(answer).await;
    }
    let mut numbers = pulled(&answer.json().await.unwrap());
    numbers.sort_unstable();
    format!("{numbers:?}")
}

#[tokio::test]
async fn every_caller_at_every_door() {
    let relay = relay()
        .set("WORKSPACES", format!("{WORKSPACE}, {ANOTHER}"))
        .set("MEMBERSHIP_SECONDS", 20 * DAY)
        .set("LEASE_SECONDS", 30 * DAY)
        .start()
        .await;
    let callers = callers(&relay).await;
    let mut table = String::new();
    writeln!(table, "POST /edge/register").unwrap();
    for (caller, cell) in &callers {
        writeln!(table, "  {}: {cell}", caller.name).unwrap();
    }
    let events = events();
    for (_, event) in &events {
        relay.post(event).await;
    }
    relay.settled().await;
    writeln!(
        table,
        "\nMailboxes, after these events\n  0: the removal of a user"
    )
    .unwrap();
    for (at, (name, _)) in events.iter().enumerate() {
        writeln!(table, "  {}: {name}", at + 1).unwrap();
    }
    for (caller, _) in &callers {
        writeln!(
            table,
            "  {}: {}",
            caller.name,
            mailbox(&relay, caller).await
        )
        .unwrap();
    }
    writeln!(
        table,
        "\nGET, PUT {{worker}}, POST {{worker}}/mailbox, DELETE {{worker}}"
    )
    .unwrap();
    let workers = || {
        callers
            .iter()
            .filter_map(|(owner, _)| Some((owner, owner.worker.as_ref()?)))
    };
    for (owner, worker) in workers() {
        // A worker's id is one in its own workspace alone.
        let moved = [(WORKSPACE, ANOTHER), (ANOTHER, WORKSPACE)];
        let (here, there) = *moved
            .iter()
            .find(|(here, _)| worker.path.contains(here))
            .unwrap();
        let elsewhere = worker.path.replace(here, there);
        let others = callers
            .iter()
            .filter(|(caller, _)| caller.name != owner.name);
        let doors = others.map(|(caller, _)| (caller, worker.path.as_str()));
        for (caller, path) in doors.chain([(owner, elsewhere.as_str())]) {
            let cells = verbs(&relay, caller, path).await;
            let are_refused = cells.iter().all(|cell| cell == "401 worker_token_invalid");
            assert!(
                are_refused,
                "{} at {path}, of {}: {cells:?}",
                caller.name, owner.name
            );
        }
    }
    writeln!(
        table,
        "  at another's worker: 401 worker_token_invalid, all of them"
    )
    .unwrap();
    // Since a removal is among them, these come last.
    for (owner, worker) in workers() {
        let cells = verbs(&relay, owner, &worker.path).await.join(", ");
        writeln!(table, "  {} at their own: {cells}", owner.name).unwrap();
    }
    insta::assert_snapshot!(table);
}
