//! What is deployed works: the release bootstraps, wired as the template wires them, on an emulator of AWS that is not
//! ours.
//!
//! Run by `.ci/run`, which builds the bootstraps, translates the template and installs the emulator.

use std::collections::HashMap;
use std::time::Duration;

use local::linear_api::LinearApi;
use local::local_relay::{DEAD_LETTERS, QUEUE};
use local::samples::Webhook;
use protocol::clock::Clock;
use protocol::messages::{Mailbox, Registered, WorkerState};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::harness::emulator::{Emulator, bootstrap};
use crate::harness::template::Template;
use crate::harness::{Answer, Receiver, Registration, SECRET, TOKEN, eventually, expect};
use crate::harness::{ids, issue, large_issue, linear, number, pulled};

/// The relay as it was deployed.
struct Deployed {
    emulator: Emulator,
    template: Template,
    api: String,
    linear: LinearApi,
}

impl Deployed {
    async fn start() -> Self {
        let (linear, url) = linear().await;
        let mut template = Template::read();
        template.set_variable("register", "LINEAR_API_URL", url);
        template.set_variable("deliver", "GIVE_UP_4XX_SECONDS", 1);
        let emulator = Emulator::start().await;
        let api = emulator.deploy(&mut template).await;
        Self {
            emulator,
            template,
            api,
            linear,
        }
    }

    /// A function's setting.
    fn setting(&self, function: &str, name: &str) -> Value {
        self.template.properties(function)["Environment"]["Variables"][name].clone()
    }

    async fn put_secret(&self, secret: &str) {
        let id = self.setting("Ingest", "LINEAR_WEBHOOK_SECRET_ID");
        let put = json!({"SecretId": id, "SecretString": secret});
        let target = "secretsmanager.PutSecretValue";
        self.emulator.call("secretsmanager", target, &put).await;
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Response {
        let mut request = self.emulator.request(&self.api, method, path).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap()
    }

    async fn register(&self, name: &str, url: &str) -> Registration {
        let request = json!({"name": name, "linearToken": TOKEN, "webhookUrl": url});
        let call = self.call(Method::POST, "/edge/register", None, &request);
        (expect::<Registered>(call.await, StatusCode::CREATED).await).into()
    }

    async fn send(&self, webhook: &Webhook) -> Response {
        let emulator = &self.emulator;
        let made = webhook.request(&emulator.client, &emulator.url);
        let made = made.build().unwrap();
        let mut request = emulator.request(&self.api, Method::POST, "/webhooks/linear");
        for (name, value) in made.headers() {
            request = request.header(name, value);
        }
        request.body(webhook.body.clone()).send().await.unwrap()
    }

    async fn post(&self, payload: &str) -> (Webhook, Value) {
        let webhook = Webhook::sample(SECRET, payload, Clock::system().millis());
        let answer = self.send(&webhook).await;
        (webhook, expect(answer, StatusCode::OK).await)
    }

    async fn pull(&self, worker: &Registration, ack: &[String]) -> Mailbox {
        let path = format!("{}/mailbox", worker.path);
        let ack = json!({"ack": ack});
        let call = self.call(Method::POST, &path, Some(&worker.token), &ack);
        expect(call.await, StatusCode::OK).await
    }

    async fn dead_letters(&self) -> Vec<Value> {
        let receive = json!({
            "QueueUrl": self.setting("Deliver", "DLQ_URL"),
            "VisibilityTimeout": 0,
            "MaxNumberOfMessages": 10,
            "MessageAttributeNames": ["All"],
        });
        let target = "AmazonSQS.ReceiveMessage";
        let answer = self.emulator.call("sqs", target, &receive).await;
        answer["Messages"].as_array().cloned().unwrap_or_default()
    }
}

#[tokio::test]
#[ignore = "needs ministack, the release bootstraps and the translated template: .ci/run"]
async fn the_bootstraps_as_the_template_wires_them_keep_the_promises_on_an_emulator() {
    let relay = Deployed::start().await;

    // No secret was put there yet: the function cannot start, and Linear is to try again.
    let early = Webhook::sample(SECRET, &issue("early", 1), Clock::system().millis());
    let refused = relay.send(&early).await.status();
    assert!(refused.is_server_error(), "{refused}");
    relay.put_secret(SECRET).await;
    let retried: Value = expect(relay.send(&early).await, StatusCode::OK).await;
    assert_eq!(retried["deliveries"], 0);
    let again: Value = expect(relay.send(&early).await, StatusCode::OK).await;
    assert_eq!(again["duplicate"], true);

    // To a receiver, with a retry, and a body that does not fit into a message.
    let receiver = Receiver::start().await;
    let worker = relay.register("one", &receiver.url()).await;
    assert_eq!(relay.linear.calls(), 1);
    receiver.answer([Answer::Status(500), Answer::Status(200)]);
    let (webhook, answer) = relay.post(&issue("i", 1)).await;
    assert_eq!(answer["deliveries"], 1);
    let received = receiver.wait_for(2).await;
    for attempt in &received {
        assert_eq!(attempt.body, webhook.body);
        assert!(attempt.verifies(&worker.secret));
        let id = format!("evt_{}", webhook.delivery);
        assert_eq!(attempt.header("webhook-id"), id);
    }
    assert_eq!(received[1].header("edge-attempt"), "2");
    let (webhook, _) = relay.post(&large_issue("i", 2, 200_000)).await;
    assert_eq!(receiver.wait_for(3).await[2].body, webhook.body);

    // Away: parked, said by a ping, pulled, live again.
    let away = json!({"state": "away"});
    let renewed = relay.call(Method::PUT, &worker.path, Some(&worker.token), &away);
    assert_eq!(renewed.await.status(), 200);
    for at in 3..6 {
        relay.post(&issue("i", at)).await;
    }
    let mailbox = eventually("three are parked", || async {
        let mailbox = relay.pull(&worker, &[]).await;
        (mailbox.events.len() == 3).then_some(mailbox)
    })
    .await;
    assert_eq!(pulled(&mailbox), [3, 4, 5]);
    let schedule = relay.template.properties("HealthPart0")["Target"]["Input"].clone();
    let in_six_minutes = Clock::system().millis() + 6 * 60 * 1000;
    let time = protocol::clock::rfc3339(in_six_minutes);
    let schedule = schedule.as_str().unwrap();
    let schedule = schedule.replace("<aws.scheduler.scheduled-time>", &time);
    let schedule = serde_json::from_str(&schedule).unwrap();
    let counted = relay.emulator.invoke("health", &schedule).await;
    let expected = json!({"live": 0, "away": 1, "pull": 0, "waiting": 1});
    assert_eq!(counted, expected);
    let ping = receiver.pinged()[0].json();
    assert_eq!(ping, json!({"type": "edge.ping", "waiting": true}));
    let emptied = relay.pull(&worker, &ids(&mailbox)).await;
    assert_eq!(emptied.state, WorkerState::Live);
    relay.post(&issue("i", 6)).await;
    assert_eq!(number(&receiver.wait_for(4).await[3].body), 6);

    // Rejected: to the dead-letter queue, with the reason.
    receiver.answer([Answer::Status(400)]);
    let (webhook, _) = relay.post(&issue("other", 7)).await;
    let letters = eventually("it is given up", || async {
        let letters = relay.dead_letters().await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!(letters.len(), 1);
    let body = letters[0]["Body"].as_str().unwrap();
    assert_eq!(body.as_bytes(), webhook.body);
    let attribute = |name: &str| &letters[0]["MessageAttributes"][name]["StringValue"];
    assert_eq!(*attribute("reason"), "rejected: answered 400");

    // For a wrong request, the functions themselves answer what would be right.
    let nothing = json!({});
    let get = relay.call(Method::GET, "/webhooks/linear", None, &nothing);
    assert_eq!(get.await.status(), 405);
    let junk = Webhook::signed("junk", issue("i", 8));
    assert_eq!(relay.send(&junk).await.status(), 401);
}

#[tokio::test]
#[ignore = "needs the release bootstraps: .ci/run"]
async fn a_setting_that_cannot_be_used_is_named_once_and_nothing_is_taken() {
    let relay = crate::harness::relay().start().await;
    let aws = relay.aws_endpoint();
    let url = aws.url();
    let queue = relay.local.sqs.url(QUEUE);
    let dead_letters = relay.local.sqs.url(DEAD_LETTERS);
    let right = HashMap::from([
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", &aws.key.id),
        ("AWS_SECRET_ACCESS_KEY", &aws.key.secret),
        ("AWS_ENDPOINT_URL", &url),
        ("TABLE_NAME", local::dynamodb::TABLE),
        ("QUEUE_URL", &queue),
        ("DLQ_URL", &dead_letters),
        ("LINEAR_WEBHOOK_SECRET_ID", local::secrets::SECRET_ID),
        // Nothing listens there: a function that gets so far has started.
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1"),
    ]);
    let other_queue = queue.replace("edge-relay", "another");
    let wrong = [
        ("ingest", "LINEAR_WEBHOOK_SECRET_ID", None),
        ("ingest", "LINEAR_WEBHOOK_SECRET_ID", Some("another")),
        ("ingest", "QUEUE_URL", Some("not an address")),
        ("ingest", "QUEUE_URL", Some(other_queue.as_str())),
        ("ingest", "TABLE_NAME", Some("another")),
        ("ingest", "ACCEPTED_AGE_SECONDS", Some("soon")),
        ("register", "TABLE_NAME", Some("another")),
        ("register", "LINEAR_API_URL", Some("linear")),
        ("deliver", "DLQ_URL", Some(other_queue.as_str())),
        ("deliver", "DELIVERY_TIMEOUT_SECONDS", Some("21")),
        ("health", "TABLE_NAME", None),
        ("health", "QUEUE_URL", None),
    ];
    for (function, name, value) in wrong {
        let mut environment = right.clone();
        match value {
            Some(value) => environment.insert(name, value),
            None => environment.remove(name),
        };
        let mut program = tokio::process::Command::new(bootstrap(function));
        let ended = program.env_clear().envs(&environment).output();
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        let ended = ended.unwrap().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{function}: {name}");
        let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        let mut named: Vec<_> = said.lines().collect();
        named.retain(|line| line.contains(&format!("`{name}`")));
        assert_eq!(named.len(), 1, "{function}: {name}: {said}");
        let line: Value = serde_json::from_str(named[0]).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
