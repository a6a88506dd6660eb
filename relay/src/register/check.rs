//! The membership check: a worker shows its user's Linear token again. Linear says whether the user still is a member, and
//! which teams the user can see.

use protocol::problem::Code;

use super::{Register, TRIES};
use crate::access;
use crate::error::Error;
use crate::linear::api::{LinearError, Member};
use crate::policy;
use crate::table::{Change, Check};
use crate::worker::{self, Worker};

impl Register {
    /// Refuses a worker whose user has to be checked first.
    pub(super) fn verify_membership(&self, worker: &Worker) -> Result<(), Error> {
        let now = self.clock.millis();
        if policy::is_membership_overdue(worker.checked_at, self.config.membership, now) {
            return Err(Error::refused(
                Code::MembershipCheckDue,
                "it has to be seen again that the worker's user is a member of the workspace: renew with a `linearToken`; \
                 events are parked meanwhile",
            ));
        }
        Ok(())
    }

    /// Checks the membership of a worker's user, and releases or drops what was withheld. Returns the worker as it is then.
    ///
    /// # Errors
    ///
    /// Linear refuses the token: then the worker is removed. Or Linear could not be asked, the token is another user's, or
    /// AWS failed.
    pub(super) async fn check(
        &self,
        mut worker: Worker,
        token: &str,
        caller: &str,
    ) -> Result<Worker, Error> {
        let member = match self.member(token, caller).await {
            Err(Error::Linear(
                refused @ (LinearError::TokenInvalid | LinearError::UserRefused),
            )) => {
                self.remove_refused(&worker).await?;
                return Err(refused.into());
            }
            member => member?,
        };
        let Member {
            user, workspace, ..
        } = &member;
        if worker::id(&workspace.id, &user.id, &worker.name) != worker.id {
            return Err(Error::refused(
                Code::LinearUserDiffers,
                "`linearToken` has to be a token of the user who registered this worker",
            ));
        }
        self.verify_served(workspace).await?;
        for _ in 0..TRIES {
            if let Some(checked) = self.record_check(&worker, &member).await? {
                return Ok(checked);
            }
            worker = self.read_again(&worker).await?;
        }
        Err(Error::worker_changed())
    }

    /// Releases or drops what was withheld, and records the check, unless a later one is recorded. Returns the worker as it is then,
    /// or none if it was changed meanwhile.
    pub(super) async fn record_check(
        &self,
        worker: &Worker,
        member: &Member,
    ) -> Result<Option<Worker>, Error> {
        if self.has_later_check(worker, member) {
            return Ok(Some(worker.clone()));
        }
        let Some((worker, withheld)) = self.release(worker, member).await? else {
            return Ok(None);
        };
        let change = Change {
            subscription: Some(access::checked(&worker.subscription, member)),
            check: Some(Check {
                team_keys: member.teams.clone(),
                asked_at: member.asked_at,
                withheld,
            }),
            ..Change::default()
        };
        let is_recorded = (self.table.renew(&worker, self.config.lease, &change)).await?;
        if is_recorded {
            return self.read_again(&worker).await.map(Some);
        }
        Ok(None)
    }

    /// Releases or drops what was withheld. Returns the worker as it is then with how many events it is withheld after the check,
    /// or none if it was changed otherwise meanwhile.
    pub(super) async fn release(
        &self,
        worker: &Worker,
        member: &Member,
    ) -> Result<Option<(Worker, u64)>, Error> {
        if worker.withheld == 0 {
            return Ok(Some((worker.clone(), 0)));
        }
        let released = (self.table).release(worker, &member.teams, member.asked_at);
        let Some(released) = released.await? else {
            return Ok(None);
        };
        tracing::info!(
            worker = worker.id,
            workspace = worker.workspace,
            released = released.released,
            dropped = released.dropped,
            "worker {}: {} withheld events are in its mailbox, {} are dropped",
            worker.id,
            released.released,
            released.dropped
        );
        // What was released has changed the worker. If more is withheld now, it has to be released, too.
        let worker_now = self.table.worker(&worker.workspace, &worker.id).await?;
        let is_same =
            |now: &Worker| now.token_hash == worker.token_hash && now.withheld == worker.withheld;
        Ok((worker_now.filter(is_same)).map(|now| (now, released.kept as u64)))
    }

    /// Whether Linear was asked about a worker after it was asked for `member`. A check in the future is one of a clock that was
    /// set back since.
    pub(super) fn has_later_check(&self, worker: &Worker, member: &Member) -> bool {
        (member.asked_at + 1..=self.clock.millis()).contains(&worker.checked_at)
    }

    /// Removes a worker whose user Linear does not accept any more.
    async fn remove_refused(&self, worker: &Worker) -> Result<(), Error> {
        if self.table.remove_worker(worker).await? {
            tracing::warn!(
                worker = worker.id,
                workspace = worker.workspace,
                Revoked = 1,
                "worker {} is removed: Linear does not accept the token of its user any more",
                worker.id
            );
        }
        Ok(())
    }
}
