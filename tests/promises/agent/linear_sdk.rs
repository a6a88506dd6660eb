//! Code that uses Linear's own SDK, unchanged, takes events that are hours old.
//!
//! Against the real npm package: `npm ci --prefix tests/linear-sdk` first, with node 20.19 or newer in PATH.

use std::process::Stdio;

use local::samples::{FIVE_KINDS, WORKSPACE, Webhook};
use protocol::linear_signature::sign;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::agent::{Inside, events, in_time, relay_and_home};
use crate::harness::{SECRET as RELAYS, until};

const SECRET: &str = "lin_wh_the handler's own";

struct Handler {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    port: String,
}

impl Handler {
    async fn start() -> Self {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/linear-sdk");
        let package = std::path::Path::new(directory).join("node_modules/@linear/sdk");
        assert!(
            package.exists(),
            "run `npm ci --prefix tests/linear-sdk` first"
        );
        let mut child = Command::new("node")
            .arg("handler.mjs")
            .current_dir(directory)
            .env("LINEAR_WEBHOOK_SECRET", SECRET)
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
    let mut handler = Handler::start().await;
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
