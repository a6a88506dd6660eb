//! A worker whose answers are made to hold the relay up, to fill its memory or to be mistaken for another's: each attempt ends, and
//! counts as the delivery policy says.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use protocol::messages::{AwayReason, Registered, Worker, WorkerState};
use protocol::problem::Problem;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::raw::{Raw, Script};
use crate::harness::served::Served;
use crate::harness::tls::Certificate;
use crate::harness::{Receiver, TOKEN, eventually, issue, linear, relay, until};

const OK: &str = "HTTP/1.1 200 OK\r\n";
const TIMEOUT: &str = "unreachable: no answer in time";
const CLOSED: &str = "unreachable: the connection was closed without an answer";

/// An answer whose body a decompressor makes a thousand times as long: a gibibyte.
fn gzip_bomb() -> Vec<u8> {
    let mut member = GzEncoder::new(Vec::new(), Compression::best());
    member.write_all(&vec![0; 1 << 20]).unwrap();
    let bomb = member.finish().unwrap().repeat(1024);
    let length = bomb.len();
    let head = format!("{OK}content-encoding: gzip\r\ncontent-length: {length}\r\n\r\n");
    [head.as_bytes(), &bomb].concat()
}

/// What a receiver can do, and how the attempt fails; `None`: it is a delivery, because the status says so.
fn tricks() -> Vec<(&'static str, Script, Option<&'static str>)> {
    let fields = "x: y\r\n".repeat(1000);
    let (long, interim) = (
        "y".repeat(8192),
        "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
    );
    let chunked = format!("{OK}transfer-encoding: chunked\r\n\r\n");
    let length = format!("{OK}content-length: 1000000000000\r\n\r\n");
    vec![
        (
            "status, trickled",
            Script::trickle("HTTP/1.1 20"),
            Some(TIMEOUT),
        ),
        (
            "field, trickled",
            Script::trickle(format!("{OK}x: ")),
            Some(TIMEOUT),
        ),
        ("body, trickled", Script::trickle(length.clone()), None),
        (
            "chunk, trickled",
            Script::trickle(format!("{chunked}1;")),
            None,
        ),
        (
            "status without end",
            Script::endless(OK.trim_end(), long.clone()),
            Some(CLOSED),
        ),
        (
            "fields without end",
            Script::endless(OK, fields.clone()),
            Some(CLOSED),
        ),
        (
            "field without end",
            Script::endless(format!("{OK}x: "), long.clone()),
            Some(CLOSED),
        ),
        (
            "hints without end",
            Script::endless("", interim.repeat(100)),
            Some(CLOSED),
        ),
        (
            "body without end",
            Script::endless(length, long.clone()),
            None,
        ),
        (
            "chunk without end",
            Script::endless(format!("{chunked}1;"), long),
            None,
        ),
        (
            "trailers without end",
            Script::endless(format!("{chunked}0\r\n"), fields),
            None,
        ),
        ("gzip bomb", Script::again(gzip_bomb(), 1), None),
    ]
}

#[tokio::test]
async fn each_trick_ends_within_the_deadline_and_counts_as_the_policy_says() {
    // A trick that is found out by a limit does not have to wait for the deadline.
    for (seconds, outcome) in [(1, Some(TIMEOUT)), (20, Some(CLOSED)), (20, None)] {
        let relay = relay()
            .set("DELIVERY_TIMEOUT_SECONDS", seconds)
            .start()
            .await;
        for (name, script, expected) in tricks() {
            if expected != outcome {
                continue;
            }
            let receiver = Raw::start(script).await;
            let worker = relay.register("one", &receiver.url()).await;
            relay.post(&issue(name, 1)).await;
            let ended = eventually(name, async || {
                let worker = relay.read(&worker).await;
                (worker.last_delivery.is_some() || worker.last_error.is_some()).then_some(worker)
            })
            .await;
            let reason = ended.last_error.map(|error| error.reason);
            assert_eq!(reason.as_deref(), outcome, "{name}");
            assert_eq!(ended.last_delivery.is_some(), outcome.is_none(), "{name}");
            relay.remove(&worker).await;
        }
    }
}

#[tokio::test]
async fn a_trick_in_the_answer_to_a_challenge_is_a_failed_challenge() {
    let relay = relay().start().await;
    for (name, script, _) in tricks() {
        let receiver = Raw::start(script).await;
        receiver.script_challenges();
        let request = json!({"name": name, "linearToken": TOKEN, "webhookUrl": receiver.url()});
        let expected = (400, "challenge_failed");
        let problem = relay.refuses_registration(&request, expected).await;
        let (_, reason) = problem.detail.rsplit_once(": ").unwrap();
        let reasons = [
            "no answer in time",
            "the connection was closed without an answer",
            "it answered something else",
        ];
        assert!(reasons.contains(&reason), "{name}: {problem:?}");
    }
}

#[tokio::test]
async fn a_worker_that_only_trickles_is_marked_away_after_three_attempts_and_loses_nothing() {
    let relay = relay().set("DELIVERY_TIMEOUT_SECONDS", 1).start().await;
    let receiver = Raw::start(Script::trickle(format!("{OK}x: "))).await;
    let worker = relay.register("one", &receiver.url()).await;
    relay.post(&issue("i", 1)).await;
    for attempts in 1..3 {
        let is_over = async || receiver.deliveries() >= attempts && relay.is_waiting();
        until("the attempt is over", is_over).await;
        relay.clock.advance(Duration::from_secs(10));
    }
    let away = relay.becomes(&worker, WorkerState::Away).await;
    assert_eq!(away.away_reason, Some(AwayReason::Unreachable));
    assert_eq!(away.last_error.unwrap().reason, TIMEOUT);
    relay.settled().await;
    assert_eq!(relay.pull(&worker, &[], None).await.events.len(), 1);
    assert!(relay.dead_letters().is_empty());
}

#[tokio::test]
async fn tricks_do_not_delay_another_worker() {
    let relay = relay().set("DELIVERY_TIMEOUT_SECONDS", 20).start().await;
    let mut slow = Vec::new();
    for (name, script, outcome) in tricks() {
        let is_slow = outcome == Some(TIMEOUT);
        // One of those that keep the relay busy is enough.
        if is_slow || name == "fields without end" {
            let receiver = Raw::start(script).await;
            let worker = relay.register(name, &receiver.url()).await;
            slow.extend(is_slow.then_some((receiver, worker)));
        }
    }
    let good = Receiver::start().await;
    relay.register("good", &good.url()).await;
    assert_eq!(slow.len(), 2);
    relay.post(&issue("i", 0)).await;
    let have_begun = async || slow.iter().all(|(receiver, _)| receiver.deliveries() > 0);
    until("the slow answers have begun", have_begun).await;
    for at in 1..5 {
        relay.post(&issue("i", at)).await;
        relay.post(&issue(&format!("other {at}"), 100 + at)).await;
    }
    good.wait_for(9).await;
    for (_, worker) in slow {
        // Otherwise the good worker had to wait for that deadline.
        let error = relay.read(&worker).await.last_error;
        assert!(error.is_none(), "{error:?}");
    }
}

/// A worker as the relay, which is a process of its own, shows it.
async fn read(relay: &Served, worker: &Registered) -> Worker {
    let call = relay.client.get(format!("{}{}", relay.url, worker.worker));
    let answer = call.bearer_auth(&worker.token).send().await.unwrap();
    answer.json().await.unwrap()
}

fn registration(name: &str, url: &str) -> Value {
    json!({"name": name, "linearToken": TOKEN, "webhookUrl": url})
}

#[tokio::test]
async fn sixty_receivers_with_tricks_at_once_take_a_bounded_amount_of_memory() {
    let directory = tempfile::tempdir().unwrap();
    let (linear_api, linear) = linear().await;
    let relay = Served::start(directory.path(), &linear);
    let mut workers = Vec::new();
    for (name, script, _) in tricks() {
        let receiver = Raw::start(script).await;
        for copy in 0..5 {
            let (token, user) = (format!("lin_api_{copy}"), format!("user-{copy}"));
            linear_api.admit(&token, &user, local::samples::WORKSPACE);
            let mut request = registration(name, &receiver.url());
            request["linearToken"] = json!(token);
            workers.push(relay.register::<Registered>(&request).await);
        }
    }
    let before = relay.peak_megabytes();
    assert_eq!(relay.post(1).await["deliveries"], 60);
    for worker in &workers {
        until("the attempt is over", async || {
            let worker = read(&relay, worker).await;
            worker.last_delivery.is_some() || worker.last_error.is_some()
        })
        .await;
    }
    let more = relay.peak_megabytes() - before;
    assert!(more < 64, "{more} MB more");
}

/// Writes certificates as the authorities that the relay trusts.
fn trust(certificates: &[&Certificate], directory: &Path) -> std::path::PathBuf {
    let all: String = certificates.iter().map(|one| one.pem()).collect();
    let file = directory.join("ca.pem");
    std::fs::write(&file, all).unwrap();
    file
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_another_time_is_no_worker() {
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let good = Certificate::new();
    let other = Certificate::for_name("other.example");
    let above = Certificate::for_name("*.localhost");
    let expired = Certificate::expired();
    let trusted = trust(&[&good, &other, &above, &expired], directory.path());
    let data = directory.path().join("data");
    let trusted = [("SSL_CERT_FILE", &*trusted)];
    let relay = Served::start_with(&data, &linear, &trusted);
    let url = |receiver: &Receiver| format!("https://localhost:{}/", receiver.port());
    let bad = [("other", &other), ("above", &above), ("expired", &expired)];
    for (name, certificate) in bad {
        let receiver = Receiver::start_over_tls(certificate.acceptor(&[])).await;
        let request = registration(name, &url(&receiver));
        let problem: Problem = relay.register(&request).await;
        assert_eq!(problem.code, "challenge_failed", "{name}");
        assert!(problem.detail.ends_with("could not connect"), "{problem:?}");
        assert_eq!(receiver.challenged(), 0);
    }
    let mut workers = Vec::new();
    for (name, certificate) in bad {
        let receiver = Receiver::start_over_tls(good.acceptor(&[])).await;
        let registered: Registered = relay.register(&registration(name, &url(&receiver))).await;
        receiver.close();
        let is_free = async || TcpListener::bind(receiver.address).await.is_ok();
        until("the receiver is gone", is_free).await;
        workers.push((registered, receiver.address, certificate));
    }
    // A new process has no connection left from before.
    relay.kill();
    let relay = Served::start_with(&data, &linear, &trusted);
    let mut strangers = Vec::new();
    for (_, address, certificate) in &workers {
        let acceptor = certificate.acceptor(&[]);
        strangers.push(Receiver::start_over_tls_at(&address.to_string(), acceptor).await);
    }
    assert_eq!(relay.post(1).await["deliveries"], 3);
    for ((worker, _, _), stranger) in workers.iter().zip(&strangers) {
        let error = async || read(&relay, worker).await.last_error;
        let error = eventually("the attempt failed", error).await;
        assert_eq!(error.reason, "unreachable: could not connect");
        assert_eq!(stranger.count(), 0);
    }
}
