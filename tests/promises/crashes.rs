//! Processes that end at random moments under load, by `kill -9` or SIGTERM: the relay, an agent that it reaches, one that
//! pulls, and their handlers, which are restarted; beside a worker that rejects everything for half of the time. Nothing that was
//! answered 200 is lost, nothing is handled twice but what an end interrupted, and nothing overtakes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use local::samples::Webhook;
use protocol::clock::Clock;
use protocol::messages::Registered;
use reqwest::Client;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::harness::agent::{Home, command, events, free_port, reached_at};
use crate::harness::served::Served;
use crate::harness::{
    Answer, Receiver, SECRET, TOKEN, client, issue, large_issue, linear, number, terminate,
};

/// Events about one issue are posted one after another.
const ISSUES: usize = 5;
/// Between the events about an issue.
const PAUSE: Duration = Duration::from_millis(100);
/// The number of the first event, which shows that an agent is there.
const FIRST: usize = 1_000_000;
/// One event in so many has a body that is stored beside the messages. Each start reads all of them, which takes a debug build seconds
/// where one in nine has one.
const LARGE_EVERY: usize = 29;
const LARGE: usize = 250_000;
/// How long the retries of the relay may take at last.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_overtaken_when_relay_agents_and_handlers_end() {
    campaign(20, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn nothing_is_lost_or_overtaken_in_hundreds_of_ends() {
    campaign(850, 2).await;
}

/// An agent with its handler.
struct Machine {
    home: Home,
    handler: Receiver,
    up: Command,
    running: Child,
    /// How often it or its handler ended.
    ends: usize,
}

impl Machine {
    fn start(name: &str, relay: &str, handler: Receiver, port: Option<u16>) -> Self {
        let home = Home::new();
        let mut up = command(&home);
        up.args(["up", "--name", name, "--relay", relay, &handler.port()])
            .args(port.map(reached_at).into_iter().flatten())
            .env("LINEAR_TOKEN", TOKEN)
            .env("EDGE_AGENT_POLL", "1s")
            .env("EDGE_AGENT_INSPECT", "off")
            .env("EDGE_AGENT_LISTEN", "127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = up.spawn().unwrap();
        Self {
            home,
            handler,
            up,
            running,
            ends: 0,
        }
    }

    /// Posts events until one arrives.
    async fn is_there(&self, relay: &str) {
        let (client, url) = (client(), format!("{relay}/webhooks/linear"));
        let mut number = FIRST;
        while self.handler.count() == 0 {
            number += 1;
            let issue = issue("first", number);
            let webhook = Webhook::sample(SECRET, &issue, Clock::system().millis());
            is_accepted(&client, &url, &webhook).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn restart(&mut self, signal: Signal, rng: &mut fastrand::Rng) {
        self.ends += 1;
        match signal {
            Signal::Kill => self.running.kill().await.unwrap(),
            Signal::Terminate => {
                terminate(self.running.id().unwrap());
                self.running.wait().await.unwrap();
            }
        }
        pause(rng, 300).await;
        self.running = self.up.spawn().unwrap();
    }

    async fn restart_handler(&mut self, rng: &mut fastrand::Rng) {
        self.ends += 1;
        self.handler.close();
        pause(rng, 300).await;
        self.handler.reopen().await;
    }
}

/// What a receiver was given, by issue, each event where it came first.
fn given(receiver: &Receiver) -> BTreeMap<usize, Vec<usize>> {
    let mut given: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for received in receiver.received() {
        let number = number(&received.body);
        if number < FIRST && seen.insert(number) {
            given.entry(number % ISSUES).or_default().push(number);
        }
    }
    for numbers in given.values() {
        assert!(numbers.is_sorted(), "overtaken: {numbers:?}");
    }
    given
}

/// Waits until a receiver was given all that was accepted.
async fn gets_all(receiver: &Receiver, accepted: &BTreeSet<usize>) {
    let began = Instant::now();
    loop {
        let given: BTreeSet<_> = given(receiver).into_values().flatten().collect();
        let missing: Vec<_> = accepted.difference(&given).collect();
        if missing.is_empty() {
            break;
        }
        let is_in_time = began.elapsed() < SETTLED_WITHIN;
        assert!(is_in_time, "not given: {missing:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Posts events about one issue until it is over. Returns those that were answered 200.
async fn post(client: Client, url: String, about: usize, is_over: Arc<AtomicBool>) -> Vec<usize> {
    let mut accepted = Vec::new();
    for number in (about..).step_by(ISSUES) {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("i{about}");
        let issue = if number % LARGE_EVERY == 0 {
            large_issue(&name, number, LARGE)
        } else {
            issue(&name, number)
        };
        let webhook = Webhook::sample(SECRET, &issue, Clock::system().millis());
        // Linear posts it again.
        while !is_accepted(&client, &url, &webhook).await {
            tokio::time::sleep(PAUSE).await;
        }
        accepted.push(number);
        tokio::time::sleep(PAUSE).await;
    }
    accepted
}

async fn is_accepted(client: &Client, url: &str, webhook: &Webhook) -> bool {
    let answer = webhook.request(client, url).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// How a process ends.
#[derive(Debug, Clone, Copy)]
enum Signal {
    Kill,
    Terminate,
}

async fn campaign(ends: usize, seed: u64) {
    let began = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let listen = format!("127.0.0.1:{}", free_port().await);
    let serve = || {
        let mut command = Served::command(directory.path(), &linear, &listen);
        tokio::task::block_in_place(|| Served::run(&mut command).unwrap())
    };
    let mut relay = serve();
    let (pushed, pulling) = (Receiver::start().await, Receiver::start().await);
    let mut machines = [
        Machine::start("pushed", &relay.url, pushed, Some(free_port().await)),
        Machine::start("pulling", &relay.url, pulling, None),
    ];
    for machine in &machines {
        machine.is_there(&relay.url).await;
    }
    let rejecting = Receiver::start().await;
    rejecting.answer([Answer::Status(500)]);
    let registration =
        json!({"name": "rejecting", "linearToken": TOKEN, "webhookUrl": rejecting.url()});
    let _: Registered = relay.register(&registration).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut posting = JoinSet::new();
    for about in 0..ISSUES {
        let url = format!("{}/webhooks/linear", relay.url);
        posting.spawn(post(client(), url, about, Arc::clone(&is_over)));
    }
    let mut ended: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = |what: String| *ended.entry(what).or_default() += 1;
    for end in 0..ends {
        if end == ends / 2 {
            rejecting.answer([Answer::Status(200)]);
        }
        pause(&mut rng, 600).await;
        let signals = [Signal::Kill, Signal::Kill, Signal::Terminate];
        let signal = rng.choice(signals).unwrap();
        match rng.usize(..1 + 2 * machines.len()) {
            0 => {
                count(format!("relay {signal:?}"));
                end_relay(relay, signal);
                pause(&mut rng, 300).await;
                relay = serve();
            }
            at if at > machines.len() => {
                count("handler restart".to_owned());
                machines[at % 2].restart_handler(&mut rng).await;
            }
            at => {
                count(format!("agent {signal:?}"));
                machines[at % 2].restart(signal, &mut rng).await;
            }
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let accepted = posting.join_all().await.into_iter().flatten().collect();
    for machine in &machines {
        settles(machine, &accepted).await;
    }
    gets_all(&rejecting, &accepted).await;
    let (events, took) = (accepted.len(), began.elapsed());
    println!("{ended:?}; {events} events for two agents and one worker, {took:.0?}");
}

async fn pause(rng: &mut fastrand::Rng, most: u64) {
    tokio::time::sleep(Duration::from_millis(rng.u64(10..most))).await;
}

fn end_relay(mut relay: Served, signal: Signal) {
    match signal {
        Signal::Kill => relay.kill(),
        Signal::Terminate => {
            terminate(relay.child.id());
            tokio::task::block_in_place(|| relay.child.wait().unwrap());
        }
    }
}

/// All that was accepted was handled, in order, and is done.
async fn settles(machine: &Machine, accepted: &BTreeSet<usize>) {
    gets_all(&machine.handler, accepted).await;
    let began = Instant::now();
    while !(events(&machine.home).await.iter()).all(|event| event["state"] == "done") {
        assert!(began.elapsed() < SETTLED_WITHIN, "not done");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let handled = given(&machine.handler);
    // One event of each issue is handled at a time, which an end interrupts.
    let received = machine.handler.received();
    let attempts = (received.iter()).filter(|received| number(&received.body) < FIRST);
    let repeated = attempts.count() - handled.values().map(Vec::len).sum::<usize>();
    let most = machine.ends * ISSUES;
    assert!(repeated <= most, "{repeated} handled twice, at most {most}");
}
