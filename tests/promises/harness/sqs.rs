//! A client of SQS, ours or another one.

use std::sync::{Arc, OnceLock};

use local::access_key::AccessKey;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use super::{Relay, client};

/// An SQS, wherever it is.
#[derive(Clone)]
pub(crate) struct Sqs {
    client: Client,
    pub(crate) url: String,
    key: AccessKey,
    /// Why a call got no answer: that says nothing about the SQS, as a refusal does.
    unanswered: Arc<OnceLock<String>>,
}

/// A queue there.
pub(crate) struct Queue {
    sqs: Sqs,
    pub(crate) url: String,
}

/// A call of a service that has a JSON protocol, signed.
pub(crate) fn signed(
    client: &Client,
    key: &AccessKey,
    (service, url): (&str, &str),
    target: &str,
    request: &Value,
) -> RequestBuilder {
    let body = request.to_string();
    let mut call = client.post(url).body(body.clone());
    let sent = [
        ("content-type", "application/x-amz-json-1.0"),
        ("x-amz-target", target),
    ];
    for (name, value) in sent {
        call = call.header(name, value);
    }
    let fields = key.fields(service, url, &sent, body.as_bytes()).unwrap();
    fields
        .into_iter()
        .fold(call, |call, (name, value)| call.header(name, value))
}

impl Sqs {
    pub(crate) fn new(url: String, key: AccessKey) -> Self {
        Self {
            client: client(),
            url,
            key,
            unanswered: Arc::default(),
        }
    }

    /// Why a call got no answer, if one did not.
    pub(crate) fn unanswered(&self) -> Option<&String> {
        self.unanswered.get()
    }

    async fn try_call(&self, action: &str, request: &Value) -> (u16, Value) {
        let target = format!("AmazonSQS.{action}");
        let call = signed(
            &self.client,
            &self.key,
            ("sqs", &self.url),
            &target,
            request,
        );
        let answer = call.send().await.unwrap_or_else(|error| {
            let why = self.unanswered.get_or_init(|| format!("{action}: {error}"));
            panic!("{why}")
        });
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    pub(crate) async fn call(&self, action: &str, request: Value) -> Value {
        let (status, answer) = self.try_call(action, &request).await;
        assert_eq!(status, 200, "{action}: {answer}");
        answer
    }

    /// The call has to be refused with one of these errors, each with its namespace or without.
    pub(crate) async fn refuses(&self, action: &str, request: Value, names: &[&str]) {
        let (status, answer) = self.try_call(action, &request).await;
        let full = answer["__type"].as_str().unwrap_or_default();
        let name = full.rsplit(['#', '.']).next().unwrap_or_default();
        let is_named = names.contains(&full) || names.contains(&name);
        assert!(
            status == 400 && is_named,
            "{action}: {status} {answer}, not {names:?}: {request}"
        );
    }

    pub(crate) async fn queue(&self, name: &str, more: Value) -> Queue {
        let attributes = extended(
            json!({"FifoQueue": "true", "VisibilityTimeout": "30"}),
            more,
        );
        let create = json!({"QueueName": name, "Attributes": attributes});
        let created = self.call("CreateQueue", create).await;
        let url = created["QueueUrl"].as_str().unwrap().to_owned();
        Queue {
            sqs: self.clone(),
            url,
        }
    }
}

impl Relay {
    /// Makes a queue in the relay's own SQS.
    pub(crate) async fn queue(&self, name: &str, more: Value) -> Queue {
        let aws = self.aws_endpoint();
        let sqs = Sqs::new(aws.url(), aws.key.clone());
        sqs.queue(name, more).await
    }
}

impl Queue {
    fn on(&self, mut request: Value) -> Value {
        request["QueueUrl"] = json!(self.url);
        request
    }

    pub(crate) async fn call(&self, action: &str, request: Value) -> Value {
        self.sqs.call(action, self.on(request)).await
    }

    pub(crate) async fn refuses(&self, action: &str, request: Value, names: &[&str]) {
        self.sqs.refuses(action, self.on(request), names).await;
    }

    pub(crate) async fn send(&self, group: &str, body: &str) -> Value {
        let id = format!("{group}-{body}");
        self.call("SendMessage", message(group, &id, body)).await
    }

    pub(crate) async fn send_all(&self, group: &str, bodies: &[&str]) {
        for body in bodies {
            self.send(group, body).await;
        }
    }

    pub(crate) async fn receive(&self, limit: u32) -> Vec<Value> {
        self.receive_with(limit, json!({})).await
    }

    pub(crate) async fn receive_with(&self, limit: u32, more: Value) -> Vec<Value> {
        let all = json!({"AttributeNames": ["All"], "MessageAttributeNames": ["All"]});
        let mut request = extended(all, more);
        request["MaxNumberOfMessages"] = json!(limit);
        let answer = self.call("ReceiveMessage", request).await;
        answer["Messages"].as_array().cloned().unwrap_or_default()
    }

    /// Receives messages with these bodies and no others.
    pub(crate) async fn receives(&self, limit: u32, expected: &[&str]) -> Vec<Value> {
        self.receives_with(limit, json!({}), expected).await
    }

    /// Receives messages and leaves them visible.
    pub(crate) async fn peeks(&self, limit: u32, expected: &[&str]) -> Vec<Value> {
        let at_once = json!({"VisibilityTimeout": 0});
        self.receives_with(limit, at_once, expected).await
    }

    pub(crate) async fn receives_with(
        &self,
        limit: u32,
        more: Value,
        expected: &[&str],
    ) -> Vec<Value> {
        let messages = self.receive_with(limit, more).await;
        let body = |message: &Value| message["Body"].as_str().expect("a body").to_owned();
        let got: Vec<_> = messages.iter().map(body).collect();
        assert_eq!(got, expected);
        messages
    }

    pub(crate) async fn delete(&self, message: &Value) {
        let handle = json!({"ReceiptHandle": message["ReceiptHandle"]});
        self.call("DeleteMessage", handle).await;
    }

    /// Has a message come again after this many seconds.
    pub(crate) async fn hide(&self, message: &Value, seconds: u32) {
        let handle = message["ReceiptHandle"].clone();
        let change = json!({"ReceiptHandle": handle, "VisibilityTimeout": seconds});
        self.call("ChangeMessageVisibility", change).await;
    }

    pub(crate) async fn attribute(&self, name: &str) -> String {
        let names = json!({"AttributeNames": [name]});
        let answer = self.call("GetQueueAttributes", names).await;
        answer["Attributes"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// A message to send.
pub(crate) fn message(group: &str, deduplication: &str, body: &str) -> Value {
    json!({"MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": deduplication})
}

/// What is received too often goes to that queue.
pub(crate) fn redrive(to: &str, most: u32) -> Value {
    let policy = json!({"deadLetterTargetArn": to, "maxReceiveCount": most});
    json!({"RedrivePolicy": policy.to_string()})
}

/// An object with the fields of another one.
fn extended(mut object: Value, more: Value) -> Value {
    let fields = object.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    object
}
