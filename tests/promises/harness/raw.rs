//! A worker without an HTTP library, for answers that no library would give.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use protocol::messages::{ChallengeResponse, Control};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What is sent in answer to a request before the connection is closed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) first: Vec<u8>,
    /// Sent after that, so often, with this pause before each time.
    pub(crate) again: Vec<u8>,
    pub(crate) times: usize,
    pub(crate) pause: Duration,
}

impl Script {
    /// These bytes, so often.
    pub(crate) fn again(answer: impl Into<Vec<u8>>, times: usize) -> Self {
        Self {
            again: answer.into(),
            times,
            ..Self::default()
        }
    }

    /// These bytes, and then these without end.
    pub(crate) fn endless(first: impl Into<Vec<u8>>, again: impl Into<Vec<u8>>) -> Self {
        Self {
            first: first.into(),
            ..Self::again(again, usize::MAX)
        }
    }

    /// These bytes, and then a byte a second without end.
    pub(crate) fn trickle(first: impl Into<Vec<u8>>) -> Self {
        Self {
            pause: Duration::from_secs(1),
            ..Self::endless(first, "x")
        }
    }

    async fn play(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(&self.first).await?;
        for _ in 0..self.times {
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
            stream.write_all(&self.again).await?;
        }
        Ok(())
    }
}

/// Answers deliveries by a script, and echoes challenges. It closes each connection.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    /// Whether challenges are answered by the script, too.
    is_challenge_scripted: Arc<AtomicBool>,
    deliveries: Arc<AtomicUsize>,
}

impl Raw {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    pub(crate) async fn start_at(address: &str, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let raw = Self {
            address: listener.local_addr().unwrap(),
            is_challenge_scripted: Arc::default(),
            deliveries: Arc::default(),
        };
        let is_challenge_scripted = Arc::clone(&raw.is_challenge_scripted);
        let deliveries = Arc::clone(&raw.deliveries);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let is_challenge_scripted = Arc::clone(&is_challenge_scripted);
                let (script, deliveries) = (script.clone(), Arc::clone(&deliveries));
                tokio::spawn(async move {
                    let challenge = read(&mut stream).await;
                    if challenge.is_none() {
                        deliveries.fetch_add(1, Ordering::Relaxed);
                    }
                    // The relay has heard enough, and closes the connection.
                    let _ = match challenge {
                        Some(challenge) if !is_challenge_scripted.load(Ordering::Relaxed) => {
                            stream.write_all(echo(challenge).as_bytes()).await
                        }
                        _ => script.play(&mut stream).await,
                    };
                });
            }
        });
        raw
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// From now on challenges are answered by the script, too.
    pub(crate) fn script_challenges(&self) {
        self.is_challenge_scripted.store(true, Ordering::Relaxed);
    }

    /// How many deliveries have come.
    pub(crate) fn deliveries(&self) -> usize {
        self.deliveries.load(Ordering::Relaxed)
    }
}

/// Reads a request, and returns the challenge that it is.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut request = vec![0; 64 * 1024];
    let mut length = 0;
    while let Ok(read @ 1..) = stream.read(&mut request[length..]).await {
        length += read;
        if request[..length].ends_with(b"}") {
            break;
        }
    }
    let request = String::from_utf8_lossy(&request[..length]);
    let body = request.split("\r\n\r\n").nth(1).unwrap_or_default();
    match serde_json::from_str(body) {
        Ok(Control::Challenge { challenge, .. }) => Some(challenge),
        _ => None,
    }
}

fn echo(challenge: String) -> String {
    let answer = serde_json::to_string(&ChallengeResponse { challenge }).unwrap();
    let length = answer.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}")
}
