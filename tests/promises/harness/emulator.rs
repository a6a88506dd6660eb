//! An independent emulator of AWS (ministack), set up over its own interface as the template says.
//!
//! Its program is looked for on the `PATH`; `.ci/run` puts it there. It checks no signature of a request: the
//! `Authorization` header only names the service.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::agent::free_port;
use super::template::Template;

/// A running emulator.
pub(crate) struct Emulator {
    pub(crate) url: String,
    pub(crate) client: Client,
    _child: Child,
}

/// Where release bootstraps are.
pub(crate) fn bootstrap(function: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/release")
        .join(function);
    assert!(
        path.exists(),
        "{} is not built: `.ci/run` does",
        path.display()
    );
    path
}

/// Names a service; the signature is not verified.
pub(crate) fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, \
         SignedHeaders=host, Signature=none"
    )
}

impl Emulator {
    pub(crate) async fn start() -> Self {
        let port = free_port().await;
        let child = Command::new("ministack")
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("`ministack` is on the PATH: `.ci/run` installs it");
        let emulator = Self {
            url: format!("http://127.0.0.1:{port}"),
            client: Client::builder().no_proxy().build().unwrap(),
            _child: child,
        };
        // Python takes its time on a busy machine.
        let deadline = Instant::now() + Duration::from_secs(60);
        while emulator.client.get(&emulator.url).send().await.is_err() {
            assert!(Instant::now() < deadline, "the emulator does not start");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        emulator
    }

    async fn send(&self, request: RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{status}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Calls a service that has a JSON protocol.
    pub(crate) async fn call(&self, service: &str, target: &str, body: &Value) -> Value {
        let request = (self.client.post(&self.url))
            .header("authorization", authorization(service))
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", target)
            .body(body.to_string());
        self.send(request).await
    }

    /// Calls a service that has paths.
    async fn rest(&self, service: &str, path: &str, body: &Value) -> Value {
        let request = (self.client.post(format!("{}{path}", self.url)))
            .header("authorization", authorization(service))
            .json(body);
        self.send(request).await
    }

    /// Makes what the template says, and answers with the id of its API.
    pub(crate) async fn deploy(&self, template: &mut Template) -> String {
        self.make_kept(template).await;
        for function in ["ingest", "register", "deliver", "health"] {
            self.make_function(template, function).await;
        }
        let source = template.properties("DeliverDelivery");
        let mapping = json!({
            "EventSourceArn": source["EventSourceArn"],
            "FunctionName": "edge-relay-deliver",
            "BatchSize": source["BatchSize"],
            "FunctionResponseTypes": source["FunctionResponseTypes"],
            "ScalingConfig": source["ScalingConfig"],
        });
        self.rest("lambda", "/2015-03-31/event-source-mappings", &mapping)
            .await;
        self.make_api(template).await
    }

    /// Table, secret and queues.
    async fn make_kept(&self, template: &mut Template) {
        let mut table = template.properties("Table");
        table["TableName"] = json!("edge-relay");
        for setting in [
            "TimeToLiveSpecification",
            "PointInTimeRecoverySpecification",
            "SSESpecification",
            "DeletionProtectionEnabled",
        ] {
            table.as_object_mut().unwrap().remove(setting);
        }
        self.call("dynamodb", "DynamoDB_20120810.CreateTable", &table)
            .await;
        template.refer("Table", "edge-relay");

        let secret = json!({"Name": "linear-webhook-secrets"});
        let secret = self
            .call("secretsmanager", "secretsmanager.CreateSecret", &secret)
            .await;
        template.refer("LinearWebhookSecrets", secret["ARN"].as_str().unwrap());

        for name in ["DeadLetters", "Queue"] {
            let properties = template.properties(name);
            let attributes: serde_json::Map<_, _> = (properties.as_object().unwrap().iter())
                .filter(|(name, _)| *name != "QueueName")
                .map(|(name, value)| {
                    let text = value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned);
                    (name.clone(), text.into())
                })
                .collect();
            let create = json!({"QueueName": properties["QueueName"], "Attributes": attributes});
            let queue = self.call("sqs", "AmazonSQS.CreateQueue", &create).await;
            template.refer(name, queue["QueueUrl"].as_str().unwrap());
            let queue_name = properties["QueueName"].as_str().unwrap();
            let arn = format!("arn:aws:sqs:us-east-1:000000000000:{queue_name}");
            template.attribute(&format!("{name}.Arn"), &arn);
        }
    }

    async fn make_function(&self, template: &Template, function: &str) {
        let (first, rest) = function.split_at(1);
        let properties = template.properties(&format!("{}{rest}", first.to_uppercase()));
        let mut environment = properties["Environment"]["Variables"].clone();
        for (_, value) in environment.as_object_mut().unwrap() {
            if !value.is_string() {
                *value = value.to_string().into();
            }
        }
        // What Lambda itself puts there, and where this AWS is.
        environment["AWS_REGION"] = json!("us-east-1");
        environment["AWS_ACCESS_KEY_ID"] = json!("test");
        environment["AWS_SECRET_ACCESS_KEY"] = json!("test");
        environment["AWS_ENDPOINT_URL"] = json!(self.url);
        let create = json!({
            "FunctionName": properties["FunctionName"],
            "Runtime": properties["Runtime"],
            "Handler": properties["Handler"],
            "Timeout": properties["Timeout"],
            "MemorySize": properties["MemorySize"],
            "Role": "arn:aws:iam::000000000000:role/any",
            "Environment": {"Variables": environment},
            "Code": {"ZipFile": BASE64.encode(zipped(&bootstrap(function)))},
        });
        self.rest("lambda", "/2015-03-31/functions", &create).await;
    }

    async fn make_api(&self, template: &Template) -> String {
        let api = json!({"Name": "edge-relay", "ProtocolType": "HTTP"});
        let api = self.rest("apigateway", "/v2/apis", &api).await;
        let id = api["apiId"].as_str().unwrap().to_owned();
        let body = &template.properties("Api")["Body"];
        for (path, methods) in body["paths"].as_object().unwrap() {
            for (method, route) in methods.as_object().unwrap() {
                let integration = &route["x-amazon-apigateway-integration"];
                let uri = integration["uri"].as_str().unwrap();
                let function = if uri.contains("Ingest") {
                    "ingest"
                } else {
                    "register"
                };
                let integration = json!({
                    "IntegrationType": "AWS_PROXY",
                    "IntegrationUri": format!("arn:aws:lambda:us-east-1:000000000000:function:edge-relay-{function}"),
                    "PayloadFormatVersion": integration["payloadFormatVersion"],
                });
                let path_of = format!("/v2/apis/{id}/integrations");
                let made = self
                    .rest("apigateway", &path_of, &camel(&integration))
                    .await;
                let method = match method.as_str() {
                    "x-amazon-apigateway-any-method" => "ANY".to_owned(),
                    other => other.to_uppercase(),
                };
                let target = format!("integrations/{}", made["integrationId"].as_str().unwrap());
                let route = json!({"RouteKey": format!("{method} {path}"), "Target": target});
                self.rest(
                    "apigateway",
                    &format!("/v2/apis/{id}/routes"),
                    &camel(&route),
                )
                .await;
            }
        }
        let stage = json!({"StageName": "$default", "AutoDeploy": true});
        self.rest(
            "apigateway",
            &format!("/v2/apis/{id}/stages"),
            &camel(&stage),
        )
        .await;
        id
    }

    /// A request to the deployed API.
    pub(crate) fn request(&self, api: &str, method: Method, path: &str) -> RequestBuilder {
        let port = self.url.rsplit(':').next().unwrap();
        (self.client.request(method, format!("{}{path}", self.url)))
            .header("host", format!("{api}.execute-api.localhost:{port}"))
    }

    /// Invokes a function and waits for its answer.
    pub(crate) async fn invoke(&self, function: &str, event: &Value) -> Value {
        let path = format!("/2015-03-31/functions/edge-relay-{function}/invocations");
        self.rest("lambda", &path, event).await
    }
}

/// API Gateway's own interface has names that begin with a small letter.
fn camel(names: &Value) -> Value {
    (names.as_object().unwrap().iter())
        .map(|(name, value)| {
            let (first, rest) = name.split_at(1);
            (format!("{}{rest}", first.to_lowercase()), value.clone())
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn zipped(bootstrap: &Path) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    zip.start_file("bootstrap", options).unwrap();
    zip.write_all(&std::fs::read(bootstrap).unwrap()).unwrap();
    zip.finish().unwrap().into_inner()
}
