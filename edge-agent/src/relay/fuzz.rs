//! A fuzz target for what answers at the relay's address: another server, a proxy in between, a page where a network wants a
//! login. Whatever comes, each call ends with a result or an error, and nothing from it leads anywhere else.
//!
//! An input is an answer as it comes over the connection, which is closed behind it.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use protocol::messages::{Pull, Register, Renew};
use protocol::signature::Secret;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use url::Url;

use super::{CallError, LONGEST_WAIT, Relay};
use crate::registration::Registration;

const TOKEN: &str = "a-token-that-is-shown-nowhere";

/// What the server answers now.
type Answer = Arc<Mutex<Vec<u8>>>;

async fn serve(listener: TcpListener, answer: Answer) {
    while let Ok((connection, _)) = listener.accept().await {
        let bytes = answer.lock().clone();
        tokio::spawn(respond(connection, bytes));
    }
}

/// Answers once the request is there: the client sends it in one piece.
async fn respond(mut connection: TcpStream, bytes: Vec<u8>) {
    let mut request = [0; 4096];
    let _ = connection.read(&mut request).await;
    let _ = connection.write_all(&bytes).await;
    let _ = connection.shutdown().await;
    // A connection that is closed with a request unread is reset, and the answer with it.
    while connection
        .read(&mut request)
        .await
        .is_ok_and(|read| read > 0)
    {}
}

fn registration(relay: &Url) -> Registration {
    let registered = json!({"worker": "/edge/workspaces/w/workers/x", "workerId": "x", "token": TOKEN,
        "workspace": {"id": "w", "urlKey": "k", "name": "n"}, "secret": Secret::generate().expose(),
        "state": "live", "expiresAt": ""});
    let registered = serde_json::from_value(registered).expect("it is an answer");
    let registration = Registration::new(relay.as_str(), "laptop", registered, None, 0);
    registration.expect("it is well-formed")
}

fn check<T>(answered: Result<T, CallError>, input: &[u8]) -> Option<T> {
    let error = match answered {
        Ok(answered) => return Some(answered),
        Err(error) => error,
    };
    let is_quoted = input
        .windows(TOKEN.len())
        .any(|part| part == TOKEN.as_bytes());
    assert!(is_quoted || !error.to_string().contains(TOKEN), "{error}");
    if let CallError::Later {
        wait: Some(wait), ..
    } = error
    {
        assert!(wait <= LONGEST_WAIT, "{wait:?}");
    }
    None
}

async fn call(relay: &Relay, base: &Url, input: &[u8]) {
    let request = json!({"linearToken": TOKEN, "name": "laptop"});
    let request: Register = serde_json::from_value(request).expect("it is a request");
    let known = registration(base);
    let registered = check(relay.register(&request).await, input).and_then(|registered| {
        Registration::new(base.as_str(), "laptop", registered, Some(&known), 0).ok()
    });
    if let Some(registered) = &registered {
        // Its path is used as it is, and stays below the relay's address.
        let url = base.join(&registered.worker).expect("it is a path");
        assert_eq!(
            (url.origin(), url.path()),
            (base.origin(), registered.worker.as_str())
        );
    }
    let registration = registered.unwrap_or(known);
    check(relay.renew(&registration, &Renew::default()).await, input);
    check(relay.pull(&registration, &Pull::default()).await, input);
    check(relay.look().await, input);
    assert!(relay.date().is_none_or(|date| date > 0));
}

fn start(answer: &Answer) -> (Runtime, SocketAddr) {
    let runtime = Runtime::new().expect("a runtime can be started");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener.expect("there is a port");
    let address = listener.local_addr().expect("it is bound");
    runtime.spawn(serve(listener, Arc::clone(answer)));
    (runtime, address)
}

#[test]
fn fuzz_relay_answer() {
    let answer = Answer::default();
    let (runtime, address) = start(&answer);
    let base = Url::parse(&format!("http://{address}/")).expect("it is an address");
    let relay = Relay::new(base.clone()).expect("there is a client");
    let world = std::panic::AssertUnwindSafe((runtime, relay, answer));
    fuzz::target!("relay-answer", |input: &[u8]| {
        let (runtime, relay, answer) = &*world;
        *answer.lock() = input.to_vec();
        runtime.block_on(call(relay, &base, input));
    });
}
