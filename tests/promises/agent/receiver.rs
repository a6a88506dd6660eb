//! The receiver's bounds: what strangers can make it hold, and for how long.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::agent::{Agent, in_time, relay_and_home, signed};
use crate::harness::{client, issue};

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
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
    assert!(slow_body.contains("body_too_slow"), "{slow_body}");
    agent.stop().await;
}

#[tokio::test]
async fn more_connections_than_it_serves_wait_and_nothing_is_lost() {
    let (relay, home) = relay_and_home().await;
    let mut agent = Agent::pulling(&relay, &home).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(connect(&agent).await);
    }
    // Once the idle ones are closed.
    agent.accepts(&home, "evt_1", &issue("i", 1)).await;
    agent.event().await;
    for _ in 0..100 {
        idle.push(connect(&agent).await);
    }
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
