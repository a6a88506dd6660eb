//! An address that nothing may connect to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};

use super::eventually;

/// A listener that counts connections.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The other ends of the connections, in the order in which they were made.
    peers: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Target {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let peers = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::clone(&peers);
        tokio::spawn(async move {
            while let Ok((_, peer)) = listener.accept().await {
                accepted.lock().unwrap().push(peer);
            }
        });
        Self { address, peers }
    }

    /// How many connections there were. Each is accepted before one that is made later, so that of the test itself comes last.
    pub(crate) async fn connections(&self) -> usize {
        let own = TcpStream::connect(self.address).await.unwrap();
        let own = own.local_addr().unwrap();
        eventually("the test's own connection is accepted", async || {
            let mut peers = self.peers.lock().unwrap();
            let before = peers.iter().position(|peer| *peer == own)?;
            peers.remove(before);
            Some(before)
        })
        .await
    }
}
