//! Registers, renews, reads and removes workers.
//!
//! Invariant: Linear decides the workspace of a token, and only at registration. Afterwards the worker's own token counts,
//! so that everything else works while Linear is down.

mod challenge;
mod check;
mod limits;

use std::collections::BTreeMap;

use futures::future::try_join;
use protocol::capability;
use protocol::clock::{Clock, UnixMillis, elapsed, rfc3339};
use protocol::envelope::is_identifier;
use protocol::headers::WEBHOOK_ID;
use protocol::messages::{
    self, Mailbox, Pull, PulledEvent, Registered, Renew, WorkerState, Workspace,
};
use protocol::problem::Code;
use protocol::signature::Secret;
use protocol::signing_secrets::SigningSecrets;

pub use challenge::CHALLENGE_TIMEOUT;

use crate::access;
use crate::config::RegisterConfig;
use crate::egress::parse_webhook_url;
use crate::error::Error;
use crate::linear::api::{Linear, Member};
use crate::mailbox;
use crate::origin::OriginSecret;
use crate::outbound::{ClientError, Network, Outbound};
use crate::policy;
use crate::subscription::Subscription;
use crate::table::{Change, Route, RoutedEvent, Table};
use crate::worker::{self, MAX_NAME, Token, Worker};

/// The largest body of a request, webhooks aside.
pub const BODY_LIMIT: usize = 64 * 1024;

/// The longest Linear token that is passed on.
const MAX_TOKEN: usize = 1024;

/// How often a change is decided again because another one was faster.
const TRIES: u32 = 5;

/// Serves workers.
#[derive(Debug)]
pub struct Register {
    config: RegisterConfig,
    table: Table,
    linear: Linear,
    outbound: Outbound,
    clock: Clock,
}

fn invalid(detail: impl Into<String>) -> Error {
    Error::refused(Code::InvalidRequest, detail)
}

fn validate_token(token: &str) -> Result<(), Error> {
    let token = token.trim();
    if token.is_empty()
        || token.len() > MAX_TOKEN
        || !token.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
    {
        return Err(invalid(
            "`linearToken` has to be a Linear API key (`lin_api_…`) or OAuth access token",
        ));
    }
    Ok(())
}

fn validate(request: &messages::Register) -> Result<(), Error> {
    validate_token(&request.linear_token)?;
    if !worker::is_name(&request.name) {
        return Err(invalid(format!(
            "`name` has to be 1 to {MAX_NAME} printable characters, without spaces at its ends"
        )));
    }
    validate_identifier("nonce", request.nonce.as_deref())?;
    validate_identifier("group", request.group.as_deref())?;
    validate_identifier("holder", request.holder.as_deref())?;
    match &request.capabilities {
        Some(patterns) => capability::validate(patterns).map_err(Error::capabilities),
        None => Ok(()),
    }
}

/// Validates an optional field that is an identifier.
fn validate_identifier(field: &str, value: Option<&str>) -> Result<(), Error> {
    if value.is_some_and(|value| !is_identifier(value)) {
        return Err(invalid(format!(
            "`{field}` has to be 1 to 64 of A-Z a-z 0-9 _ -"
        )));
    }
    Ok(())
}

impl Register {
    /// A `Register` over this network and this table.
    ///
    /// # Errors
    ///
    /// The certificate authorities of this machine cannot be read.
    pub fn new(
        config: RegisterConfig,
        network: Network,
        table: Table,
        clock: Clock,
    ) -> Result<Self, ClientError> {
        Ok(Self {
            linear: Linear::new(network.clone(), config.linear_api_url.clone())?,
            outbound: Outbound::new(network, Some(config.egress), CHALLENGE_TIMEOUT)?,
            config,
            table,
            clock,
        })
    }

    /// What shows that a request came through CloudFront.
    pub fn origin_secret(&self) -> &OriginSecret {
        &self.config.origin_secret
    }

    /// Registers a worker. A user who registers a name again gets the same worker.
    ///
    /// # Errors
    ///
    /// The request is malformed, Linear refuses the token, the address fails the challenge, or AWS failed.
    pub async fn register(
        &self,
        request: messages::Register,
        caller: &str,
    ) -> Result<Registered, Error> {
        validate(&request)?;
        let url = (request.webhook_url.as_deref())
            .map(|url| parse_webhook_url(url, self.config.egress))
            .transpose()?;
        let member = self.member(&request.linear_token, caller).await?;
        self.verify_served(&member.workspace).await?;
        let subscription = access::subscription(&member, &request)?;
        if let Some(url) = &url {
            let user = limits::user_key(&member.workspace.id, &member.user.id);
            self.challenge(&user, caller, url, request.nonce.as_deref())
                .await?;
        }
        for _ in 0..TRIES {
            let registered = self.try_to_register(&request, url.as_deref(), &member, &subscription);
            if let Some(registered) = registered.await? {
                return Ok(registered);
            }
        }
        Err(Error::worker_changed())
    }

    /// Writes a registration; none if another call has changed the worker meanwhile.
    async fn try_to_register(
        &self,
        request: &messages::Register,
        url: Option<&str>,
        member: &Member,
        subscription: &Subscription,
    ) -> Result<Option<Registered>, Error> {
        let Member {
            user, workspace, ..
        } = member;
        let id = worker::id(&workspace.id, &user.id, &request.name);
        let last = self.table.last_worker(&workspace.id, &id).await?;
        let (expired, previous) = match last {
            Some(last) if self.table.has_expired(&last) => (Some(last), None),
            last => (None, last),
        };
        let (previous, kept) = match previous {
            None => {
                self.verify_number(member).await?;
                (None, 0)
            }
            Some(previous) => match self.take_over(request, &previous, member).await? {
                None => return Ok(None),
                Some((previous, kept)) => (Some(previous), kept),
            },
        };
        let token = Token::generate();
        let worker = self
            .admit(
                request,
                url.map(str::to_owned),
                (member, subscription),
                &id,
                &token,
                (previous.as_ref(), kept),
            )
            .await?;
        // What is parked or withheld for the expired one meanwhile must not be forgotten either.
        let last = previous.as_ref().or(expired.as_ref());
        if !self.table.put_worker(&worker, last).await? {
            return Ok(None);
        }
        let worker = match previous {
            Some(_) => worker,
            None => self.with_outlived(worker, member).await,
        };
        tracing::info!(
            worker = id,
            workspace = workspace.id,
            user = user.id,
            email = user.email,
            state = worker.state.as_str(),
            replaced = previous.is_some(),
            Registered = 1,
            "registered worker {id} as {}",
            worker.state.as_str()
        );
        Ok(Some(Registered {
            worker: worker.path(),
            worker_id: id,
            workspace: workspace.clone(),
            token: token.expose(),
            secret: worker.secrets.current.expose(),
            state: worker.state,
            replaced: previous.is_some(),
            expires_at: rfc3339(worker.expires_at * 1000),
        }))
    }

    /// Takes over a worker that may be taken over: a registration is a check, too. Returns what [`Self::release`] does.
    async fn take_over(
        &self,
        request: &messages::Register,
        previous: &Worker,
        member: &Member,
    ) -> Result<Option<(Worker, u64)>, Error> {
        let is_own = request.holder.is_some() && request.holder == previous.holder;
        if request.replace == Some(false) && !is_own && self.is_in_use(previous) {
            return Err(Error::refused(
                Code::NameInUse,
                format!("`{}` is in use by another agent of yours", request.name),
            ));
        }
        if self.has_later_check(previous, member) {
            return Err(Error::worker_changed());
        }
        self.release(previous, member).await
    }

    /// Whether somebody uses a worker.
    fn is_in_use(&self, worker: &Worker) -> bool {
        let renewed_at = (worker.expires_at - self.lease_seconds()) * 1000;
        let since = elapsed(renewed_at, self.clock.millis());
        policy::is_in_use(worker.state, worker.paused, self.config.lease, since)
    }

    /// The worker that a registration makes of `previous`, of which so many events are still withheld.
    async fn admit(
        &self,
        request: &messages::Register,
        url: Option<String>,
        (member, subscription): (&Member, &Subscription),
        id: &str,
        token: &Token,
        (previous, kept): (Option<&Worker>, u64),
    ) -> Result<Worker, Error> {
        let workspace = &member.workspace;
        let (has_mail, withheld) = match previous {
            Some(_) => (false, kept),
            None => self.outlived(&workspace.id, id).await?,
        };
        let waits = has_mail || withheld > 0;
        let state = policy::registered_state(url.is_some(), previous.map(|w| w.state), waits);
        let now = self.clock.millis();
        let secret = Secret::generate();
        Ok(Worker {
            workspace: workspace.id.clone(),
            id: id.to_owned(),
            name: request.name.clone(),
            subscription: subscription.clone(),
            team_keys: member.teams.clone(),
            revision: previous.map_or(1, |w| w.revision + 1),
            url,
            state,
            holder: request.holder.clone(),
            token_hash: token.hash(),
            replaced_hash: previous.map(|w| w.token_hash.clone()),
            secrets: match previous {
                Some(previous) => previous.secrets.rotate(secret, now),
                None => SigningSecrets::new(secret),
            },
            expires_at: now / 1000 + self.lease_seconds(),
            failures: 0,
            delivered_at: previous.map_or(now, |w| w.delivered_at),
            has_delivered: previous.is_some_and(|w| w.has_delivered),
            last_error: None,
            last_error_at: None,
            parked: previous.map_or(0, |w| w.parked),
            waiting: previous.map_or(has_mail, |w| w.waiting),
            away_since: away_since(state, previous, now),
            away_reason: previous
                .and_then(|w| w.away_reason)
                .filter(|_| state == WorkerState::Away),
            paused: previous.is_some_and(|w| w.paused),
            in_backoff: previous.map(|w| w.in_backoff.clone()).unwrap_or_default(),
            expired: previous.map_or(0, |w| w.expired),
            expired_since: previous.and_then(|w| w.expired_since),
            withheld,
            checked_at: member.asked_at,
            registered_at: (previous.map(|w| w.registered_at))
                .filter(|at| *at > 0)
                .unwrap_or(now),
            receipts: request.receipts,
            pulls: request.pulls,
        })
    }

    /// Releases or drops what was withheld from a worker that has just registered. Returns the worker as it is then.
    async fn with_outlived(&self, worker: Worker, member: &Member) -> Worker {
        if worker.withheld == 0 {
            return worker;
        }
        match self.record_check(&worker, member).await {
            Ok(checked) => checked.unwrap_or(worker),
            // The registration is written, and says that events are withheld: the next check releases them.
            Err(error) => {
                let (id, error) = (&worker.id, error.chain());
                tracing::warn!(
                    worker = id,
                    error,
                    "withheld events of worker {id} were not released"
                );
                worker
            }
        }
    }

    /// What has outlived the lease of a worker: whether anything is parked for it, and how many events are withheld. What has
    /// expired counts, too: it is counted when the mailbox is read.
    async fn outlived(&self, workspace: &str, worker: &str) -> Result<(bool, u64), Error> {
        let table = &self.table;
        table.complete_removal(workspace, worker).await?;
        let (has_mail, withheld) = try_join(
            table.has_mail(workspace, worker),
            table.count_withheld(workspace, worker),
        )
        .await?;
        Ok((has_mail, withheld))
    }

    fn lease_seconds(&self) -> i64 {
        i64::try_from(self.config.lease.as_secs()).unwrap_or_default()
    }

    /// Refuses another worker of a user, or of a workspace, that has as many as it may have.
    async fn verify_number(&self, member: &Member) -> Result<(), Error> {
        let routes = self.table.routes(&member.workspace.id).await?;
        let is_theirs = |route: &&Route| {
            (route.subscription.user.as_ref()).is_some_and(|user| user.id == member.user.id)
        };
        let of_user = routes.iter().filter(is_theirs).count() as u64;
        let config = &self.config;
        for (whose, number, limit) in [
            ("this user", of_user, config.workers_per_user),
            (
                "this workspace",
                routes.len() as u64,
                config.workers_per_workspace,
            ),
        ] {
            if number >= limit {
                return Err(Error::refused(
                    Code::TooManyWorkers,
                    format!(
                        "{whose} has {number} workers, and may have {limit}: remove one, or register under the name of one that exists"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Refuses a workspace that the relay does not serve.
    async fn verify_served(&self, workspace: &Workspace) -> Result<(), Error> {
        let named = &self.config.workspaces;
        let known = self.table.known(&workspace.id).await?;
        if access::is_served(named, workspace, known) {
            return Ok(());
        }
        let name = &workspace.url_key;
        let detail = if named.is_empty() {
            format!(
                "no webhook of the workspace `{name}` has arrived here yet: trigger any change in Linear, such as a comment on \
                 an issue, or have the relay's operator name the workspace in `WORKSPACES`"
            )
        } else {
            format!(
                "this relay does not serve the workspace `{name}`: its operator has to name it in `WORKSPACES`"
            )
        };
        Err(Error::refused(Code::WorkspaceNotServed, detail))
    }

    /// Finds the worker whose token this is.
    ///
    /// # Errors
    ///
    /// There is no token, or it is not the token of this worker.
    pub async fn authorize(
        &self,
        workspace: &str,
        id: &str,
        token: Option<&str>,
    ) -> Result<Worker, Error> {
        let token = token.ok_or_else(|| {
            Error::refused(
                Code::WorkerTokenMissing,
                "an `Authorization: Bearer <the worker's token>` header is needed",
            )
        })?;
        if !is_identifier(workspace) || !worker::is_id(id) {
            return Err(Error::worker_token_invalid());
        }
        let Some(worker) = self.table.worker(workspace, id).await? else {
            return Err(Error::worker_token_invalid());
        };
        if worker::verify_token(token, &worker.token_hash) {
            return Ok(worker);
        }
        let is_replaced =
            (worker.replaced_hash.as_ref()).is_some_and(|hash| worker::verify_token(token, hash));
        if is_replaced {
            return Err(Error::refused(
                Code::WorkerTokenReplaced,
                "this worker was registered again, and the newer registration has its events: give one of the two \
                 another name, or register again to take over",
            ));
        }
        Err(Error::worker_token_invalid())
    }

    /// Renews the lease and makes the changes that the request names.
    ///
    /// # Errors
    ///
    /// The request is malformed, a new address fails the challenge, or AWS failed.
    pub async fn renew(
        &self,
        mut worker: Worker,
        request: Renew,
        caller: &str,
    ) -> Result<messages::Worker, Error> {
        if let Some(Some(patterns)) = &request.capabilities {
            capability::validate(patterns).map_err(Error::capabilities)?;
        }
        if matches!(request.state, Some(WorkerState::Live | WorkerState::Pull)) {
            return Err(invalid(
                "`state` can only be set to `away`: an empty mailbox makes a worker live, having no \
                 `webhookUrl` makes it a pull worker",
            ));
        }
        validate_identifier("nonce", request.nonce.as_deref())?;
        validate_identifier("group", request.group.as_ref().and_then(Option::as_deref))?;
        if let Some(token) = &request.linear_token {
            validate_token(token)?;
            worker = self.check(worker, token, caller).await?;
        }
        self.verify_membership(&worker)?;
        let url = match &request.webhook_url {
            Some(Some(url)) => Some(Some(parse_webhook_url(url, self.config.egress)?)),
            Some(None) => Some(None),
            None => None,
        };
        let moves = match &url {
            Some(Some(url)) if worker.url.as_deref() != Some(url) => {
                let user = match &worker.subscription.user {
                    Some(user) => limits::user_key(&worker.workspace, &user.id),
                    None => worker.id.clone(),
                };
                self.challenge(&user, caller, url, request.nonce.as_deref())
                    .await?;
                true
            }
            Some(None) => worker.url.is_some(),
            _ => false,
        };
        for _ in 0..TRIES {
            let change = Change {
                url: url.clone().filter(|_| moves),
                subscription: access::changed(&worker, &request)?,
                check: None,
                state: policy::renewed_state(
                    worker.state,
                    url.as_ref().map(Option::is_some),
                    request.state,
                ),
                receipts: request.receipts.filter(|wanted| *wanted != worker.receipts),
                pulls: request.pulls.filter(|wanted| *wanted != worker.pulls),
            };
            let goes_offline = request.state == Some(WorkerState::Away);
            if change == Change::default() && !goes_offline && self.is_fresh(&worker) {
                return self.view(&worker).await;
            }
            // Whoever goes offline has last renewed so long ago that the name is not in use.
            let lease = match goes_offline {
                true => self.config.lease - policy::in_use_for(self.config.lease),
                false => self.config.lease,
            };
            let renewed = (self.table.renew(&worker, lease, &change)).await?;
            worker = self.read_again(&worker).await?;
            if renewed {
                return self.view(&worker).await;
            }
        }
        Err(Error::worker_changed())
    }

    /// The worker as it is now, unless it was removed or registered again.
    async fn read_again(&self, worker: &Worker) -> Result<Worker, Error> {
        (self.table.worker(&worker.workspace, &worker.id).await?)
            .filter(|current| current.token_hash == worker.token_hash)
            .ok_or_else(Error::worker_token_invalid)
    }

    /// Whether the lease was renewed so recently that a write would change next to nothing.
    fn is_fresh(&self, worker: &Worker) -> bool {
        let lease = self.lease_seconds();
        worker.revision > 0 && worker.expires_at - self.clock.seconds() > lease - lease / 100
    }

    /// The worker's state, lease, last delivery and last error, and how many events of the last day were not for it.
    ///
    /// # Errors
    ///
    /// AWS failed.
    pub async fn read(&self, worker: Worker) -> Result<messages::Worker, Error> {
        let mut counts = BTreeMap::new();
        let count = |routed: RoutedEvent| {
            if let Some(reason) = access::reason(&routed, &worker.id, &worker.subscription) {
                *counts.entry(reason.as_str().to_owned()).or_insert(0) += 1;
            }
        };
        let since = worker.registered_at;
        (self.table.routed(&worker.workspace, since, count)).await?;
        Ok(messages::Worker {
            not_delivered: counts,
            ..self.view(&worker).await?
        })
    }

    async fn view(&self, worker: &Worker) -> Result<messages::Worker, Error> {
        // What was waiting may be gone.
        let waiting = worker.waiting && self.table.has_mail(&worker.workspace, &worker.id).await?;
        let due_at = policy::membership_due_at(worker.checked_at, self.config.membership);
        Ok(worker.view(waiting, due_at))
    }

    /// Removes a worker and its mailbox.
    ///
    /// # Errors
    ///
    /// Another call changed the worker, or AWS failed.
    pub async fn remove(&self, worker: Worker) -> Result<(), Error> {
        if !self.table.remove_worker(&worker).await? {
            return Err(Error::worker_changed());
        }
        tracing::info!(
            worker = worker.id,
            workspace = worker.workspace,
            "removed worker {}",
            worker.id
        );
        Ok(())
    }

    /// Sets an event aside that fits into no response to a pull, with the reason on the worker and in the log.
    ///
    /// # Errors
    ///
    /// AWS failed.
    pub async fn set_aside(&self, worker: &Worker, event: &PulledEvent) -> Result<(), Error> {
        self.table.set_aside(worker, &event.id).await?;
        let reason = format!(
            "event {} of {} bytes is set aside: it fits into no response to a pull; take gzip, or register an address",
            event.headers.get(WEBHOOK_ID).map_or("", String::as_str),
            event.body.len()
        );
        tracing::error!(
            worker = worker.id,
            workspace = worker.workspace,
            "worker {}: {reason}",
            worker.id
        );
        self.table.record_rejection(worker, &reason, None).await?;
        Ok(())
    }

    /// Deletes the acknowledged events, then returns the oldest.
    ///
    /// # Errors
    ///
    /// The request is malformed, other calls kept changing the worker, or AWS failed.
    pub async fn pull(&self, worker: Worker, pull: &Pull) -> Result<Mailbox, Error> {
        self.verify_membership(&worker)?;
        mailbox::pull(&self.table, &self.clock, worker, pull).await
    }
}

/// Since when a worker that registers is away. Its address has just answered: the probes begin anew, so that what waits for it is
/// delivered within minutes. A paused worker is not probed.
fn away_since(
    state: WorkerState,
    previous: Option<&Worker>,
    now: UnixMillis,
) -> Option<UnixMillis> {
    match previous.filter(|worker| worker.paused) {
        Some(paused) => Some(paused.away_since.unwrap_or(now)),
        None => (state == WorkerState::Away).then_some(now),
    }
}
