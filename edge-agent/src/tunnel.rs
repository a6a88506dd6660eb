//! A tunnel: a program that makes an address on the internet lead to the receiver.
//!
//! Invariant: an address is sent to the relay only after this agent has received its own request through it. The program
//! ends with the agent, however the agent ends (see [`supervisor`]).

mod cloudflared;
#[cfg(test)]
mod fuzz;
mod ngrok;
mod running;
mod tailscale;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::clock::millis;
use protocol::messages::{ChallengeResponse, Control};
use reqwest::Client;
use tokio::sync::{Notify, watch};
use url::Url;

use crate::config::TunnelChoice;
use crate::failure::Failure;
use crate::output::{info, warn};
use crate::problem::Problem;
use crate::report::{Report, shown};
use crate::state::AgentState;
use crate::supervisor;
use crate::target::is_on_loopback;
use running::{Printed, Running};

/// How long a program may take to have an address by which this agent is reachable.
const OPEN_TIMEOUT: Duration = Duration::from_secs(45);
/// How often a program that is opening a tunnel is asked for its address.
const OPEN_INTERVAL: Duration = Duration::from_millis(250);
/// How often an open tunnel's program is asked, and how often the tunnel is probed.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// How many probes in a row have to fail, and the time between them.
const PROBE_TRIES: u32 = 3;
const PROBE_RETRY: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer of a program, or to a probe.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// A program that opens tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Cloudflared,
    Ngrok,
    Tailscale,
}

impl Program {
    const ALL: [Self; 3] = [Self::Cloudflared, Self::Ngrok, Self::Tailscale];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cloudflared => "cloudflared",
            Self::Ngrok => "ngrok",
            Self::Tailscale => "tailscale",
        }
    }

    fn is_installed(self) -> bool {
        which::which(self.name()).is_ok()
    }

    /// The program of a choice; none if the agent pulls.
    pub(crate) fn choose(choice: TunnelChoice) -> Result<Option<Self>, Failure> {
        let program = match choice {
            TunnelChoice::None => return Ok(None),
            TunnelChoice::Auto => {
                return Ok(Self::ALL.into_iter().find(|program| program.is_installed()));
            }
            TunnelChoice::Cloudflared => Self::Cloudflared,
            TunnelChoice::Ngrok => Self::Ngrok,
            TunnelChoice::Tailscale => Self::Tailscale,
        };
        if program.is_installed() {
            Ok(Some(program))
        } else {
            Err(Failure::Configuration(format!(
                "`{}` is not installed, or not in PATH: install it, use `--tunnel auto`, or leave `--tunnel` out to pull",
                program.name()
            )))
        }
    }
}

/// Where a running program's address is found.
enum AddressSource {
    Cloudflared(cloudflared::Metrics),
    Ngrok(ngrok::Api),
    Tailscale(tailscale::StatusCommand),
}

impl AddressSource {
    /// The address, once there is one and it is ready.
    async fn address(&self, clients: &Clients, printed: &Printed) -> Option<Url> {
        match self {
            Self::Cloudflared(metrics) => metrics.address(&clients.here).await,
            Self::Ngrok(api) => api.address(&clients.here, printed).await,
            Self::Tailscale(status) => status.address().await,
        }
    }
}

/// The address of a host. Only that of a stand-in is on this machine.
fn address_of(host: &str) -> Option<Url> {
    usable(&format!("https://{host}/")).or_else(|| usable(&format!("http://{host}/")))
}

/// An address that the relay can send to: a host by https, or one on this machine by http, without anything else.
fn usable(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let scheme = if is_on_loopback(&url) {
        "http"
    } else {
        "https"
    };
    let has_user = !url.username().is_empty() || url.password().is_some();
    let has_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
    (url.scheme() == scheme && !has_user && !has_more).then_some(url)
}

/// The body of an answer, unless it is longer than [`ANSWER_LIMIT`].
async fn body(mut answer: reqwest::Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_LIMIT {
            return None;
        }
    }
    Some(body)
}

/// The clients for probes and for the programs' APIs. Each request has a new connection, because an old one may outlive
/// the tunnel.
pub(crate) struct Clients {
    /// For addresses anywhere: through the machine's proxy, if there is one.
    anywhere: Client,
    /// For addresses on this machine, which a proxy cannot reach.
    here: Client,
}

impl Clients {
    pub(crate) fn new() -> reqwest::Result<Self> {
        let builder = || {
            Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(PROBE_TIMEOUT)
                .pool_max_idle_per_host(0)
        };
        Ok(Self {
            anywhere: builder().build()?,
            here: builder().no_proxy().build()?,
        })
    }

    fn to(&self, address: &Url) -> &Client {
        match is_on_loopback(address) {
            true => &self.here,
            false => &self.anywhere,
        }
    }
}

/// A tunnel that is kept open.
pub(crate) struct Tunnel {
    pub(crate) program: Program,
    /// Where the receiver listens.
    pub(crate) listen: SocketAddr,
    pub(crate) state: Arc<AgentState>,
    pub(crate) report: Report,
    pub(crate) address: watch::Sender<Option<Url>>,
    /// The machine was asleep, or has moved to another network.
    pub(crate) resumed: Arc<Notify>,
}

impl Tunnel {
    /// Keeps the tunnel open until the task is aborted.
    pub(crate) async fn keep_open(self, clients: Clients) {
        let name = self.program.name();
        self.report
            .change(|status| status.tunnel = Some(name.to_owned()));
        let mut problem = Problem::none();
        loop {
            let why = self.open_once(&clients, &mut problem).await;
            self.address.send_replace(None);
            let wait = problem.occurs(&why, || {
                warn(format_args!(
                    "the tunnel is down: {why}; pulling meanwhile, and opening it again"
                ));
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.resumed.notified() => {}
            }
        }
    }

    /// Opens the tunnel and watches it. Returns why it is no longer open.
    async fn open_once(&self, clients: &Clients, problem: &mut Problem) -> String {
        let name = self.program.name();
        let (mut running, source) = match self.start() {
            Ok(started) => started,
            Err(error) => return format!("`{name}` cannot be started: {error:#}"),
        };
        let printed = running.printed.clone();
        let opening = self.open(clients, &source, &printed);
        let clock = &self.state.clock;
        let opened = tokio::select! {
            address = opening => Some(address),
            () = clock.until(clock.millis() + millis(OPEN_TIMEOUT)) => None,
            why = running.ended(name) => return why,
        };
        let Some(address) = opened else {
            return format!(
                "`{name}` made no address that reaches this agent within {} s",
                OPEN_TIMEOUT.as_secs()
            );
        };
        info(format_args!(
            "{name}: {} reaches this agent",
            shown(&address)
        ));
        problem.ends();
        self.address.send_replace(Some(webhook(&address)));
        tokio::select! {
            why = self.watch(clients, &source, &printed, &address) => why,
            why = running.ended(name) => why,
        }
    }

    fn start(&self) -> anyhow::Result<(Running, AddressSource)> {
        let program = which::which(self.program.name())?;
        let (arguments, source) = match self.program {
            Program::Cloudflared => {
                let metrics = cloudflared::Metrics::on_a_free_port()?;
                let arguments = metrics.arguments(self.listen);
                (arguments, AddressSource::Cloudflared(metrics))
            }
            Program::Ngrok => (
                ngrok::arguments(self.listen),
                AddressSource::Ngrok(ngrok::Api::default()),
            ),
            Program::Tailscale => (
                tailscale::arguments(self.listen),
                AddressSource::Tailscale(tailscale::StatusCommand(program.clone())),
            ),
        };
        let mut command = supervisor::command(&self.state.program, None);
        command.arg(program).args(arguments);
        Ok((Running::start(&mut command)?, source))
    }

    /// Waits for an address by which this agent is reachable.
    async fn open(&self, clients: &Clients, source: &AddressSource, printed: &Printed) -> Url {
        loop {
            if let Some(address) = source.address(clients, printed).await
                && self.is_reachable(clients, &address).await
            {
                return address;
            }
            tokio::time::sleep(OPEN_INTERVAL).await;
        }
    }

    /// Watches an open tunnel. Returns why it is no longer usable.
    async fn watch(
        &self,
        clients: &Clients,
        source: &AddressSource,
        printed: &Printed,
        address: &Url,
    ) -> String {
        let clock = &self.state.clock;
        let mut probe_at = clock.millis() + millis(PROBE_INTERVAL);
        loop {
            let has_resumed = tokio::select! {
                () = clock.until(clock.millis() + millis(WATCH_INTERVAL)) => false,
                () = self.resumed.notified() => true,
            };
            match source.address(clients, printed).await {
                Some(now) if now != *address => return "its address has changed".to_owned(),
                // A program that is not ready may become ready again. The probe decides.
                _ => {}
            }
            if !has_resumed && clock.millis() < probe_at {
                continue;
            }
            let mut tries = 0;
            while !self.is_reachable(clients, address).await {
                tries += 1;
                if tries == PROBE_TRIES {
                    return "its address does not lead here any more".to_owned();
                }
                // After a sleep, the network takes a moment.
                tokio::time::sleep(PROBE_RETRY).await;
            }
            probe_at = clock.millis() + millis(PROBE_INTERVAL);
        }
    }

    /// Whether this agent is reachable by the address.
    async fn is_reachable(&self, clients: &Clients, address: &Url) -> bool {
        round_trip(clients.to(address), &self.state, &webhook(address)).await
    }
}

/// Sends a challenge to an address. Returns whether this agent answered it.
async fn round_trip(client: &Client, state: &AgentState, address: &Url) -> bool {
    let expected = state.expect_challenge();
    let challenge = expected.nonce();
    let request = client
        .post(address.clone())
        // ngrok's free addresses answer browsers with a page of their own, unless this is there.
        .header("ngrok-skip-browser-warning", "1")
        .json(&Control::Challenge {
            challenge: challenge.clone(),
            nonce: Some(expected.nonce()),
        });
    let is_answered = async {
        let answer = request.send().await.ok()?;
        let answer: ChallengeResponse = serde_json::from_slice(&body(answer).await?).ok()?;
        Some(answer.challenge == challenge)
    };
    is_answered.await.unwrap_or(false)
}

/// The address of the receiver, behind a tunnel's address.
fn webhook(address: &Url) -> Url {
    let mut webhook = address.clone();
    webhook.set_path("/webhook");
    webhook
}
