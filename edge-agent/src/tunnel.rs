//! A tunnel: a program that makes an address on the internet lead to the receiver.
//!
//! Invariant: an address is told to the relay only after a request of our own has gone round through it; the program
//! ends with the agent, however the agent ends (see [`hold`]).

mod cloudflared;
pub(crate) mod hold;
mod ngrok;
mod tailscale;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::messages::{ChallengeAnswer, Control};
use reqwest::Client;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{Notify, watch};
use url::Url;

use crate::config::{TunnelChoice, is_on_loopback};
use crate::failure::Failure;
use crate::process::Group;
use crate::receiver::Shared;
use crate::report::{Report, shown};
use crate::talk::{detail, say, warn};

/// How long a program may take to have an address, and the address to lead here.
const OPEN_WITHIN: Duration = Duration::from_secs(45);
/// How often a program that is being opened is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How often the program is asked, and how often a request is sent around.
const WATCH_EVERY: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// How many requests in a row may fail on their way round, and what lies between them.
const PROBES: u32 = 3;
const PROBE_AGAIN: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two starts of a program that fails.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A program that makes tunnels.
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

    /// The program that was chosen; none if there is to be none.
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

/// How a running program is asked for its address.
enum Asked {
    Cloudflared(cloudflared::Metrics),
    Ngrok(ngrok::Api),
    Tailscale(tailscale::Status),
}

impl Asked {
    /// The address, once there is one and it is ready.
    async fn address(&self, client: &Client, printed: &Printed) -> Option<Url> {
        match self {
            Self::Cloudflared(metrics) => metrics.address(client).await,
            Self::Ngrok(api) => api.address(client, printed).await,
            Self::Tailscale(status) => status.address().await,
        }
    }
}

/// An address by its host's name. Only a stand-in's is on this machine.
fn address(host: &str) -> Option<Url> {
    let url = Url::parse(&format!("https://{host}/")).ok()?;
    if is_on_loopback(&url) {
        Url::parse(&format!("http://{host}/")).ok()
    } else {
        Some(url)
    }
}

/// The last lines that a program printed.
#[derive(Debug, Clone, Default)]
struct Printed(Arc<Mutex<Vec<String>>>);

impl Printed {
    const LINES: usize = 50;

    fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn last(&self) -> String {
        self.lines().pop().unwrap_or_default()
    }

    fn read(&self, output: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let Some(output) = output else {
            return;
        };
        let kept = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let line: String = line.chars().take(1000).collect();
                detail(format_args!("tunnel: {line}"));
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push(line);
                if kept.len() > Self::LINES {
                    kept.remove(0);
                }
            }
        });
    }
}

/// A program that runs, and ends when this is dropped.
struct Running {
    child: Child,
    _group: Group,
    /// The program ends when nobody holds the other end of this.
    _stdin: Option<ChildStdin>,
    printed: Printed,
}

/// The client that asks the program, and sends requests around: each over a new connection, since an old one may
/// outlive the way that it was made over.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PROBE_TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()
}

/// A tunnel that is kept open.
pub(crate) struct Tunnel {
    pub(crate) program: Program,
    /// Where the receiver listens.
    pub(crate) listen: SocketAddr,
    /// This program itself, which holds the tunnel's.
    pub(crate) own_program: PathBuf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) report: Report,
    pub(crate) address: watch::Sender<Option<Url>>,
    /// The machine was away.
    pub(crate) returned: Arc<Notify>,
}

impl Tunnel {
    /// Keeps the tunnel open for as long as this is polled.
    pub(crate) async fn keep_open(self, client: Client) {
        let name = self.program.name();
        self.report
            .change(|status| status.tunnel = Some(name.to_owned()));
        let (mut said, mut wait) = (String::new(), FIRST_WAIT);
        loop {
            let why = self.open_once(&client, &mut said, &mut wait).await;
            self.address.send_replace(None);
            if said != why {
                warn(format_args!(
                    "the tunnel is down: {why}; pulling meanwhile, and opening it again"
                ));
                said = why;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.returned.notified() => {}
            }
            wait = (2 * wait).min(LONGEST_WAIT);
        }
    }

    /// Opens the tunnel and watches it; answers why it is no longer open.
    async fn open_once(&self, client: &Client, said: &mut String, wait: &mut Duration) -> String {
        let name = self.program.name();
        let (mut running, asked) = match self.start() {
            Ok(started) => started,
            Err(error) => return format!("`{name}` cannot be started: {error:#}"),
        };
        let opening = self.open(client, &asked, &running.printed);
        let clock = &self.shared.clock;
        let opened = tokio::select! {
            address = opening => Some(address),
            () = clock.until(clock.millis() + millis(OPEN_WITHIN)) => None,
            ended = running.child.wait() => return ended_with(name, ended, &running.printed),
        };
        let Some(address) = opened else {
            return format!(
                "`{name}` made no address that leads here within {} s",
                OPEN_WITHIN.as_secs()
            );
        };
        say(format_args!("{name}: {} leads here", shown(&address)));
        said.clear();
        *wait = FIRST_WAIT;
        self.address.send_replace(Some(webhook(&address)));
        let printed = running.printed.clone();
        tokio::select! {
            why = self.watch(client, &asked, &printed, &address) => why,
            ended = running.child.wait() => ended_with(name, ended, &printed),
        }
    }

    fn start(&self) -> anyhow::Result<(Running, Asked)> {
        let program = which::which(self.program.name())?;
        let (arguments, asked) = match self.program {
            Program::Cloudflared => {
                let metrics = cloudflared::Metrics::on_a_free_port()?;
                let arguments = metrics.arguments(self.listen);
                (arguments, Asked::Cloudflared(metrics))
            }
            Program::Ngrok => (
                ngrok::arguments(self.listen),
                Asked::Ngrok(ngrok::Api::default()),
            ),
            Program::Tailscale => (
                tailscale::arguments(self.listen),
                Asked::Tailscale(tailscale::Status(program.clone())),
            ),
        };
        let mut command = Command::new(&self.own_program);
        command
            .arg("hold")
            .arg("--")
            .arg(program)
            .args(arguments)
            .env_remove(crate::membership::TOKEN)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (mut child, group) = Group::spawn(&mut command)?;
        let printed = Printed::default();
        printed.read(child.stdout.take());
        printed.read(child.stderr.take());
        let running = Running {
            _stdin: child.stdin.take(),
            child,
            _group: group,
            printed,
        };
        Ok((running, asked))
    }

    /// Waits for an address that leads here.
    async fn open(&self, client: &Client, asked: &Asked, printed: &Printed) -> Url {
        loop {
            if let Some(address) = asked.address(client, printed).await
                && self.leads_here(client, &address).await
            {
                return address;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Watches an open tunnel; answers what is wrong with it.
    async fn watch(
        &self,
        client: &Client,
        asked: &Asked,
        printed: &Printed,
        address: &Url,
    ) -> String {
        let clock = &self.shared.clock;
        let mut probe_at = clock.millis() + millis(PROBE_EVERY);
        loop {
            let was_away = tokio::select! {
                () = clock.until(clock.millis() + millis(WATCH_EVERY)) => false,
                () = self.returned.notified() => true,
            };
            match asked.address(client, printed).await {
                Some(now) if now != *address => return "its address has changed".to_owned(),
                // What is not ready may be again; whether requests still come round decides.
                _ => {}
            }
            if !was_away && clock.millis() < probe_at {
                continue;
            }
            let mut tries = 0;
            while !self.leads_here(client, address).await {
                tries += 1;
                if tries == PROBES {
                    return "its address does not lead here any more".to_owned();
                }
                // After sleep the network takes a moment, too.
                tokio::time::sleep(PROBE_AGAIN).await;
            }
            probe_at = clock.millis() + millis(PROBE_EVERY);
        }
    }

    /// Whether a challenge of our own comes round.
    async fn leads_here(&self, client: &Client, address: &Url) -> bool {
        goes_round(client, &self.shared, &webhook(address)).await
    }
}

/// Sends a challenge to an address and looks whether this very agent answers it.
async fn goes_round(client: &Client, shared: &Shared, address: &Url) -> bool {
    let challenge = random();
    shared.expect_challenge(Some(challenge.clone()));
    let request = client
        .post(address.clone())
        // ngrok's free addresses answer browsers with a page of their own, unless this is there.
        .header("ngrok-skip-browser-warning", "1")
        .json(&Control::Challenge {
            challenge: challenge.clone(),
        });
    let came_round = async {
        let answer = request.send().await.ok()?;
        let answer: ChallengeAnswer = answer.json().await.ok()?;
        Some(answer.challenge == challenge)
    };
    let came_round = came_round.await.unwrap_or(false);
    shared.expect_challenge(None);
    came_round
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Nobody else can guess it.
fn random() -> String {
    protocol::envelope::digest(protocol::signature::Secret::generate().expose().as_bytes())
}

/// Where the receiver takes deliveries, behind a tunnel's address.
fn webhook(address: &Url) -> Url {
    let mut webhook = address.clone();
    webhook.set_path("/webhook");
    webhook
}

fn ended_with(
    name: &str,
    ended: std::io::Result<std::process::ExitStatus>,
    printed: &Printed,
) -> String {
    let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
    match printed.last().as_str() {
        "" => format!("`{name}` has ended ({status})"),
        last => format!("`{name}` has ended ({status}): {last}"),
    }
}
