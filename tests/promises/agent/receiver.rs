//! The receiver's bounds: what strangers can make it hold, and for how long.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::agent::{
    Agent, free_port, in_time, reached_at, relay_and_home, run, signed, signed_at,
};
use crate::harness::{client, issue, until};

async fn connect(agent: &Agent) -> TcpStream {
    let address = agent.address.trim_start_matches("http://");
    let address = address.trim_end_matches("/webhook");
    TcpStream::connect(address).await.unwrap()
}

/// A connection with the beginning of a request.
async fn begin(agent: &Agent, request: &str) -> TcpStream {
    let mut stream = connect(agent).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// What is received until the agent closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = in_time(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn slow_and_idle_connections_are_closed_and_others_served_meanwhile() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    let post = "POST /webhook HTTP/1.1\r\nhost: x\r\nwebh";
    let posted = format!("{post}ook-signature: v1,x\r\ncontent-length: 10\r\n\r\n12345");
    let idle = connect(&agent).await;
    let slow_headers = begin(&agent, post).await;
    let kept_alive = begin(&agent, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let slow_body = begin(&agent, &posted).await;
    let body = issue("i", 1);
    agent.accepts(&home, "evt_1", &body).await;
    agent.event().await;
    let (_, _, kept_alive, slow_body) = tokio::join!(
        rest(idle),
        rest(slow_headers),
        rest(kept_alive),
        rest(slow_body)
    );
    assert!(kept_alive.starts_with("HTTP/1.1 200"), "{kept_alive}");
    assert!(slow_body.starts_with("HTTP/1.1 401"), "{slow_body}");
    assert!(slow_body.contains("signature_format"), "{slow_body}");
    agent.stop().await;
}

#[tokio::test]
async fn half_open_connections_make_room_for_deliveries() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    let mut half_open = Vec::new();
    let began = Instant::now();
    for at in 0..5 {
        for _ in 0..100 {
            half_open.push(begin(&agent, "POST /webhook HTTP/1.1\r\nhost: x\r\n").await);
        }
        agent
            .accepts(&home, &format!("evt_{at}"), &issue("i", at))
            .await;
        assert_eq!(agent.number().await, at);
    }
    // Each of them would be kept for ten seconds otherwise, and 64 are served at a time.
    assert!(began.elapsed() < Duration::from_secs(30));
    agent.stop().await;
}

#[tokio::test]
async fn a_body_without_a_possible_signature_is_not_held_and_refusals_do_not_fill_the_log() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    let body = "x".repeat(100_000);
    let good = signed(&home, "evt_1", &body);
    let old = signed_at(&home, "evt_1", &body, relay.clock.seconds() - 301);
    let mut malformed = good.clone();
    malformed.retain(|(name, _)| *name != "webhook-signature");
    malformed.push(("webhook-signature", "v2,x".to_owned()));
    for _ in 0..10 {
        agent.refuses(&old, &body, (401, "signature_age")).await;
        agent
            .refuses(&malformed, &body, (401, "signature_format"))
            .await;
        agent.refuses(&good, "{}", (401, "signature_digest")).await;
    }
    agent.says("a delivery was refused").await;
    let said = agent.unheard();
    assert!(
        said.iter().all(|line| !line.contains("refused")),
        "{said:?}"
    );
    // What was refused last is named until something is accepted.
    until("it is unhealthy", async || {
        let status = run(&home, &["status"]).await;
        status.code == Some(3) && status.stderr.contains("a delivery was refused at")
    })
    .await;
    agent.accepts(&home, "evt_1", &body).await;
    let is_healthy = async || run(&home, &["status"]).await.code == Some(0);
    until("it is healthy", is_healthy).await;
    agent.stop().await;
}

#[tokio::test]
async fn with_a_wrong_clock_events_come_and_the_clock_is_named() {
    let (relay, home) = relay_and_home().await;
    relay.clock.advance(Duration::from_secs(900));
    let port = free_port().await;
    let mut agent = Agent::begin(Agent::up(&relay, &home).args(reached_at(port))).await;
    agent.says("behind the relay's").await;
    agent.says("ready:").await;
    relay.post(&issue("i", 1)).await;
    assert_eq!(agent.number().await, 1);
    let status = run(&home, &["status"]).await.exits(3);
    assert!(status.stdout.contains("s behind the relay's"), "{status:?}");
    run(&home, &["doctor"]).await.exits(3);
    // Out of the mailbox, too.
    agent.stop().await;
    relay.post(&issue("i", 2)).await;
    let mut agent = Agent::pulling(&relay, &home).await;
    assert_eq!(agent.number().await, 2);
    agent.stop().await;
}

#[tokio::test]
async fn bodies_have_a_limit_and_unsigned_ones_a_small_one() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(9_999_990));
    agent.accepts(&home, "evt_1", &large).await;
    let larger = "x".repeat(10_000_001);
    let headers = signed(&home, "evt_2", &larger);
    let too_large = (413, "body_too_large");
    agent.refuses(&headers, &larger, too_large).await;
    agent.refuses(&[], &"x".repeat(5_000), too_large).await;
    agent.stop().await;
}

#[tokio::test]
async fn every_response_asks_not_to_be_indexed_and_does_not_name_the_program() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    let base = agent.address.trim_end_matches("/webhook").to_owned();
    let client = client();
    for (path, status) in [
        ("/health", 200),
        ("/webhook", 405),
        ("/", 404),
        ("/robots.txt", 404),
        ("/status", 404),
    ] {
        let answer = client.get(format!("{base}{path}")).send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-robots-tag"], "noindex");
        assert!(!answer.headers().contains_key("server"));
        let body = answer.text().await.unwrap();
        assert!(!body.contains("edge-agent"), "{body}");
    }
    agent.stop().await;
}
