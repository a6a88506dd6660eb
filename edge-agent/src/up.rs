//! The daemon: starts listening, registers as a worker, handles what is stored, and shuts down in order.
//!
//! Invariant: it listens before it registers, because the relay challenges its address. It never ends because the relay or
//! Linear is down.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use protocol::clock::{Clock, UnixMillis, millis, rfc3339};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Route};
use crate::data_directory::{DataDirectory, Lock};
use crate::failure::Failure;
use crate::membership::{Membership, Reported, go_offline, linear_token};
use crate::output::{hint, info, verbose, warn};
use crate::receiver::serve;
use crate::registration::Registration;
use crate::relay::Relay;
use crate::report::{Report, Status, shown};
use crate::signal::Signal;
use crate::state::AgentState;
use crate::store::{Store, set_aside};
use crate::tunnel::{Program, Tunnel};
use crate::{handling, inspector, ndjson, sleep_watcher, trust, tunnel};

/// How often old events are deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How long printing may take to end, because its reader may be slow or gone.
const PRINT_TIMEOUT: Duration = Duration::from_secs(3);

/// What the daemon gets from its process. A test provides its own.
pub struct Environment {
    /// The clock.
    pub clock: Clock,
    /// Returns the default route.
    pub route: Box<dyn Fn() -> Option<String> + Send>,
    /// The path of this program, which supervises others.
    pub program: PathBuf,
    /// Whether what is printed is gone at once.
    pub prints_to_nowhere: bool,
    /// The signals that the process receives.
    pub signals: mpsc::Receiver<Signal>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

/// Runs until the process gets a signal to end. `read` reads the settings, at the start and on a reload.
pub(crate) async fn run(
    directory: &DataDirectory,
    read: impl Fn() -> Result<Config, Failure>,
    mut environment: Environment,
) -> Result<(), Failure> {
    let config = read()?;
    if config.rules.is_empty() && environment.prints_to_nowhere {
        return Err(Failure::Configuration(
            "stdout is closed or /dev/null, and without a handler events are printed there: name a TARGET or `--exec`, or \
             give stdout a reader"
                .to_owned(),
        ));
    }
    trust::verify(directory, &config)?;
    let mut daemon = Daemon::start(directory, config, &mut environment).await?;
    let ended = daemon.wait(&read, &mut environment.signals).await;
    let ended = match ended {
        Ended::Signal => Ok(()),
        Ended::Task(result) => result,
        Ended::StoreDamaged => Err(Failure::Failed(replace_damaged_store(
            directory,
            environment.clock.millis(),
        ))),
    };
    daemon.shut_down(&mut environment.signals).await;
    ended
}

/// A running agent.
struct Daemon {
    state: Arc<AgentState>,
    relay: Relay,
    report: Report,
    config: watch::Sender<Arc<Config>>,
    receiver: JoinHandle<()>,
    inspector: Option<JoinHandle<()>>,
    /// Stops the inspector, too.
    stop_receiver: CancellationToken,
    handling: JoinHandle<anyhow::Result<()>>,
    membership: JoinHandle<Result<(), Failure>>,
    /// The tasks that are aborted at the end.
    background: Vec<JoinHandle<()>>,
    _lock: Lock,
}

/// Why the daemon shuts down.
enum Ended {
    Signal,
    Task(Result<(), Failure>),
    StoreDamaged,
}

/// What has to be there before anything is started.
struct Resources {
    program: Option<Program>,
    lock: Lock,
    state: Arc<AgentState>,
    listener: TcpListener,
    listen: SocketAddr,
    inspector: Option<TcpListener>,
    relay: Relay,
}

impl Resources {
    async fn open(
        directory: &DataDirectory,
        config: &Config,
        clock: Clock,
        own_program: PathBuf,
    ) -> Result<Self, Failure> {
        let program = match &config.route {
            Route::Tunnel(choice) => Program::choose(*choice)?,
            Route::Pull | Route::PublicUrl(_) => None,
        };
        let registration = Registration::read(&directory.registration())?
            .filter(|r| r.relay == config.relay.as_str() && r.name == config.name);
        if registration.is_none() {
            // Without a token the agent cannot register. This error is clearer than the relay's.
            linear_token(config)?;
        }
        let lock = directory.lock()?;
        let store = Store::open(&directory.events(), clock.millis())?;
        let listener = listen(config).await?;
        Ok(Self {
            program,
            lock,
            state: Arc::new(AgentState::new(clock, own_program, store, registration)),
            listen: (listener.local_addr()).context("the listener has no address")?,
            listener,
            inspector: inspector::listen(config.inspect).await?,
            relay: Relay::new(config.relay.clone())?,
        })
    }
}

impl Daemon {
    async fn start(
        directory: &DataDirectory,
        config: Config,
        environment: &mut Environment,
    ) -> Result<Self, Failure> {
        let (clock, program) = (environment.clock.clone(), environment.program.clone());
        let Resources {
            program,
            lock,
            state,
            listener,
            listen,
            inspector,
            relay,
        } = Resources::open(directory, &config, clock, program).await?;
        describe(&config, listen, program);
        let report = new_report(directory, &config, listen, &environment.clock);
        let address = watch::Sender::new(config.route.address());
        let (resumed, tunnel_resumed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let config = watch::Sender::new(Arc::new(config));

        let stop_receiver = CancellationToken::new();
        let receiver = serve(listener, Arc::clone(&state), stop_receiver.clone());
        let membership = Membership {
            relay: relay.clone(),
            file: directory.registration(),
            holder: directory.holder()?,
            state: Arc::clone(&state),
            report: report.clone(),
            config: config.subscribe(),
            address: address.subscribe(),
            resumed: Arc::clone(&resumed),
            checked_at: 0,
            is_withheld: false,
            active_at: state.clock.millis(),
            reported: Reported::default(),
        };
        let mut background = vec![
            watch_sleep(environment, [resumed, Arc::clone(&tunnel_resumed)]),
            tokio::spawn(prune(Arc::clone(&state), config.subscribe())),
        ];
        let stop = stop_receiver.clone();
        let serve_inspector =
            |listener| inspector::serve(listener, directory, &state, &report, &relay, stop);
        let inspector = inspector.map(serve_inspector).transpose()?;
        if let Some(program) = program {
            background.push(open_tunnel(Tunnel {
                program,
                listen,
                state: Arc::clone(&state),
                report: report.clone(),
                address,
                resumed: tunnel_resumed,
            })?);
        }
        Ok(Self {
            receiver: tokio::spawn(receiver),
            inspector,
            stop_receiver,
            handling: spawn_handling(&state, &report, &config),
            membership: tokio::spawn(membership.keep()),
            state,
            relay,
            report,
            config,
            background,
            _lock: lock,
        })
    }

    /// Waits until the daemon has to shut down.
    async fn wait(
        &mut self,
        read: &impl Fn() -> Result<Config, Failure>,
        signals: &mut mpsc::Receiver<Signal>,
    ) -> Ended {
        loop {
            tokio::select! {
                ended = &mut self.membership => return Ended::Task(task_result(ended)),
                ended = &mut self.handling => {
                    let ended = ended.map(|ended| ended.map_err(Failure::from));
                    return Ended::Task(task_result(ended));
                }
                () = self.state.store_is_damaged.notified() => return Ended::StoreDamaged,
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => reload(read, &self.config),
                    Some(Signal::Shutdown) | None => return Ended::Signal,
                },
            }
        }
    }

    /// Shuts down in order: the agent accepts nothing new, the relay parks what comes, and running handlers end. A second
    /// signal ends the handlers at once.
    async fn shut_down(mut self, signals: &mut mpsc::Receiver<Signal>) {
        self.state.shutdown.cancel();
        self.membership.abort();
        let prints = self.config.borrow().rules.is_empty();
        let ending = async {
            let offline = async {
                if let Some(registration) = self.state.registration() {
                    go_offline(&self.relay, &registration).await;
                }
            };
            tokio::join!(offline, end_handling(&mut self.handling, prints));
        };
        let is_graceful = tokio::select! {
            () = ending => true,
            () = second_signal(signals) => false,
        };
        if !is_graceful {
            warn("ending at once");
            self.handling.abort();
            let _ = self.handling.await;
        }
        // The tunnel ends last: until here, requests through it were answered.
        for task in self.background {
            task.abort();
            let _ = task.await;
        }
        self.stop_receiver.cancel();
        let _ = self.receiver.await;
        if let Some(inspector) = self.inspector {
            let _ = inspector.await;
        }
        self.report.end();
    }
}

/// Where nothing else is asked for.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4747);

/// Listens where it was asked to, else at a fixed address. A worker that only pulls does not need that one.
async fn listen(config: &Config) -> Result<TcpListener, Failure> {
    let address = config.listen.unwrap_or(LISTEN);
    let mut bound = TcpListener::bind(address).await;
    if bound.is_err() && config.listen.is_none() && config.route == Route::Pull {
        bound = TcpListener::bind((LISTEN.ip(), 0)).await;
    }
    bound.map_err(|error| {
        Failure::Configuration(format!(
            "cannot listen on `{address}`: {error}; use another `--listen`"
        ))
    })
}

/// Writes how the agent was started.
fn describe(config: &Config, listen: SocketAddr, program: Option<Program>) {
    info(format_args!("listening on http://{listen}/webhook"));
    let settings = match &config.file {
        Some(file) => {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            format!("{}", file.display())
        }
        None => "flags and variables alone".to_owned(),
    };
    info(format_args!(
        "relay {}, settings from {settings}",
        shown(&config.relay)
    ));
    for doubt in &config.doubts {
        warn(doubt);
    }
    if program.is_none() && matches!(config.route, Route::Tunnel(_)) {
        hint("no tunnel program is installed (cloudflared, ngrok or tailscale): pulling");
    }
}

fn new_report(
    directory: &DataDirectory,
    config: &Config,
    listen: SocketAddr,
    clock: &Clock,
) -> Report {
    let status = Status {
        pid: std::process::id(),
        started_at: rfc3339(clock.millis()),
        listen: listen.to_string(),
        relay: config.relay.origin().ascii_serialization(),
        name: config.name.clone(),
        poll: config.poll.to_string(),
        settings: (config.file.as_ref()).map(|file| file.display().to_string()),
        ..Status::default()
    };
    Report::new(directory.report(), status)
}

fn open_tunnel(tunnel: Tunnel) -> anyhow::Result<JoinHandle<()>> {
    let clients = tunnel::Clients::new().context("cannot make an HTTP client")?;
    Ok(tokio::spawn(tunnel.keep_open(clients)))
}

fn watch_sleep(environment: &mut Environment, notified: [Arc<Notify>; 2]) -> JoinHandle<()> {
    let route = std::mem::replace(&mut environment.route, Box::new(|| None));
    let clock = environment.clock.clone();
    tokio::spawn(sleep_watcher::watch(clock, route, notified))
}

fn spawn_handling(
    state: &Arc<AgentState>,
    report: &Report,
    config: &watch::Sender<Arc<Config>>,
) -> JoinHandle<anyhow::Result<()>> {
    let (state, report, config) = (Arc::clone(state), report.clone(), config.subscribe());
    let (prints, acknowledged) = (config.borrow().rules.is_empty(), config.borrow().ack);
    tokio::spawn(async move {
        if prints {
            ndjson::run(&state, acknowledged).await
        } else {
            handling::run(state, report, config).await
        }
    })
}

/// The result of a task. A panic is a failure.
fn task_result(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|error| Err(Failure::Failed(error.into())))
}

/// Waits for the second signal to end.
async fn second_signal(signals: &mut mpsc::Receiver<Signal>) {
    loop {
        match signals.recv().await {
            Some(Signal::Shutdown) => return,
            Some(Signal::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

/// Waits for the handlers, which have a grace period, or for printing, which may never end.
async fn end_handling(handling: &mut JoinHandle<anyhow::Result<()>>, prints: bool) {
    let timeout = if prints {
        PRINT_TIMEOUT
    } else {
        handling::GRACE_PERIOD + Duration::from_secs(1)
    };
    if !handling.is_finished() && tokio::time::timeout(timeout, &mut *handling).await.is_err() {
        handling.abort();
    }
}

/// Reads the settings again. If anything is wrong, all settings stay as they were.
fn reload(read: &impl Fn() -> Result<Config, Failure>, config: &watch::Sender<Arc<Config>>) {
    let new = match read() {
        Ok(new) => new,
        Err(error) => {
            warn(format_args!("the settings stay as they were: {error}"));
            return;
        }
    };
    let old = Arc::clone(&config.borrow());
    let fixed = [
        ("relay", new.relay != old.relay),
        ("name", new.name != old.name),
        ("listen", new.listen != old.listen),
        ("inspect", new.inspect != old.inspect),
        ("ack", new.ack != old.ack),
        ("tunnel, public-url or pull", new.route != old.route),
        (
            "whether there is a handler",
            new.rules.is_empty() != old.rules.is_empty(),
        ),
    ];
    let fixed: Vec<_> = (fixed.into_iter())
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect();
    if !fixed.is_empty() {
        warn(format_args!(
            "the settings stay as they were: {} cannot change while it runs, start it again",
            fixed.join(", ")
        ));
        return;
    }
    config.send_replace(Arc::new(new));
    info("the settings were read again");
}

/// Deletes old events, at the start and then periodically.
async fn prune(state: Arc<AgentState>, mut config: watch::Receiver<Arc<Config>>) {
    loop {
        let current = Arc::clone(&config.borrow_and_update());
        let now = state.clock.millis();
        match state
            .store
            .prune(now, current.keep, current.keep_size)
            .await
        {
            Ok(0) => {}
            Ok(pruned) => verbose(format_args!("{pruned} old events deleted")),
            Err(error) => warn(format_args!("old events cannot be deleted: {error:#}")),
        }
        let next = state.clock.millis() + millis(PRUNE_INTERVAL);
        tokio::select! {
            () = state.clock.until(next) => {}
            changed = config.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Moves the damaged store aside, so that the next start creates a new one. Returns the error to end with.
fn replace_damaged_store(directory: &DataDirectory, now: UnixMillis) -> anyhow::Error {
    match set_aside(&directory.events(), now) {
        Ok(aside) => anyhow::anyhow!(
            "the stored events are damaged: they are in `{}` now; start again, and a new file is begun",
            aside.display()
        ),
        Err(error) => error,
    }
}
