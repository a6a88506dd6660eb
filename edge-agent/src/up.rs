//! The daemon: listen, be a worker, handle what is stored, and end in order.
//!
//! Invariant: it listens before it registers, since the relay challenges the address; it never ends because the relay
//! or Linear is down.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use protocol::clock::{Clock, rfc3339};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::{Config, Route};
use crate::failure::Failure;
use crate::home::Home;
use crate::membership::{Member, goodbye, linear_token};
use crate::receiver::{Shared, serve};
use crate::registration::Registration;
use crate::relay::Relay;
use crate::report::{Report, Status};
use crate::signal::Told;
use crate::store::{Store, set_aside};
use crate::talk::{detail, hint, say, warn};
use crate::tunnel::{Program, Tunnel};
use crate::{absence, handling, output, tunnel};

/// How often old events are deleted.
const PRUNE_EVERY: Duration = Duration::from_secs(10 * 60);
/// How long what is being printed may take to end: nobody may be reading.
const PRINTED_WITHIN: Duration = Duration::from_secs(3);

/// What the daemon stands in; a test brings its own.
pub struct Surroundings {
    /// Tells the time.
    pub clock: Clock,
    /// Tells the default route.
    pub route: Box<dyn Fn() -> Option<String> + Send>,
    /// This program's file: it holds the tunnel's.
    pub own_program: PathBuf,
    /// What signals say.
    pub told: mpsc::Receiver<Told>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Runs until it is told to end; `read` reads the settings, at the start and when told to.
pub(crate) async fn run(
    home: &Home,
    read: impl Fn() -> Result<Config, Failure>,
    mut around: Surroundings,
) -> Result<(), Failure> {
    let config = Arc::new(read()?);
    let program = match &config.route {
        Route::Tunnel(choice) => Program::choose(*choice)?,
        Route::Pull | Route::PublicUrl(_) => None,
    };
    let registration = Registration::read(&home.registration())?
        .filter(|r| r.relay == config.relay.as_str() && r.name == config.name);
    if registration.is_none() {
        // Without one there is nothing to run with: better said now than by the relay.
        linear_token(&config)?;
    }
    let lock = home.take()?;
    let store = Store::open(&home.events(), around.clock.millis())?;
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        Failure::Configuration(format!(
            "cannot listen on `{}`: {error}; use another `--listen`",
            config.listen
        ))
    })?;
    let listen = (listener.local_addr()).context("the listener has no address")?;
    let relay = Relay::new(config.relay.clone())?;
    say(format_args!("listening on http://{listen}/webhook"));
    if let Some(file) = &config.file {
        detail(format_args!("settings from {}", file.display()));
    }

    let shared = Arc::new(Shared::new(around.clock.clone(), store, registration));
    let report = Report::new(
        home.report(),
        Status {
            pid: std::process::id(),
            started_at: rfc3339(around.clock.millis()),
            listen: listen.to_string(),
            relay: config.relay.origin().ascii_serialization(),
            name: config.name.clone(),
            ..Status::default()
        },
    );
    let (configure, configured) = watch::channel(Arc::clone(&config));
    let (stop, stopped) = watch::channel(false);
    let (stop_receiver, receiver_stopped) = watch::channel(false);
    let (to_member, to_tunnel) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let address = watch::Sender::new(match &config.route {
        Route::PublicUrl(url) => Some(url.clone()),
        Route::Pull | Route::Tunnel(_) => None,
    });

    let receiver = tokio::spawn(serve(listener, Arc::clone(&shared), receiver_stopped));
    let mut handling = tokio::spawn({
        let (shared, report, configured) =
            (Arc::clone(&shared), report.clone(), configured.clone());
        let prints = config.rules.is_empty();
        async move {
            if prints {
                output::run(&shared, stopped).await
            } else {
                handling::run(shared, report, configured, stopped).await
            }
        }
    });
    let mut member = tokio::spawn(
        Member {
            relay: relay.clone(),
            file: home.registration(),
            shared: Arc::clone(&shared),
            report: report.clone(),
            config: configured,
            address: address.subscribe(),
            returned: Arc::clone(&to_member),
        }
        .stay(),
    );
    let mut background = vec![
        tokio::spawn(absence::watch(
            around.clock.clone(),
            around.route,
            [to_member, Arc::clone(&to_tunnel)],
        )),
        tokio::spawn(prune(Arc::clone(&shared), configure.subscribe())),
    ];
    match (program, &config.route) {
        (Some(program), _) => {
            let client = tunnel::client().context("cannot make an HTTP client")?;
            let tunnel = Tunnel {
                program,
                listen,
                own_program: around.own_program,
                shared: Arc::clone(&shared),
                report: report.clone(),
                address: address.clone(),
                returned: to_tunnel,
            };
            background.push(tokio::spawn(tunnel.keep_open(client)));
        }
        (None, Route::Tunnel(_)) => {
            hint("no tunnel program is installed (cloudflared, ngrok or tailscale): pulling");
        }
        (None, _) => {}
    }

    let done = loop {
        tokio::select! {
            done = &mut member => break ended(done),
            done = &mut handling => break ended(done.map(|done| done.map_err(Failure::from))),
            () = shared.damaged.notified() => break Err(Failure::Failed(aside(home, around.clock.millis()))),
            told = around.told.recv() => match told {
                Some(Told::Reload) => reload(&read, &configure),
                Some(Told::End) | None => break Ok(()),
            },
        }
    };

    // In order: nothing new is taken, the relay lets mail wait, what runs may end.
    shared.is_ending.store(true, Ordering::Release);
    stop.send_replace(true);
    member.abort();
    let ending = async {
        let goodbye = async {
            if let Some(registration) = shared.registration() {
                goodbye(&relay, &registration).await;
            }
        };
        tokio::join!(goodbye, end(&mut handling, config.rules.is_empty()));
    };
    let ended_at_once = tokio::select! {
        () = ending => false,
        () = second_end(&mut around.told) => true,
    };
    if ended_at_once {
        warn("ending at once");
        handling.abort();
        let _ = handling.await;
    }
    // The tunnel with it: until here, what came through it was answered.
    for task in background {
        task.abort();
        let _ = task.await;
    }
    stop_receiver.send_replace(true);
    let _ = receiver.await;
    report.end();
    drop(lock);
    done
}

/// What a task ended with; a panic is a failure.
fn ended(done: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    done.unwrap_or_else(|error| Err(Failure::Failed(error.into())))
}

/// Waits for the second time that the agent is told to end.
async fn second_end(told: &mut mpsc::Receiver<Told>) {
    loop {
        match told.recv().await {
            Some(Told::End) => return,
            Some(Told::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

/// Waits for what runs, which has a time of its own, or for what is being printed, which may never end.
async fn end(handling: &mut JoinHandle<anyhow::Result<()>>, prints: bool) {
    let within = if prints {
        PRINTED_WITHIN
    } else {
        handling::GRACE + Duration::from_secs(1)
    };
    if !handling.is_finished() && tokio::time::timeout(within, &mut *handling).await.is_err() {
        handling.abort();
    }
}

/// Reads the settings again; what is wrong is refused as a whole.
fn reload(read: &impl Fn() -> Result<Config, Failure>, configure: &watch::Sender<Arc<Config>>) {
    let new = match read() {
        Ok(new) => new,
        Err(error) => {
            warn(format_args!("the settings stay as they were: {error}"));
            return;
        }
    };
    let old = Arc::clone(&configure.borrow());
    let fixed = [
        ("relay", new.relay != old.relay),
        ("name", new.name != old.name),
        ("listen", new.listen != old.listen),
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
    configure.send_replace(Arc::new(new));
    say("the settings were read again");
}

/// Deletes what is old, at the start and then now and again.
async fn prune(shared: Arc<Shared>, mut config: watch::Receiver<Arc<Config>>) {
    loop {
        let now = Arc::clone(&config.borrow_and_update());
        let pruned = (shared.store)
            .prune(shared.clock.millis(), now.keep, now.keep_size)
            .await;
        match pruned {
            Ok(0) => {}
            Ok(pruned) => detail(format_args!("{pruned} old events deleted")),
            Err(error) => warn(format_args!("old events cannot be deleted: {error:#}")),
        }
        let next =
            shared.clock.millis() + i64::try_from(PRUNE_EVERY.as_millis()).unwrap_or_default();
        tokio::select! {
            () = shared.clock.until(next) => {}
            changed = config.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Moves the damaged events away, so that the next start begins a new file; answers with what happened.
fn aside(home: &Home, now: i64) -> anyhow::Error {
    match set_aside(&home.events(), now) {
        Ok(aside) => anyhow::anyhow!(
            "the stored events are damaged: they are in `{}` now; start again, and a new file is begun",
            aside.display()
        ),
        Err(error) => error,
    }
}
