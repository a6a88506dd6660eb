//! A worker gets the events that its user may see and wants: by team, by filter, and by application.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use local::linear_api::Account;
use local::local_relay::{DEAD_LETTERS, QUEUE};
use local::samples::{WORKSPACE, Webhook};
use protocol::messages::{AwayReason, Renew, WorkerState};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::template::arn;
use crate::harness::{
    Answer, Receiver, Registration, Relay, SECRET, ids, numbers, pulled, relay, until,
};

pub(crate) const ENG: (&str, &str) = ("team-eng", "ENG");
pub(crate) const OPS: (&str, &str) = ("team-ops", "OPS");
pub(crate) const SECRET_TEAM: (&str, &str) = ("team-secret", "SEC");

pub(crate) fn account(user: &str, teams: &[(&str, &str)]) -> Account {
    Account {
        teams: (teams.iter())
            .map(|(id, key)| ((*id).to_owned(), (*key).to_owned()))
            .collect(),
        ..Account::member(user, WORKSPACE)
    }
}

/// The token of a user of this name.
pub(crate) fn token(user: &str) -> String {
    format!("lin_oauth_{user}")
}

/// Registers a pull worker of a user who sees these teams, with this filter.
pub(crate) async fn worker(
    relay: &Relay,
    user: &str,
    teams: &[(&str, &str)],
    filter: Value,
) -> Registration {
    let token = token(user);
    relay.linear.admit_as(&token, account(user, teams));
    let request = json!({"name": "one", "linearToken": token, "filter": filter});
    relay.register_as(request).await
}

/// Registers a pull worker of an application, which sees the team ENG.
pub(crate) async fn application(relay: &Relay, user: &str) -> Registration {
    let account = Account {
        is_app: true,
        ..account(user, &[ENG])
    };
    relay.linear.admit_as(&token(user), account);
    let request = json!({"name": "one", "linearToken": token(user)});
    relay.register_as(request).await
}

/// An event about an issue of this team, with these data beside.
pub(crate) fn event(number: usize, team: &str, more: Value) -> String {
    let mut data = json!({"id": format!("i{number}"), "number": number, "teamId": team});
    data.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({
        "action": "update", "type": "Issue", "organizationId": WORKSPACE, "data": data,
        "webhookTimestamp": 0,
    })
    .to_string()
}

/// The numbers of the events in a worker's mailbox, which is empty afterwards.
pub(crate) async fn got(relay: &Relay, worker: &Registration) -> Vec<usize> {
    relay.settled().await;
    let mailbox = relay.pull(worker, &[], None).await;
    relay.pull(worker, &ids(&mailbox), None).await;
    let mut numbers = pulled(&mailbox);
    numbers.sort_unstable();
    numbers
}

pub(crate) async fn shows_token(
    relay: &Relay,
    worker: &Registration,
    user: &str,
) -> protocol::messages::Worker {
    let renew = Renew {
        linear_token: Some(token(user)),
        ..Renew::default()
    };
    relay.renew(worker, &renew).await
}

#[tokio::test]
async fn an_event_goes_to_those_who_see_its_team_and_without_a_team_to_everybody() {
    let relay = relay().start().await;
    let all = worker(&relay, "all", &[ENG, OPS, SECRET_TEAM], json!({})).await;
    let eng = worker(&relay, "eng", &[ENG], json!({})).await;
    let none = worker(&relay, "none", &[], json!({})).await;
    for (number, team) in [(1, ENG.0), (2, OPS.0), (3, SECRET_TEAM.0)] {
        relay.post(&event(number, team, json!({}))).await;
    }
    let project = event(4, "", json!({"teamIds": [OPS.0, ENG.0]}));
    relay
        .post(&project.replace("\"Issue\"", "\"Project\""))
        .await;
    relay.post(&event(5, "", json!({}))).await;
    assert_eq!(got(&relay, &all).await, [1, 2, 3, 4, 5]);
    assert_eq!(got(&relay, &eng).await, [1, 4, 5]);
    assert_eq!(got(&relay, &none).await, [5]);
    assert_eq!(relay.read(&eng).await.withheld, 2);
}

#[tokio::test]
async fn what_was_parked_before_a_check_takes_its_team_away_is_dropped() {
    let relay = relay().start().await;
    let loses_a_team = |user: &str| {
        (relay.linear).admit_as(&token(user), account(user, &[ENG]));
    };
    let pulls = worker(&relay, "ana", &[ENG, OPS], json!({})).await;
    let receiver = Receiver::start().await;
    (relay.linear).admit_as(&token("bo"), account("bo", &[ENG, OPS]));
    let request = json!({"name": "one", "linearToken": token("bo"), "webhookUrl": receiver.url()});
    let receives = relay.register_as(request).await;
    relay.go_offline(&receives).await;
    let teams = [OPS.0, ENG.0, OPS.0, "", ENG.0];
    for (number, team) in teams.into_iter().enumerate() {
        relay.post(&event(number, team, json!({}))).await;
    }
    let is_parked = async || relay.queued().len() == 1;
    until("only the drain is on the queue", is_parked).await;
    for (worker, user) in [(&pulls, "ana"), (&receives, "bo")] {
        loses_a_team(user);
        shows_token(&relay, worker, user).await;
    }
    let mailbox = relay.pull(&pulls, &[], None).await;
    assert_eq!(pulled(&mailbox), [1, 3, 4]);
    relay.clock.advance(Duration::from_secs(3600));
    assert_eq!(numbers(&receiver.wait_for(3).await), [1, 3, 4]);
    relay.becomes(&receives, WorkerState::Live).await;
    assert_eq!(receiver.count(), 3);
    // A team that is seen again brings nothing back.
    (relay.linear).admit_as(&token("ana"), account("ana", &[ENG, OPS]));
    shows_token(&relay, &pulls, "ana").await;
    assert!(pulled(&relay.pull(&pulls, &ids(&mailbox), None).await).is_empty());
}

#[tokio::test]
async fn a_dead_letter_of_a_team_that_a_check_has_taken_away_is_withheld_when_it_is_moved_back() {
    let relay = relay().set("GIVE_UP_4XX_SECONDS", 1).start().await;
    let receiver = Receiver::start().await;
    (relay.linear).admit_as(&token("ana"), account("ana", &[ENG, OPS]));
    let request = json!({
        "name": "one", "linearToken": token("ana"), "webhookUrl": receiver.url(), "pulls": true,
    });
    let worker = relay.register_as(request).await;
    receiver.answer([Answer::Status(400)]);
    relay.post(&event(1, OPS.0, json!({}))).await;
    relay.post(&event(2, ENG.0, json!({}))).await;
    relay.pass(Duration::from_secs(3), &receiver, 2).await;
    until("the dead letters", async || relay.dead_letters().len() == 2).await;
    relay.settled().await;
    (relay.linear).admit_as(&token("ana"), account("ana", &[ENG]));
    shows_token(&relay, &worker, "ana").await;
    receiver.answer([Answer::Status(200)]);
    let tried = receiver.count();
    let from_to = json!({"SourceArn": arn(DEAD_LETTERS), "DestinationArn": arn(QUEUE)});
    let (status, _) = relay.sqs("StartMessageMoveTask", &from_to).await;
    assert_eq!(status, 200);
    until("both are moved", async || relay.dead_letters().is_empty()).await;
    relay.settled().await;
    assert_eq!(numbers(&receiver.received()[tried..]), [2]);
    assert_eq!(relay.read(&worker).await.withheld, 1);
}

#[tokio::test]
async fn what_follows_a_withheld_event_is_parked_behind_what_has_marked_its_worker_away() {
    let relay = relay().set("DELIVERIES_IN_BACKOFF", 1).start().await;
    let receiver = Receiver::start().await;
    relay.linear.admit_as(&token("eng"), account("eng", &[ENG]));
    let request = json!({
        "name": "one", "linearToken": token("eng"), "webhookUrl": receiver.url(), "pulls": true,
    });
    let worker = relay.register_as(request).await;
    // An event of its own is in backoff, so there is room for no other one.
    receiver.answer([Answer::Status(500)]);
    relay.post(&event(9, ENG.0, json!({}))).await;
    receiver.wait_for(1).await;
    // Those behind the first one come in one batch.
    let (slow, refused) = (
        Answer::Slow(Duration::from_millis(500), 200),
        Answer::Status(500),
    );
    receiver.answer([slow, refused, Answer::Status(200)]);
    for (number, team) in [(1, ENG.0), (2, ENG.0), (3, OPS.0), (4, ENG.0)] {
        relay.post(&event(number, team, json!({"id": "one"}))).await;
    }
    relay.pass(Duration::from_secs(10), &receiver, 3).await;
    assert_eq!(got(&relay, &worker).await, [2, 4, 9]);
    assert_eq!(numbers(&receiver.received()), [9, 1, 2]);
    assert_eq!(relay.read(&worker).await.withheld, 1);
}

#[tokio::test]
async fn all_pages_of_teams_are_read() {
    let relay = relay().start().await;
    let teams: Vec<_> = (0..8)
        .map(|at| (format!("team-{at}"), format!("T{at}")))
        .collect();
    let teams: Vec<_> = teams
        .iter()
        .map(|(id, key)| (id.as_str(), key.as_str()))
        .collect();
    let worker = worker(&relay, "ana", &teams, json!({})).await;
    for at in 0..8 {
        relay
            .post(&event(at, &format!("team-{at}"), json!({})))
            .await;
    }
    assert_eq!(got(&relay, &worker).await, (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_next_check_releases_what_was_withheld_or_drops_it() {
    let relay = relay().start().await;
    let worker = worker(&relay, "eng", &[ENG], json!({})).await;
    for (number, team) in [(1, OPS.0), (2, SECRET_TEAM.0), (3, OPS.0), (4, ENG.0)] {
        relay.post(&event(number, team, json!({}))).await;
    }
    assert_eq!(got(&relay, &worker).await, [4]);
    assert_eq!(relay.read(&worker).await.withheld, 3);
    // The user has joined a team.
    let joined = account("eng", &[ENG, OPS]);
    relay.linear.admit_as(&token("eng"), joined);
    assert_eq!(shows_token(&relay, &worker, "eng").await.withheld, 0);
    relay.post(&event(5, OPS.0, json!({}))).await;
    assert_eq!(got(&relay, &worker).await, [1, 3, 5]);
    // What was dropped does not come back with the next team.
    relay
        .linear
        .admit_as(&token("eng"), account("eng", &[SECRET_TEAM]));
    shows_token(&relay, &worker, "eng").await;
    assert_eq!(got(&relay, &worker).await, [0; 0]);
}

#[tokio::test]
async fn what_a_check_has_released_is_not_dropped_though_the_check_cannot_be_recorded() {
    let recorded = "register: TransactWriteItems ConditionCheck attribute_not_exists(ended_at) OR ended_at < :asked of \
        ENDED + Put of ROUTES + Update #token = :token AND #state = :was AND attribute_not_exists(revision) AND \
        attribute_not_exists(withheld) of WORKER";
    let relay = relay().refused_once(recorded).start().await;
    let ana = worker(&relay, "ana", &[ENG], json!({})).await;
    for number in [1, 2] {
        relay.post(&event(number, OPS.0, json!({}))).await;
    }
    relay.settled().await;
    (relay.linear).admit_as(&token("ana"), account("ana", &[ENG, OPS]));
    let check = json!({"linearToken": token("ana")});
    let refused = (relay.call(Method::PUT, &ana.path, Some(&ana.token), &check)).await;
    assert_eq!(refused.status(), 503);
    let mailbox = relay.pull(&ana, &[], None).await;
    assert_eq!(pulled(&mailbox), [1, 2]);
    assert!(relay.read(&ana).await.expired.is_none());
    // A later check that does not show the team drops what is left.
    relay.clock.advance(Duration::from_secs(1));
    (relay.linear).admit_as(&token("ana"), account("ana", &[ENG]));
    shows_token(&relay, &ana, "ana").await;
    assert!(relay.pull(&ana, &[], None).await.events.is_empty());
}

#[tokio::test]
async fn what_is_withheld_after_linear_was_asked_is_not_dropped_for_its_answer() {
    let is_slow = Arc::new(AtomicBool::new(false));
    let slow = Duration::from_millis(500);
    let relay = relay().slow_while(Arc::clone(&is_slow), "register", slow);
    let relay = relay.start().await;
    let ana = worker(&relay, "ana", &[ENG], json!({})).await;
    relay.post(&event(1, OPS.0, json!({}))).await;
    relay.settled().await;
    is_slow.store(true, Ordering::Relaxed);
    let asked = relay.linear.calls();
    let joins = async {
        until("Linear was asked", async || relay.linear.calls() > asked).await;
        relay.clock.advance(Duration::from_secs(1));
        relay.post(&event(2, OPS.0, json!({}))).await;
        relay.settled().await;
        is_slow.store(false, Ordering::Relaxed);
    };
    let (checked, ()) = tokio::join!(shows_token(&relay, &ana, "ana"), joins);
    // What was withheld before is dropped.
    assert_eq!(checked.withheld, 1);
    (relay.linear).admit_as(&token("ana"), account("ana", &[ENG, OPS]));
    shows_token(&relay, &ana, "ana").await;
    assert_eq!(got(&relay, &ana).await, [2]);
}

#[tokio::test]
async fn what_was_withheld_for_too_long_is_counted_after_the_next_check() {
    let relay = relay().set("LEASE_SECONDS", 30 * 24 * 3600).start().await;
    let ana = worker(&relay, "ana", &[ENG], json!({})).await;
    for number in [1, 2, 3] {
        relay.post(&event(number, OPS.0, json!({}))).await;
    }
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(29 * 24 * 3600));
    (relay.linear).admit_as(&token("ana"), account("ana", &[ENG, OPS]));
    assert_eq!(shows_token(&relay, &ana, "ana").await.withheld, 0);
    assert_eq!(got(&relay, &ana).await, [0; 0]);
    assert_eq!(relay.read(&ana).await.expired.unwrap().count, 3);
}

#[tokio::test]
async fn a_live_worker_gets_what_was_released_before_what_was_sent_later() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    relay.linear.admit_as(&token("eng"), account("eng", &[ENG]));
    let request = json!({"name": "one", "linearToken": token("eng"), "webhookUrl": receiver.url(), "pulls": true});
    let worker = relay.register_as(request).await;
    relay.post(&event(1, OPS.0, json!({"id": "i"}))).await;
    // It is told so, once.
    relay.post(&event(2, OPS.0, json!({"id": "i"}))).await;
    relay.settled().await;
    let pings: Vec<_> = receiver.pinged().iter().map(|ping| ping.json()).collect();
    assert_eq!(pings.len(), 1, "{pings:?}");
    assert_eq!(pings[0]["withheld"], true);
    relay
        .linear
        .admit_as(&token("eng"), account("eng", &[ENG, OPS]));
    let checked = shows_token(&relay, &worker, "eng").await;
    assert_eq!((checked.state, checked.waiting), (WorkerState::Away, true));
    relay.post(&event(3, OPS.0, json!({"id": "i"}))).await;
    relay.settled().await;
    let mailbox = relay.pull(&worker, &[], None).await;
    assert_eq!(pulled(&mailbox), [1, 2, 3]);
    let emptied = relay.pull(&worker, &ids(&mailbox), None).await;
    assert_eq!(emptied.state, WorkerState::Live);
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn a_filter_by_team_and_by_what_concerns_the_user() {
    let relay = relay().start().await;
    let teams = [ENG, OPS];
    let mine = worker(&relay, "ana", &teams, json!({"mine": true})).await;
    let eng = worker(&relay, "bo", &teams, json!({"teams": ["eng"]})).await;
    let both = worker(
        &relay,
        "cy",
        &teams,
        json!({"mine": true, "teams": ["OPS"]}),
    )
    .await;
    for (number, team, more) in [
        (1, ENG.0, json!({"creatorId": "ana"})),
        (2, OPS.0, json!({"assignee": {"id": "ana"}})),
        (3, ENG.0, json!({"delegateId": "cy"})),
        (4, OPS.0, json!({"delegateId": "cy"})),
        (5, OPS.0, json!({"description": "hello @ana, please"})),
        (6, "", json!({"subscriberIds": ["ana", "cy"]})),
        (7, ENG.0, json!({"bodyData": mention("ana")})),
    ] {
        relay.post(&event(number, team, more)).await;
    }
    assert_eq!(got(&relay, &mine).await, [1, 2, 5, 7]);
    assert_eq!(got(&relay, &eng).await, [1, 3, 7]);
    assert_eq!(got(&relay, &both).await, [4]);
    // A renewal changes it, and names it.
    let renew = Renew {
        filter: Some(None),
        ..Renew::default()
    };
    let before = relay.read(&both).await.filter.unwrap();
    assert_eq!(
        (before.mine, before.teams),
        (true, Some(vec!["OPS".to_owned()]))
    );
    assert_eq!(relay.renew(&both, &renew).await.filter, None);
    relay.post(&event(8, ENG.0, json!({}))).await;
    assert_eq!(got(&relay, &both).await, [8]);
}

/// What Linear's editor stores of a text that mentions a user.
fn mention(user: &str) -> String {
    format!(r#"{{"type":"suggestion_userMentions","attrs":{{"id":"{user}","label":"{user}"}}}}"#)
}

#[tokio::test]
async fn a_session_is_mine_if_i_started_it() {
    let relay = relay().start().await;
    let ana = worker(&relay, "ana", &[ENG], json!({"mine": true})).await;
    let bo = worker(&relay, "bo", &[ENG], json!({"mine": true})).await;
    let session = json!({
        "action": "created", "type": "AgentSessionEvent", "organizationId": WORKSPACE,
        "webhookTimestamp": 0, "appUserId": "app", "data": {"number": 1},
        "agentSession": {"id": "s", "creatorId": "ana", "issue": {"id": "i", "teamId": ENG.0}},
        "promptContext": "@bo said", "actor": {"id": "bo"},
    });
    relay.post(&session.to_string()).await;
    assert_eq!(got(&relay, &ana).await, [1]);
    assert_eq!(got(&relay, &bo).await, [0; 0]);
}

#[tokio::test]
async fn an_application_gets_what_names_it_and_its_teams_events_alone() {
    let relay = relay().start().await;
    let app = application(&relay, "app").await;
    let named = |number: usize, team: &str, application: &str| {
        let body = event(number, team, json!({}));
        body.replacen('{', &format!("{{\"appUserId\":\"{application}\","), 1)
    };
    relay.post(&event(1, ENG.0, json!({}))).await;
    relay.post(&event(2, OPS.0, json!({}))).await;
    relay.post(&event(3, "", json!({}))).await;
    relay.post(&named(4, OPS.0, "app")).await;
    relay.post(&named(5, "", "app")).await;
    relay.post(&named(6, ENG.0, "another")).await;
    assert_eq!(got(&relay, &app).await, [1, 4, 5]);
    assert_eq!(relay.read(&app).await.withheld, 1);
}

#[tokio::test]
async fn a_team_that_the_user_cannot_see_is_named() {
    let relay = relay().start().await;
    relay
        .linear
        .admit_as(&token("ana"), account("ana", &[ENG, OPS]));
    let request = |teams: Value| json!({"name": "one", "linearToken": token("ana"), "filter": {"teams": teams}});
    let expected = (400, "unknown_team");
    let problem = relay
        .refuses_registration(&request(json!(["ENG", "SEC"])), expected)
        .await;
    assert!(
        problem.detail.contains("\"SEC\"") && problem.detail.contains("ENG, OPS"),
        "{problem:?}"
    );
    let worker = relay.register_as(request(json!(["ENG"]))).await;
    let call = (Method::PUT, worker.path.as_str());
    let body = json!({"filter": {"teams": ["SEC\u{7}"]}});
    let problem = relay
        .refuses(call, Some(&worker.token), &body, expected)
        .await;
    assert!(!problem.detail.contains('\u{7}'), "{problem:?}");
}

#[tokio::test]
async fn a_user_and_a_workspace_have_a_bounded_number_of_workers() {
    let relay = relay()
        .set("WORKERS_PER_USER", 2)
        .set("WORKERS_PER_WORKSPACE", 3)
        .start()
        .await;
    for user in ["ana", "bo"] {
        relay.linear.admit_as(&token(user), account(user, &[ENG]));
    }
    let request = |user: &str, name: &str| json!({"name": name, "linearToken": token(user)});
    let first = relay.register_as(request("ana", "1")).await;
    relay.register_as(request("ana", "2")).await;
    let expected = (403, "too_many_workers");
    let problem = relay
        .refuses_registration(&request("ana", "3"), expected)
        .await;
    assert!(problem.detail.starts_with("this user has 2"), "{problem:?}");
    // One that exists registers again.
    let first = Registration {
        token: relay.register_as(request("ana", "1")).await.token,
        ..first
    };
    relay.register_as(request("bo", "1")).await;
    let problem = relay
        .refuses_registration(&request("bo", "2"), expected)
        .await;
    assert!(
        problem.detail.starts_with("this workspace has 3"),
        "{problem:?}"
    );
    relay.remove(&first).await;
    relay.register_as(request("bo", "2")).await;
}

#[tokio::test]
async fn a_check_with_another_users_token_changes_nothing_and_a_refused_one_removes_the_worker() {
    let relay = relay().start().await;
    let worker = worker(&relay, "ana", &[ENG], json!({})).await;
    relay
        .linear
        .admit_as(&token("bo"), account("bo", &[ENG, OPS]));
    let check = async |token: String, expected| {
        let call = (Method::PUT, worker.path.as_str());
        let body = json!({"linearToken": token});
        relay
            .refuses(call, Some(&worker.token), &body, expected)
            .await;
    };
    check(token("bo"), (403, "linear_user_differs")).await;
    relay.linear.fail(Some((503, "")));
    check(token("ana"), (503, "linear_unavailable")).await;
    relay.linear.fail(None);
    relay.read(&worker).await;
    relay.linear.revoke(&token("ana"));
    check(token("ana"), (401, "linear_token_invalid")).await;
    relay.assert_removed(&worker).await;
}

#[tokio::test]
async fn an_overdue_membership_parks_events_until_the_token_is_shown() {
    const DAY: u64 = 86_400;
    let relay = relay()
        .set("MEMBERSHIP_SECONDS", 30 * DAY)
        .set("LEASE_SECONDS", 30 * DAY)
        .start()
        .await;
    let receiver = Receiver::start().await;
    relay.linear.admit_as(&token("ana"), account("ana", &[ENG]));
    let request = json!({"name": "one", "linearToken": token("ana"), "webhookUrl": receiver.url(), "pulls": true});
    let worker = relay.register_as(request).await;
    assert!(relay.read(&worker).await.membership_due_at.is_some());
    relay.clock.advance(Duration::from_secs(29 * DAY));
    relay.renew(&worker, &Renew::default()).await;
    relay.post(&event(1, ENG.0, json!({"id": "i"}))).await;
    receiver.wait_for(1).await;
    relay.clock.advance(Duration::from_secs(DAY));
    relay.post(&event(2, ENG.0, json!({"id": "i"}))).await;
    let away = relay.becomes(&worker, WorkerState::Away).await;
    assert_eq!(away.away_reason, Some(AwayReason::Unchecked));
    relay.settled().await;
    assert_eq!(receiver.count(), 1);
    let expected = (403, "membership_check_due");
    let token_of = worker.token.clone();
    let (renew, mailbox) = (worker.path.clone(), format!("{}/mailbox", worker.path));
    relay
        .refuses_worker((Method::PUT, &renew), &token_of, expected)
        .await;
    relay
        .refuses_worker((Method::POST, &mailbox), &token_of, expected)
        .await;
    // Linear being down costs nothing.
    relay.linear.fail(Some((500, "")));
    let body = json!({"linearToken": token("ana")});
    let call = (Method::PUT, renew.as_str());
    relay
        .refuses(call, Some(&token_of), &body, (503, "linear_unavailable"))
        .await;
    relay.linear.fail(None);
    shows_token(&relay, &worker, "ana").await;
    assert_eq!(got(&relay, &worker).await, [2]);
    assert_eq!(relay.read(&worker).await.state, WorkerState::Live);
}

#[tokio::test]
async fn without_a_limit_a_membership_lasts_as_long_as_the_lease() {
    let relay = relay().set("MEMBERSHIP_SECONDS", 0).start().await;
    let worker = worker(&relay, "ana", &[ENG], json!({})).await;
    for _ in 0..10 {
        relay.clock.advance(Duration::from_secs(6 * 86_400));
        assert_eq!(
            relay
                .renew(&worker, &Renew::default())
                .await
                .membership_due_at,
            None
        );
    }
}

/// A payload of this type and action, with these fields.
pub(crate) fn payload(kind: &str, action: &str, more: Value) -> String {
    let mut payload = json!({
        "type": kind, "action": action, "organizationId": WORKSPACE, "webhookTimestamp": 0,
    });
    payload
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    payload.to_string()
}

/// Waits until a worker is removed.
pub(crate) async fn is_removed(relay: &Relay, worker: &Registration) {
    until("the worker is removed", async || {
        let (token, none) = (Some(worker.token.as_str()), json!({}));
        let read = relay.call(Method::GET, &worker.path, token, &none).await;
        read.status() == 401
    })
    .await;
}

#[tokio::test]
async fn a_user_who_is_deactivated_or_removed_loses_workers_and_mailboxes_at_once() {
    let relay = relay().start().await;
    let stays = worker(&relay, "stays", &[ENG], json!({})).await;
    for (number, action, data) in [
        (1, "update", json!({"id": "ana", "active": false})),
        (2, "remove", json!({"id": "ana", "active": true})),
    ] {
        let ana = worker(&relay, "ana", &[ENG], json!({})).await;
        relay.post(&event(number, ENG.0, json!({}))).await;
        relay.settled().await;
        let posted = relay
            .post(&payload("User", action, json!({"data": data})))
            .await;
        assert_eq!(posted.answer["deliveries"], 1, "the other worker alone");
        is_removed(&relay, &ana).await;
        relay.clock.advance(Duration::from_secs(1));
        let again = worker(&relay, "ana", &[ENG], json!({})).await;
        assert_eq!(got(&relay, &again).await, [0; 0]);
    }
    let harmless = json!({"data": {"id": "stays", "active": true}});
    relay.post(&payload("User", "update", harmless)).await;
    relay.settled().await;
    relay.read(&stays).await;
}

#[tokio::test]
async fn whoever_was_seen_to_be_a_member_after_the_event_stays() {
    let relay = relay().start().await;
    let ana = worker(&relay, "ana", &[ENG], json!({})).await;
    let [workspace, id] = ana.names();
    let text = |value: &str| json!({"DataType": "String", "StringValue": value});
    let revoke = |ended_at: i64| {
        json!({
            "QueueUrl": relay.local.sqs.url(QUEUE), "MessageBody": "revoke", "MessageGroupId": id,
            "MessageDeduplicationId": ended_at.to_string(), "MessageAttributes": {
                "revoke": text(&ended_at.to_string()), "workspace": text(&workspace),
                "worker": text(&id),
            },
        })
    };
    let now = relay.clock.millis();
    relay.sqs("SendMessage", &revoke(now - 60_000)).await;
    relay.settled().await;
    relay.read(&ana).await;
    relay.sqs("SendMessage", &revoke(now + 60_000)).await;
    is_removed(&relay, &ana).await;
}

#[tokio::test]
async fn a_revoked_authorization_ends_workers_with_oauth_tokens_and_not_those_with_keys() {
    let relay = relay().start().await;
    let oauth = worker(&relay, "ana", &[ENG], json!({})).await;
    relay.linear.admit_as("lin_api_ana", account("ana", &[ENG]));
    let key = json!({"name": "two", "linearToken": "lin_api_ana"});
    let key = relay.register_as(key).await;
    let other = worker(&relay, "bo", &[ENG], json!({})).await;
    let revoked = json!({"userId": "ana", "oauthClientId": "client", "activeTokensForUser": 0});
    relay
        .post(&payload("OAuthAuthorization", "revoked", revoked))
        .await;
    is_removed(&relay, &oauth).await;
    relay.settled().await;
    relay.read(&key).await;
    relay.read(&other).await;
}

#[tokio::test]
async fn a_revoked_application_loses_its_workers_and_no_other_does() {
    let relay = relay().start().await;
    let mut workers = Vec::new();
    for user in ["app", "another"] {
        workers.push(application(&relay, user).await);
        let own = json!({"appUserId": user, "oauthClientId": format!("client-{user}")});
        relay
            .post(&payload("AppUserNotification", "issueMention", own))
            .await;
    }
    let revoked = json!({"oauthClientId": "client-app"});
    relay.post(&payload("OAuthApp", "revoked", revoked)).await;
    is_removed(&relay, &workers[0]).await;
    relay.settled().await;
    relay.read(&workers[1]).await;
}

#[tokio::test]
async fn a_webhook_is_accepted_only_when_the_application_that_it_names_is_recorded() {
    let relay = relay().refused_once("ingest: PutItem of APP").start().await;
    let worker = application(&relay, "app").await;
    let own = json!({"appUserId": "app", "oauthClientId": "client"});
    let own = payload("AppUserNotification", "issueMention", own);
    let webhook = Webhook::sample(SECRET, &own, relay.clock.millis());
    relay
        .refuses_webhook(&webhook, (503, "storage_unavailable"))
        .await;
    assert_eq!(relay.post_webhook(webhook).await.answer["deliveries"], 1);
    let revoked = json!({"oauthClientId": "client"});
    relay.post(&payload("OAuthApp", "revoked", revoked)).await;
    is_removed(&relay, &worker).await;
}

#[tokio::test]
async fn what_was_not_delivered_is_counted_by_reason() {
    let relay = relay().start().await;
    let filter = json!({"mine": true, "teams": ["ENG", "SEC"]});
    let teams = [ENG, OPS, SECRET_TEAM];
    relay.linear.admit_as(&token("ana"), account("ana", &teams));
    let request = json!({
        "name": "one", "linearToken": token("ana"), "filter": filter, "capabilities": ["Issue"],
        "group": "g",
    });
    let ana = relay.register_as(request).await;
    assert!(relay.read(&ana).await.not_delivered.is_empty());
    let mine = json!({"assigneeId": "ana"});
    relay.post(&event(1, ENG.0, mine.clone())).await;
    relay
        .post(&event(2, ENG.0, json!({"description": "for @ana"})))
        .await;
    for body in [
        event(3, ENG.0, json!({})),
        event(4, OPS.0, mine.clone()),
        event(5, OPS.0, mine.clone()),
        event(6, ENG.0, mine.clone()).replace("\"Issue\"", "\"Comment\""),
    ] {
        relay.post(&body).await;
    }
    // Another worker of the group has the issue.
    let second = worker(&relay, "bo", &teams, json!({})).await;
    let join = Renew {
        group: Some(Some("g".to_owned())),
        ..Renew::default()
    };
    relay.renew(&second, &join).await;
    relay
        .renew(
            &ana,
            &Renew {
                group: Some(None),
                ..Renew::default()
            },
        )
        .await;
    relay.post(&event(7, ENG.0, mine.clone())).await;
    relay.renew(&ana, &join).await;
    relay.post(&event(7, ENG.0, mine)).await;
    relay.settled().await;
    let counts = |worker: protocol::messages::Worker| {
        let counts = worker.not_delivered.into_iter();
        counts
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect::<Vec<_>>()
    };
    let not_delivered = counts(relay.read(&ana).await);
    assert_eq!(not_delivered, ["1 group", "1 mine", "2 team", "1 type"]);
    // Those that it may not see any more count as withheld.
    relay.linear.admit_as(&token("ana"), account("ana", &[OPS]));
    shows_token(&relay, &ana, "ana").await;
    relay
        .post(&event(8, ENG.0, json!({"assigneeId": "ana"})))
        .await;
    relay.settled().await;
    assert!(relay.read(&ana).await.not_delivered["withheld"] > 0);
    relay.clock.advance(Duration::from_secs(86_401));
    assert!(relay.read(&ana).await.not_delivered.is_empty());
}
