//! Being a worker of the relay: registered, renewed, its mailbox emptied, and its goodbye.
//!
//! Invariant: once there is a registration, nothing that the relay or Linear says ends the agent: what is wrong is
//! said once, and again when it changes, and tried again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use protocol::clock::rfc3339;
use protocol::messages::{Register, Renew, State, Worker};
use tokio::sync::{Notify, watch};
use url::Url;

use crate::config::{Config, read_secret};
use crate::failure::Failure;
use crate::mailbox;
use crate::receiver::Shared;
use crate::registration::Registration;
use crate::relay::{CallError, Relay};
use crate::report::{Report, shown};
use crate::talk::{detail, say, warn};

/// Where Linear's token is, unless it is in a file.
pub(crate) const TOKEN: &str = "LINEAR_TOKEN";

/// How often the lease is renewed: this also tells a worker that was turned away that it was.
const RENEW_EVERY: Duration = Duration::from_secs(5 * 60);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// The agent as the relay knows it.
pub(crate) struct Member {
    pub(crate) relay: Relay,
    pub(crate) file: PathBuf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) report: Report,
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// Where the relay can POST to, while there is such a place.
    pub(crate) address: watch::Receiver<Option<Url>>,
    /// The machine was away: asleep, or in another network.
    pub(crate) returned: Arc<Notify>,
}

/// What is asked of the relay: a change of it is told at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wish {
    address: Option<Url>,
    types: Option<Vec<String>>,
}

impl Member {
    /// Registers or renews, empties the mailbox, and does so again whenever it is time; ends only when a first
    /// registration is refused.
    pub(crate) async fn stay(mut self) -> Result<(), Failure> {
        let mut trouble = Trouble::default();
        loop {
            let done = match self.shared.registration() {
                Some(registration) => self.serve(&registration, &mut trouble).await,
                None => self.register().await,
            };
            let Err(error) = done else {
                trouble.ends(&self.report);
                continue;
            };
            let wait = match (&error, self.shared.registration()) {
                (CallError::Refused(problem), None) => {
                    return Err(Failure::Refused(format!(
                        "the relay refused: {}",
                        problem.detail
                    )));
                }
                (error, Some(_)) if error.is_unknown_worker() => match self.register().await {
                    Ok(()) => {
                        trouble.ends(&self.report);
                        continue;
                    }
                    Err(error) => trouble.comes(&self.report, &error),
                },
                (error, registration) => {
                    let wait = trouble.comes(&self.report, error);
                    if let (CallError::Refused(_), Some(registration)) = (error, registration) {
                        // What is refused may be the address alone: what waits can still be asked for.
                        let _ = self.pull(&registration).await;
                    }
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.returned.notified() => {}
                _ = self.config.changed() => {}
            }
        }
    }

    fn wish(&mut self) -> Wish {
        Wish {
            address: self.address.borrow_and_update().clone(),
            types: self.config.borrow_and_update().types.clone(),
        }
    }

    async fn register(&mut self) -> Result<(), CallError> {
        let wish = self.wish();
        let config = Arc::clone(&self.config.borrow());
        let request = Register {
            webhook_url: wish.address.as_ref().map(ToString::to_string),
            linear_token: linear_token(&config).map_err(|e| CallError::later(e.to_string()))?,
            name: config.name.clone(),
            capabilities: wish.types,
        };
        self.shared.is_registering.store(true, Ordering::Release);
        let registered = self.relay.register(&request).await;
        self.shared.is_registering.store(false, Ordering::Release);
        let registered = registered?;
        let was = self.shared.registration();
        say(format_args!(
            "registered as `{}` in workspace `{}`",
            config.name, registered.workspace.name
        ));
        if registered.again && was.is_none() {
            warn(format_args!(
                "`{}` was registered before, and that registration has ended: if another edge-agent of this \
                 name runs, it gets nothing from now on; give one of the two another `--name`",
                config.name
            ));
        }
        let registration = Registration::new(
            config.relay.as_str(),
            &config.name,
            registered,
            was.as_ref(),
            self.shared.clock.millis(),
        );
        let written = registration.write(&self.file);
        // It counts even if it cannot be kept: the relay knows no other one any more.
        self.shared.set_registration(registration);
        written.map_err(|error| CallError::later(format!("{error:#}")))
    }

    /// Renews, pulls, waits, and again; ends when something goes wrong.
    async fn serve(
        &mut self,
        registration: &Registration,
        trouble: &mut Trouble,
    ) -> Result<(), CallError> {
        // What was registered before may have been registered with other wishes.
        let mut told: Option<Wish> = None;
        loop {
            let wish = self.wish();
            let worker = self.renew(registration, told.as_ref(), &wish).await?;
            let is_new = told.replace(wish.clone()).as_ref() != Some(&wish);
            if worker.waiting || worker.state != State::Live {
                self.pull(registration).await?;
            }
            let had_trouble = trouble.ends(&self.report);
            self.note(registration, &worker, &wish);
            if is_new || had_trouble {
                say(format_args!(
                    "ready: `{}` is {}",
                    worker.name,
                    match worker.state {
                        State::Pull => "a pull worker",
                        State::Live | State::Away => "live",
                    }
                ));
            }
            self.wait(registration, worker.state == State::Pull).await?;
        }
    }

    /// Until it is time to renew, or something is to be told.
    async fn wait(&mut self, registration: &Registration, polls: bool) -> Result<(), CallError> {
        let renew_at =
            self.shared.clock.millis() + i64::try_from(RENEW_EVERY.as_millis()).unwrap_or_default();
        loop {
            let poll = if polls {
                self.config.borrow().poll
            } else {
                RENEW_EVERY
            };
            tokio::select! {
                () = self.shared.clock.until(renew_at) => return Ok(()),
                () = self.returned.notified() => return Ok(()),
                _ = self.config.changed() => return Ok(()),
                changed = self.address.changed() => {
                    if changed.is_err() {
                        // Its sender lives as long as the agent.
                        std::future::pending::<()>().await;
                    }
                    return Ok(());
                }
                () = self.shared.waiting.notified() => self.pull(registration).await?,
                () = tokio::time::sleep(poll), if polls => self.pull(registration).await?,
            }
        }
    }

    /// Renews, and tells what differs from what the relay was told.
    async fn renew(
        &self,
        registration: &Registration,
        told: Option<&Wish>,
        wish: &Wish,
    ) -> Result<Worker, CallError> {
        let address_is_told = told.is_some_and(|told| told.address == wish.address);
        let renewal = Renew {
            webhook_url: (!address_is_told).then(|| wish.address.as_ref().map(ToString::to_string)),
            capabilities: (told.is_none_or(|told| told.types != wish.types))
                .then(|| wish.types.clone()),
            state: None,
        };
        self.shared
            .is_registering
            .store(!address_is_told, Ordering::Release);
        let renewed = self.relay.renew(registration, &renewal).await;
        self.shared.is_registering.store(false, Ordering::Release);
        if renewed.is_ok() {
            detail("renewed");
        }
        renewed
    }

    fn note(&self, registration: &Registration, worker: &Worker, wish: &Wish) {
        let now = rfc3339(self.shared.clock.millis());
        self.report.change(|status| {
            status.workspace = Some(registration.workspace.name.clone());
            // Its mailbox is empty: an away worker has just become live.
            status.state = Some(
                match worker.state {
                    State::Away => State::Live,
                    state => state,
                }
                .as_str()
                .to_owned(),
            );
            status.renewed_at = Some(now);
            status.address = wish.address.as_ref().map(shown);
        });
    }

    async fn pull(&self, registration: &Registration) -> Result<(), CallError> {
        let pulled = mailbox::empty(&self.relay, registration, &self.shared).await?;
        if pulled > 0 {
            say(format_args!("{pulled} from the mailbox"));
        }
        Ok(())
    }
}

/// What is wrong between the agent and the relay, so that it is said once and again when it changes.
#[derive(Debug, Default)]
struct Trouble {
    said: String,
    wait: Duration,
}

impl Trouble {
    /// Says what is wrong unless it was said; answers how long to wait.
    fn comes(&mut self, report: &Report, error: &CallError) -> Duration {
        let text = match error {
            error if error.is_replaced() => {
                "another edge-agent has registered this name, and has its events now: give one of the two \
                 another `--name`"
                    .to_owned()
            }
            CallError::Refused(problem) => format!("the relay refused: {}", problem.detail),
            CallError::Later { reason, .. } => reason.clone(),
        };
        if self.said != text {
            warn(format_args!(
                "{text}; going on with what is here, and trying again"
            ));
            report.change(|status| status.problem = Some(text.clone()));
            self.said = text;
            self.wait = FIRST_WAIT;
        } else {
            self.wait = (2 * self.wait).min(LONGEST_WAIT);
        }
        match error {
            CallError::Later {
                wait: Some(wait), ..
            } => self.wait.max(*wait),
            _ => self.wait,
        }
    }

    /// Answers whether there was any.
    fn ends(&mut self, report: &Report) -> bool {
        report.change(|status| status.problem = None);
        self.wait = FIRST_WAIT;
        !std::mem::take(&mut self.said).is_empty()
    }
}

/// Linear's token, read when it is needed and not kept.
#[expect(
    clippy::disallowed_methods,
    reason = "the token must not be an argument, so clap cannot read it"
)]
pub(crate) fn linear_token(config: &Config) -> Result<String, Failure> {
    let text = match &config.linear_token_file {
        Some(file) => read_secret(file)?,
        None => std::env::var(TOKEN).unwrap_or_default(),
    };
    match text.trim() {
        "" => Err(Failure::Configuration(format!(
            "to register, a Linear API key or OAuth token is needed: set `{TOKEN}`, or use `--linear-token-file`"
        ))),
        token => Ok(token.to_owned()),
    }
}

/// Tells the relay that nothing can be delivered from now on, so that mail waits instead of failing.
pub(crate) async fn goodbye(relay: &Relay, registration: &Registration) {
    let away = Renew {
        state: Some(State::Away),
        ..Renew::default()
    };
    let told = tokio::time::timeout(GOODBYE, relay.renew(registration, &away)).await;
    match told {
        Ok(Ok(_)) => say("away: events wait in the mailbox"),
        _ => say("stopped without a goodbye: the relay will notice"),
    }
}
