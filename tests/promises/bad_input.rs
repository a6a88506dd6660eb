//! Every wrong header, body, path and method gets a clear problem, and leaves nothing behind.

use local::samples::{WORKSPACE, Webhook};
use protocol::linear_signature::sign;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Relay, SECRET, TOKEN, expect, issue, problem, relay};

async fn webhook(relay: &Relay, body: &[u8], expected: (u16, &str), part: &str) {
    let webhook = Webhook {
        kind: "Issue".to_owned(),
        ..Webhook::signed(SECRET, body)
    };
    let problem = problem(relay.send(&webhook).await, expected).await;
    assert!(
        problem.detail.contains(part),
        "{} in {}",
        part,
        problem.detail
    );
    assert!(!problem.detail.contains("hush"), "{}", problem.detail);
}

#[tokio::test]
async fn the_error_for_a_wrong_webhook_names_the_part() {
    let relay = relay().start().await;
    relay.register_pull("one").await;
    let now = relay.clock.millis();
    let with = |fields: &str| format!(r#"{{"type":"Issue","webhookTimestamp":{now}{fields}}}"#);
    for (body, part) in [
        ("", "not JSON"),
        ("hush", "not JSON"),
        ("[]", "wrong type"),
        (&with(""), "`organizationId`"),
        (
            &with(r#","data":{"organizationId":"a"}"#),
            "`organizationId`",
        ),
        (
            &with(r#","organizationId":"a","organizationId":"b""#),
            "twice",
        ),
        (&with(r#","organizationId":"a","type":"Issue""#), "twice"),
        (
            &with(r#","organizationId":"a","webhookTimestamp":1"#),
            "twice",
        ),
        (&with(r#","organizationId":"a b""#), "`organizationId`"),
        (&with(r#","organizationId":"""#), "`organizationId`"),
        (&with(r#","organizationId":7"#), "wrong type"),
        (r#"{"organizationId":"a","webhookTimestamp":1}"#, "`type`"),
        (r#"{"organizationId":"a","type":"T"}"#, "`webhookTimestamp`"),
        (
            r#"{"organizationId":"a","type":"a\nb","webhookTimestamp":1}"#,
            "`type`",
        ),
        (
            r#"{"organizationId":"a","type":"T","webhookTimestamp":"hush"}"#,
            "wrong type",
        ),
    ] {
        webhook(&relay, body.as_bytes(), (400, "body_malformed"), part).await;
    }
    webhook(&relay, b"\xff\xfe{}", (400, "body_not_utf8"), "UTF-8").await;
    relay.settled().await;
}

#[tokio::test]
async fn a_webhook_needs_each_header_once() {
    let relay = relay().start().await;
    let body = issue("i", 1).replace(
        "\"webhookTimestamp\":0",
        &format!("\"webhookTimestamp\":{}", relay.clock.millis()),
    );
    let signature = sign(SECRET, body.as_bytes());
    let delivery = "234d1a4e-b617-4388-90fe-adc3633d6b72";
    let (signed, named) = (
        ("linear-signature", signature.as_str()),
        ("linear-delivery", delivery),
    );
    let with_id = |id| vec![signed, ("linear-delivery", id)];
    for (headers, expected) in [
        (vec![named], (401, "signature_missing")),
        (vec![signed], (400, "delivery_invalid")),
        (with_id("a.b"), (400, "delivery_invalid")),
        (with_id(""), (400, "delivery_invalid")),
        (
            vec![signed, named, ("linear-delivery", "x")],
            (400, "delivery_invalid"),
        ),
        (vec![signed, signed, named], (401, "signature_invalid")),
    ] {
        let mut request = relay
            .client
            .post(format!("{}/webhooks/linear", relay.local.url()));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        problem(request.body(body.clone()).send().await.unwrap(), expected).await;
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let relay = relay().start().await;
    let worker = format!(
        "/edge/workspaces/{WORKSPACE}/workers/wrk_{}",
        "0".repeat(32)
    );
    let mailbox = format!("{worker}/mailbox");
    for (method, path, expected) in [
        (Method::GET, "/", (404, "not_found")),
        (Method::POST, "/webhooks", (404, "not_found")),
        (Method::POST, "/webhooks/linear/", (404, "not_found")),
        (Method::GET, "/webhooks/linear", (405, "method_not_allowed")),
        (Method::PUT, "/webhooks/linear", (405, "method_not_allowed")),
        (Method::GET, "/edge/register", (405, "method_not_allowed")),
        (Method::POST, "/edge/", (404, "not_found")),
        (Method::POST, "/edge/registers", (404, "not_found")),
        (Method::GET, "/edge/workspaces/x", (404, "not_found")),
        (Method::PATCH, &worker, (405, "method_not_allowed")),
        (Method::GET, &mailbox, (405, "method_not_allowed")),
        (Method::GET, &worker, (401, "worker_token_missing")),
        (Method::POST, &mailbox, (401, "worker_token_missing")),
        (
            Method::GET,
            "/edge/workspaces/a%00b/workers/../..",
            (404, "not_found"),
        ),
    ] {
        relay
            .refuses((method, path), None, &json!({}), expected)
            .await;
    }
    for path in [
        "/edge/workspaces/a%20b/workers/x",
        "/edge/workspaces/%2e%2f/workers/%00",
        "/edge/workspaces//workers/",
    ] {
        let expected = (401, "worker_token_invalid");
        relay
            .refuses_worker((Method::GET, path), "token", expected)
            .await;
    }
    for authorization in ["Basic dXNlcjpodXNo", "Bearer", "edge_0"] {
        let url = format!("{}{worker}", relay.local.url());
        let answer = relay
            .client
            .get(url)
            .header("authorization", authorization)
            .send()
            .await
            .unwrap();
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
    for (request, part) in [
        (json!([]), "wrong type"),
        (json!({}), "`linearToken`"),
        (json!({"linearToken": "hush"}), "`name`"),
        (with("linearToken", json!(7)), "wrong type"),
        (with("linearToken", json!("")), "`linearToken`"),
        (with("linearToken", json!("hu\nsh")), "`linearToken`"),
        (
            with("linearToken", json!("h".repeat(2000))),
            "`linearToken`",
        ),
        (with("name", json!("")), "`name`"),
        (with("name", json!("x".repeat(65))), "`name`"),
        (with("name", json!("a\u{0}")), "`name`"),
        (with("capabilities", json!([])), "`capabilities`"),
        (
            with("capabilities", json!(["Issue", "no pattern"])),
            "`capabilities[1]`",
        ),
        (with("capabilities", json!("Issue")), "wrong type"),
    ] {
        let expected = (400, "invalid_request");
        let problem = relay.refuses_registration(&request, expected).await;
        assert!(
            problem.detail.contains(part),
            "{part} in {}",
            problem.detail
        );
        assert!(!problem.detail.contains("hush"));
    }
    let large = json!({"linearToken": TOKEN, "name": "one", "ignored": "x".repeat(70_000)});
    let expected = (413, "body_too_large");
    relay.refuses_registration(&large, expected).await;
    assert_eq!(relay.linear.calls(), 0);
    // What an older relay does not know, it ignores.
    relay
        .register_as(json!({"linearToken": TOKEN, "name": "one", "somethingNew": true}))
        .await;
}

#[tokio::test]
async fn a_wrong_renewal_or_pull_is_a_clear_error_and_changes_nothing() {
    let relay = relay().start().await;
    let worker = relay.register_pull("one").await;
    let before = relay.read(&worker).await;
    let mailbox = format!("{}/mailbox", worker.path);
    let id = format!("{:0>39}-evt_x", 1);
    let (put, pull) = (
        (Method::PUT, worker.path.as_str()),
        (Method::POST, mailbox.as_str()),
    );
    for (call, request, code) in [
        (&put, json!({"state": "live"}), "invalid_request"),
        (&put, json!({"state": "asleep"}), "invalid_request"),
        (
            &put,
            json!({"capabilities": ["no pattern"]}),
            "invalid_request",
        ),
        (
            &put,
            json!({"webhookUrl": "http://10.0.0.1"}),
            "invalid_webhook_url",
        ),
        (
            &put,
            json!({"webhookUrl": "https://10.0.0.1"}),
            "address_blocked",
        ),
        (&pull, json!({"limit": 0}), "invalid_limit"),
        (&pull, json!({"limit": 101}), "invalid_limit"),
        (&pull, json!({"limit": -1}), "invalid_request"),
        (&pull, json!({"ack": "x"}), "invalid_request"),
        (&pull, json!({"ack": ["evt_x"]}), "invalid_ack"),
        (&pull, json!({"ack": [id, "MAIL#1"]}), "invalid_ack"),
        (&pull, json!({"ack": vec![&id; 101]}), "invalid_ack"),
    ] {
        relay
            .refuses(call.clone(), Some(&worker.token), &request, (400, code))
            .await;
    }
    let after = relay.read(&worker).await;
    assert_eq!(after, before);
    // An id of the right form that is not there is no error: it may have been acknowledged before.
    let answer = relay
        .call(
            Method::POST,
            &mailbox,
            Some(&worker.token),
            &json!({"ack": [id, id]}),
        )
        .await;
    let _: Value = expect(answer, reqwest::StatusCode::OK).await;
}

#[test]
fn wrong_settings_are_named_before_a_port_is_bound() {
    for (name, value) in [
        ("LINEAR_WEBHOOK_SECRETS", ""),
        (
            "LINEAR_WEBHOOK_SECRETS",
            "[{\"secret\":\"hush\",\"typo\":1}]",
        ),
        ("LINEAR_API_URL", "hush"),
        ("LEASE_SECONDS", "soon"),
        ("MAILBOX_SECONDS", "1"),
        ("GIVE_UP_SECONDS", "-1"),
        ("DELIVERY_TIMEOUT_SECONDS", "3600"),
        ("ACCEPTED_AGE_SECONDS", "0"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_edge"))
            .args(["serve", "--in-memory", "--listen", "127.0.0.1:0"])
            .env("LINEAR_WEBHOOK_SECRETS", SECRET)
            .env(name, value)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(
            said.contains(&format!("`{name}`")) && !said.contains("hush"),
            "{name}: {said}"
        );
    }
}

#[test]
fn wrong_arguments_are_named() {
    for (arguments, part) in [
        (vec!["serve", "--listen", "nowhere"], "--listen"),
        (vec!["serve", "--aws-listen", "0.0.0.0:0"], "loopback"),
        (vec!["serve", "--in-memory", "--data", "x"], "--data"),
        (vec!["serve", "--data-dir", "x"], "--data"),
        (vec!["server"], "serve"),
        (vec![], "Usage"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_edge"))
            .args(&arguments)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
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
        let answer = relay
            .client
            .post(url)
            .header(name, value)
            .body("{}")
            .send()
            .await
            .unwrap();
        problem(answer, (400, "invalid_request")).await;
    }
}

#[tokio::test]
async fn a_page_in_a_browser_cannot_use_the_endpoints() {
    let relay = relay().start().await;
    let address = relay.local.aws_address;
    for target in ["AmazonSQS.ListQueues", "DynamoDB_20120810.ListTables"] {
        let call = |name: &'static str, value: &'static str| {
            let request = relay
                .client
                .post(format!("http://{address}/"))
                .header("x-amz-target", target);
            request.header(name, value).body("{}").send()
        };
        assert_eq!(call("accept", "*/*").await.unwrap().status(), 200);
        assert_eq!(
            call("origin", "https://example.com")
                .await
                .unwrap()
                .status(),
            403
        );
        assert_eq!(call("host", "example.com").await.unwrap().status(), 403);
    }
}
