//! Code that uses Linear's own SDK, unchanged, takes events that are hours old; and the relay and the SDK accept the same webhooks.
//!
//! Against the real npm package: `npm ci --prefix tests/linear-sdk` first, with node 20.19 or newer in PATH.

use std::process::Stdio;

use local::samples::{FIVE_KINDS, ONE_ISSUE, WORKSPACE, Webhook};
use protocol::linear_signature::sign;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::agent::{Inside, events, in_time, relay_and_home};
use crate::harness::{SECRET as RELAYS, issue, large_issue, relay, until};

const SECRET: &str = "lin_wh_the handler's own";

struct Handler {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: String,
}

impl Handler {
    async fn start(secret: &str) -> Self {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/linear-sdk");
        let package = std::path::Path::new(directory).join("node_modules/@linear/sdk");
        assert!(
            package.exists(),
            "run `npm ci --prefix tests/linear-sdk` first"
        );
        let mut child = Command::new("node")
            .arg("handler.mjs")
            .current_dir(directory)
            .env("LINEAR_WEBHOOK_SECRET", secret)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().unwrap();
        Self {
            _child: child,
            lines,
            port,
        }
    }

    async fn payload(&mut self) -> Value {
        let line = in_time(self.lines.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }
}

#[tokio::test]
#[ignore = "needs npm's @linear/sdk: `npm ci --prefix tests/linear-sdk`; `.ci/run` runs it"]
async fn linears_own_sdk_takes_events_that_are_hours_old() {
    let (relay, home) = relay_and_home().await;
    let mut handler = Handler::start(SECRET).await;
    let secret = home.write("webhook-secret", format!("{SECRET}\n"));
    let secret = secret.to_str().unwrap();
    let arguments = [&handler.port, "--linear-secret-file", secret];
    let agent = Inside::start(&relay, &home, &arguments).await;

    let old = relay.clock.millis() - 5 * 3_600_000;
    let common =
        format!("\"type\":\"Issue\",\"action\":\"update\",\"organizationId\":\"{WORKSPACE}\"");
    let hard = [
        format!(
            "{{{common},\"webhookTimestamp\":{old},\"data\":{{\"id\":\"i\",\"webhookTimestamp\":1}}}}"
        ),
        format!(
            "{{\"data\":{{\"id\":\"i\",\"description\":\"\\\"webhookTimestamp\\\":5\"}},{common}, \"webhookTimestamp\" : {old} }}\n"
        ),
        format!(
            "{{\r\n  {common},\r\n  \"webhookTimestamp\":\r\n  {old}\r\n,\"data\":{{\"id\":\"i\",\"sortOrder\":-4193.27}}}}\r\n"
        ),
        format!(
            "{{\"webhookTimestamp\":{old}.0,{common},\"data\":{{\"id\":\"i\",\"title\":\"\u{65e5}\u{672c} \\u00e9 \\/\"}}}}"
        ),
        format!("{{\"webhookTimestamp\":{old}0e-1,{common},\"data\":{{\"id\":\"i\"}}}}"),
        format!("{{{common},\"data\":{{\"id\":\"i\"}},\"webhook\\u0054imestamp\":{old}}}"),
        format!(
            "{{{common},\"data\":{{\"id\":\"i\",\"description\":\"{}\"}},\"webhookTimestamp\":{old}}}",
            "long ".repeat(200_000)
        ),
    ];
    for body in hard {
        let payload: Value = serde_json::from_str(&body).unwrap();
        relay.post_webhook(Webhook::signed(RELAYS, body)).await;
        let taken = handler.payload().await;
        assert_eq!(taken["data"], payload["data"]);
        let age = relay.clock.millis() - taken["webhookTimestamp"].as_i64().unwrap();
        assert!((0..60_000).contains(&age), "{age}");
    }
    for sample in FIVE_KINDS {
        relay
            .post_webhook(Webhook::sample(RELAYS, sample, old))
            .await;
        let payload: Value = serde_json::from_str(sample).unwrap();
        assert_eq!(handler.payload().await["type"], payload["type"]);
    }
    until("all are done", async || {
        let events = events(&home).await;
        let is_done = |event: &Value| event["state"] == "done" && event["attempts"] == 1;
        events.len() == 12 && events.iter().all(is_done)
    })
    .await;
    agent.stop().await;

    // Without the stamp, the SDK refuses it: what it was given above was not just anything.
    let body = format!("{{{common},\"webhookTimestamp\":{old}}}");
    let url = format!("http://127.0.0.1:{}/", handler.port);
    let signature = sign(SECRET, body.as_bytes());
    let call = relay.client.post(url).header("linear-signature", signature);
    let answer = call.body(body).send().await.unwrap();
    assert_eq!(answer.status(), 400);
}

/// Webhooks, and whether they have to be accepted at this time.
fn webhooks(now: i64) -> Vec<(Webhook, bool)> {
    let sample = |payload: &str, age: i64| Webhook::sample(RELAYS, payload, now - age);
    let unusual = format!(
        "{{ \"type\" : \"Issue\",\r\n\"action\":\"update\",\"organizationId\":\"{WORKSPACE}\",\"webhookTimestamp\":{now},\
         \"data\":{{\"id\":\"i\",\"title\":\"\u{65e5}\u{672c} \\u00e9 \\/ \\ud83d\\ude00\",\"sortOrder\":-4193.270}}}}\n"
    );
    let payloads = FIVE_KINDS.into_iter().chain(ONE_ISSUE);
    let mut webhooks: Vec<_> = payloads.map(|payload| (sample(payload, 0), true)).collect();
    webhooks.push((Webhook::signed(RELAYS, unusual), true));
    webhooks.push((sample(&large_issue("large", 1, 1 << 20), 0), true));
    let good = sample(&issue("i", 1), 0);
    for age in [120_000, -120_000] {
        webhooks.push((sample(&issue("i", 2), age), false));
    }
    for signature in [
        sign("another secret", &good.body),
        sign(RELAYS, b"another body"),
        good.signature[..62].to_owned(),
        format!("sha256={}", good.signature),
        "0".repeat(64),
        String::new(),
    ] {
        let forged = Webhook {
            signature,
            ..good.clone()
        };
        webhooks.push((forged, false));
    }
    // In a text, where one letter is as good as another for who parses it.
    let mut changed = good.clone();
    let at = (changed.body.windows(6))
        .position(|part| part == b"update")
        .unwrap();
    changed.body[at] = b'U';
    webhooks.extend([(changed, false), (good, true)]);
    webhooks
}

#[tokio::test]
#[ignore = "needs npm's @linear/sdk: `npm ci --prefix tests/linear-sdk`; `.ci/run` runs it"]
async fn the_relay_and_linears_own_sdk_accept_and_refuse_the_same_webhooks() {
    // The SDK's own limit.
    let relay = relay().set("ACCEPTED_AGE_SECONDS", 60).start().await;
    let mut handler = Handler::start(RELAYS).await;
    let url = format!("http://127.0.0.1:{}/", handler.port);
    for (webhook, is_good) in webhooks(relay.clock.millis()) {
        let theirs = webhook.request(&relay.client, &url).send().await.unwrap();
        let ours = relay.send(&webhook).await;
        let (theirs, ours) = (theirs.status().as_u16(), ours.status().as_u16());
        let expected = if is_good { (200, 200) } else { (400, 401) };
        let body = String::from_utf8_lossy(&webhook.body);
        assert_eq!(
            (theirs, ours),
            expected,
            "{} {body:.200}",
            webhook.signature
        );
        if is_good {
            let payload: Value = serde_json::from_slice(&webhook.body).unwrap();
            assert_eq!(handler.payload().await, payload);
        }
    }
}
