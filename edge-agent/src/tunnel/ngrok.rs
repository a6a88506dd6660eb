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
    public_url: String,
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
            let _ = self.0.set(api(&printed.lines())?);
        }
        let url = format!("http://{}/api/tunnels", self.0.get()?);
        address(&super::body(client.get(url).send().await.ok()?).await?)
    }
}

/// The address of the local API in a log.
pub(super) fn api(log: &[String]) -> Option<String> {
    let web = (log.iter())
        .filter_map(|line| serde_json::from_str::<Logged>(line).ok())
        .find(|line| line.obj == "web" && !line.addr.is_empty());
    web.map(|line| line.addr)
}

/// The address in an answer to `/api/tunnels`.
pub(super) fn address(answer: &[u8]) -> Option<Url> {
    let tunnels: Tunnels = serde_json::from_slice(answer).ok()?;
    let urls = (tunnels.tunnels.iter()).filter_map(|tunnel| super::usable(&tunnel.public_url));
    urls.min_by_key(|url| url.scheme() != "https")
}
