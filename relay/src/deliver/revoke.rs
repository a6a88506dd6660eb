//! Removes the workers of users and applications whose access to a workspace has ended.

use protocol::clock::elapsed;

use super::Deliver;
use super::attempt::jitter;
use crate::cause::chain;
use crate::policy;
use crate::queue::Revocation;
use crate::table::TableError;

impl Deliver {
    /// Removes the worker of a revocation, and its mailbox. Returns whether that is settled: if not, it is tried again soon.
    pub async fn revoke(&self, revocation: &Revocation) -> bool {
        let (workspace, worker) = (&revocation.workspace, &revocation.worker);
        let is_settled = self
            .try_to_revoke(revocation)
            .await
            .unwrap_or_else(|error| {
                let error = chain(&error);
                tracing::error!(
                    workspace,
                    worker,
                    error,
                    "worker {worker} could not be removed"
                );
                false
            });
        if !is_settled {
            let tried_for = elapsed(revocation.sent_at, self.clock.millis());
            let wait = policy::backoff(tried_for, None, jitter());
            let returned = [(revocation.receipt_handle.clone(), wait)];
            self.queue.return_after(&returned).await;
        }
        is_settled
    }

    async fn try_to_revoke(&self, revocation: &Revocation) -> Result<bool, TableError> {
        let (workspace, worker) = (&revocation.workspace, &revocation.worker);
        // Whoever was seen to be a member since then has access again.
        let found = (self.table.worker(workspace, worker).await?)
            .filter(|worker| worker.checked_at <= revocation.ended_at);
        let Some(found) = found else {
            self.table.complete_removal(workspace, worker).await?;
            return Ok(true);
        };
        if !self.table.remove_worker(&found).await? {
            return Ok(false);
        }
        tracing::warn!(
            workspace,
            worker,
            user = found.owner(),
            Revoked = 1,
            "worker {worker} and its mailbox are removed: the access of its user has ended"
        );
        Ok(true)
    }
}
