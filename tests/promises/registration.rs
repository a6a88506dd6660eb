//! Registration: the challenge, the same worker again, renewal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use local::samples::WORKSPACE;
use protocol::messages::{Renew, WorkerState};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Receiver, Registration, TOKEN, issue, new_address, problem, pulled, relay, until,
};

#[tokio::test]
async fn an_address_is_admitted_only_after_it_has_echoed_the_challenge() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let request = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    for answer in [
        Answer::Status(200),
        Answer::Status(404),
        Answer::With(201, "x-body", r#"{"challenge":"x"}"#.into()),
        Answer::With(200, "x-body", r#"{"challenge":"something else"}"#.into()),
        Answer::With(302, "location", receiver.url()),
        Answer::Endless,
    ] {
        receiver.answer_challenge(Some(answer));
        let expected = (400, "challenge_failed");
        let problem = relay.refuses_registration(&request, expected).await;
        assert!(!problem.detail.contains("hush"));
    }
    assert_eq!(relay.deliveries(1).await, 0);
    receiver.answer_challenge(None);
    let worker = relay.register("one", &receiver.url()).await;
    assert_eq!(receiver.challenged(), 7);
    // The same address again needs no other, however it is written; a new one does.
    for same in [receiver.url(), receiver.url().replacen("http", "HTTP", 1)] {
        relay.renew(&worker, &new_address(Some(same))).await;
        assert_eq!(receiver.challenged(), 7);
    }
    let other = Receiver::start().await;
    let moved = relay.renew(&worker, &new_address(Some(other.url()))).await;
    assert_eq!(moved.state, WorkerState::Live);
    assert_eq!(other.challenged(), 1);
    relay.post(&issue("i", 2)).await;
    other.wait_for(1).await;
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn registering_again_is_the_same_worker_and_keeps_its_mail() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let first = relay.register("one", &receiver.url()).await;
    relay.go_offline(&first).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    let again = relay.register("one", &receiver.url()).await;
    assert_eq!(again.path, first.path);
    let worker = relay.read(&again).await;
    assert_eq!((worker.state, worker.waiting), (WorkerState::Away, true));
    assert_eq!(relay.deliveries(2).await, 1);
}

#[tokio::test]
async fn fifty_workers_at_once_all_get_the_next_event() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let register = async |at: usize| {
        let token = format!("lin_oauth_{at}");
        (relay.linear).admit(&token, &format!("user-{at}"), WORKSPACE);
        let request = json!({"name": "one", "linearToken": token, "webhookUrl": receiver.url()});
        // On a slow machine, the receiver may answer too late to be accepted at once.
        until("it is registered", async || {
            let call = relay.call(Method::POST, "/edge/register", None, &request);
            let answer = call.await;
            if answer.status() == StatusCode::CREATED {
                return true;
            }
            problem(answer, (400, "challenge_failed")).await;
            false
        })
        .await;
    };
    futures::future::join_all((0..50).map(register)).await;
    assert_eq!(relay.deliveries(1).await, 50);
    receiver.wait_for(50).await;
}

#[tokio::test]
async fn one_name_registered_ten_times_at_once_is_one_worker_that_works() {
    let relay = relay().start().await;
    let all = futures::future::join_all((0..10).map(|_| async {
        let request = json!({"name": "one", "linearToken": TOKEN});
        let call = relay.call(Method::POST, "/edge/register", None, &request);
        call.await.status().as_u16()
    }))
    .await;
    let is_answered = all.iter().all(|status| matches!(status, 201 | 409));
    assert!(all.contains(&201) && is_answered, "{all:?}");
    assert_eq!(relay.deliveries(1).await, 1);
}

#[tokio::test]
async fn a_renewal_changes_what_it_names_and_nothing_else() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    let renewed = async |capabilities| {
        let renew = Renew {
            capabilities,
            ..Renew::default()
        };
        relay.renew(&worker, &renew).await.capabilities
    };
    let comments = Some(vec!["Comment".into()]);
    assert_eq!(renewed(Some(comments.clone())).await, comments);
    assert_eq!(relay.deliveries(1).await, 0);
    assert_eq!(renewed(None).await, comments);
    assert_eq!(renewed(Some(None)).await, None);
    assert_eq!(relay.deliveries(2).await, 1);
}

#[tokio::test]
async fn mail_that_outlived_its_lease_comes_first() {
    let relay = relay().set("LEASE_SECONDS", 3600).start().await;
    let receiver = Receiver::start().await;
    let first = relay.register("one", &receiver.url()).await;
    relay.go_offline(&first).await;
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let again = relay.register("one", &receiver.url()).await;
    let worker = relay.read(&again).await;
    assert_eq!((worker.state, worker.waiting), (WorkerState::Away, true));
}

#[tokio::test]
async fn what_is_parked_at_the_end_of_a_lease_waits_for_a_registration_that_looked_before() {
    let parks = Arc::new(AtomicBool::new(false));
    let begins = Arc::clone(&parks);
    // The worker is read, and written when a registration after its lease has looked for mail, but has not been written.
    let relay = relay()
        .set("LEASE_SECONDS", 3600)
        .delayed(move |function, target| {
            let is_write = target.ends_with("TransactWriteItems");
            let delay = match function {
                "deliver" if is_write => {
                    begins.store(true, Ordering::Relaxed);
                    400
                }
                "register" if is_write && begins.load(Ordering::Relaxed) => 1_200,
                // It would delete the expired worker.
                "health" if is_write => 3_000,
                _ => 0,
            };
            Duration::from_millis(delay)
        });
    let relay = relay.start().await;
    relay.register_pull("one").await;
    relay.post(&issue("i", 1)).await;
    until("it is parked soon", async || parks.load(Ordering::Relaxed)).await;
    relay.clock.advance(Duration::from_secs(2 * 3600));
    let again = relay.register_pull("one").await;
    assert_eq!(pulled(&relay.pull(&again, &[], None).await), [1]);
}

#[tokio::test]
async fn at_most_two_challenges_of_a_user_are_under_way_at_once() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    receiver.answer_challenge(Some(Answer::Stall(Duration::from_secs(60))));
    let mut registered = Vec::new();
    for at in 0..6 {
        registered.push(relay.register_pull(&format!("pull {at}")).await);
    }
    let move_there = |worker: &Registration| {
        let (path, token) = (worker.path.clone(), worker.token.clone());
        let body = serde_json::to_value(new_address(Some(receiver.url()))).unwrap();
        let relay = &relay;
        async move {
            let answer = relay.call(Method::PUT, &path, Some(&token), &body).await;
            let problem: Value = answer.json().await.unwrap();
            problem["code"].as_str().unwrap_or_default().to_owned()
        }
    };
    let mut codes = futures::future::join_all(registered.iter().map(move_there)).await;
    codes.sort_unstable();
    let expected: Vec<_> = ["challenge_failed"; 2]
        .into_iter()
        .chain(["too_many_registrations"; 4])
        .collect();
    assert_eq!(codes, expected);
    assert_eq!(receiver.challenged(), 2);
    // Their places are free again.
    receiver.answer_challenge(None);
    let moved = new_address(Some(receiver.url()));
    let moved = relay.renew(&registered[5], &moved).await;
    assert_eq!(moved.state, WorkerState::Away);
}

#[tokio::test]
async fn challenges_are_limited_by_user_also_where_an_address_changes() {
    let relay = relay().set("REGISTRATIONS_PER_MINUTE", 2).start().await;
    let worker = relay.register_pull("one").await;
    let moves = async |to: &Receiver| {
        let body = serde_json::to_value(new_address(Some(to.url()))).unwrap();
        let (path, token) = (worker.path.as_str(), Some(worker.token.as_str()));
        (relay.call(Method::PUT, path, token, &body).await)
            .status()
            .as_u16()
    };
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(moves(&Receiver::start().await).await);
    }
    assert_eq!(statuses, [200, 200, 429]);
    relay.clock.advance(Duration::from_secs(60));
    assert_eq!(moves(&Receiver::start().await).await, 200);
}

#[tokio::test]
async fn a_challenge_carries_the_nonce_of_its_registration() {
    let relay = relay().start().await;
    let receiver = Receiver::start().await;
    let mut request = json!({"name": "one", "linearToken": TOKEN, "webhookUrl": receiver.url()});
    request["nonce"] = json!("n-1");
    relay.register_as(request.clone()).await;
    assert_eq!(receiver.nonces(), [Some("n-1".to_owned())]);
    request["nonce"] = json!("two words");
    let expected = (400, "invalid_request");
    let problem = relay.refuses_registration(&request, expected).await;
    assert!(problem.detail.contains("`nonce`"));
}
