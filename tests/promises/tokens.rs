//! A token gives access to its own workspace alone, which Linear decides, and each answer of Linear has its own error.

use local::samples::WORKSPACE;
use reqwest::Method;
use serde_json::json;

use crate::harness::{TOKEN, issue, relay};

#[tokio::test]
async fn a_refused_token_is_never_confused_with_linear_being_down() {
    let relay = relay().start().await;
    let register = (Method::POST, "/edge/register");
    let refused = r#"{"errors":[{"extensions":{"code":"AUTHENTICATION_ERROR","type":"authentication error"}}]}"#;
    let limited = r#"{"errors":[{"extensions":{"code":"RATELIMITED"}}]}"#;
    let user = |flags: &str| {
        format!(
            r#"{{"data":{{"viewer":{{"id":"u",{flags}}},"organization":{{"id":"o","urlKey":"k","name":"n"}}}}}}"#
        )
    };
    for (status, body, expected) in [
        (401, refused.to_owned(), (401, "linear_token_invalid")),
        (400, refused.to_owned(), (401, "linear_token_invalid")),
        (200, refused.to_owned(), (401, "linear_token_invalid")),
        (400, limited.to_owned(), (503, "linear_unavailable")),
        (429, String::new(), (503, "linear_unavailable")),
        (500, "oops".to_owned(), (503, "linear_unavailable")),
        (302, String::new(), (503, "linear_unavailable")),
        (200, "<html>".to_owned(), (503, "linear_unavailable")),
        (
            200,
            r#"{"data":{"viewer":null,"organization":null}}"#.to_owned(),
            (503, "linear_unavailable"),
        ),
        (200, "x".repeat(70_000), (503, "linear_unavailable")),
        (
            400,
            r#"{"errors":[{"message":"Remove the Bearer prefix"}]}"#.to_owned(),
            (400, "linear_token_malformed"),
        ),
        (
            403,
            r#"{"errors":[{"message":"Invalid scope: `read` required"}]}"#.to_owned(),
            (403, "linear_token_forbidden"),
        ),
        (200, user(r#""active":false"#), (403, "linear_user_refused")),
        (
            200,
            user(r#""active":true,"guest":true"#),
            (403, "linear_user_refused"),
        ),
    ] {
        relay.linear.fail(Some((status, &body)));
        let request = json!({"name": "one", "linearToken": TOKEN});
        relay
            .refuses(register.clone(), None, &request, expected)
            .await;
    }
    relay.linear.fail(None);
    relay.register_pull("one").await;
    let unknown = json!({"name": "one", "linearToken": "lin_oauth_unknown"});
    relay
        .refuses(register, None, &unknown, (401, "linear_token_invalid"))
        .await;
}

#[tokio::test]
async fn linear_that_cannot_be_reached_is_503_and_everything_else_goes_on() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    relay.linear.fail(Some((503, "")));
    relay.post(&issue("i", 1)).await;
    relay.settled().await;
    assert!(relay.read(&worker).await.waiting);
    assert_eq!(relay.pull(&worker, &[], None).await.events.len(), 1);
}

#[tokio::test]
async fn a_worker_sees_its_own_workspaces_events_only() {
    let relay = relay().start().await;
    relay
        .linear
        .admit("lin_oauth_bo", "bo", "another-workspace");
    let ours = relay.register_pull("one").await;
    let theirs = relay
        .register_as(json!({"name": "one", "linearToken": "lin_oauth_bo"}))
        .await;
    assert_ne!(ours.path, theirs.path);
    relay.post(&issue("i", 1)).await;
    relay
        .post(&issue("i", 2).replace(WORKSPACE, "another-workspace"))
        .await;
    relay.settled().await;
    assert_eq!(relay.pull(&ours, &[], None).await.events.len(), 1);
    assert_eq!(relay.pull(&theirs, &[], None).await.events.len(), 1);
    // Neither token opens the other's door, nor does a worker's id under another workspace.
    for (path, token) in [
        (theirs.path.clone(), &ours.token),
        (ours.path.clone(), &theirs.token),
        (
            ours.path.replace(WORKSPACE, "another-workspace"),
            &ours.token,
        ),
        (ours.path.clone(), &TOKEN.to_owned()),
    ] {
        for (method, path) in [
            (Method::GET, path.clone()),
            (Method::PUT, path.clone()),
            (Method::DELETE, path.clone()),
            (Method::POST, format!("{path}/mailbox")),
        ] {
            let call = (method, path.as_str());
            let expected = (401, "worker_token_invalid");
            relay.refuses_worker(call, token, expected).await;
        }
    }
}

#[tokio::test]
async fn registering_again_ends_the_old_token_and_the_error_tells_its_holder_why() {
    let relay = relay().start().await;
    let old = relay.register_pull("one").await;
    let new = relay.register_pull("one").await;
    let call = (Method::GET, old.path.as_str());
    let expected = (401, "worker_token_replaced");
    relay
        .refuses_worker(call.clone(), &old.token, expected)
        .await;
    relay.read(&new).await;
    let request = json!({"name": "one", "linearToken": TOKEN});
    let answer = relay
        .call(Method::POST, "/edge/register", None, &request)
        .await;
    let answer: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(answer["replaced"], true);
    // Only the token before the last gets this code; without a valid token, all answers are the same.
    let expected = (401, "worker_token_invalid");
    relay.refuses_worker(call, &old.token, expected).await;
}

#[tokio::test]
async fn many_registrations_of_one_caller_are_refused_before_linear_is_asked() {
    let relay = relay().set("REGISTRATIONS_PER_MINUTE", 3).start().await;
    for at in 0..3 {
        relay.register_pull(&format!("{at}")).await;
    }
    let asked = relay.linear.calls();
    let request = json!({"name": "one more", "linearToken": TOKEN});
    let call = (Method::POST, "/edge/register");
    let answer = relay.call(Method::POST, call.1, None, &request).await;
    assert!(answer.headers().contains_key("retry-after"));
    relay
        .refuses(call, None, &request, (429, "too_many_registrations"))
        .await;
    assert_eq!(relay.linear.calls(), asked);
    relay.clock.advance(std::time::Duration::from_secs(60));
    relay.register_pull("one more").await;
}
