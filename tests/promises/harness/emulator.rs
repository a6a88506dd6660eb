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
use super::client;
use super::template::{Template, arn, as_text, resource, route_key};

/// A running emulator.
pub(crate) struct Emulator {
    pub(crate) url: String,
    pub(crate) client: Client,
    _child: Child,
}

/// Starts a program that serves at this address, and waits until it does. It ends with what is returned.
pub(crate) async fn serve(program: &mut Command, url: &str) -> Child {
    let started = (program.stdin(Stdio::null()).stdout(Stdio::null()))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let name = program.as_std().get_program().display();
    let child = started.unwrap_or_else(|error| {
        panic!("`{name}` is not on the PATH ({error}): `.ci/run` installs it")
    });
    // Python takes its time on a busy machine.
    let deadline = Instant::now() + Duration::from_secs(60);
    while client().get(url).send().await.is_err() {
        assert!(Instant::now() < deadline, "`{name}` does not start");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    child
}

/// Where release bootstraps are.
pub(crate) fn bootstrap(function: &str) -> PathBuf {
    let release = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release");
    let path = release.join(function);
    assert!(path.exists(), "{path:?} is not built: `.ci/run` does");
    path
}

/// Names a service; the signature is not verified.
fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, \
         SignedHeaders=host, Signature=none"
    )
}

impl Emulator {
    pub(crate) async fn start() -> Self {
        let port = free_port().await;
        let url = format!("http://127.0.0.1:{port}");
        let mut program = Command::new("ministack");
        program.env("BIND_HOST", "127.0.0.1");
        program.env("GATEWAY_PORT", port.to_string());
        Self {
            _child: serve(&mut program, &url).await,
            client: client(),
            url,
        }
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

    /// Reads from a service that has paths.
    pub(crate) async fn read(&self, service: &str, path: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.url));
        self.send(request.header("authorization", authorization(service)))
            .await
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
        let path = "/2015-03-31/event-source-mappings";
        self.rest("lambda", path, &mapping).await;
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
        let target = "DynamoDB_20120810.CreateTable";
        self.call("dynamodb", target, &table).await;
        template.refer("Table", "edge-relay");

        let secret = json!({"Name": "linear-webhook-secrets"});
        let target = "secretsmanager.CreateSecret";
        let secret = self.call("secretsmanager", target, &secret).await;
        template.refer("LinearWebhookSecrets", secret["ARN"].as_str().unwrap());

        for name in ["DeadLetters", "Queue"] {
            let properties = template.properties(name);
            let attributes: serde_json::Map<_, _> = (properties.as_object().unwrap().iter())
                .filter(|(name, _)| *name != "QueueName")
                .map(|(name, value)| (name.clone(), as_text(value).into()))
                .collect();
            let create = json!({"QueueName": properties["QueueName"], "Attributes": attributes});
            let queue = self.call("sqs", "AmazonSQS.CreateQueue", &create).await;
            template.refer(name, queue["QueueUrl"].as_str().unwrap());
            let arn = arn(properties["QueueName"].as_str().unwrap());
            template.attribute(&format!("{name}.Arn"), &arn);
        }
    }

    async fn make_function(&self, template: &Template, function: &str) {
        let properties = template.properties(&resource(function));
        let mut environment = properties["Environment"]["Variables"].clone();
        for (_, value) in environment.as_object_mut().unwrap() {
            *value = as_text(value).into();
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
                let is_ingest = uri.contains("Ingest");
                let function = if is_ingest { "ingest" } else { "register" };
                assert_eq!(integration["payloadFormatVersion"], "2.0");
                let function = format!("edge-relay-{function}");
                self.add_route(&id, &route_key(method, path), &function)
                    .await;
            }
        }
        let stage = json!({"stageName": "$default", "autoDeploy": true});
        self.add(&id, "stages", &stage).await;
        id
    }

    /// Adds a route to an API, which calls a function.
    pub(crate) async fn add_route(&self, api: &str, route: &str, function: &str) {
        let integration = json!({
            "integrationType": "AWS_PROXY",
            "integrationUri": format!("arn:aws:lambda:us-east-1:000000000000:function:{function}"),
            "payloadFormatVersion": "2.0",
        });
        let made = self.add(api, "integrations", &integration).await;
        let target = format!("integrations/{}", made["integrationId"].as_str().unwrap());
        let route = json!({"routeKey": route, "target": target});
        self.add(api, "routes", &route).await;
    }

    /// Adds a part to an API.
    async fn add(&self, api: &str, parts: &str, part: &Value) -> Value {
        let path = format!("/v2/apis/{api}/{parts}");
        self.rest("apigateway", &path, part).await
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

fn zipped(bootstrap: &Path) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .unix_permissions(0o755);
    zip.start_file("bootstrap", options).unwrap();
    zip.write_all(&std::fs::read(bootstrap).unwrap()).unwrap();
    zip.finish().unwrap().into_inner()
}
