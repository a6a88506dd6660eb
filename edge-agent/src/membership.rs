//! The agent's membership in the relay: registers, renews, empties the mailbox, and goes offline.
//!
//! Invariant: once there is a registration, no response of the relay ends the agent. A problem is reported once, and again
//! when it changes, and retried.

pub(crate) mod check;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use protocol::clock::{UnixMillis, elapsed, millis, rfc3339};
use protocol::messages::{AwayReason, Filter, Register, Renew, Worker, WorkerState};
use tokio::sync::{Notify, watch};
use url::Url;

use check::Shown;

use crate::config::{Config, TOKEN, read_secret};
use crate::failure::Failure;
use crate::mailbox;
use crate::output::{info, verbose, warn};
use crate::problem::Problem;
use crate::registration::Registration;
use crate::relay::{CallError, Relay};
use crate::report::{Report, shown};
use crate::state::{AgentState, ExpectedChallenge};

/// How often the lease is renewed. A renewal also shows whether the relay has marked the worker away.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// The longest wait until it is tried again to register in a workspace that the relay does not serve: somebody triggers a
/// change in Linear, and looks whether it helps.
const NOT_SERVED_WAIT: Duration = Duration::from_secs(5);
/// How long before the membership check is overdue this is reported.
const MEMBERSHIP_NOTICE: Duration = Duration::from_secs(10 * 24 * 3600);
/// What is to be done about it.
pub(crate) const NEEDS_TOKEN: &str = "the relay wants to see a Linear token by then: set `LINEAR_TOKEN`, or use `--linear-token-file`";
/// How long going offline may take.
const OFFLINE_TIMEOUT: Duration = Duration::from_secs(3);

/// The task that keeps the agent registered.
pub(crate) struct Membership {
    pub(crate) relay: Relay,
    pub(crate) file: PathBuf,
    /// What identifies the agent at the relay before it has a registration.
    pub(crate) holder: String,
    pub(crate) state: Arc<AgentState>,
    pub(crate) report: Report,
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// The public address of the agent, while there is one.
    pub(crate) address: watch::Receiver<Option<Url>>,
    /// The machine was asleep, or has moved to another network.
    pub(crate) resumed: Arc<Notify>,
    /// When the Linear token was shown, or it was tried to; 0: not since the start.
    pub(crate) checked_at: UnixMillis,
    /// Whether the relay withholds events.
    pub(crate) is_withheld: bool,
    /// When something was pulled last, or the machine woke up.
    pub(crate) active_at: UnixMillis,
    pub(crate) reported: Reported,
}

/// What was reported of the worker.
#[derive(Default)]
pub(crate) struct Reported {
    /// How many events have expired.
    expired: u64,
    /// That the relay's operator has paused it.
    is_paused: bool,
    /// The end of the membership.
    due_at: Option<String>,
}

/// What the relay has to know of the worker. A change is sent at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DesiredState {
    address: Option<Url>,
    types: Option<Vec<String>>,
    filter: Option<Filter>,
    group: Option<String>,
}

impl Membership {
    /// Registers or renews, empties the mailbox, and repeats that; ends only if the relay refuses a first registration for good.
    pub(crate) async fn keep(mut self) -> Result<(), Failure> {
        let mut problem = Problem::none();
        let mut is_retry = false;
        loop {
            let mut done = match self.state.registration() {
                Some(registration) => self.serve(&registration, &mut problem).await,
                None => self.register().await,
            };
            let is_unknown = done.as_ref().is_err_and(CallError::is_unknown_worker);
            if is_unknown {
                done = self.register().await;
            }
            let Err(error) = done else {
                self.problem_ends(&mut problem);
                continue;
            };
            let registration = self.state.registration();
            // An earlier try may have registered, and its answer been lost, at a relay that does not know holders.
            let may_pass = error.is_not_served() || (is_retry && error.is_name_in_use());
            is_retry = true;
            if let (CallError::Refused(refusal), None, false) = (&error, &registration, may_pass) {
                return Err(Failure::Refused(if error.is_name_in_use() {
                    name_in_use(&self.config.borrow().name)
                } else {
                    format!("the relay refused: {}", refusal.detail)
                }));
            }
            let wait = self.problem_occurs(&mut problem, &error);
            if let (CallError::Refused(_), Some(registration), false) =
                (&error, registration, is_unknown)
            {
                // The relay may refuse the address alone. Then the mailbox can still be pulled.
                let _ = self.pull(&registration).await;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.resumed.notified() => {}
                _ = self.config.changed() => {}
            }
        }
    }

    /// Reports a problem unless it was reported before. Returns the wait until the next try.
    fn problem_occurs(&self, problem: &mut Problem, error: &CallError) -> Duration {
        let text = match error {
            error if error.is_replaced() => {
                "another edge-agent has registered this name, and has its events now: give one of the two \
                 another `--name`"
                    .to_owned()
            }
            error if error.is_name_in_use() => name_in_use(&self.config.borrow().name),
            CallError::Refused(refusal) => format!("the relay refused: {}", refusal.detail),
            CallError::Later { reason, .. } => reason.clone(),
        };
        let wait = problem.occurs(&text, || {
            warn(format_args!(
                "{text}; going on with what is here, and trying again"
            ));
            self.report
                .change(|status| status.problem = Some(text.clone()));
        });
        match error {
            CallError::Later {
                wait: Some(asked), ..
            } => wait.max(*asked),
            error if error.is_not_served() => wait.min(NOT_SERVED_WAIT),
            _ => wait,
        }
    }

    /// Returns whether there was a problem.
    fn problem_ends(&self, problem: &mut Problem) -> bool {
        self.report.change(|status| status.problem = None);
        problem.ends()
    }

    fn desired_state(&mut self) -> DesiredState {
        let config = self.config.borrow_and_update();
        DesiredState {
            address: self.address.borrow_and_update().clone(),
            types: config.types.clone(),
            filter: config.filter.clone(),
            group: config.group.clone(),
        }
    }

    async fn register(&mut self) -> Result<(), CallError> {
        let desired = self.desired_state();
        let config = Arc::clone(&self.config.borrow());
        let state = Arc::clone(&self.state);
        let expected = state.expect_challenge();
        let token = linear_token(&config).map_err(|e| CallError::later(e.to_string()))?;
        let request = Register {
            webhook_url: desired.address.as_ref().map(ToString::to_string),
            linear_token: token.clone(),
            name: config.name.clone(),
            capabilities: desired.types,
            filter: desired.filter,
            group: desired.group,
            receipts: true,
            pulls: true,
            replace: Some(config.replace),
            holder: Some(self.holder.clone()),
            nonce: Some(expected.nonce()),
        };
        let registered = self.relay.register(&request).await;
        drop(expected);
        let registered = registered?;
        let previous = self.state.registration();
        info(format_args!(
            "registered as `{}` in workspace `{}`",
            config.name, registered.workspace.name
        ));
        if registered.replaced && previous.is_none() {
            warn(format_args!(
                "`{}` was registered before, and that registration has ended: if another edge-agent of this \
                 name runs, it gets nothing from now on; give one of the two another `--name`",
                config.name
            ));
        }
        let now = self.state.clock.millis();
        let mut registration = Registration::new(
            config.relay.as_str(),
            &config.name,
            registered,
            previous.as_ref(),
            now,
        )
        .map_err(|error| {
            CallError::later(format!("the relay's registration is malformed: {error}"))
        })?;
        registration.shown = Some(Shown::new(&token, None, now));
        (self.checked_at, self.is_withheld) = (now, false);
        self.keep_registration(registration)
    }

    /// Uses a registration, and writes it to its file.
    fn keep_registration(&self, registration: Registration) -> Result<(), CallError> {
        let written = registration.write(&self.file);
        // It is used even if it cannot be written, because the relay has replaced the one before.
        self.state.set_registration(registration);
        written.map_err(|error| CallError::later(format!("{error:#}")))
    }

    /// The Linear token, if it is time to show it and there is one that can be shown.
    fn token_to_show(&self) -> Option<String> {
        let now = self.state.clock.millis();
        if self.checked_at > 0 && now < check::due_at(self.checked_at, self.is_withheld) {
            return None;
        }
        let token = linear_token(&self.config.borrow()).ok()?;
        let shown = self.state.registration().and_then(|r| r.shown);
        check::can_show(&token, shown.as_ref(), now).then_some(token)
    }

    /// Renews, and shows the Linear token if it is time to. While Linear is down, the lease is renewed without it.
    async fn renew_and_check(
        &mut self,
        registration: &Registration,
        sent: Option<&DesiredState>,
        desired: &DesiredState,
    ) -> Result<Worker, CallError> {
        let Some(token) = self.token_to_show() else {
            let renewed = self.renew(registration, sent, desired, None).await;
            if renewed.as_ref().is_err_and(CallError::is_check_due) {
                self.checked_at = 0;
            }
            return renewed;
        };
        self.checked_at = self.state.clock.millis();
        let renewed = (self.renew(registration, sent, desired, Some(token.clone()))).await;
        if renewed.as_ref().is_err_and(CallError::is_temporary) {
            return self.renew(registration, sent, desired, None).await;
        }
        if renewed.is_ok()
            && let Some(mut registration) = self.state.registration()
        {
            let shown = Shown::new(&token, registration.shown.as_ref(), self.checked_at);
            registration.shown = Some(shown);
            self.keep_registration(registration)?;
        }
        renewed
    }

    /// Renews, pulls and waits in a loop, until a call fails.
    async fn serve(
        &mut self,
        registration: &Registration,
        problem: &mut Problem,
    ) -> Result<(), CallError> {
        // The worker may have been registered with another desired state.
        let mut sent: Option<DesiredState> = None;
        loop {
            let desired = self.desired_state();
            let worker = (self.renew_and_check(registration, sent.as_ref(), &desired)).await?;
            self.is_withheld = worker.withheld > 0;
            let is_new = sent.replace(desired.clone()).as_ref() != Some(&desired);
            if worker.waiting || worker.state != WorkerState::Live {
                self.pull(registration).await?;
            }
            self.report_expired(&worker);
            self.report_pause(&worker);
            self.report_membership(&worker);
            let had_problem = self.problem_ends(problem);
            self.report_state(registration, &worker, &desired);
            if is_new || had_problem {
                info(format_args!(
                    "ready: `{}` is {}",
                    worker.name,
                    match worker.state {
                        _ if self.reported.is_paused => "paused",
                        WorkerState::Pull => "a pull worker",
                        WorkerState::Live | WorkerState::Away => "live",
                    }
                ));
            }
            self.wait(registration, worker.state == WorkerState::Pull)
                .await?;
        }
    }

    /// Waits until it is time to renew, or the desired state has changed. Pulls meanwhile.
    async fn wait(&mut self, registration: &Registration, polls: bool) -> Result<(), CallError> {
        let mut renew_at = self.state.clock.millis() + millis(RENEWAL_INTERVAL);
        if self.is_withheld {
            renew_at = renew_at.min(check::due_at(self.checked_at, true));
        }
        loop {
            let poll = if polls {
                let idle = elapsed(self.active_at, self.state.clock.millis());
                self.config.borrow().poll.wait(idle)
            } else {
                RENEWAL_INTERVAL
            };
            tokio::select! {
                () = self.state.clock.until(renew_at) => return Ok(()),
                () = self.resumed.notified() => {
                    self.active_at = self.state.clock.millis();
                    return Ok(());
                }
                _ = self.config.changed() => return Ok(()),
                // Without a tunnel there is no sender: the address stays as it is.
                Ok(()) = self.address.changed() => return Ok(()),
                () = self.state.withheld.notified() => {
                    self.is_withheld = true;
                    renew_at = renew_at.min(check::due_at(self.checked_at, true));
                }
                () = self.state.mail_waits.notified() => self.pull(registration).await?,
                () = self.state.doubted.notified() => return Ok(()),
                () = tokio::time::sleep(poll), if polls => self.pull(registration).await?,
            }
        }
    }

    /// Renews, and sends what differs from what was sent before.
    async fn renew(
        &self,
        registration: &Registration,
        sent: Option<&DesiredState>,
        desired: &DesiredState,
        linear_token: Option<String>,
    ) -> Result<Worker, CallError> {
        let address_is_sent = sent.is_some_and(|sent| sent.address == desired.address);
        let expected = (!address_is_sent).then(|| self.state.expect_challenge());
        let renewal = Renew {
            webhook_url: (!address_is_sent)
                .then(|| desired.address.as_ref().map(ToString::to_string)),
            capabilities: (sent.is_none_or(|sent| sent.types != desired.types))
                .then(|| desired.types.clone()),
            filter: (sent.is_none_or(|sent| sent.filter != desired.filter))
                .then(|| desired.filter.clone()),
            group: (sent.is_none_or(|sent| sent.group != desired.group))
                .then(|| desired.group.clone()),
            linear_token,
            state: None,
            // A registration of an earlier version has said nothing of them.
            receipts: Some(true),
            pulls: Some(true),
            nonce: expected.as_ref().map(ExpectedChallenge::nonce),
        };
        let renewed = self.relay.renew(registration, &renewal).await;
        if renewed.is_ok() {
            verbose("renewed");
            self.compare_clocks();
        }
        renewed
    }

    /// Compares this machine's clock with the relay's. Deliveries are verified by the relay's.
    fn compare_clocks(&self) {
        let Some(seconds) = (self.relay.date()).and_then(|date| self.state.compare_clocks(date))
        else {
            return;
        };
        let direction = if seconds > 0 { "ahead of" } else { "behind" };
        match seconds.abs() {
            0 => info("this machine's clock is as the relay's again"),
            seconds => warn(format_args!(
                "this machine's clock is {seconds} s {direction} the relay's, by which deliveries are verified: set it by NTP"
            )),
        }
        self.report.change(|status| status.clock_ahead_s = seconds);
    }

    /// Reports events that waited at the relay for longer than it keeps them, once.
    fn report_expired(&mut self, worker: &Worker) {
        let Some(expired) = worker
            .expired
            .as_ref()
            .filter(|e| e.count > self.reported.expired)
        else {
            return;
        };
        self.reported.expired = expired.count;
        warn(format_args!(
            "events lost: {}; they waited at the relay for longer than it keeps them, the first until {}",
            expired.count, expired.since
        ));
    }

    /// Reports that the membership ends soon, once.
    fn report_membership(&mut self, worker: &Worker) {
        let notice_until = rfc3339(self.state.clock.millis() + millis(MEMBERSHIP_NOTICE));
        // Times of this form compare as texts.
        let due_at = (worker.membership_due_at.clone()).filter(|due_at| *due_at < notice_until);
        self.report
            .change(|status| status.membership_due_at.clone_from(&due_at));
        if let (true, Some(due_at)) = (due_at != self.reported.due_at, &due_at) {
            warn(format_args!("membership until {due_at}: {NEEDS_TOKEN}"));
        }
        self.reported.due_at = due_at;
    }

    /// Reports that the relay's operator has paused the worker, or resumed it.
    fn report_pause(&mut self, worker: &Worker) {
        let is_paused = worker.away_reason == Some(AwayReason::Paused);
        if is_paused == std::mem::replace(&mut self.reported.is_paused, is_paused) {
            return;
        }
        if is_paused {
            warn("the relay's operator has paused this worker: its events wait at the relay");
        } else {
            info("the relay's operator has resumed this worker");
        }
    }

    fn report_state(&self, registration: &Registration, worker: &Worker, desired: &DesiredState) {
        let now = rfc3339(self.state.clock.millis());
        let refused = (self.state.refused()).map(|(at, why)| format!("{}: {why}", rfc3339(at)));
        self.report.change(|status| {
            status.workspace = Some(registration.workspace.name.clone());
            let state = match worker.state {
                _ if self.reported.is_paused => AwayReason::Paused.as_str(),
                // The mailbox is empty, so an away worker has just become live.
                WorkerState::Away => WorkerState::Live.as_str(),
                state => state.as_str(),
            };
            status.state = Some(state.to_owned());
            status.renewed_at = Some(now);
            status.address = desired.address.as_ref().map(shown);
            status.refused = refused;
        });
    }

    async fn pull(&mut self, registration: &Registration) -> Result<(), CallError> {
        let pulled = mailbox::empty(&self.relay, registration, &self.state).await?;
        if pulled > 0 {
            self.active_at = self.state.clock.millis();
            info(format_args!("{pulled} from the mailbox"));
        }
        Ok(())
    }
}

/// What to do about a name that another agent has.
fn name_in_use(name: &str) -> String {
    format!(
        "another edge-agent of yours is `{name}` and in use: give this one its own `--name`, `--data` and, if it is pushed to, \
         `--listen`; or take over with `--replace`"
    )
}

/// Whether the environment has a Linear token.
#[expect(
    clippy::disallowed_methods,
    reason = "the token must not be an argument, so clap cannot read it"
)]
pub(crate) fn has_token() -> bool {
    std::env::var_os(TOKEN).is_some_and(|token| !token.is_empty())
}

/// Linear's token. It is read when it is needed and not kept.
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

/// Tells the relay that the agent goes offline, so that it parks events at once.
pub(crate) async fn go_offline(relay: &Relay, registration: &Registration) {
    let away = Renew {
        state: Some(WorkerState::Away),
        ..Renew::default()
    };
    let sent = tokio::time::timeout(OFFLINE_TIMEOUT, relay.renew(registration, &away)).await;
    match sent {
        Ok(Ok(_)) => info("away: events wait in the mailbox"),
        _ => info("stopped without telling the relay, which will notice"),
    }
}
