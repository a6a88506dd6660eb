//! Handlers that echo challenges, and answer deliveries and pings in one bad way after another: with errors, not at all, slowly,
//! without end, and broken off. Of some, every second answer is right, so that what waits for them is delivered and they are
//! live again and again.
//!
//! 410 is not among the answers, because it removes the worker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use protocol::messages::{ChallengeResponse, Control};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What is sent in answer to a delivery before the connection is closed: something, and something else again and again.
struct Trick {
    first: String,
    again: String,
    /// Before each time.
    pause: Duration,
}

impl Trick {
    fn once(status: &str, more: &str) -> Self {
        Self {
            first: format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\n\r\n"),
            again: String::new(),
            pause: Duration::ZERO,
        }
    }

    fn endless(first: &str, again: &str) -> Self {
        Self {
            first: format!("HTTP/1.1 {first}"),
            again: again.to_owned(),
            pause: Duration::ZERO,
        }
    }

    fn trickle(first: &str) -> Self {
        Self {
            pause: Duration::from_secs(1),
            ..Self::endless(first, "x")
        }
    }

    async fn play(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(self.first.as_bytes()).await?;
        while !self.again.is_empty() {
            tokio::time::sleep(self.pause).await;
            stream.write_all(self.again.as_bytes()).await?;
        }
        Ok(())
    }
}

fn tricks() -> Vec<Trick> {
    const LENGTH: &str = "content-length: 1000000000000\r\n\r\n";
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
    const HINTS: &str = "103 Early Hints\r\nlink: x\r\n\r\n";
    let (fields, long) = ("x: y\r\n".repeat(1_000), "y".repeat(8 * 1_024));
    vec![
        Trick::once("500 Internal Server Error", ""),
        Trick::once("429 Too Many Requests", "retry-after: 1\r\n"),
        Trick::once("503 Service Unavailable", "retry-after: 3600\r\n"),
        Trick::once("404 Not Found", ""),
        Trick::once("400 Bad Request", "content-encoding: gzip\r\n"),
        // The connection is closed.
        Trick {
            first: String::new(),
            ..Trick::once("", "")
        },
        Trick::once("307 Temporary Redirect", "location: /\r\n"),
        // Nothing at all for longer than any deadline, and a beginning that breaks off.
        Trick {
            first: String::new(),
            again: "x".to_owned(),
            pause: Duration::from_secs(3_600),
        },
        Trick {
            first: format!("HTTP/1.1 502 Bad Gateway\r\n{CHUNKED}400\r\n"),
            ..Trick::once("", "")
        },
        Trick::trickle("20"),
        Trick::trickle("200 OK\r\nx: "),
        Trick::trickle(&format!("503 Service Unavailable\r\n{LENGTH}")),
        Trick::trickle(&format!("400 Bad Request\r\n{CHUNKED}1;")),
        Trick::endless("200 OK", &long),
        Trick::endless("200 OK\r\n", &fields),
        Trick::endless("200 OK\r\nx: ", &long),
        Trick::endless(HINTS, &format!("HTTP/1.1 {HINTS}").repeat(100)),
        Trick::endless(&format!("400 Bad Request\r\n{LENGTH}"), &long),
        Trick::endless(&format!("400 Bad Request\r\n{CHUNKED}0\r\n"), &fields),
    ]
}

/// Such a handler, which closes each connection.
pub(super) struct Handler {
    pub(super) address: SocketAddr,
    /// How many requests it has answered, challenges aside.
    answered: Arc<AtomicUsize>,
}

impl Handler {
    /// Starts one of whose answers every second one is right, or none.
    pub(super) async fn start(is_right_at_times: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (tricks, answered) = (Arc::new(tricks()), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&answered);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tricks, count) = (Arc::clone(&tricks), Arc::clone(&count));
                tokio::spawn(async move {
                    answer(stream, &tricks, &count, is_right_at_times).await;
                });
            }
        });
        Ok(Self { address, answered })
    }

    pub(super) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

/// Answers a request. That the relay closes the connection, when it has heard enough, is no error here.
async fn answer(
    mut stream: TcpStream,
    tricks: &[Trick],
    count: &AtomicUsize,
    is_right_at_times: bool,
) {
    let Ok(body) = read(&mut stream).await else {
        return;
    };
    let _ = match serde_json::from_slice(&body) {
        Ok(Control::Challenge { challenge, .. }) => {
            let echo = ChallengeResponse { challenge };
            let echo = serde_json::to_string(&echo).expect("it is text");
            let length = echo.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            stream.write_all(format!("{head}{echo}").as_bytes()).await
        }
        _ => {
            let next = count.fetch_add(1, Ordering::Relaxed);
            if is_right_at_times && next % 2 == 1 {
                Trick::once("200 OK", "").play(&mut stream).await
            } else {
                tricks[next / 2 % tricks.len()].play(&mut stream).await
            }
        }
    };
}

/// Reads a request, and returns its body.
async fn read(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = request.windows(4).position(|part| part == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
        if request.len() >= end + 4 + length.unwrap_or(0) {
            return Ok(request.split_off(end + 4));
        }
    }
}
