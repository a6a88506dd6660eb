//! The endpoint of `edge-relay serve` for AWS clients: off until it is asked for, and then for those who have its key.

use std::process::Stdio;

use local::access_key::AccessKey;
use local::samples::WORKSPACE;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::harness::sqs::signed;
use crate::harness::{SECRET, client, relay};

/// What `edge-relay serve` prints at its start.
async fn printed(arguments: &[&str]) -> (tokio::process::Child, Vec<String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_edge"))
        .args(["serve", "--in-memory", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .env("LINEAR_WEBHOOK_SECRETS", SECRET)
        .env("WORKSPACES", WORKSPACE)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = Vec::new();
    while let Some(line) = stderr.next_line().await.unwrap() {
        let is_last = line.trim().starts_with("kept");
        lines.push(line);
        if is_last {
            break;
        }
    }
    (child, lines)
}

#[tokio::test]
async fn it_is_off_until_it_is_asked_for() {
    let (_child, lines) = printed(&[]).await;
    assert!(!lines.iter().any(|line| line.contains("AWS")), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("agents")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn what_is_printed_is_all_that_a_client_needs() {
    let (_child, lines) = printed(&["--aws-listen", "127.0.0.1:0"]).await;
    let setting = |name: &str| {
        let mut settings = lines.iter().flat_map(|line| line.split(' '));
        let value = settings.find_map(|setting| setting.strip_prefix(name)?.strip_prefix('='));
        value
            .unwrap_or_else(|| panic!("{name} is not in {lines:?}"))
            .to_owned()
    };
    let key = AccessKey {
        id: setting("AWS_ACCESS_KEY_ID"),
        secret: setting("AWS_SECRET_ACCESS_KEY"),
    };
    let url = setting("AWS_ENDPOINT_URL");
    for (service, target) in [
        ("sqs", "AmazonSQS.ListQueues"),
        ("dynamodb", "DynamoDB_20120810.ListTables"),
    ] {
        let call = signed(&client(), &key, (service, &url), target, &json!({}));
        let answer = call.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{target}");
        assert!(
            answer.text().await.unwrap().contains("edge-relay"),
            "{target}"
        );
    }
}

#[tokio::test]
async fn a_request_without_the_key_is_refused() {
    let relay = relay().start().await;
    let aws = relay.aws_endpoint();
    let (url, right) = (aws.url(), &aws.key);
    let with = |id: &str, secret: &str| AccessKey {
        id: id.to_owned(),
        secret: secret.to_owned(),
    };
    let secret = json!({"SecretId": local::secrets::SECRET_ID});
    let target = "secretsmanager.GetSecretValue";
    for (key, name) in [
        (Some(right.clone()), None),
        (None, Some("MissingAuthenticationToken")),
        (Some(with("test", "test")), Some("InvalidClientTokenId")),
        (Some(with(&right.id, "test")), Some("SignatureDoesNotMatch")),
    ] {
        let call = match key {
            Some(key) => signed(
                &relay.client,
                &key,
                ("secretsmanager", &url),
                target,
                &secret,
            ),
            // As a page in a browser could, or another user of this machine.
            None => (relay.client.post(&url))
                .header("x-amz-target", target)
                .body(secret.to_string()),
        };
        let answer = call.send().await.unwrap();
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(status == 200, name.is_none(), "{status}: {answer}");
        assert_eq!(
            answer.get("__type").and_then(Value::as_str),
            name,
            "{answer}"
        );
        assert_eq!(answer.get("SecretString").is_some(), name.is_none());
    }
}
