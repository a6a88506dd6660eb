//! The official Standard Webhooks libraries verify what the relay sends, byte for byte, and nothing that was changed.
//!
//! `.ci/run` installs those of npm and PyPI; the crate is among the tests' own dependencies.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use local::samples::{FIVE_KINDS, WORKSPACE};
use protocol::signature::{Secret, sign};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::harness::agent::in_time;
use crate::harness::{Received, issue, large_issue, relay};

const HEADERS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

/// A library's answer: the payload, or why it refuses.
type Verdict = Result<Value, String>;

/// A library in a process of its own.
struct Library {
    _child: Child,
    calls: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("standard-webhooks")
}

impl Library {
    fn start(command: &Path, program: &str) -> Self {
        let mut child = Command::new(command)
            .arg(program)
            .current_dir(directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            calls: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
        }
    }

    fn npm() -> Self {
        let package = directory().join("node_modules/standardwebhooks");
        let hint = "run `npm ci --prefix tests/standard-webhooks` first";
        assert!(package.exists(), "{hint}");
        Self::start(Path::new("node"), "verify.mjs")
    }

    fn pypi() -> Self {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
        let python = tools.join("standard-webhooks/bin/python");
        assert!(python.exists(), "run `.ci/run` first, which installs it");
        Self::start(&python, "verify.py")
    }

    async fn verify(&mut self, secret: &str, headers: &[(&str, String)], body: &[u8]) -> Verdict {
        let headers: serde_json::Map<_, _> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let call = json!({"secret": secret, "headers": headers, "body": STANDARD.encode(body)});
        let call = format!("{call}\n");
        self.calls.write_all(call.as_bytes()).await.unwrap();
        let answer = in_time(self.answers.next_line()).await.unwrap();
        let answer: Value = serde_json::from_str(&answer.expect("it runs")).unwrap();
        if answer["verified"] == true {
            Ok(answer["payload"].clone())
        } else {
            Err(answer["reason"].as_str().unwrap().to_owned())
        }
    }
}

/// The headers of a delivery, all of them, as a receiver would pass them on.
fn headers(map: &HeaderMap) -> Vec<(&str, String)> {
    map.iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap().to_owned()))
        .collect()
}

/// Payloads in forms that JSON parsers and writers change.
fn payloads() -> Vec<String> {
    let unusual = format!(
        "{{ \"type\" : \"Issue\",\r\n\"organizationId\":\"{WORKSPACE}\",\t\"webhookTimestamp\":0,\
         \"data\":{{\"id\":\"i\",\"title\":\"\u{65e5}\u{672c} \\u00e9 \\/ \\ud83d\\ude00\",\"sortOrder\":-4193.270}}}}"
    );
    let payloads = FIVE_KINDS.into_iter().map(str::to_owned);
    let more = [unusual, issue("i", 1), large_issue("large", 1, 400_000)];
    payloads.chain(more).collect()
}

async fn verifies_what_the_relay_sends(library: &mut Library) {
    let (relay, receiver, worker) = relay().with_worker().await;
    for (at, payload) in payloads().iter().enumerate() {
        let posted = relay.post(payload).await;
        let delivery = &receiver.wait_for(at + 1).await[at];
        assert_eq!(delivery.body, posted.webhook.body);
        let all = headers(&delivery.headers);
        let verdict = library.verify(&worker.secret, &all, &delivery.body).await;
        let payload: Value = serde_json::from_slice(&posted.webhook.body).unwrap();
        assert_eq!(verdict, Ok(payload));
    }
    // While a secret is replaced, there are two signatures, and each secret verifies.
    let again = relay.register("one", &receiver.url()).await;
    relay.post(&issue("i", 2)).await;
    let delivery = receiver.wait_for(payloads().len() + 1).await.pop().unwrap();
    assert_eq!(delivery.header("webhook-signature").split(' ').count(), 2);
    for secret in [&worker.secret, &again.secret] {
        let all = headers(&delivery.headers);
        let verdict = library.verify(secret, &all, &delivery.body).await;
        assert!(verdict.is_ok(), "{verdict:?}");
    }
    // Ten minutes from now.
    relay.clock.advance(Duration::from_secs(600));
    relay.post(&issue("i", 3)).await;
    let early = receiver.wait_for(payloads().len() + 2).await.pop().unwrap();
    let all = headers(&early.headers);
    let verdict = library.verify(&again.secret, &all, &early.body).await;
    assert_eq!(verdict.unwrap_err(), "Message timestamp too new");
}

/// A delivery's signed parts, with one of them changed.
fn changed(
    delivery: &Received,
    name: &str,
    change: impl Fn(&str) -> String,
) -> Vec<(&'static str, String)> {
    HEADERS
        .iter()
        .map(|header| {
            let value = delivery.header(header);
            let value = if *header == name {
                change(value)
            } else {
                value.to_owned()
            };
            (*header, value)
        })
        .collect()
}

async fn refuses_what_was_changed(library: &mut Library) {
    const NONE: &str = "No matching signature found";
    let (relay, receiver, worker) = relay().with_worker().await;
    relay.post(&issue("i", 1)).await;
    let delivery = receiver.wait_for(1).await.pop().unwrap();
    let (secret, body) = (worker.secret.as_str(), delivery.body.to_vec());
    let good = changed(&delivery, "", str::to_owned);
    assert!(library.verify(secret, &good, &body).await.is_ok());

    for at in [0, 1, body.len() / 2, body.len() - 1] {
        let mut body = body.clone();
        body[at] ^= 1;
        let verdict = library.verify(secret, &good, &body).await;
        assert_eq!(verdict.unwrap_err(), NONE, "byte {at}");
    }
    for body in [
        &body[1..],
        &body[..body.len() - 1],
        &[&body[..], b"\n"].concat(),
    ] {
        let verdict = library.verify(secret, &good, body).await;
        assert_eq!(verdict.unwrap_err(), NONE);
    }
    let later = |timestamp: &str| (timestamp.parse::<i64>().unwrap() + 1).to_string();
    let other = |signature: &str| {
        let first = if &signature[3..4] == "A" { "B" } else { "A" };
        format!("v1,{first}{}", &signature[4..])
    };
    for headers in [
        changed(&delivery, "webhook-id", |id| format!("{id}0")),
        changed(&delivery, "webhook-timestamp", later),
        changed(&delivery, "webhook-signature", other),
        changed(&delivery, "webhook-signature", |signature| {
            signature.replace("v1,", "v2,")
        }),
    ] {
        let verdict = library.verify(secret, &headers, &body).await;
        assert_eq!(verdict.unwrap_err(), NONE, "{headers:?}");
    }
    for header in HEADERS {
        let mut headers = good.clone();
        headers.retain(|(name, _)| *name != header);
        let verdict = library.verify(secret, &headers, &body).await;
        assert_eq!(verdict.unwrap_err(), "Missing required headers");
    }
    let stranger = relay.register_pull("another worker").await;
    for wrong in [stranger.secret, Secret::generate().expose()] {
        let verdict = library.verify(&wrong, &good, &body).await;
        assert_eq!(verdict.unwrap_err(), NONE);
    }
    // The signature is right, and the timestamp is ten minutes old.
    let old = relay.clock.seconds() - 600;
    let signature = sign([&Secret::parse(secret).unwrap()], "evt_old", old, &body);
    let values = ["evt_old".to_owned(), old.to_string(), signature];
    let headers: Vec<_> = HEADERS.into_iter().zip(values).collect();
    let verdict = library.verify(secret, &headers, &body).await;
    assert_eq!(verdict.unwrap_err(), "Message timestamp too old");
}

#[tokio::test]
#[ignore = "needs npm's standardwebhooks: `npm ci --prefix tests/standard-webhooks`; `.ci/run` runs it"]
async fn npms_library_verifies_what_the_relay_sends_and_refuses_what_was_changed() {
    let mut library = Library::npm();
    verifies_what_the_relay_sends(&mut library).await;
    refuses_what_was_changed(&mut library).await;
}

#[tokio::test]
#[ignore = "needs PyPI's standardwebhooks in `target/tools`; `.ci/run` installs and runs it"]
async fn pypis_library_verifies_what_the_relay_sends_and_refuses_what_was_changed() {
    let mut library = Library::pypi();
    verifies_what_the_relay_sends(&mut library).await;
    refuses_what_was_changed(&mut library).await;
}
