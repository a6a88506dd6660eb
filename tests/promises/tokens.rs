//! A token gives access to its own workspace alone, which Linear decides, and each answer of Linear has its own error.

use std::time::Duration;

use local::samples::{WORKSPACE, Webhook};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Relay, SECRET, TOKEN, issue, relay};

#[tokio::test]
async fn a_refused_token_is_never_confused_with_linear_being_down() {
    let relay = relay().start().await;
    let refused = r#"{"errors":[{"extensions":{"code":"AUTHENTICATION_ERROR","type":"authentication error"}}]}"#;
    let limited = r#"{"errors":[{"extensions":{"code":"RATELIMITED"}}]}"#;
    let user = |flags: &str| {
        format!(
            r#"{{"data":{{"viewer":{{"id":"u",{flags}}},"organization":{{"id":"o","urlKey":"k","name":"n"}},
            "teams":{{"nodes":[],"pageInfo":{{"hasNextPage":false}}}}}}}}"#
        )
    };
    let nobody = r#"{"data":{"viewer":null,"organization":null}}"#;
    let error = |message: &str| format!(r#"{{"errors":[{{"message":"{message}"}}]}}"#);
    let malformed = error("Remove the Bearer prefix");
    let forbidden = error("Invalid scope: `read` required");
    let (inactive, guest) = (r#""active":false"#, r#""active":true,"guest":true"#);
    let unavailable = (503, "linear_unavailable");
    for (status, body, expected) in [
        (401, refused, (401, "linear_token_invalid")),
        (400, refused, (401, "linear_token_invalid")),
        (200, refused, (401, "linear_token_invalid")),
        (400, limited, unavailable),
        (429, "", unavailable),
        (500, "oops", unavailable),
        (302, "", unavailable),
        (200, "<html>", unavailable),
        (200, nobody, unavailable),
        (200, &"x".repeat(70_000), unavailable),
        (400, &malformed, (400, "linear_token_malformed")),
        (403, &forbidden, (403, "linear_token_forbidden")),
        (200, &user(inactive), (403, "linear_user_refused")),
        (200, &user(guest), (403, "linear_user_refused")),
    ] {
        relay.linear.fail(Some((status, body)));
        let request = json!({"name": "one", "linearToken": TOKEN});
        relay.refuses_registration(&request, expected).await;
    }
    relay.linear.fail(None);
    relay.register_pull("one").await;
    let unknown = json!({"name": "one", "linearToken": "lin_oauth_unknown"});
    let expected = (401, "linear_token_invalid");
    relay.refuses_registration(&unknown, expected).await;
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
    let another = "another-workspace";
    let workspaces = format!("{WORKSPACE}, {another}");
    let relay = relay().set("WORKSPACES", workspaces).start().await;
    relay.linear.admit("lin_oauth_bo", "bo", another);
    let ours = relay.register_pull("one").await;
    let bos = json!({"name": "one", "linearToken": "lin_oauth_bo"});
    let theirs = relay.register_as(bos).await;
    assert_ne!(ours.path, theirs.path);
    relay.post(&issue("i", 1)).await;
    let theirs_alone = issue("i", 2).replace(WORKSPACE, another);
    relay.post(&theirs_alone).await;
    relay.settled().await;
    assert_eq!(relay.pull(&ours, &[], None).await.events.len(), 1);
    assert_eq!(relay.pull(&theirs, &[], None).await.events.len(), 1);
    // Neither token opens the other's door, nor does a worker's id under another workspace.
    for (path, token) in [
        (&theirs.path, ours.token.as_str()),
        (&ours.path, &theirs.token),
        (&ours.path.replace(WORKSPACE, another), &ours.token),
        (&ours.path, TOKEN),
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
    let token = &old.token;
    relay.refuses_worker(call.clone(), token, expected).await;
    relay.read(&new).await;
    let request = json!({"name": "one", "linearToken": TOKEN});
    let again = relay.call(Method::POST, "/edge/register", None, &request);
    let again: serde_json::Value = again.await.json().await.unwrap();
    assert_eq!(again["replaced"], true);
    // Only the token before the last gets this code; without a valid token, all answers are the same.
    let expected = (401, "worker_token_invalid");
    relay.refuses_worker(call, token, expected).await;
}

#[tokio::test]
async fn a_workspace_is_served_if_it_is_named_has_a_secret_or_has_sent_a_webhook() {
    let another = "another-workspace";
    let request = json!({"name": "one", "linearToken": "lin_oauth_bo"});
    let refused = (403, "workspace_not_served");
    let start = async |workspaces: &str, secrets: &str| {
        let relay = relay()
            .set("WORKSPACES", workspaces)
            .set("LINEAR_WEBHOOK_SECRETS", secrets)
            .start()
            .await;
        relay.linear.admit("lin_oauth_bo", "bo", another);
        relay
    };
    // Nothing is said: a webhook has to come first.
    let relay = start("", SECRET).await;
    let problem = relay.refuses_registration(&request, refused).await;
    assert!(problem.detail.contains("trigger any change"), "{problem:?}");
    relay.post(&issue("i", 1)).await;
    relay.register_pull("ours").await;
    relay.refuses_registration(&request, refused).await;
    relay.post(&issue("i", 2).replace(WORKSPACE, another)).await;
    relay.register_as(request.clone()).await;
    // Named: a webhook of another workspace does not help it.
    let relay = start(WORKSPACE, SECRET).await;
    relay.post(&issue("i", 2).replace(WORKSPACE, another)).await;
    let problem = relay.refuses_registration(&request, refused).await;
    assert!(problem.detail.contains("`WORKSPACES`"), "{problem:?}");
    relay.register_pull("ours").await;
    // A secret belongs to the workspace: nothing has to come first.
    let secrets = json!([{"secret": SECRET, "workspace": another}]).to_string();
    let relay = start("", &secrets).await;
    relay.register_as(request).await;
    let ours = json!({"name": "one", "linearToken": TOKEN});
    relay.refuses_registration(&ours, refused).await;
}

#[tokio::test]
async fn a_user_is_limited_however_the_token_is_written() {
    let relay = relay().set("REGISTRATIONS_PER_MINUTE", 3).start().await;
    let bare = TOKEN.trim_start_matches("Bearer ");
    let spelled = |at: usize| ["", "Bearer ", "bearer  ", " BEARER "][at].to_owned() + bare;
    let request = |at: usize| json!({"name": format!("{at}"), "linearToken": spelled(at)});
    let first = relay.register_as(request(0)).await;
    for at in 1..3 {
        relay.register_as(request(at)).await;
    }
    let asked = relay.linear.calls();
    let last = request(3);
    let answer = relay.call(Method::POST, "/edge/register", None, &last);
    assert!(answer.await.headers().contains_key("retry-after"));
    let expected = (429, "too_many_registrations");
    relay.refuses_registration(&last, expected).await;
    // A membership check counts, too.
    let check = json!({"linearToken": TOKEN});
    let token = Some(first.token.as_str());
    let answer = relay.call(Method::PUT, &first.path, token, &check);
    assert_eq!(answer.await.status(), 429);
    assert_eq!(relay.linear.calls(), asked);
    // Another user at the same address is not held up.
    relay.linear.admit("lin_oauth_bo", "bo", WORKSPACE);
    let bos = json!({"name": "one", "linearToken": "lin_oauth_bo"});
    relay.register_as(bos).await;
    relay.clock.advance(Duration::from_secs(60));
    relay.register_as(last).await;
}

#[tokio::test]
async fn junk_is_refused_before_linear_is_asked_and_does_not_lock_out_who_is_known() {
    let relay = relay().set("REGISTRATIONS_PER_MINUTE", 3).start().await;
    // While Linear is down, it is asked no more often, either.
    relay.linear.fail(Some((503, "")));
    let request = json!({"name": "one", "linearToken": TOKEN});
    for _ in 0..3 {
        let expected = (503, "linear_unavailable");
        relay.refuses_registration(&request, expected).await;
    }
    let asked = relay.linear.calls();
    let expected = (429, "too_many_registrations");
    relay.refuses_registration(&request, expected).await;
    assert_eq!(relay.linear.calls(), asked);
    relay.linear.fail(None);
    relay.clock.advance(Duration::from_secs(60));
    relay.register_pull("one").await;
    let junk = |at: usize| json!({"name": "junk", "linearToken": format!("lin_oauth_junk{at}")});
    for at in 0..3 {
        let expected = (401, "linear_token_invalid");
        relay.refuses_registration(&junk(at), expected).await;
    }
    let asked = relay.linear.calls();
    let expected = (429, "too_many_registrations");
    relay.refuses_registration(&junk(3), expected).await;
    assert_eq!(relay.linear.calls(), asked);
    // A colleague behind the same address, whose token Linear has accepted before.
    relay.register_pull("two").await;
    relay.clock.advance(Duration::from_secs(60));
    let expected = (401, "linear_token_invalid");
    relay.refuses_registration(&junk(4), expected).await;
}

/// Tries to register with a token that Linear does not know.
async fn junk_from(relay: &Relay, headers: &[(&str, &str)], at: usize) -> u16 {
    let url = format!("{}/edge/register", relay.local.url());
    let body = json!({"name": "junk", "linearToken": format!("lin_oauth_junk{at}")});
    let call = relay.client.post(url).json(&body);
    let call = (headers.iter()).fold(call, |call, (name, value)| call.header(*name, *value));
    call.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn behind_cloudfront_the_client_that_it_names_is_limited() {
    let start = relay().set("REGISTRATIONS_PER_MINUTE", 2);
    let relay = start.set("ORIGIN_SECRET", "the origin's").start().await;
    let junk = async |client: &str, at| {
        let headers = [
            ("cloudfront-viewer-address", client),
            ("x-origin-secret", "the origin's"),
        ];
        junk_from(&relay, &headers, at).await
    };
    for at in 0..2 {
        // From whatever port.
        assert_eq!(junk(&format!("192.0.2.1:4000{at}"), at).await, 401);
    }
    assert_eq!(junk("192.0.2.1:40002", 2).await, 429);
    assert_eq!(junk("192.0.2.2:40002", 3).await, 401);
    assert_eq!(junk("2001:db8:0:0:0:0:0:1:40002", 4).await, 401);
}

#[tokio::test]
async fn without_cloudfront_nobody_is_whom_a_header_names() {
    let relay = relay().set("REGISTRATIONS_PER_MINUTE", 2).start().await;
    for (at, expected) in [401, 401, 429].into_iter().enumerate() {
        let client = format!("192.0.2.{at}:4000");
        let headers = [("cloudfront-viewer-address", client.as_str())];
        assert_eq!(junk_from(&relay, &headers, at).await, expected);
    }
}

#[tokio::test]
async fn whoever_walks_around_cloudfront_finds_nothing() {
    let relay = relay().set("ORIGIN_SECRET", "the origin's").start().await;
    let asked = relay.linear.calls();
    for headers in [&[][..], &[("x-origin-secret", "a guess")]] {
        assert_eq!(junk_from(&relay, headers, 1).await, 404);
    }
    assert_eq!(relay.linear.calls(), asked);
    let webhook = Webhook::sample(SECRET, &issue("i", 1), relay.clock.millis());
    relay.refuses_webhook(&webhook, (404, "not_found")).await;
}

#[tokio::test]
async fn behind_a_proxy_the_address_that_it_names_is_limited_and_no_other_header_is_believed() {
    for (is_behind_a_proxy, expected) in [(true, [429, 401]), (false, [429, 429])] {
        let start = relay().set("REGISTRATIONS_PER_MINUTE", 2);
        let start = if is_behind_a_proxy {
            start.behind_a_proxy()
        } else {
            start
        };
        let relay = start.start().await;
        let junk =
            async |client: &str, at| junk_from(&relay, &[("x-forwarded-for", client)], at).await;
        for at in 0..2 {
            assert_eq!(junk("192.0.2.1", at).await, 401);
        }
        let refused = [
            junk("192.0.2.9, 192.0.2.1", 2).await,
            junk("192.0.2.2", 3).await,
        ];
        assert_eq!(refused, expected);
    }
}
