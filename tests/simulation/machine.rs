//! A machine and the worker on it: an edge-agent, or a receiver of its own. It comes and goes, changes its address, and behaves
//! as the history says; what it receives goes through the code of the agent into a store.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use edge_agent::testing::{Agent, Exchange, Failed};
use local::samples::WORKSPACE;
use parking_lot::Mutex;
use protocol::headers::WEBHOOK_RECEIPT;
use protocol::messages::{Register, Renew, WorkerState};
use relay::outbound::SendError;
use relay::worker;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::history::{Absence, AtLast, Deed, MachineSpec, Mood};
use crate::old_faults::OldFault;
use crate::wire::Wire;

/// How often a worker renews its lease. An agent does so every five minutes, which would only take longer to simulate.
const RENEWAL: Duration = Duration::from_secs(900);
/// How often one without an address looks into its mailbox.
const POLL: Duration = Duration::from_secs(300);
/// How long an agent tries to say that it goes offline.
const OFFLINE: Duration = Duration::from_secs(3);
/// The longest wait after a call that failed.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a person needs to see that an agent was replaced by a registration that nobody has.
const NOTICED: Duration = Duration::from_secs(120);

/// A machine.
pub(crate) struct Machine {
    number: usize,
    pub(crate) spec: MachineSpec,
    gives_receipts: bool,
    wire: Arc<Wire>,
    agent: Mutex<Option<Agent>>,
    place: Mutex<Place>,
    /// Its address has changed.
    moved: Notify,
}

/// Where the machine is.
struct Place {
    /// What answers in its place, if it is not there.
    absence: Option<Absence>,
    mood: Mood,
    /// The number of its address.
    address: u32,
    /// Grows when it leaves: what was begun before does not end.
    life: u64,
    /// The task that keeps it registered.
    running: Option<AbortHandle>,
}

impl Machine {
    pub(crate) fn new(
        number: usize,
        spec: MachineSpec,
        old_fault: Option<OldFault>,
        wire: Arc<Wire>,
    ) -> Self {
        Self {
            number,
            spec,
            wire,
            gives_receipts: spec.kind.gives_receipts() && old_fault != Some(OldFault::NoReceipts),
            agent: Mutex::new(None),
            place: Mutex::new(Place {
                absence: Some(Absence::NoConnection),
                mood: Mood::Well,
                address: 0,
                life: 0,
                running: None,
            }),
            moved: Notify::new(),
        }
    }

    /// Gives it its agent, whose calls of the relay go this way.
    pub(crate) fn boot(&self, calls: Exchange) -> anyhow::Result<()> {
        *self.agent.lock() = Some(Agent::new(self.wire.clock.clone(), calls)?);
        Ok(())
    }

    pub(crate) fn agent(&self) -> Agent {
        self.agent.lock().clone().expect("it was booted")
    }

    /// The name of its worker.
    pub(crate) fn name(&self) -> String {
        format!("w{}", self.number)
    }

    /// The token with which its user registers, which stands for the user.
    fn user(&self) -> String {
        format!("lin_api_{}", self.number)
    }

    /// The id of its worker.
    pub(crate) fn worker(&self) -> String {
        worker::id(WORKSPACE, &self.user(), &self.name())
    }

    fn host(&self, address: u32) -> String {
        format!("m{}-{address}.example", self.number)
    }

    /// The machine that has or had this host.
    pub(crate) fn at<'a>(host: &str, machines: &'a [Arc<Self>]) -> Option<&'a Arc<Self>> {
        let (number, _) = host.strip_prefix('m')?.split_once('-')?;
        machines.get(number.parse::<usize>().ok()?)
    }

    /// Grows when the machine leaves.
    pub(crate) fn life(&self) -> u64 {
        self.place.lock().life
    }

    /// Answers a request of the relay at one of its addresses.
    pub(crate) async fn answer(
        &self,
        host: &str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, SendError> {
        let (absence, mood) = {
            let place = self.place.lock();
            let is_current = host == self.host(place.address);
            let absence = match place.absence {
                _ if !is_current => Some(self.stranger()),
                absence => absence,
            };
            (absence, place.mood)
        };
        match absence {
            Some(Absence::NoConnection) => return Err(SendError::Connect),
            Some(Absence::Silence) => return std::future::pending().await,
            Some(Absence::Page(status)) => return Ok(page(status)),
            None => {}
        }
        let agent = self.agent();
        let mut answer = match mood {
            Mood::BreaksOff if is_even(request.body()) => return Err(SendError::Closed),
            Mood::Well | Mood::BreaksOff => agent.receive(request).await,
            Mood::Stalls => return std::future::pending().await,
            Mood::Gone => {
                self.wire
                    .record
                    .lock()
                    .removed(self.number, self.wire.clock.millis());
                agent.answer(&request, StatusCode::GONE)
            }
            Mood::Rejects(status, wait) => {
                let mut answer = agent.answer(&request, page(status).status());
                if let Some(seconds) = wait {
                    (answer.headers_mut()).insert("retry-after", HeaderValue::from(seconds));
                }
                answer
            }
        };
        if !self.gives_receipts {
            answer.headers_mut().remove(WEBHOOK_RECEIPT);
        }
        Ok(answer)
    }

    /// Who answers at an address that the machine had before.
    fn stranger(&self) -> Absence {
        if self.spec.kind.gives_receipts() {
            Absence::Page(200)
        } else {
            Absence::NoConnection
        }
    }

    /// Does what a history says.
    pub(crate) async fn does(self: &Arc<Self>, deed: Deed) {
        match deed {
            Deed::Leave(absence) => self.leave(absence),
            Deed::Return => self.come(),
            Deed::GoOffline => {
                let away = Renew {
                    state: Some(WorkerState::Away),
                    ..Renew::default()
                };
                let agent = self.agent();
                let _ = tokio::time::timeout(OFFLINE, agent.renew(&away)).await;
                self.leave(Absence::NoConnection);
            }
            Deed::Move => {
                self.place.lock().address += 1;
                self.moved.notify_one();
            }
            Deed::Forget => {
                let agent = self.agent().without_registration();
                *self.agent.lock() = Some(agent);
                self.restart();
            }
            Deed::Mood(mood) => self.place.lock().mood = mood,
            Deed::Remove => {
                let now = self.wire.clock.millis();
                self.wire.record.lock().removed(self.number, now);
                let _ = self.agent().remove().await;
            }
        }
    }

    /// What it is like at the end.
    pub(crate) fn settle(self: &Arc<Self>) {
        self.place.lock().mood = match self.spec.at_last {
            AtLast::Rejecting(status) => Mood::Rejects(status, None),
            AtLast::There | AtLast::Absent(_) => Mood::Well,
        };
        match self.spec.at_last {
            AtLast::Absent(absence) => self.leave(absence),
            AtLast::There | AtLast::Rejecting(_) => self.come(),
        }
    }

    fn leave(&self, absence: Absence) {
        let mut place = self.place.lock();
        place.absence = Some(absence);
        place.life += 1;
        if let Some(running) = place.running.take() {
            running.abort();
        }
    }

    fn come(self: &Arc<Self>) {
        if self.place.lock().absence.take().is_some() {
            self.restart();
        }
    }

    /// Starts the task that keeps it registered, if the machine is there.
    fn restart(self: &Arc<Self>) {
        let mut place = self.place.lock();
        if place.absence.is_some() {
            return;
        }
        if let Some(running) = place.running.take() {
            running.abort();
        }
        let machine = Arc::clone(self);
        let keeping = tokio::spawn(async move { machine.keep().await });
        place.running = Some(keeping.abort_handle());
    }

    /// Keeps the worker registered, and empties its mailbox if it pulls.
    async fn keep(&self) {
        let mut sent = None;
        let mut wait = Duration::from_secs(1);
        loop {
            match self.serve(&mut sent).await {
                Ok(()) => {
                    wait = Duration::from_secs(1);
                    self.wait().await;
                }
                Err(Failed::UnknownWorker) => {
                    let agent = self.agent().without_registration();
                    *self.agent.lock() = Some(agent);
                }
                Err(Failed::Replaced) => {
                    tokio::time::sleep(NOTICED).await;
                    let agent = self.agent().without_registration();
                    *self.agent.lock() = Some(agent);
                }
                Err(Failed::Later(_)) => {
                    tokio::time::sleep(wait).await;
                    wait = (2 * wait).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// Waits until there is something to do.
    async fn wait(&self) {
        let agent = self.agent();
        let has_address = self.spec.kind.has_address();
        tokio::select! {
            biased;
            () = agent.mail_waits(), if self.spec.kind.pulls() => {
                // What fails is tried again with the renewal that follows.
                let _ = agent.empty_mailbox().await;
            }
            () = self.moved.notified() => {}
            () = tokio::time::sleep(if has_address { RENEWAL } else { POLL }) => {}
        }
    }

    async fn serve(&self, sent: &mut Option<String>) -> Result<(), Failed> {
        let (agent, kind) = (self.agent(), self.spec.kind);
        let address = kind.has_address().then(|| {
            let host = self.host(self.place.lock().address);
            format!("https://{host}/webhook")
        });
        let receipts = self.gives_receipts;
        if !agent.is_registered() {
            let began = self.wire.clock.millis();
            let register = Register {
                webhook_url: address.clone(),
                linear_token: self.user(),
                name: self.name(),
                capabilities: None,
                filter: None,
                group: None,
                receipts,
                pulls: kind.pulls(),
                replace: None,
                holder: None,
                nonce: None,
            };
            agent.register(&register).await?;
            let now = self.wire.clock.millis();
            self.wire.record.lock().registered(self.number, began, now);
            self.wire.note(|| format!("{} is registered", self.name()));
        }
        let is_news = sent.as_ref() != address.as_ref();
        let renewal = Renew {
            webhook_url: is_news.then(|| address.clone()),
            receipts: Some(receipts),
            pulls: Some(kind.pulls()),
            ..Renew::default()
        };
        let worker = agent.renew(&renewal).await?;
        self.wire
            .note(|| format!("{} is {}", self.name(), worker.state.as_str()));
        sent.clone_from(&address);
        if kind.pulls() && (worker.waiting || worker.state != WorkerState::Live) {
            agent.empty_mailbox().await?;
        }
        Ok(())
    }
}

/// Whether this is an event with an even number.
fn is_even(body: &Bytes) -> bool {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    body["data"]["number"]
        .as_u64()
        .is_some_and(|number| number.is_multiple_of(2))
}

fn page(status: u16) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from_static(b"<html>"));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    answer
}
