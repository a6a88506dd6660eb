//! One bad worker harms no other.

use std::io::ErrorKind;
use std::time::Duration;

use futures::future::join_all;
use protocol::messages::{AwayReason, WorkerState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::raw::{Raw, Script};
use crate::harness::served::Served;
use crate::harness::{Answer, Receiver, eventually, issue, linear, relay, until};

#[tokio::test]
async fn a_worker_that_stalls_does_not_delay_another_one() {
    let relay = relay().set("DELIVERY_TIMEOUT_SECONDS", 20).start().await;
    let (bad, good) = (Receiver::start().await, Receiver::start().await);
    let bad_worker = relay.register("bad", &bad.url()).await;
    relay.register("good", &good.url()).await;
    bad.answer([Answer::Stall(Duration::from_secs(600))]);
    // The same issue several times: each event waits for the one before it, also where a batch holds it and a stalled
    // delivery together.
    for at in 0..8 {
        relay.post(&issue("i", at)).await;
        relay.post(&issue(&format!("other {at}"), 100 + at)).await;
    }
    good.wait_for(16).await;
    let error = relay.read(&bad_worker).await.last_error;
    // Otherwise the good worker had to wait for the timeout of the bad one.
    assert!(error.is_none(), "{error:?}");
}

#[tokio::test]
async fn a_worker_that_is_reached_by_every_second_delivery_has_a_bounded_number_in_flight() {
    let relay = relay().set("DELIVERIES_IN_BACKOFF", 4).start().await;
    let receiver = Receiver::start().await;
    let worker = relay.register_receiving("one", &receiver.url()).await;
    // To a worker without receipts, 511 is a network's login page. What failed goes on failing, however late the retries.
    receiver.answer([Answer::To("fails", 511)]);
    for at in 0..5 {
        for id in [format!("fails {at}"), format!("passes {at}")] {
            relay.post(&issue(&id, at)).await;
            until("it arrived, or nothing is sent any more", async || {
                let arrived = receiver.received();
                arrived.iter().any(|one| one.json()["data"]["id"] == id)
                    || relay.read(&worker).await.state == WorkerState::Away
            })
            .await;
        }
    }
    let away = relay.becomes(&worker, WorkerState::Away).await;
    assert_eq!(away.away_reason, Some(AwayReason::Unreachable));
    // Four in backoff and the drain.
    let is_bounded = async || relay.queued().len() <= 5;
    until("the others are parked", is_bounded).await;
}

#[tokio::test]
async fn an_answer_without_end_is_read_no_further_than_needed() {
    let (relay, receiver, worker) = relay().with_worker().await;
    receiver.answer([Answer::Endless]);
    relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
    relay.settled().await;
    // A 2xx is a success, however long its body is.
    let worker = relay.read(&worker).await;
    let is_success = worker.last_delivery.is_some() && worker.last_error.is_none();
    assert!(is_success, "{worker:?}");
}

#[tokio::test]
async fn an_answer_with_odd_header_fields_is_a_delivery_and_interim_answers_without_end_are_none() {
    let many: String = (0..500).map(|at| format!("x-{at}: {at}\r\n")).collect();
    let accepted =
        |fields: &str| format!("HTTP/1.1 202 Accepted\r\n{fields}content-length: 0\r\n\r\n");
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".to_owned();
    let relay = relay().start().await;
    for (name, answer, times, is_delivered) in [
        ("many", accepted(&many), 1, true),
        ("malformed", accepted("no field\r\nx y: z\r\n"), 1, true),
        (
            "some interim",
            format!("{interim}{interim}{}", accepted("")),
            1,
            true,
        ),
        ("interim", interim, usize::MAX, false),
    ] {
        let raw = Raw::start(Script::again(answer, times)).await;
        let worker = relay.register(name, &raw.url()).await;
        relay.post(&issue(name, 1)).await;
        let ended = eventually("the attempt ended", async || {
            let worker = relay.read(&worker).await;
            (worker.last_delivery.is_some() || worker.last_error.is_some()).then_some(worker)
        })
        .await;
        assert_eq!(
            ended.last_error.is_none(),
            is_delivered,
            "{name}: {ended:?}"
        );
        relay.remove(&worker).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn bodies_that_are_not_finished_take_bounded_memory_and_keep_no_ordinary_webhook_out() {
    const BODY: usize = 6 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let relay = Served::start(directory.path(), &linear);
    let before = relay.peak_megabytes();
    let address = relay.url.strip_prefix("http://").unwrap();
    let body = vec![b' '; BODY - 1];
    let senders = (0..60).map(async |_| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /webhooks/linear HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {BODY}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // What there is no room for waits for longer than this.
        let sent = tokio::time::timeout(Duration::from_secs(2), stream.write_all(&body)).await;
        (stream, sent.is_ok())
    });
    let senders = join_all(senders).await;
    assert!(senders.iter().any(|(_, is_sent)| !is_sent));
    relay.post(1).await;
    for (stream, _) in &senders {
        let error = stream
            .try_read(&mut [0])
            .expect_err("it was answered first");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    let peak = relay.peak_megabytes();
    assert!(peak < before + 250, "{before} MB before, {peak} MB at most");
}

#[tokio::test]
async fn connections_that_send_nothing_are_closed_and_a_body_that_is_too_large_is_refused_unread() {
    let relay = relay().start().await;
    let address = relay.local.address;
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    for (path, limit) in [("/webhooks/linear", 6 << 20), ("/edge/register", 64 << 10)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            limit + 1
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 512];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
    }
    for mut stream in idle {
        let mut answer = [0; 1024];
        let closed = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut answer));
        // Whether it is told why or not: the connection ends.
        let _ = closed.await.expect("the connection is kept open");
    }
}
