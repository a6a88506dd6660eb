//! What the promises are held with: a relay on free ports with a clock that can be moved, a stand-in for
//! Linear's API, and receivers that record and misbehave to order.

pub(crate) mod agent;
#[cfg(target_os = "linux")]
pub(crate) mod disk;
pub(crate) mod emulator;
pub(crate) mod filter;
pub(crate) mod page;
pub(crate) mod raw;
mod receiver;
pub(crate) mod served;
pub(crate) mod special_purpose;
pub(crate) mod sqs;
pub(crate) mod target;
pub(crate) mod template;
pub(crate) mod tls;
pub(crate) mod used;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use local::linear_api::LinearApi;
use local::local_relay::{AwsEndpoint, DEAD_LETTERS, FREE_PORT, LocalRelay, Options};
use local::local_relay::{QUEUE, Storage, VISIBILITY_SECONDS};
use local::samples::{WORKSPACE, Webhook};
use local::secrets::SECRET_ID;
use local::sqs::Message;
use local::testing::calls::{Calls, Fault, Interfere, Interference};
use local::testing::place::place;
use local::trusted_proxies::TrustedProxies;
use protocol::clock::Clock;
use protocol::messages::{Mailbox, Pull, Registered, Renew, Worker, WorkerState};
use protocol::problem::Problem;
use relay::egress::EgressPolicy;
use relay::outbound::Network;
use reqwest::{Client, Method, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) use receiver::{Answer, Received, Receiver};

/// How long a message that was received is invisible unless something else is asked for, in ms.
pub(crate) const VISIBILITY: i64 = VISIBILITY_SECONDS as i64 * 1000;
pub(crate) const SECRET: &str = "the webhook secret";
pub(crate) const TOKEN: &str = "lin_api_ana";

/// Asks again until it is so; the only place that waits for anything.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks again until it holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    eventually(what, async || holds().await.then_some(())).await;
}

/// Tells a process to end, as a person or a service manager would.
pub(crate) fn terminate(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// Changes 64 bytes of a file.
pub(crate) fn damage(file: &Path, at: u64) {
    let mut file = (File::options().read(true).write(true).open(file)).unwrap();
    let mut bytes = [0; 64];
    file.seek(SeekFrom::Start(at)).unwrap();
    let count = file.read(&mut bytes).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&bytes[..count].iter().map(|byte| !byte).collect::<Vec<_>>())
        .unwrap();
}

/// Whether a process runs: one that has ended and that its parent has not waited for yet does not.
pub(crate) fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// A relay with its surroundings.
pub(crate) struct Relay {
    pub(crate) local: LocalRelay,
    pub(crate) linear: LinearApi,
    pub(crate) clock: Clock,
    pub(crate) client: Client,
}

/// A registered worker, as its owner knows it.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) path: String,
    pub(crate) token: String,
    pub(crate) secret: String,
}

impl From<Registered> for Registration {
    fn from(registered: Registered) -> Self {
        Self {
            path: registered.worker,
            token: registered.token,
            secret: registered.secret,
        }
    }
}

impl Registration {
    /// The ids of its workspace and of the worker.
    pub(crate) fn names(&self) -> [String; 2] {
        let parts: Vec<_> = self.path.split('/').collect();
        [parts[3], parts[5]].map(str::to_owned)
    }
}

pub(crate) struct Start<'a> {
    settings: HashMap<&'a str, String>,
    is_behind_a_proxy: bool,
    storage: Storage,
    interfere: Option<Interfere>,
    egress: EgressPolicy,
    network: Network,
}

impl<'a> Start<'a> {
    pub(crate) fn set(mut self, name: &'a str, value: impl ToString) -> Self {
        self.settings.insert(name, value.to_string());
        self
    }

    /// Behind a proxy on this machine.
    pub(crate) fn behind_a_proxy(mut self) -> Self {
        self.is_behind_a_proxy = true;
        self
    }

    /// Delays a function's calls of these actions.
    pub(crate) fn slow(mut self, slow: &'static str, actions: &'static [&'static str]) -> Self {
        self.interfere = Some(Arc::new(move |function, target, _: &[u8]| {
            let action = target.rsplit('.').next().unwrap_or_default();
            let is_slow = function == slow && actions.contains(&action);
            Interference {
                delay: Duration::from_secs(if is_slow { 60 } else { 0 }),
                ..Interference::default()
            }
        }));
        self
    }

    /// Delays calls, by the function and the SDK's target.
    pub(crate) fn delayed(
        mut self,
        delay: impl Fn(&str, &str) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.interfere = Some(Arc::new(move |function, target, _: &[u8]| Interference {
            delay: delay(function, target),
            ..Interference::default()
        }));
        self
    }

    /// Delays all calls of a function while this is set.
    pub(crate) fn slow_while(
        self,
        is_slow: Arc<AtomicBool>,
        slow: &'static str,
        delay: Duration,
    ) -> Self {
        self.delayed(move |function, _| {
            let is_slow = function == slow && is_slow.load(Ordering::Relaxed);
            if is_slow { delay } else { Duration::ZERO }
        })
    }

    /// Refuses the first call that comes from this place, with an error after which the SDK does not try again.
    pub(crate) fn refused_once(self, at: &'static str) -> Self {
        self.refused_once_with(at, "ValidationException")
    }

    /// Refuses the first call that comes from this place, with this code.
    pub(crate) fn refused_once_with(mut self, at: &'static str, code: &'static str) -> Self {
        let is_refused = AtomicBool::new(false);
        self.interfere = Some(Arc::new(move |function, target, body: &[u8]| {
            let is_it =
                place(function, target, body) == at && !is_refused.swap(true, Ordering::Relaxed);
            Interference {
                fault: is_it.then_some(Fault::Refused(400, code)),
                ..Interference::default()
            }
        }));
        self
    }

    /// With workers on the public internet alone, as in the cloud.
    pub(crate) fn public(mut self) -> Self {
        self.egress = EgressPolicy::Public;
        self
    }

    /// With names that this looks up.
    pub(crate) fn named(
        mut self,
        lookup: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        self.network = Network::Named(Arc::new(move |name| Ok(lookup(name))));
        self
    }

    pub(crate) fn keep(mut self, directory: &Path) -> Self {
        self.storage = Storage::Directory(directory.to_owned());
        self
    }

    pub(crate) async fn start(mut self) -> Relay {
        let (linear, url) = linear().await;
        self.settings.insert("LINEAR_API_URL", url);
        let clock = Clock::system();
        let mut options = Options::read(&|name| self.settings.get(name).cloned()).unwrap();
        options.aws_listen = Some(FREE_PORT);
        if self.is_behind_a_proxy {
            options.trusted_proxies = TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
        }
        options.clock = clock.clone();
        options.storage = self.storage;
        options.configs.set_egress(self.egress);
        options.network = self.network;
        options.calls = Calls::observed(used::watcher());
        if let Some(interfere) = self.interfere {
            options.calls = options.calls.interfered(interfere);
        }
        used::note_lines();
        let local = LocalRelay::start(options).await.unwrap();
        Relay {
            local,
            linear,
            clock,
            client: client(),
        }
    }

    /// Starts it with a worker called `one`, which is at the receiver.
    pub(crate) async fn with_worker(self) -> (Relay, Receiver, Registration) {
        let (relay, receiver) = (self.start().await, Receiver::start().await);
        let worker = relay.register("one", &receiver.url()).await;
        (relay, receiver, worker)
    }
}

/// A client that takes no notice of this machine's proxy.
pub(crate) fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

/// A stand-in for Linear's API that knows `TOKEN`, and its address.
pub(crate) async fn linear() -> (LinearApi, String) {
    let (linear, address) = LinearApi::start().await.unwrap();
    linear.admit(TOKEN, "ana", WORKSPACE);
    (linear, format!("http://{address}/graphql"))
}

/// A relay in memory, with its defaults but for a limit that tests would meet.
pub(crate) fn relay<'a>() -> Start<'a> {
    Start {
        settings: HashMap::new(),
        storage: Storage::Memory,
        interfere: None,
        is_behind_a_proxy: false,
        egress: EgressPolicy::Loopback,
        network: Network::Internet,
    }
    .set("LINEAR_WEBHOOK_SECRETS", SECRET)
    .set("WORKSPACES", WORKSPACE)
    .set("REGISTRATIONS_PER_MINUTE", 100_000)
    .set("WORKERS_PER_USER", 100_000)
    .set("WORKERS_PER_WORKSPACE", 100_000)
}

impl Relay {
    /// Registers a worker at this address.
    pub(crate) async fn register(&self, name: &str, url: &str) -> Registration {
        self.register_as(registration(name, url)).await
    }

    /// Registers a worker at this address that leaves its mailbox to the relay.
    pub(crate) async fn register_receiving(&self, name: &str, url: &str) -> Registration {
        let mut request = registration(name, url);
        request["pulls"] = json!(false);
        self.register_as(request).await
    }

    pub(crate) async fn register_pull(&self, name: &str) -> Registration {
        let request = json!({"name": name, "linearToken": TOKEN});
        self.register_as(request).await
    }

    pub(crate) async fn register_as(&self, request: Value) -> Registration {
        let call = self.call(Method::POST, "/edge/register", None, &request);
        (expect::<Registered>(call.await, StatusCode::CREATED).await).into()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Response {
        let url = format!("{}{path}", self.local.url());
        let mut request = self.client.request(method, url).json(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.unwrap()
    }

    /// Calls and expects a problem of this status and code.
    pub(crate) async fn refuses(
        &self,
        (method, path): (Method, &str),
        token: Option<&str>,
        body: &Value,
        expected: (u16, &str),
    ) -> Problem {
        let answer = self.call(method, path, token, body).await;
        problem(answer, expected).await
    }

    /// Registers and expects a problem of this status and code.
    pub(crate) async fn refuses_registration(
        &self,
        request: &Value,
        expected: (u16, &str),
    ) -> Problem {
        let call = (Method::POST, "/edge/register");
        self.refuses(call, None, request, expected).await
    }

    /// Calls with a worker's token and expects a problem of this status and code.
    pub(crate) async fn refuses_worker(
        &self,
        call: (Method, &str),
        token: &str,
        expected: (u16, &str),
    ) {
        self.refuses(call, Some(token), &json!({}), expected).await;
    }

    /// Posts a webhook and expects a problem of this status and code.
    pub(crate) async fn refuses_webhook(
        &self,
        webhook: &Webhook,
        expected: (u16, &str),
    ) -> Problem {
        problem(self.send(webhook).await, expected).await
    }

    /// Removes a worker, by its own request.
    pub(crate) async fn remove(&self, worker: &Registration) {
        let (path, token) = (worker.path.as_str(), Some(worker.token.as_str()));
        let removed = self.call(Method::DELETE, path, token, &json!({})).await;
        assert_eq!(removed.status(), 204);
    }

    /// Asserts that the worker is removed and its token is refused.
    pub(crate) async fn assert_removed(&self, worker: &Registration) {
        let read = (Method::GET, worker.path.as_str());
        let expected = (401, "worker_token_invalid");
        self.refuses_worker(read, &worker.token, expected).await;
    }

    /// A worker's own call, which has to succeed.
    async fn as_worker<T: DeserializeOwned>(
        &self,
        method: Method,
        worker: &Registration,
        below: &str,
        body: &Value,
    ) -> T {
        let path = format!("{}{below}", worker.path);
        let answer = self.call(method, &path, Some(&worker.token), body).await;
        expect(answer, StatusCode::OK).await
    }

    pub(crate) async fn read(&self, worker: &Registration) -> Worker {
        self.as_worker(Method::GET, worker, "", &json!({})).await
    }

    pub(crate) async fn renew(&self, worker: &Registration, renew: &Renew) -> Worker {
        let body = serde_json::to_value(renew).unwrap();
        self.as_worker(Method::PUT, worker, "", &body).await
    }

    pub(crate) async fn pull(
        &self,
        worker: &Registration,
        ack: &[String],
        limit: Option<u32>,
    ) -> Mailbox {
        let ack = ack.to_vec();
        let body = serde_json::to_value(Pull { ack, limit }).unwrap();
        self.as_worker(Method::POST, worker, "/mailbox", &body)
            .await
    }

    /// Stamps a payload with the relay's time, signs it, and posts it as Linear does.
    pub(crate) async fn post(&self, payload: &str) -> Posted {
        let webhook = Webhook::sample(SECRET, payload, self.clock.millis());
        self.post_webhook(webhook).await
    }

    /// Posts events about one issue, one after another.
    pub(crate) async fn post_all(&self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            self.post(&issue("i", number)).await;
        }
    }

    /// Posts an event about an issue. Returns how many workers it goes to.
    pub(crate) async fn deliveries(&self, number: usize) -> Value {
        self.post(&issue("i", number)).await.answer["deliveries"].clone()
    }

    pub(crate) async fn post_webhook(&self, webhook: Webhook) -> Posted {
        let answer = self.send(&webhook).await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        Posted {
            event: format!("evt_{}", webhook.delivery),
            answer: answer.json().await.unwrap(),
            webhook,
        }
    }

    pub(crate) async fn send(&self, webhook: &Webhook) -> Response {
        let url = format!("{}/webhooks/linear", self.local.url());
        webhook.request(&self.client, &url).send().await.unwrap()
    }

    /// Calls SQS.
    pub(crate) async fn sqs(&self, action: &str, request: &Value) -> (u16, Value) {
        self.aws(&format!("AmazonSQS.{action}"), request).await
    }

    /// Calls DynamoDB, which has to succeed.
    pub(crate) async fn dynamodb(&self, action: &str, request: &Value) -> Value {
        let target = format!("DynamoDB_20120810.{action}");
        let (status, answer) = self.aws(&target, request).await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Puts other webhook secrets into Secrets Manager.
    pub(crate) async fn put_secrets(&self, secrets: &str) {
        let request = json!({"SecretId": SECRET_ID, "SecretString": secrets});
        let (status, answer) = self.aws("secretsmanager.PutSecretValue", &request).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn aws(&self, target: &str, request: &Value) -> (u16, Value) {
        let request = request.to_string();
        let answer = self.local.call_aws(target, request.as_bytes()).await;
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(answer.body()).unwrap())
    }

    /// Where its AWS is for other clients.
    pub(crate) fn aws_endpoint(&self) -> &AwsEndpoint {
        self.local.aws.as_ref().unwrap()
    }

    pub(crate) fn dead_letters(&self) -> Vec<Message> {
        self.local.sqs.peek(DEAD_LETTERS).unwrap()
    }

    /// What is on the queue, but for heartbeats, which come whenever the schedule's time does.
    pub(crate) fn queued(&self) -> Vec<Message> {
        let mut queued = self.local.sqs.peek(QUEUE).unwrap();
        queued.retain(|message| !message.attributes.contains_key("heartbeat"));
        queued
    }

    /// Waits until nothing is on the queue.
    pub(crate) async fn settled(&self) {
        until("the queue is empty", async || {
            let depth = self.local.sqs.depth(QUEUE).unwrap();
            depth.visible + depth.in_flight == 0
        })
        .await;
    }

    /// Waits until the receiver has had this many attempts and every message on the queue waits for its next one, then
    /// moves the clock by this much.
    pub(crate) async fn pass(&self, time: Duration, receiver: &Receiver, attempts: usize) {
        until(&format!("{attempts} attempts"), async || {
            receiver.count() >= attempts && self.is_waiting()
        })
        .await;
        self.clock.advance(time);
    }

    /// Waits until a worker is in this state.
    pub(crate) async fn becomes(&self, worker: &Registration, state: WorkerState) -> Worker {
        eventually(&format!("the worker is {}", state.as_str()), || async {
            let worker = self.read(worker).await;
            (worker.state == state).then_some(worker)
        })
        .await
    }

    /// Whether every message's next attempt has been scheduled, or that of one before it in its group: one that is being tried
    /// is invisible for the queue's own visibility timeout.
    pub(crate) fn is_waiting(&self) -> bool {
        let messages = self.queued();
        let now = self.clock.millis();
        let waits = |message: &&Message| {
            message
                .in_flight()
                .is_some_and(|(received_at, visible_at)| {
                    visible_at > now && visible_at - received_at != VISIBILITY
                })
        };
        let waiting = messages.iter().filter(waits).map(|m| &m.group);
        let waiting: BTreeSet<_> = waiting.collect();
        messages.iter().all(|m| waiting.contains(&m.group))
    }

    /// Marks a worker away, by its own request.
    pub(crate) async fn go_offline(&self, worker: &Registration) {
        let away = Renew {
            state: Some(WorkerState::Away),
            ..Renew::default()
        };
        self.renew(worker, &away).await;
    }
}

/// The registration of a worker at this address that empties its mailbox itself.
pub(crate) fn registration(name: &str, url: &str) -> Value {
    json!({"name": name, "linearToken": TOKEN, "webhookUrl": url, "pulls": true})
}

/// A renewal by which a worker moves to an address, or has none any more.
pub(crate) fn new_address(url: Option<String>) -> Renew {
    Renew {
        webhook_url: Some(url),
        ..Renew::default()
    }
}

/// What was posted, and what it was answered.
#[derive(Debug)]
pub(crate) struct Posted {
    pub(crate) event: String,
    pub(crate) answer: Value,
    pub(crate) webhook: Webhook,
}

pub(crate) async fn expect<T: DeserializeOwned>(answer: Response, status: StatusCode) -> T {
    let got = answer.status();
    let body = answer.text().await.unwrap();
    assert_eq!(got, status, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// An answer that has to be a problem of this status and code.
pub(crate) async fn problem(answer: Response, (status, code): (u16, &str)) -> Problem {
    let media_type = answer.headers().get("content-type").cloned();
    let got = answer.status();
    let body = answer.text().await.unwrap();
    let problem: Problem = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{got}: {body}"));
    assert_eq!((problem.status, &*problem.code), (status, code), "{body}");
    assert_eq!(got.as_u16(), status);
    assert_eq!(media_type.unwrap(), "application/problem+json");
    problem
}

/// A payload about an issue, identified by its number.
pub(crate) fn issue(issue: &str, number: usize) -> String {
    json!({
        "action": "update",
        "type": "Issue",
        "organizationId": WORKSPACE,
        "data": {"id": issue, "number": number},
        "webhookTimestamp": 0,
    })
    .to_string()
}

/// As [`issue`], with a text of this length in it.
pub(crate) fn large_issue(issue: &str, number: usize, length: usize) -> String {
    let text: String = (0..length).map(|at| hex_digit(at as u64)).collect();
    let text = format!("\"text\":\"{text}\",\"number\"");
    self::issue(issue, number).replace("\"number\"", &text)
}

/// A digit that follows from none before it, so that a text of them compresses to half its length and no further.
fn hex_digit(at: u64) -> char {
    let mixed = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    char::from(b"0123456789abcdef"[(mixed >> 60) as usize])
}

/// The number of a payload from [`issue`].
pub(crate) fn number(body: &[u8]) -> usize {
    let body: Value = serde_json::from_slice(body).unwrap();
    usize::try_from(body["data"]["number"].as_u64().unwrap()).unwrap()
}

/// The numbers of deliveries.
pub(crate) fn numbers(received: &[Received]) -> Vec<usize> {
    received.iter().map(|r| number(&r.body)).collect()
}

/// The numbers of pulled events.
pub(crate) fn pulled(mailbox: &Mailbox) -> Vec<usize> {
    let bodies = mailbox.events.iter().map(|e| e.body.as_bytes());
    bodies.map(number).collect()
}

/// The ids of pulled events, to acknowledge them by.
pub(crate) fn ids(mailbox: &Mailbox) -> Vec<String> {
    mailbox.events.iter().map(|e| e.id.clone()).collect()
}

pub(crate) fn sorted<T: Ord + Debug>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort();
    items
}
