//! `sam deploy` itself, against an emulator of AWS that is not ours: from the template to a webhook at a worker, a parameter that is
//! changed, and the removal.

use std::collections::HashMap;
use std::path::Path;

use local::samples::{WORKSPACE, Webhook};
use protocol::clock::Clock;
use protocol::messages::Registered;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::emulator::Emulator;
use crate::harness::page::commands_of;
use crate::harness::{Receiver, SECRET, TOKEN, expect, issue, linear, problem};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const STACK: &str = "edge-relay";
const BUCKET: &str = "uploads";

/// A stack on an emulator.
struct Stack {
    emulator: Emulator,
    built: TempDir,
    /// The id of its API.
    api: String,
}

/// Runs a program to its end, which has to be a good one; answers with what it said.
async fn run(program: &mut Command) -> String {
    let done = program.kill_on_drop(true).output().await.unwrap();
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(done.status.success(), "{program:?}: {said}");
    said
}

impl Stack {
    /// Builds and deploys it.
    async fn deploy(linear: &str) -> Self {
        let emulator = Emulator::start().await;
        let built = TempDir::new().unwrap();
        let mut reduce = Command::new("python");
        reduce.arg(Path::new(ROOT).join("tests/deployed/reduce.py"));
        reduce
            .arg(ROOT)
            .arg(built.path())
            .args([&emulator.url, linear]);
        run(&mut reduce).await;
        let bucket = emulator.client.put(format!("{}/{BUCKET}", emulator.url));
        assert!(bucket.send().await.unwrap().status().is_success());
        let mut stack = Self {
            emulator,
            built,
            api: String::new(),
        };
        let workspaces = format!("Workspaces={WORKSPACE}");
        stack
            .update(&["AlarmEmail=you@example.com", &workspaces])
            .await;
        let apis = stack.emulator.read("apigateway", "/v2/apis").await;
        stack.api = apis["items"][0]["apiId"].as_str().unwrap().to_owned();
        for (route, function) in local::gateway::ROUTES {
            let function = format!("{STACK}-{function}:live");
            stack.emulator.add_route(&stack.api, route, &function).await;
        }
        stack
    }

    /// Deploys it, with Linear's secret and a worker at the receiver.
    async fn with_worker(linear: &str, receiver: &Receiver) -> (Self, Registered) {
        let stack = Self::deploy(linear).await;
        stack.put_secret().await;
        let registered = stack.register("one", receiver).await;
        (stack, expect(registered, StatusCode::CREATED).await)
    }

    fn sam(&self, command: &str) -> Command {
        let mut sam = Command::new("sam");
        sam.args([command, "--stack-name", STACK, "--region", "us-east-1"])
            .envs([
                ("AWS_ENDPOINT_URL", self.emulator.url.as_str()),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
                ("SAM_CLI_TELEMETRY", "0"),
                ("NO_PROXY", "127.0.0.1"),
            ])
            // Neither the repository's `samconfig.toml`, nor anything else of this machine's.
            .current_dir(self.built.path());
        sam
    }

    /// `sam deploy` with these parameters, and all others as they are.
    async fn update(&self, parameters: &[&str]) {
        let mut deploy = self.sam("deploy");
        deploy.args(["--template-file", "template.json", "--s3-bucket", BUCKET]);
        deploy.args(["--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset"]);
        deploy.arg("--parameter-overrides").args(parameters);
        run(&mut deploy).await;
    }

    /// The description of the version of a function that is called, and one of its settings.
    async fn live(&self, function: &str, setting: &str) -> (String, Value) {
        let path = format!("/2015-03-31/functions/{STACK}-{function}/configuration?Qualifier=live");
        let live = self.emulator.read("lambda", &path).await;
        let version = live["Version"].as_str().unwrap().to_owned();
        (version, live["Environment"]["Variables"][setting].clone())
    }

    /// Its outputs.
    async fn outputs(&self) -> HashMap<String, String> {
        let mut describe = self.shell("aws cloudformation describe-stacks --stack-name edge-relay");
        let described: Value = serde_json::from_str(&run(&mut describe).await).unwrap();
        let outputs = described["Stacks"][0]["Outputs"].as_array().unwrap();
        let text = |output: &Value, name: &str| output[name].as_str().unwrap().to_owned();
        (outputs.iter())
            .map(|output| (text(output, "OutputKey"), text(output, "OutputValue")))
            .collect()
    }

    /// A command for a shell, with the AWS CLI and `edge-relay` on the emulator.
    fn shell(&self, command: &str) -> Command {
        let url = &self.emulator.url;
        let mut shell = Command::new("bash");
        shell
            // The CLI has an endpoint of its own for SQS, whatever the environment says.
            .args([
                "-c",
                &command.replace("aws ", &format!("aws --endpoint-url {url} ")),
            ])
            .envs([
                ("AWS_ENDPOINT_URL", url.as_str()),
                ("AWS_ACCESS_KEY_ID", "test"),
                ("AWS_SECRET_ACCESS_KEY", "test"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_DEFAULT_REGION", "us-east-1"),
                ("AWS_PAGER", ""),
                // Nothing but this machine is reached.
                ("HTTPS_PROXY", "http://127.0.0.1:9"),
                ("NO_PROXY", "127.0.0.1"),
            ])
            .current_dir(self.built.path())
            .kill_on_drop(true);
        shell
    }

    async fn register(&self, name: &str, receiver: &Receiver) -> Response {
        let request = json!({"name": name, "linearToken": TOKEN, "webhookUrl": receiver.url()});
        let call = self
            .emulator
            .request(&self.api, Method::POST, "/edge/register");
        call.json(&request).send().await.unwrap()
    }

    async fn put_secret(&self) {
        let none = json!({});
        let target = "secretsmanager.ListSecrets";
        let secrets = self.emulator.call("secretsmanager", target, &none).await;
        let id = &secrets["SecretList"][0]["ARN"];
        let put = json!({"SecretId": id, "SecretString": SECRET});
        let target = "secretsmanager.PutSecretValue";
        self.emulator.call("secretsmanager", target, &put).await;
    }
}

#[tokio::test]
#[ignore = "needs sam, ministack and the release bootstraps: .ci/run"]
async fn a_stack_is_deployed_changed_and_removed() {
    let (_linear, url) = linear().await;
    let receiver = Receiver::start().await;
    let (stack, worker) = Stack::with_worker(&url, &receiver).await;
    let webhook = Webhook::sample(SECRET, &issue("i", 1), Clock::system().millis());
    let made = webhook.request(&stack.emulator.client, &stack.emulator.url);
    let posted = stack
        .emulator
        .request(&stack.api, Method::POST, "/webhooks/linear");
    let posted = posted
        .headers(made.build().unwrap().headers().clone())
        .body(webhook.body.clone());
    let answer: Value = expect(posted.send().await.unwrap(), StatusCode::OK).await;
    assert_eq!(answer["deliveries"], 1);
    let received = receiver.wait_for(1).await;
    assert_eq!(received[0].body, webhook.body);
    assert!(received[0].verifies(&worker.secret));

    // A parameter is seen to take effect in the function that runs, and publishes no version of another one.
    let versions = async || {
        let register = stack.live("register", "WORKERS_PER_USER").await;
        (register, stack.live("deliver", "TABLE_NAME").await.0)
    };
    assert_eq!(
        versions().await,
        (("1".to_owned(), json!("20")), "1".to_owned())
    );
    stack.update(&["WorkersPerUser=1"]).await;
    assert_eq!(
        versions().await,
        (("2".to_owned(), json!("1")), "1".to_owned())
    );
    problem(
        stack.register("two", &receiver).await,
        (403, "too_many_workers"),
    )
    .await;

    let mut delete = stack.sam("delete");
    run(delete.arg("--no-prompts")).await;
    let functions = stack.emulator.read("lambda", "/2015-03-31/functions").await;
    assert_eq!(functions["Functions"], json!([]));
    // What is in the table is kept.
    let (target, all) = ("DynamoDB_20120810.ListTables", json!({}));
    let tables = stack.emulator.call("dynamodb", target, &all).await;
    assert_eq!(tables["TableNames"].as_array().unwrap().len(), 1);
}

/// What the emulator does not have (moves are tried on our own SQS), and a stack of `sam`'s own that `--s3-bucket` does without.
const NOT_EMULATED: [&str; 4] = [
    "aws deploy ",
    "aws cloudformation describe-stack-resource ",
    "aws sqs start-message-move-task ",
    "aws sqs list-message-move-tasks ",
];

#[tokio::test]
#[ignore = "needs sam, the AWS CLI, ministack and the release bootstraps: .ci/run"]
async fn every_command_of_the_operators_page_runs() {
    let (_linear, url) = linear().await;
    let receiver = Receiver::start().await;
    let (stack, worker) = Stack::with_worker(&url, &receiver).await;
    let edge_relay = env!("CARGO_BIN_EXE_edge");
    let listed = run(&mut stack.shell(&format!("{edge_relay} admin workers"))).await;
    assert!(listed.contains(&worker.worker_id), "{listed}");

    let mut values = stack.outputs().await;
    for (name, value) in [
        ("worker", worker.worker_id.as_str()),
        ("workspace", WORKSPACE),
        ("number", "1"),
        ("id", "d-1"),
        ("bucket", BUCKET),
    ] {
        values.insert(name.to_owned(), value.to_owned());
    }
    let pages = [
        include_str!("../../docs/operations.md"),
        // Its last part removes the stack.
        include_str!("../../docs/deploy.md"),
    ];
    let found = pages
        .map(|page| commands_of(page, &["aws", "sam"]))
        .concat();
    assert!(found.len() > 20, "{found:?}");
    for command in found {
        let mut command = command.replace("STACK", STACK);
        for (name, value) in &values {
            command = command.replace(&format!("<{name}>"), value);
        }
        if let Some(parameter) = command.strip_prefix("sam deploy --parameter-overrides ") {
            stack.update(&[parameter.trim_matches('\'')]).await;
        } else if command.starts_with("sam delete") {
            run(stack.sam("delete").arg("--no-prompts")).await;
        } else if command.starts_with("aws ") {
            let done = stack.shell(&command).output().await.unwrap();
            let is_emulated = !NOT_EMULATED.iter().any(|not| command.starts_with(not));
            let said = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.success(), is_emulated, "{command}: {said}");
        } else {
            // The rest is `sam build`, which `.ci/run sam-build` does, and `edge-relay admin`.
            let is_known = command.starts_with("sam build") || command.starts_with("edge-relay ");
            assert!(is_known, "{command}");
        }
    }
}
