//! Targets: how they are written, what is between the agent and the user's code, and what is said of it.

use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use edge_agent::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::complaints::serve_tls;
use crate::harness::agent::{Agent, Inside, events, in_time, relay_and_home, run, with_handler};
use crate::harness::tls::Certificate;
use crate::harness::{Answer, Receiver, issue, number, numbers, until};

#[tokio::test]
async fn a_target_can_be_a_unix_socket() {
    let (relay, home) = relay_and_home().await;
    let socket = home.join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (send, mut received) = mpsc::unbounded_channel();
    let app = Router::new().fallback(move |request: axum::extract::Request| async move {
        let path = request.uri().path().to_owned();
        let body = axum::body::to_bytes(request.into_body(), 10_000)
            .await
            .unwrap();
        send.send((path, number(&body))).unwrap();
        StatusCode::OK
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    let target = format!("unix:{}:/hook", socket.display());
    let mut agent = Agent::start(Agent::up(&relay, &home).arg(&target)).await;
    relay.post(&issue("i", 7)).await;
    let got = in_time(received.recv()).await.unwrap();
    assert_eq!(got, ("/hook".to_owned(), 7));
    agent.says(&format!("{target} 200 in")).await;
    agent.stop().await;
}

/// Listens at a port of `::1` as nobody, until its input ends.
const NOBODY: &str = "
import os, socket, sys
os.seteuid(65534)
listener = socket.socket(socket.AF_INET6)
listener.bind(('::1', int(sys.argv[1])))
listener.listen()
print('listening', flush=True)
sys.stdin.read()
";

#[tokio::test]
#[ignore = "needs Python, and root or a sudo that asks for no password"]
async fn a_port_at_which_another_user_listens_too_gets_no_event() {
    let (relay, home, handler) = with_handler().await;
    let mut agent = Agent::start(Agent::up(&relay, &home).arg(handler.port())).await;
    let mut listening = if rustix::process::geteuid().is_root() {
        Command::new("python3")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "python3"]);
        sudo
    };
    let mut nobody = (listening.args(["-c", NOBODY, &handler.port()]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(nobody.stdout.take().unwrap()).lines();
    assert!(in_time(lines.next_line()).await.unwrap().is_some());
    relay.post(&issue("i", 1)).await;
    let refused = "another user of this machine listens there, who gets no events";
    agent.says(refused).await;
    assert!(handler.received().is_empty());
    drop(nobody.stdin.take());
    nobody.wait().await.unwrap();
    handler.wait_for(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn every_name_under_localhost_is_this_machine_and_a_scheme_is_not_needed() {
    let (relay, home, handler) = with_handler().await;
    for (at, host) in ["app.localhost", "localhost", "127.0.0.1"]
        .iter()
        .enumerate()
    {
        let target = format!("{host}:{}", handler.port());
        let agent = Agent::start(Agent::up(&relay, &home).arg(&target)).await;
        relay.post(&issue("i", at)).await;
        let received = handler.wait_for(at + 1).await;
        assert_eq!(received[at].header("host"), target);
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_self_signed_certificate_on_this_machine_is_taken_if_that_is_asked_for() {
    let (relay, home) = relay_and_home().await;
    let port = serve_tls(&Certificate::new()).await.port();
    let target = format!("https://localhost:{port}/");
    let insecure = [target.as_str(), "--insecure"];
    let mut agent = Agent::start(Agent::up(&relay, &home).args(insecure)).await;
    let posted = relay.post(&issue("i", 1)).await;
    let said = agent.says(&posted.event[..17]).await;
    assert!(said.contains(" 418 in "), "{said}");
    agent.stop().await;
    let relay = relay.local.url();
    let far = ["up", "https://dev.test/", "--insecure", "--relay", &relay];
    run(&home, &far)
        .await
        .exits(2)
        .warns("`insecure` is for a target on this machine");
}

/// Answers every request with these bytes.
pub(super) async fn answering(bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 65_536];
                if stream
                    .read(&mut request)
                    .await
                    .is_ok_and(|length| length > 0)
                {
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_said_in_words_that_help() {
    let many: String = (0..500).map(|at| format!("x-{at}: 1\r\n")).collect();
    let ok = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{many}\r\n");
    let moved = "HTTP/1.1 308 P\r\nlocation: /there?key=hush\r\ncontent-length: 0\r\n\r\n";
    // The settings that a server of HTTP/2 sends first.
    let http2 = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for (scheme, bytes, expected) in [
        ("http", ok.clone().into_bytes(), " 200 in ".to_owned()),
        (
            "http",
            moved.into(),
            "308 to http://localhost:PORT/there, which has to be the target".to_owned(),
        ),
        (
            "http",
            http2.to_vec(),
            "HTTP/2 without TLS is not supported".to_owned(),
        ),
        (
            "https",
            ok.into_bytes(),
            "it does not speak TLS there".to_owned(),
        ),
    ] {
        let (relay, home) = relay_and_home().await;
        let port = answering(bytes).await;
        let target = format!("{scheme}://localhost:{port}/");
        let mut agent = Agent::start(Agent::up(&relay, &home).arg(&target)).await;
        let posted = relay.post(&issue("i", 1)).await;
        let said = agent.says(&posted.event[..17]).await;
        let expected = expected.replace("PORT", &port.to_string());
        assert!(said.contains(&expected) && !said.contains("hush"), "{said}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_command_line_that_needs_a_shell_is_said_to_need_one() {
    let (relay, home) = relay_and_home().await;
    let line = ["--exec", "echo hi | cat"];
    let mut agent = Agent::begin(Agent::up(&relay, &home).args(line)).await;
    agent
        .says("no shell is used, unless you write one: `--exec sh -c '…'`")
        .await;
    let status = run(&home, &["status"]).await.exits(3);
    assert!(
        status.stdout.contains("not there: there is no program"),
        "{status:?}"
    );
    agent.stop().await;
}

#[tokio::test]
async fn what_waited_for_a_wrong_target_is_tried_at_once_at_another() {
    let (relay, home, wrong) = with_handler().await;
    wrong.answer([Answer::Status(500)]);
    let (right, third) = (Receiver::start().await, Receiver::start().await);
    let fails = async |at: usize| {
        until("it has failed", async || {
            let all = events(&home).await;
            all.iter()
                .any(|event| event["attempts"] == at && event["dueAt"].is_string())
        })
        .await;
    };
    let settings = |handler: &Receiver| format!("[[handler]]\nto = '{}'\n", handler.port());
    home.write("edge-agent.toml", settings(&wrong));
    let agent = Inside::start(&relay, &home, &[]).await;
    relay.post(&issue("i", 1)).await;
    fails(1).await;
    agent.stop().await;

    // Started again with another target.
    right.answer([Answer::Status(500)]);
    home.write("edge-agent.toml", settings(&right));
    let agent = Inside::start(&relay, &home, &[]).await;
    assert_eq!(numbers(&right.wait_for(1).await), [1]);
    fails(2).await;

    // Told of another one while it runs. Its clock stands still, so no retry is due.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((wrong.count(), right.count()), (1, 1));
    home.write("edge-agent.toml", settings(&third));
    agent.signal.send(Signal::Reload).await.unwrap();
    assert_eq!(numbers(&third.wait_for(1).await), [1]);
    agent.stop().await;
}
