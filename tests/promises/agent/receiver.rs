//! The receiver's bounds: what strangers can make it hold, and for how long.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::agent::{Agent, PATIENCE, deliver, signed};
use crate::harness::{issue, relay};

async fn connect(agent: &Agent) -> TcpStream {
    let address = agent
        .address
        .trim_start_matches("http://")
        .trim_end_matches("/webhook");
    TcpStream::connect(address).await.unwrap()
}

/// What is received until the agent closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("it stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn slow_and_idle_connections_are_closed_and_others_served_meanwhile() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut agent = Agent::pulling(&relay, home.path()).await;
    let mut idle = connect(&agent).await;
    let mut slow_headers = connect(&agent).await;
    slow_headers
        .write_all(b"POST /webhook HTTP/1.1\r\nhost: x\r\nwebh")
        .await
        .unwrap();
    let mut kept_alive = connect(&agent).await;
    kept_alive
        .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut slow_body = connect(&agent).await;
    slow_body
        .write_all(b"POST /webhook HTTP/1.1\r\nhost: x\r\nwebhook-signature: v1,x\r\ncontent-length: 10\r\n\r\n12345")
        .await
        .unwrap();
    let body = issue("i", 1);
    agent.accepts(home.path(), "evt_1", &body).await;
    agent.event().await;
    let (_, _, kept_alive, slow_body) = tokio::join!(
        rest(&mut idle),
        rest(&mut slow_headers),
        rest(&mut kept_alive),
        rest(&mut slow_body)
    );
    assert!(kept_alive.starts_with("HTTP/1.1 200"), "{kept_alive}");
    assert!(
        slow_body.starts_with("HTTP/1.1 408") && slow_body.contains("body_too_slow"),
        "{slow_body}"
    );
    agent.stop().await;
}

#[tokio::test]
async fn more_connections_than_it_serves_wait_and_nothing_is_lost() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut agent = Agent::pulling(&relay, home.path()).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(connect(&agent).await);
    }
    let body = issue("i", 1);
    let headers = signed(home.path(), "evt_1", &body);
    assert_eq!(
        deliver(&agent.address, &headers, &body).await.0,
        202,
        "once the idle ones are closed"
    );
    agent.event().await;
    for _ in 0..100 {
        idle.push(connect(&agent).await);
    }
    agent.stop().await;
}

#[tokio::test]
async fn bodies_have_a_limit_and_unsigned_ones_a_small_one() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(9_999_990));
    agent.accepts(home.path(), "evt_1", &large).await;
    let larger = "x".repeat(10_000_001);
    let refused = deliver(
        &agent.address,
        &signed(home.path(), "evt_2", &larger),
        &larger,
    )
    .await;
    assert_eq!(
        (refused.0, &refused.1["code"]),
        (413, &json!("body_too_large"))
    );
    let unsigned = deliver(&agent.address, &[], &"x".repeat(5_000)).await;
    assert_eq!(
        (unsigned.0, &unsigned.1["code"]),
        (413, &json!("body_too_large"))
    );
    agent.stop().await;
}

#[tokio::test]
async fn every_response_asks_not_to_be_indexed_and_does_not_name_the_program() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    let base = agent.address.trim_end_matches("/webhook").to_owned();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
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
