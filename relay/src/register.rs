//! Admit, renew, read and remove a worker, and hand out its mailbox.
//!
//! Invariant: Linear's word decides the workspace, and only at registration; afterwards the worker's own token
//! does, so that everything else works while Linear is down.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use protocol::messages::{self, ChallengeAnswer, Control, Mailbox, Pull, Registered, Renew, State};
use protocol::signature::Secret;

use crate::Error;
use crate::capability;
use crate::clock::{Clock, rfc3339};
use crate::config::RegisterConfig;
use crate::event::digest;
use crate::linear::member::Linear;
use crate::outbound::{self, Outbound, Unreachable};
use crate::reach;
use crate::table::{Change, Table};
use crate::worker::{self, ActiveSecret, Token, Worker};
use crate::{event, mailbox};

/// The largest body of a request to the relay, Linear's webhooks aside.
pub const BODY_LIMIT: usize = 64 * 1024;

/// How long a replaced secret still signs.
const ROTATION: Duration = Duration::from_secs(24 * 3600);

/// How long an address may take to answer the challenge.
pub const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(8);
/// How much of the answer to a challenge is read.
const ANSWER_LIMIT: usize = 16 * 1024;

/// The longest Linear token that is passed on.
const MAX_TOKEN: usize = 1024;

/// How often a change is decided anew because another one was faster.
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

/// The one answer to a worker token that is not one: unknown, removed or expired.
pub(crate) fn token_invalid() -> Error {
    Error::unauthorized(
        "worker_token_invalid",
        "there is no registration with this worker and this token: register again",
    )
}

/// The answer to a token that was one until the same user registered the same name again.
fn token_replaced() -> Error {
    Error::unauthorized(
        "worker_token_replaced",
        "this worker was registered again, and the newer registration has its events: give one of the two \
         another name, or register again to take over",
    )
}

pub(crate) fn busy() -> Error {
    Error::new(
        StatusCode::CONFLICT,
        "worker_changed",
        "the worker was changed by another call at the same time: try again",
    )
    .retry_after(Duration::from_secs(1))
}

fn invalid(detail: String) -> Error {
    Error::bad_request("invalid_request", detail)
}

/// The new secret, and those before it for as long as they still sign.
fn rotated(secret: &Secret, was: Option<&Worker>, now: i64) -> Vec<ActiveSecret> {
    let until = now + i64::try_from(ROTATION.as_millis()).unwrap_or_default();
    let current = ActiveSecret {
        secret: secret.clone(),
        until: None,
    };
    // Those before the last one keep the end they have.
    let earlier = (was.iter().flat_map(|w| &w.secrets))
        .filter(|s| s.until.is_none_or(|until| until > now))
        .map(|s| ActiveSecret {
            until: s.until.or(Some(until)),
            ..s.clone()
        })
        .take(3);
    std::iter::once(current).chain(earlier).collect()
}

impl Register {
    /// With what it asks and writes to.
    pub fn new(config: RegisterConfig, table: Table, clock: Clock) -> Result<Self, Error> {
        Ok(Self {
            linear: Linear::new(config.linear_api_url.clone())?,
            outbound: Outbound::new(Some(config.reach), CHALLENGE_TIMEOUT)?,
            config,
            table,
            clock,
        })
    }

    /// Admits a worker: the same one again if this user has registered the name before.
    pub async fn register(
        &self,
        request: messages::Register,
        caller: &str,
    ) -> Result<Registered, Error> {
        worker::check_name(&request.name).map_err(invalid)?;
        if let Some(patterns) = &request.capabilities {
            capability::check(patterns).map_err(invalid)?;
        }
        let url = (request.webhook_url.as_deref())
            .map(|url| reach::check_url(url, self.config.reach))
            .transpose()?;
        let token = request.linear_token.trim();
        if token.is_empty()
            || token.len() > MAX_TOKEN
            || !token.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        {
            return Err(invalid(
                "`linearToken` has to be a Linear API key (`lin_api_…`) or OAuth access token"
                    .to_owned(),
            ));
        }
        self.limit(caller).await?;
        self.limit(&format!("token-{}", digest(token.as_bytes())))
            .await?;
        let member = self.linear.member(token).await?;
        if let Some(url) = &url {
            self.challenge(url).await?;
        }

        let workspace = member.workspace;
        let id = worker::id(&workspace.id, &member.user, &request.name);
        for _ in 0..TRIES {
            let was = self.table.worker(&workspace.id, &id).await?;
            let state = match (&url, was.as_ref().map(|w| w.state)) {
                (None, _) => State::Pull,
                // Mail can outlive a registration whose lease has ended, and what waits comes first: an empty
                // mailbox makes the worker live.
                (Some(_), None) if self.table.has_mail(&workspace.id, &id).await? => State::Away,
                (Some(_), None) => State::Live,
                (Some(_), Some(State::Pull)) => State::Away,
                (Some(_), Some(state)) => state,
            };
            let token = Token::generate();
            let secret = Secret::generate();
            let now = self.clock.millis();
            let lease = i64::try_from(self.config.lease.as_secs()).unwrap_or_default();
            let worker = Worker {
                workspace: workspace.id.clone(),
                id: id.clone(),
                name: request.name.clone(),
                url: url.clone(),
                capabilities: request.capabilities.clone(),
                state,
                token_hash: token.hash(),
                replaced_hash: was.as_ref().map(|w| w.token_hash.clone()),
                secrets: rotated(&secret, was.as_ref(), now),
                expires_at: now / 1000 + lease,
                failures: 0,
                delivered_at: was.as_ref().map_or(now, |w| w.delivered_at),
                has_delivered: was.as_ref().is_some_and(|w| w.has_delivered),
                last_error: None,
                parked: was.as_ref().map_or(0, |w| w.parked),
                waiting: was.as_ref().map_or(state == State::Away, |w| w.waiting),
                away_since: (state == State::Away)
                    .then(|| was.as_ref().and_then(|w| w.away_since).unwrap_or(now)),
            };
            if !self.table.put_worker(&worker, was.as_ref()).await? {
                continue;
            }
            tracing::info!(
                worker = id,
                workspace = workspace.id,
                state = worker.state.as_str(),
                again = was.is_some(),
                Registered = 1,
                "registered"
            );
            return Ok(Registered {
                worker: worker.path(),
                worker_id: id,
                workspace,
                token: token.expose(),
                secret: secret.expose(),
                state: worker.state,
                again: was.is_some(),
                expires_at: rfc3339(worker.expires_at * 1000),
            });
        }
        Err(busy())
    }

    /// Counts a call of `caller`, and refuses it when there were too many in this minute.
    async fn limit(&self, caller: &str) -> Result<(), Error> {
        let (calls, wait) = self.table.count_call(caller).await?;
        if calls <= self.config.registrations_per_minute {
            return Ok(());
        }
        Err(Error::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_registrations",
            format!(
                "there were more than {} registrations in this minute: try again in {} s",
                self.config.registrations_per_minute,
                wait.as_secs()
            ),
        )
        .retry_after(wait))
    }

    /// Asks the address to echo a random text: nobody can aim the relay at a stranger.
    async fn challenge(&self, url: &str) -> Result<(), Error> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).expect("the system's random source works");
        let challenge = hex::encode(random);
        let body = serde_json::to_vec(&Control::Challenge {
            challenge: challenge.clone(),
        })
        .expect("a challenge is plain text");
        let headers = outbound::headers([])?;
        let failed = |what: &str| {
            Error::bad_request(
                "challenge_failed",
                format!(
                    "`webhookUrl` has to answer the POSTed challenge with 200 and \
                     `{{\"challenge\":\"<the same text>\"}}`: {what}"
                ),
            )
        };
        let asked = self
            .outbound
            .ask(url, headers, Bytes::from(body), ANSWER_LIMIT);
        let (status, answer) = match asked.await {
            Ok(answered) => answered,
            Err(unanswered) if unanswered.why == Unreachable::Blocked => {
                return Err(reach::blocked());
            }
            Err(unanswered) => return Err(failed(&unanswered.to_string())),
        };
        if status != StatusCode::OK {
            return Err(failed(&format!("it answered {}", status.as_u16())));
        }
        match serde_json::from_slice::<ChallengeAnswer>(&answer) {
            Ok(answer) if answer.challenge == challenge => Ok(()),
            _ => Err(failed("it answered something else")),
        }
    }

    /// The worker that `token` speaks for.
    pub async fn authorize(
        &self,
        workspace: &str,
        id: &str,
        token: Option<&str>,
    ) -> Result<Worker, Error> {
        let token = token.ok_or_else(|| {
            Error::unauthorized(
                "worker_token_missing",
                "an `Authorization: Bearer <the worker's token>` header is needed",
            )
        })?;
        if !event::is_token(workspace) || !worker::is_id(id) {
            return Err(token_invalid());
        }
        match self.table.worker(workspace, id).await? {
            Some(worker) if worker::is_token(token, &worker.token_hash) => Ok(worker),
            Some(worker)
                if (worker.replaced_hash.as_ref())
                    .is_some_and(|hash| worker::is_token(token, hash)) =>
            {
                Err(token_replaced())
            }
            _ => Err(token_invalid()),
        }
    }

    /// Renews the lease, and changes what is named.
    pub async fn renew(
        &self,
        mut worker: Worker,
        request: Renew,
    ) -> Result<messages::Worker, Error> {
        if let Some(Some(patterns)) = &request.capabilities {
            capability::check(patterns).map_err(invalid)?;
        }
        if matches!(request.state, Some(State::Live | State::Pull)) {
            return Err(invalid(
                "`state` can only be set to `away`: an empty mailbox makes a worker live, having no \
                 `webhookUrl` makes it a pull worker"
                    .to_owned(),
            ));
        }
        let url = match &request.webhook_url {
            Some(Some(url)) => Some(Some(reach::check_url(url, self.config.reach)?)),
            Some(None) => Some(None),
            None => None,
        };
        let moves = match &url {
            Some(Some(url)) if worker.url.as_deref() != Some(url) => {
                self.limit(&format!("worker-{}", worker.id)).await?;
                self.challenge(url).await?;
                true
            }
            Some(None) => worker.url.is_some(),
            _ => false,
        };
        let (workspace, id, token_hash) = (
            worker.workspace.clone(),
            worker.id.clone(),
            worker.token_hash.clone(),
        );
        for _ in 0..TRIES {
            let change = Change {
                url: url.clone().filter(|_| moves),
                capabilities: request.capabilities.clone(),
                state: match (&url, worker.state, request.state) {
                    (Some(None), State::Live | State::Away, _) => Some(State::Pull),
                    (Some(Some(_)), State::Pull, _) => Some(State::Away),
                    (_, State::Live, Some(State::Away)) => Some(State::Away),
                    _ => None,
                },
            };
            if change == Change::default() && self.is_fresh(&worker) {
                return self.read(worker).await;
            }
            let renewed = self
                .table
                .renew(&worker, self.config.lease, &change)
                .await?;
            worker = (self.table.worker(&workspace, &id).await?)
                .filter(|w| w.token_hash == token_hash)
                .ok_or_else(token_invalid)?;
            if renewed {
                return self.read(worker).await;
            }
        }
        Err(busy())
    }

    /// Whether the lease was renewed so shortly ago that a write would change next to nothing.
    fn is_fresh(&self, worker: &Worker) -> bool {
        let lease = i64::try_from(self.config.lease.as_secs()).unwrap_or_default();
        worker.expires_at - self.clock.seconds() > lease - lease / 100
    }

    /// What the relay knows of a worker.
    pub async fn read(&self, worker: Worker) -> Result<messages::Worker, Error> {
        let waiting = self.table.has_mail(&worker.workspace, &worker.id).await?;
        Ok(worker.view(waiting))
    }

    /// Removes a worker and its mailbox.
    pub async fn remove(&self, worker: Worker) -> Result<(), Error> {
        if !self.table.remove_worker(&worker).await? {
            return Err(busy());
        }
        tracing::info!(worker = worker.id, workspace = worker.workspace, "removed");
        Ok(())
    }

    /// Deletes what is acknowledged, then answers with the oldest that wait.
    pub async fn pull(&self, worker: Worker, pull: &Pull) -> Result<Mailbox, Error> {
        mailbox::pull(&self.table, &self.clock, worker, pull).await
    }
}
