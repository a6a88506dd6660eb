//! ngrok: its address comes from its local API, whose own address is in its log.

use std::net::SocketAddr;
use std::sync::OnceLock;

use reqwest::Client;
use serde::Deserialize;
use url::Url;

use super::running::Printed;

/// The local API of a running ngrok, once its log has the address.
#[derive(Default)]
pub(super) struct Api(OnceLock<String>);

#[derive(Deserialize)]
struct Tunnels {
    tunnels: Vec<ListedTunnel>,
}

#[derive(Deserialize)]
struct ListedTunnel {
    public_url: Url,
}

/// `{"addr":"127.0.0.1:4040","lvl":"info","msg":"starting web service","obj":"web",…}`
#[derive(Deserialize)]
struct Logged {
    #[serde(default)]
    obj: String,
    #[serde(default)]
    addr: String,
}

pub(super) fn arguments(listen: SocketAddr) -> Vec<String> {
    [
        "http",
        "--log=stdout",
        "--log-format=json",
        &listen.to_string(),
    ]
    .map(str::to_owned)
    .to_vec()
}

impl Api {
    /// The address, once there is one.
    pub(super) async fn address(&self, client: &Client, printed: &Printed) -> Option<Url> {
        if self.0.get().is_none() {
            let logged = (printed.lines().iter())
                .filter_map(|line| serde_json::from_str::<Logged>(line).ok())
                .find(|line| line.obj == "web" && !line.addr.is_empty())?;
            let _ = self.0.set(logged.addr);
        }
        let url = format!("http://{}/api/tunnels", self.0.get()?);
        let tunnels: Tunnels = client.get(url).send().await.ok()?.json().await.ok()?;
        let urls = tunnels.tunnels.into_iter().map(|tunnel| tunnel.public_url);
        urls.min_by_key(|url| url.scheme() != "https")
    }
}
