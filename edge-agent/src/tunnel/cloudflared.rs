//! cloudflared's quick tunnel: its address and its readiness come from its metrics server (`/quicktunnel`,
//! `/ready`), not from what it prints.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use reqwest::Client;
use serde::Deserialize;
use url::Url;

/// The metrics server of one running cloudflared.
pub(super) struct Metrics(SocketAddr);

#[derive(Deserialize)]
struct QuickTunnel {
    hostname: String,
}

impl Metrics {
    /// On a port that is free now.
    pub(super) fn on_a_free_port() -> std::io::Result<Self> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()
            .map(Self)
    }

    pub(super) fn arguments(&self, listen: SocketAddr) -> Vec<String> {
        vec![
            "tunnel".to_owned(),
            "--no-autoupdate".to_owned(),
            "--metrics".to_owned(),
            self.0.to_string(),
            "--url".to_owned(),
            format!("http://{listen}"),
        ]
    }

    /// The address, once it is connected.
    pub(super) async fn address(&self, client: &Client) -> Option<Url> {
        let get = async |path: &str| {
            let answer = client.get(format!("http://{}{path}", self.0)).send().await;
            answer.ok().filter(|answer| answer.status().is_success())
        };
        get("/ready").await?;
        address(&super::body(get("/quicktunnel").await?).await?)
    }
}

/// The address in an answer to `/quicktunnel`.
pub(super) fn address(answer: &[u8]) -> Option<Url> {
    let tunnel: QuickTunnel = serde_json::from_slice(answer).ok()?;
    super::address_of(&tunnel.hostname)
}
