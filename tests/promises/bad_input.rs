//! Every wrong header, body, path and method gets a clear problem, and leaves nothing behind.

use std::process::Command;

use local::samples::{WORKSPACE, Webhook, stamp};
use protocol::clock::rfc3339;
use protocol::linear_signature::sign;
use protocol::problem::Problem;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Relay, SECRET, TOKEN, issue, problem, relay};

/// The detail of a problem has to name this part, and nothing secret.
fn names(problem: &Problem, part: &str) {
    let detail = &problem.detail;
    assert!(detail.contains(part), "{part} in {detail}");
    assert!(!detail.contains("hush"), "{detail}");
}

async fn webhook(relay: &Relay, body: &[u8], expected: (u16, &str), part: &str) {
    let webhook = Webhook {
        kind: "Issue".to_owned(),
        ..Webhook::signed(SECRET, body)
    };
    names(&relay.refuses_webhook(&webhook, expected).await, part);
}

#[tokio::test]
async fn the_error_for_a_wrong_webhook_names_the_part() {
    let relay = relay().start().await;
    relay.register_pull("one").await;
    let now = relay.clock.millis();
    let with = |fields: &str| format!(r#"{{"type":"Issue","webhookTimestamp":{now}{fields}}}"#);
    let twice = |field: &str| with(&format!(r#","organizationId":"a",{field}"#));
    let typed = |rest: &str| format!(r#"{{"organizationId":"a","type":{rest}}}"#);
    let inside = with(r#","data":{"organizationId":"a"}"#);
    for (body, part) in [
        ("", "not JSON"),
        ("hush", "not JSON"),
        ("[]", "wrong type"),
        (&with(""), "`organizationId`"),
        (&inside, "`organizationId`"),
        (&twice(r#""organizationId":"b""#), "twice"),
        (&twice(r#""type":"Issue""#), "twice"),
        (&twice(r#""webhookTimestamp":1"#), "twice"),
        (&with(r#","organizationId":"a b""#), "`organizationId`"),
        (&with(r#","organizationId":"""#), "`organizationId`"),
        (&with(r#","organizationId":7"#), "wrong type"),
        (r#"{"organizationId":"a","webhookTimestamp":1}"#, "`type`"),
        (&typed(r#"7,"webhookTimestamp":1"#), "wrong type"),
        (&typed(r#""T","webhookTimestamp":"hush""#), "wrong type"),
    ] {
        webhook(&relay, body.as_bytes(), (400, "body_malformed"), part).await;
    }
    webhook(&relay, b"\xff\xfe{}", (400, "body_not_utf8"), "UTF-8").await;
    relay.settled().await;
}

#[tokio::test]
async fn a_webhook_needs_each_header_once() {
    let relay = relay().start().await;
    let now = format!("\"webhookTimestamp\":{}", relay.clock.millis());
    let body = issue("i", 1).replace("\"webhookTimestamp\":0", &now);
    let signature = sign(SECRET, body.as_bytes());
    let delivery = "234d1a4e-b617-4388-90fe-adc3633d6b72";
    let signed = ("linear-signature", signature.as_str());
    let id = |id| ("linear-delivery", id);
    let (named, wrong) = (id(delivery), (400, "delivery_invalid"));
    for (headers, expected) in [
        (vec![named], (401, "signature_missing")),
        (vec![signed], wrong),
        (vec![signed, id("a.b")], wrong),
        (vec![signed, id("")], wrong),
        (vec![signed, named, id("x")], wrong),
        (vec![signed, signed, named], (401, "signature_invalid")),
    ] {
        let url = format!("{}/webhooks/linear", relay.local.url());
        let mut request = relay.client.post(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        problem(request.body(body.clone()).send().await.unwrap(), expected).await;
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let relay = relay().start().await;
    let worker = "0".repeat(32);
    let worker = format!("/edge/workspaces/{WORKSPACE}/workers/wrk_{worker}");
    let mailbox = format!("{worker}/mailbox");
    let (unknown, not_allowed) = ((404, "not_found"), (405, "method_not_allowed"));
    let up = "/edge/workspaces/a%00b/workers/../..";
    for (method, path, expected) in [
        (Method::GET, "/", unknown),
        (Method::POST, "/webhooks", unknown),
        (Method::POST, "/webhooks/linear/", unknown),
        (Method::GET, "/webhooks/linear", not_allowed),
        (Method::PUT, "/webhooks/linear", not_allowed),
        (Method::GET, "/edge/register", not_allowed),
        (Method::POST, "/edge/", unknown),
        (Method::POST, "/edge/registers", unknown),
        (Method::GET, "/edge/workspaces/x", unknown),
        (Method::PATCH, &worker, not_allowed),
        (Method::GET, &mailbox, not_allowed),
        (Method::GET, &worker, (401, "worker_token_missing")),
        (Method::POST, &mailbox, (401, "worker_token_missing")),
        (Method::GET, up, unknown),
    ] {
        let call = (method, path);
        relay.refuses(call, None, &json!({}), expected).await;
    }
    for path in [
        "/edge/workspaces/a%20b/workers/x",
        "/edge/workspaces/%2e%2f/workers/%00",
        "/edge/workspaces//workers/",
    ] {
        let expected = (401, "worker_token_invalid");
        let call = (Method::GET, path);
        relay.refuses_worker(call, "token", expected).await;
    }
    for authorization in ["Basic dXNlcjpodXNo", "Bearer", "edge_0"] {
        let url = format!("{}{worker}", relay.local.url());
        let call = relay.client.get(url);
        let call = call.header("authorization", authorization);
        let answer = call.send().await.unwrap();
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        problem(answer, (401, "worker_token_missing")).await;
    }
}

#[tokio::test]
async fn the_error_for_a_wrong_registration_names_the_field() {
    let relay = relay().start().await;
    let with = |field: &str, value: Value| {
        let mut request = json!({"linearToken": "hush", "name": "one"});
        request[field] = value;
        request
    };
    let (long, second) = ("h".repeat(2000), json!(["Issue", "no pattern"]));
    for (request, part) in [
        (json!([]), "wrong type"),
        (json!({}), "`linearToken`"),
        (json!({"linearToken": "hush"}), "`name`"),
        (with("linearToken", json!(7)), "wrong type"),
        (with("linearToken", json!("")), "`linearToken`"),
        (with("linearToken", json!("hu\nsh")), "`linearToken`"),
        (with("linearToken", json!(long)), "`linearToken`"),
        (with("name", json!("")), "`name`"),
        (with("name", json!("x".repeat(65))), "`name`"),
        (with("name", json!("a\u{0}")), "`name`"),
        (with("capabilities", json!([])), "`capabilities`"),
        (with("capabilities", second), "`capabilities[1]`"),
        (with("capabilities", json!("Issue")), "wrong type"),
    ] {
        let expected = (400, "invalid_request");
        names(&relay.refuses_registration(&request, expected).await, part);
    }
    let large = json!({"linearToken": TOKEN, "name": "one", "ignored": "x".repeat(70_000)});
    let expected = (413, "body_too_large");
    relay.refuses_registration(&large, expected).await;
    assert_eq!(relay.linear.calls(), 0);
    // What an older relay does not know, it ignores.
    let newer = json!({"linearToken": TOKEN, "name": "one", "somethingNew": true});
    relay.register_as(newer).await;
}

#[tokio::test]
async fn a_wrong_renewal_or_pull_is_a_clear_error_and_changes_nothing() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    let before = relay.read(&worker).await;
    let mailbox = format!("{}/mailbox", worker.path);
    let id = format!("{:0>39}-evt_x", 1);
    let put = (Method::PUT, worker.path.as_str());
    let pull = (Method::POST, mailbox.as_str());
    let pattern = json!({"capabilities": ["no pattern"]});
    let plain = json!({"webhookUrl": "http://10.0.0.1"});
    let blocked = json!({"webhookUrl": "https://10.0.0.1"});
    for (call, request, code) in [
        (&put, json!({"state": "live"}), "invalid_request"),
        (&put, json!({"state": "asleep"}), "invalid_request"),
        (&put, pattern, "invalid_request"),
        (&put, plain, "invalid_webhook_url"),
        (&put, blocked, "address_blocked"),
        (&pull, json!({"limit": 0}), "invalid_limit"),
        (&pull, json!({"limit": 101}), "invalid_limit"),
        (&pull, json!({"limit": -1}), "invalid_request"),
        (&pull, json!({"ack": "x"}), "invalid_request"),
        (&pull, json!({"ack": ["evt_x"]}), "invalid_ack"),
        (&pull, json!({"ack": [id, "MAIL#1"]}), "invalid_ack"),
        (&pull, json!({"ack": vec![&id; 101]}), "invalid_ack"),
    ] {
        let (call, token) = (call.clone(), Some(worker.token.as_str()));
        relay.refuses(call, token, &request, (400, code)).await;
    }
    assert_eq!(relay.read(&worker).await, before);
    // An id of the right form that is not there is no error: it may have been acknowledged before.
    relay.pull(&worker, &[id.clone(), id], None).await;
}

/// What a start says that has to be refused.
fn refused(edge: &mut Command) -> String {
    let output = edge.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{edge:?}: {said}");
    said
}

#[test]
fn wrong_settings_are_named_before_a_port_is_bound() {
    for (name, value) in [
        ("LINEAR_WEBHOOK_SECRETS", ""),
        ("LINEAR_WEBHOOK_SECRETS", "x"),
        ("LINEAR_WEBHOOK_SECRETS", r#"{"secret":"x"}"#),
        ("LINEAR_WEBHOOK_SECRETS", r#"[{"secret":"hush","typo":1}]"#),
        ("LINEAR_API_URL", "hush"),
        ("LEASE_SECONDS", "soon"),
        ("MAILBOX_SECONDS", "1"),
        ("GIVE_UP_SECONDS", "-1"),
        ("DELIVERY_TIMEOUT_SECONDS", "3600"),
        ("ACCEPTED_AGE_SECONDS", "0"),
    ] {
        let mut edge = Command::new(env!("CARGO_BIN_EXE_edge"));
        edge.args(["serve", "--in-memory", "--listen", "127.0.0.1:0"])
            .env("LINEAR_WEBHOOK_SECRETS", SECRET)
            .env(name, value);
        let said = refused(&mut edge);
        assert!(said.contains(&format!("`{name}`")), "{name}: {said}");
        assert!(!said.contains("hush"), "{name}: {said}");
    }
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, part) in [
        (vec!["serve", "--listen", "nowhere"], "--listen"),
        (vec!["serve", "--aws-listen", "0.0.0.0:0"], "loopback"),
        (
            vec!["serve", "--trusted-proxy", "10.0.0.0/33"],
            "10.0.0.0/8",
        ),
        (vec!["serve", "--in-memory", "--data", "x"], "--data"),
        (vec!["serve", "--data-dir", "x"], "--data"),
        (vec!["server"], "serve"),
        (vec![], "Usage"),
    ] {
        let mut edge = Command::new(env!("CARGO_BIN_EXE_edge"));
        let said = refused(edge.args(&arguments));
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn headers_about_the_way_here_are_not_believed_and_break_nothing() {
    let relay = relay().start().await;
    for (name, value) in [
        ("host", "["),
        ("host", "x:99999"),
        ("x-forwarded-proto", ":"),
        ("x-forwarded-for", "8.8.8.8"),
        ("cookie", "a=b; c"),
        ("content-type", "\u{80}"),
    ] {
        let url = format!("{}/edge/register", relay.local.url());
        let call = relay.client.post(url).header(name, value).body("{}");
        let answer = call.send().await.unwrap();
        problem(answer, (400, "invalid_request")).await;
    }
}

#[tokio::test]
async fn an_unusual_webhook_with_the_right_signature_is_answered_200_since_linear_would_disable_webhooks()
 {
    let relay = relay().start().await;
    relay.register_pull("one").await;
    let now = relay.clock.millis();
    for (case, deliveries) in [
        (
            include_str!("../cases/webhooks/lone-surrogate-in-a-key-of-data.json"),
            1,
        ),
        (
            include_str!("../cases/webhooks/webhookTimestamp-null.json"),
            1,
        ),
        (
            include_str!(
                "../cases/webhooks/webhookTimestamp-absent-OAuthApp-revoked-as-documented-.json"
            ),
            1,
        ),
        (
            include_str!("../cases/webhooks/organizationId-null.json"),
            0,
        ),
        (include_str!("../cases/webhooks/type-with-a-space.json"), 0),
        (
            &format!(
                r#"{{"organizationId":"{WORKSPACE}","type":"Téam","webhookTimestamp":{now}}}"#
            ),
            0,
        ),
    ] {
        let is_stamped = case.contains(r#""webhookTimestamp":1"#);
        let body = if is_stamped {
            stamp(case, now)
        } else {
            case.trim_end().to_owned()
        };
        let posted = relay.post_webhook(Webhook::signed(SECRET, body)).await;
        assert_eq!(posted.answer["deliveries"], deliveries, "{case}");
        let mut forged = posted.webhook;
        forged.signature = "0".repeat(64);
        relay
            .refuses_webhook(&forged, (401, "signature_invalid"))
            .await;
    }
    relay.settled().await;
}

#[tokio::test]
async fn without_a_timestamp_the_time_of_creation_counts_for_the_age() {
    let relay = relay().start().await;
    let created = |at| {
        let at = rfc3339(at);
        let body =
            format!(r#"{{"organizationId":"{WORKSPACE}","type":"OAuthApp","createdAt":"{at}"}}"#);
        Webhook::signed(SECRET, body)
    };
    let now = relay.clock.millis();
    relay.post_webhook(created(now)).await;
    let old = created(now - 9 * 3_600_000);
    relay
        .refuses_webhook(&old, (401, "timestamp_too_old"))
        .await;
}
