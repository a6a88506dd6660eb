//! What users of other tools of this kind complain about, one test each. Those that another file already holds:
//! deaf after sleep though it says "ready" (`sleep`), bodies written again so that signatures fail (`handlers`,
//! `linear_sdk`), the local server's answer not shown (`commands`, `handlers`), repeated headers dropped (`handlers`),
//! missed events (`handlers`, `stdout`), a tunnel's address shown before it works and its process never ended
//! (`tunnels`), something opened before the arguments are read (`settings`).

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::agent::{Agent, Home, command, deliver, events, in_time, relay_and_home};
use crate::harness::agent::{run, with_handler};
use crate::harness::tls::Certificate;
use crate::harness::{Answer, TOKEN, issue, until};

/// stripe-cli 896, 981: an event twice.
#[tokio::test]
async fn the_same_event_by_post_from_the_mailbox_and_again_is_handled_once() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::handing(&relay, &home, &handler).await;
    let body = issue("i", 1);
    let posted = relay.post(&body).await;
    handler.wait_for(1).await;
    for _ in 0..3 {
        agent.accepts(&home, &posted.event, &body).await;
    }
    relay.post(&issue("i", 2)).await;
    let received = handler.wait_for(2).await;
    let id = |at: usize| received[at].header("webhook-id");
    assert_ne!(id(0), id(1));
    assert_eq!(handler.count(), 2);
    agent.stop().await;
}

/// stripe-cli 872, 1353, 1554: stdout polluted in JSON mode.
#[tokio::test]
async fn stdout_holds_only_data_however_many_messages_there_are() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    let mut agent = Agent::start(up.args(["-v", "--json", "--color", "always"])).await;
    for at in 0..3 {
        relay.post(&issue("i", at)).await;
        assert_eq!(agent.event().await["type"], "Issue");
    }
    let wrong = [("webhook-signature", "v1,x".into())];
    deliver(&agent.address, &wrong, &issue("i", 9)).await;
    agent.says("a delivery was refused").await;
    for arguments in [
        vec!["status", "--json", "-v"],
        vec!["events", "--json", "-v"],
        vec!["doctor", "--json", "-v", "--relay", "https://relay.test"],
        vec!["send", "--json", "-v"],
    ] {
        run(&home, &arguments).await.lines();
    }
    agent.stop().await;
}

/// `up` for a relay at this address.
fn up_for(home: &Home, url: &str) -> Command {
    let mut up = command(home);
    up.args([
        "up",
        "--name",
        "x",
        "--relay",
        url,
        "--listen",
        "127.0.0.1:0",
    ])
    .env("LINEAR_TOKEN", TOKEN);
    up
}

/// stripe-cli 421, 1434: no way through a proxy. The relay is reached through it, this machine is not.
#[tokio::test]
async fn the_relay_is_reached_through_a_proxy_and_this_machine_without() {
    let home = Home::new();
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let mut up = up_for(&home, "https://relay.test");
    up.env("HTTPS_PROXY", url)
        .env("HTTP_PROXY", "http://127.0.0.1:1");
    let mut agent = Agent::begin(&mut up).await;
    let (mut asked, _) = proxy.accept().await.unwrap();
    let mut request = vec![0; 4096];
    let length = asked.read(&mut request).await.unwrap();
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let line = request.lines().next();
    assert_eq!(line, Some("CONNECT relay.test:443 HTTP/1.1"), "{request}");
    let answer = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
    asked.write_all(answer).await.unwrap();
    drop(asked);
    agent.says("the relay cannot be reached").await;
    agent.stop().await;

    let (relay, home, handler) = with_handler().await;
    let mut up = Agent::up(&relay, &home);
    up.arg(handler.port())
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1");
    let agent = Agent::start(&mut up).await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    agent.stop().await;
}

/// stripe-cli 108: a private CA. Whose certificate it trusts is the system's to say, and SSL_CERT_FILE's.
#[tokio::test]
async fn a_private_ca_is_trusted_if_the_system_trusts_it() {
    let home = Home::new();
    let certificate = Certificate::new();
    let file = certificate.write(&home);
    let address = serve_tls(&certificate).await;
    let url = format!("https://localhost:{}", address.port());
    let up = |trust: bool| {
        let mut up = up_for(&home, &url);
        if trust {
            up.env("SSL_CERT_FILE", &file);
        }
        up
    };
    let mut agent = Agent::begin(&mut up(false)).await;
    let said = agent.says("the relay cannot be reached").await;
    assert!(said.contains("certificate"), "{said}");
    agent.stop().await;
    let mut agent = Agent::begin(&mut up(true)).await;
    agent.says("the relay answered 418").await;
    agent.stop().await;
}

/// Answers everything with 418, over TLS.
pub(super) async fn serve_tls(certificate: &Certificate) -> std::net::SocketAddr {
    let acceptor = certificate.acceptor(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut request = vec![0; 4096];
                    let _ = stream.read(&mut request).await;
                    let answer = b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    address
}

/// gh-webhook 43: a retry that never came, since the error was wrapped.
#[tokio::test]
async fn whatever_goes_wrong_between_here_and_the_handler_is_tried_again() {
    let (relay, home) = relay_and_home().await;
    // One that takes the connection and closes it, one that answers nonsense, one that is well.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let answers = tokio::spawn(async move {
        let mut requests = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            if length == 0 {
                // A connection without a request: a probe of the port.
                continue;
            }
            requests += 1;
            match requests {
                1 => {}
                2 => stream.write_all(b"this is not HTTP\r\n\r\n").await.unwrap(),
                _ => {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    return stream.write_all(answer).await.unwrap();
                }
            }
        }
    });
    let agent = Agent::start(Agent::up(&relay, &home).arg(&port)).await;
    relay.post(&issue("i", 1)).await;
    in_time(answers).await.unwrap();
    until("it is done", async || {
        let event = events(&home).await.pop().unwrap_or_default();
        event["state"] == "done" && event["attempts"] == 3
    })
    .await;
    agent.stop().await;
}

/// A server that is there and fails is not mistaken for one that is not there: that would go on without end.
#[tokio::test]
async fn what_is_there_and_fails_uses_up_attempts() {
    let (relay, home) = relay_and_home().await;
    let certificate = Certificate::new();
    let port = serve_tls(&certificate).await.port();
    let untrusted = format!("https://localhost:{port}/");
    let mut agent = Agent::start(Agent::up(&relay, &home).arg(&untrusted)).await;
    let posted = relay.post(&issue("i", 1)).await;
    let said = agent.says(&posted.event[..17]).await;
    let is_retried = said.ends_with("again in 1 s");
    assert!(said.contains("certificate") && is_retried, "{said}");
    agent.stop().await;
}

/// The keyring that hangs on headless Linux: there is none; a file, and nothing but the file.
#[tokio::test]
async fn nothing_of_a_desktop_is_needed() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    for variable in ["HOME", "XDG_CONFIG_HOME", "PATH"] {
        up.env_remove(variable);
    }
    let mut agent = Agent::start(&mut up).await;
    relay.post(&issue("i", 1)).await;
    assert_eq!(agent.event().await["type"], "Issue");
    agent.stop().await;
}

/// stripe-cli 1011: what the local server answered, where one looks first.
#[tokio::test]
async fn the_answer_of_the_local_server_is_printed_as_it_arrives() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([Answer::Status(500), Answer::Status(201)]);
    let url = format!("http://localhost:{}/", handler.port());
    let mut agent = Agent::handing(&relay, &home, &handler).await;
    let posted = relay.post(&issue("i", 1)).await;
    let said = agent.says(&posted.event[..17]).await;
    assert!(said.contains(&format!("{url} 500 in ")), "{said}");
    assert!(said.ends_with("again in 1 s"), "{said}");
    let said = agent.says(&posted.event[..17]).await;
    assert!(said.contains(&format!("{url} 201 in ")), "{said}");
    agent.stop().await;
}
