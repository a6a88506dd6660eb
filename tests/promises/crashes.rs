//! Processes that end at random moments under load, by `kill -9` or SIGTERM: the relay, an agent that it reaches, one that
//! pulls, and their handlers, which are restarted. Nothing that was answered 200 is lost, nothing is handled twice but what an
//! end interrupted, and nothing overtakes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use local::samples::Webhook;
use protocol::clock::Clock;
use reqwest::Client;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::harness::agent::{Home, command, events, free_port, reached_at};
use crate::harness::served::Served;
use crate::harness::{Receiver, SECRET, TOKEN, client, issue, linear, number, terminate};

/// Events about one issue are posted one after another.
const ISSUES: usize = 5;
/// Between the events about an issue.
const PAUSE: Duration = Duration::from_millis(100);
/// The number of the first event, which shows that an agent is there.
const FIRST: usize = 1_000_000;
/// How long the retries of the relay may take at last.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_overtaken_when_relay_agents_and_handlers_end() {
    campaign(20, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn nothing_is_lost_or_overtaken_in_hundreds_of_ends() {
    campaign(400, 2).await;
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

    async fn end(&mut self, signal: Signal) {
        match signal {
            Signal::Kill => self.running.kill().await.unwrap(),
            Signal::Terminate => {
                terminate(self.running.id().unwrap());
                self.running.wait().await.unwrap();
            }
        }
    }

    /// What was handled, each event with the issue's events in the order in which they came first.
    fn handled(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut handled: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for received in self.handler.received() {
            let number = number(&received.body);
            if number < FIRST && seen.insert(number) {
                handled.entry(number % ISSUES).or_default().push(number);
            }
        }
        handled
    }
}

/// Posts events about one issue until it is over. Returns those that were answered 200.
async fn post(client: Client, url: String, about: usize, is_over: Arc<AtomicBool>) -> Vec<usize> {
    let mut accepted = Vec::new();
    for number in (about..).step_by(ISSUES) {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let issue = issue(&format!("i{about}"), number);
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
    let pushed = Receiver::start().await;
    let pulling = Receiver::start().await;
    let mut machines = [
        Machine::start("pushed", &relay.url, pushed, Some(free_port().await)),
        Machine::start("pulling", &relay.url, pulling, None),
    ];
    for machine in &machines {
        let (client, url) = (client(), format!("{}/webhooks/linear", relay.url));
        let mut number = FIRST;
        while machine.handler.count() == 0 {
            number += 1;
            let issue = issue("first", number);
            let webhook = Webhook::sample(SECRET, &issue, Clock::system().millis());
            is_accepted(&client, &url, &webhook).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let mut posting = JoinSet::new();
    for about in 0..ISSUES {
        let url = format!("{}/webhooks/linear", relay.url);
        posting.spawn(post(client(), url, about, Arc::clone(&is_over)));
    }
    for _ in 0..ends {
        pause(&mut rng, 600).await;
        let signal = rng.choice([Signal::Kill, Signal::Kill, Signal::Terminate]);
        let signal = signal.unwrap();
        match rng.usize(..1 + 2 * machines.len()) {
            0 => {
                end_relay(relay, signal);
                pause(&mut rng, 300).await;
                relay = serve();
            }
            at => {
                let machine = &mut machines[at % 2];
                machine.ends += 1;
                if at > 2 {
                    machine.handler.close();
                    pause(&mut rng, 300).await;
                    machine.handler.reopen().await;
                } else {
                    machine.end(signal).await;
                    pause(&mut rng, 300).await;
                    machine.running = machine.up.spawn().unwrap();
                }
            }
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let accepted = posting.join_all().await.into_iter().flatten().collect();
    for machine in &machines {
        settles(machine, &accepted).await;
    }
    let (events, took) = (accepted.len(), began.elapsed());
    println!("{ends} ends, {events} events for two agents, {took:.0?}");
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
    let began = Instant::now();
    loop {
        let handled: BTreeSet<_> = machine.handled().into_values().flatten().collect();
        let missing: Vec<_> = accepted.difference(&handled).collect();
        let stored = events(&machine.home).await;
        if missing.is_empty() && stored.iter().all(|event| event["state"] == "done") {
            break;
        }
        let is_in_time = began.elapsed() < SETTLED_WITHIN;
        assert!(is_in_time, "not handled: {missing:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let handled = machine.handled();
    for numbers in handled.values() {
        assert!(numbers.is_sorted(), "overtaken: {numbers:?}");
    }
    // One event of each issue is handled at a time, which an end interrupts.
    let received = machine.handler.received();
    let attempts = (received.iter()).filter(|received| number(&received.body) < FIRST);
    let repeated = attempts.count() - handled.values().map(Vec::len).sum::<usize>();
    let most = machine.ends * ISSUES;
    assert!(repeated <= most, "{repeated} handled twice, at most {most}");
}
