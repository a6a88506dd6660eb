//! The daemon: listen, register, pull what waits, stay registered, say goodbye.
//!
//! Invariant: it listens before it registers, since the relay challenges the address; it never ends because the
//! relay or Linear is down.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use protocol::messages::{Register, Renew, State};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};

use crate::cli::{Failure, Up};
use crate::receiver::{Shared, router};
use crate::registration::{Home, Registration};
use crate::relay::{CallError, Relay};
use crate::signal::told_to_end;
use crate::store::Store;
use crate::talk::say;
use crate::{mailbox, output};

const TOKEN: &str = "LINEAR_TOKEN";

/// How often the lease is renewed: this also tells a worker that was turned away that it was.
const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// Runs until a signal.
pub(crate) async fn run(arguments: Up) -> Result<(), Failure> {
    let home = Home::take(directory(&arguments)?)?;
    let stored = Registration::read(&home.registration())?
        .filter(|r| r.relay == arguments.relay.as_str() && r.name == arguments.name);
    let token = linear_token(&arguments)?;
    if stored.is_none() && token.is_none() {
        return Err(Failure::Configuration(format!(
            "to register, a Linear API key or OAuth token is needed: set `{TOKEN}`, or use `--linear-token-file`"
        )));
    }
    let secrets = stored
        .iter()
        .map(Registration::secret)
        .collect::<Result<_, _>>()?;
    let shared = Arc::new(Shared {
        store: Store::open(&home.events())?,
        secrets: RwLock::new(secrets),
        is_registering: AtomicBool::new(false),
        stored: Notify::new(),
        waiting: Notify::new(),
    });
    let listener = TcpListener::bind(arguments.listen).await.map_err(|error| {
        Failure::Configuration(format!("cannot listen on `{}`: {error}", arguments.listen))
    })?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    say(format_args!("listening on http://{address}/webhook"));
    let (stop, stopped) = oneshot::channel::<()>();
    let receiver = tokio::spawn({
        let router = router(Arc::clone(&shared));
        async move {
            let until = async { drop(stopped.await) };
            axum::serve(listener, router)
                .with_graceful_shutdown(until)
                .await
        }
    });

    let agent = Agent {
        relay: Relay::new(arguments.relay.clone())?,
        home,
        token,
        shared: Arc::clone(&shared),
        arguments,
    };
    let (stop_output, output_stopped) = watch::channel(false);
    let mut printing = tokio::spawn({
        let shared = Arc::clone(&shared);
        async move { output::run(&shared, output_stopped).await }
    });
    let mut registration = stored;
    let done = tokio::select! {
        done = agent.stay_registered(&mut registration) => done,
        done = &mut printing => done.context("the output ended").flatten().map_err(Failure::from),
        told = told_to_end() => told.context("cannot listen for signals").map_err(Failure::from),
    };
    stop_output.send_replace(true);
    if !printing.is_finished() {
        // Nobody may be reading: what is not marked as printed is printed again at the next start.
        let _ = tokio::time::timeout(GOODBYE, printing).await;
    }
    if let Some(registration) = &registration {
        agent.goodbye(registration).await;
    }
    drop(stop);
    let _ = tokio::time::timeout(GOODBYE, receiver).await;
    done
}

fn directory(arguments: &Up) -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy as _;
    match &arguments.data {
        Some(directory) => Ok(directory.clone()),
        None => etcetera::choose_base_strategy()
            .map(|base| base.data_dir().join("edge-agent"))
            .map_err(|error| Failure::Configuration(format!("{error}: use `--data`"))),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the token must not be an argument, so clap cannot read it"
)]
fn linear_token(arguments: &Up) -> Result<Option<String>, Failure> {
    let text = match &arguments.linear_token_file {
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
            Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
        })?),
        None => std::env::var(TOKEN).ok(),
    };
    Ok(text
        .map(|token| token.trim().to_owned())
        .filter(|token| !token.is_empty()))
}

struct Agent {
    relay: Relay,
    home: Home,
    token: Option<String>,
    shared: Arc<Shared>,
    arguments: Up,
}

impl Agent {
    /// Registers or renews, empties the mailbox, and does so again whenever it is time.
    async fn stay_registered(
        &self,
        registration: &mut Option<Registration>,
    ) -> Result<(), Failure> {
        loop {
            if registration.is_none() {
                let new = self.patiently(|| self.register()).await?;
                new.write(&self.home.registration())?;
                self.shared.set_secret(new.secret()?);
                *registration = Some(new);
            }
            let Some(current) = registration.as_ref() else {
                continue;
            };
            match self.serve(current).await {
                Err(error) if error.is_unknown_worker() && self.token.is_some() => {
                    say("the registration has ended: registering again");
                    *registration = None;
                }
                Err(error) => return Err(refused(&error)),
                Ok(()) => {}
            }
        }
    }

    async fn register(&self) -> Result<Registration, CallError> {
        let request = Register {
            webhook_url: self.arguments.public_url.as_ref().map(ToString::to_string),
            linear_token: self.token.clone().unwrap_or_default(),
            name: self.arguments.name.clone(),
            capabilities: (!self.arguments.types.is_empty()).then(|| self.arguments.types.clone()),
        };
        self.shared.is_registering.store(true, Ordering::Release);
        let registered = self.relay.register(&request).await;
        self.shared.is_registering.store(false, Ordering::Release);
        let registered = registered?;
        say(format_args!(
            "registered as `{}` in workspace `{}`, {}",
            request.name,
            registered.workspace.name,
            registered.state.as_str()
        ));
        Ok(Registration::new(
            self.arguments.relay.as_str(),
            &request.name,
            registered,
        ))
    }

    /// Renews, pulls, waits, and again; ends only when the relay refuses.
    async fn serve(&self, registration: &Registration) -> Result<(), CallError> {
        // What was registered before may have been registered with other arguments.
        let mut renewal = Renew {
            webhook_url: Some(self.arguments.public_url.as_ref().map(ToString::to_string)),
            capabilities: Some(
                (!self.arguments.types.is_empty()).then(|| self.arguments.types.clone()),
            ),
            state: None,
        };
        let poll = match self.arguments.public_url {
            Some(_) => RENEW_EVERY,
            None => Duration::from_secs(self.arguments.poll),
        };
        loop {
            let worker = self
                .patiently_call(|| self.renew(registration, &renewal))
                .await?;
            renewal = Renew::default();
            if worker.waiting || worker.state != State::Live {
                self.pull(registration).await?;
            }
            say(format_args!(
                "ready: `{}` is {}",
                worker.name,
                match worker.state {
                    State::Pull => "a pull worker",
                    State::Live | State::Away => "live",
                }
            ));
            let renew_at = tokio::time::Instant::now() + RENEW_EVERY;
            while tokio::time::Instant::now() < renew_at {
                let woken = tokio::time::timeout(poll, self.shared.waiting.notified()).await;
                if woken.is_ok() || worker.state == State::Pull {
                    self.pull(registration).await?;
                }
            }
        }
    }

    async fn renew(
        &self,
        registration: &Registration,
        renewal: &Renew,
    ) -> Result<protocol::messages::Worker, CallError> {
        let has_address = renewal.webhook_url.is_some();
        self.shared
            .is_registering
            .store(has_address, Ordering::Release);
        let renewed = self.relay.renew(registration, renewal).await;
        self.shared.is_registering.store(false, Ordering::Release);
        renewed
    }

    async fn pull(&self, registration: &Registration) -> Result<(), CallError> {
        let pulled = self
            .patiently_call(|| mailbox::empty(&self.relay, registration, &self.shared))
            .await?;
        if pulled > 0 {
            say(format_args!("{pulled} from the mailbox"));
        }
        Ok(())
    }

    async fn patiently<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, Failure> {
        self.patiently_call(call)
            .await
            .map_err(|error| refused(&error))
    }

    /// Calls until it is answered or refused; says once why it waits.
    async fn patiently_call<T, F: Future<Output = Result<T, CallError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, CallError> {
        let mut wait = FIRST_WAIT;
        let mut said = String::new();
        loop {
            match call().await {
                Err(CallError::Later { reason, wait: told }) => {
                    if said != reason {
                        say(format_args!("{reason}; trying again"));
                        said = reason;
                    }
                    tokio::time::sleep(wait.max(told.unwrap_or_default())).await;
                    wait = (2 * wait).min(LONGEST_WAIT);
                }
                answered => return answered,
            }
        }
    }

    /// Tells the relay that nothing can be delivered from now on, so that mail waits instead of failing.
    async fn goodbye(&self, registration: &Registration) {
        let away = Renew {
            state: Some(State::Away),
            ..Renew::default()
        };
        let told = tokio::time::timeout(GOODBYE, self.relay.renew(registration, &away)).await;
        match told {
            Ok(Ok(_)) => say("away: events wait in the mailbox"),
            _ => say("stopped without a goodbye: the relay will notice"),
        }
    }
}

fn refused(error: &CallError) -> Failure {
    Failure::Refused(format!("the relay refused: {error}"))
}
