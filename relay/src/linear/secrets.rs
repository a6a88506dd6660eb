//! Linear's webhook secrets, kept in Secrets Manager.
//!
//! Invariant: read when the function starts, and again when a signature fails, so that a rotated secret counts
//! without a deployment; but not more often than [`AGAIN_AFTER`], since anybody can post what no secret signed.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_secretsmanager::Client;

use super::signature::{Signer, WebhookSecret, signer};
use crate::Error;
use crate::clock::Clock;

/// How soon after the last time the secrets are read again.
pub const AGAIN_AFTER: Duration = Duration::from_secs(10);

const WHAT: &str = "read Linear's webhook secrets";

#[derive(Debug, Default)]
struct Known {
    secrets: Arc<[WebhookSecret]>,
    /// When they were asked for last, Unix milliseconds.
    asked_at: i64,
}

/// The secrets that Linear signs with; clones share them.
#[derive(Debug, Clone)]
pub struct Secrets {
    client: Client,
    id: String,
    clock: Clock,
    known: Arc<RwLock<Known>>,
}

impl Secrets {
    /// The secrets kept under this name or ARN; none is known before [`Self::read`].
    pub fn new(client: Client, id: String, clock: Clock) -> Self {
        Self {
            client,
            id,
            clock,
            known: Arc::default(),
        }
    }

    /// Reads them: one secret, or a JSON list of `{"secret","workspace"?}`.
    pub async fn read(&self) -> Result<(), Error> {
        self.write().asked_at = self.clock.millis();
        let kept = (self.client.get_secret_value())
            .secret_id(&self.id)
            .send()
            .await
            .map_err(|e| Error::storage(WHAT, e))?;
        let text = kept.secret_string.unwrap_or_default();
        let secrets = WebhookSecret::parse_list(&text)
            .map_err(|wrong| Error::storage(WHAT, format!("the secret {wrong}")))?;
        self.write().secrets = secrets.into();
        Ok(())
    }

    /// Finds who signed `body`; if nobody did, the secrets are read again, for one may have been rotated.
    pub async fn signer(&self, body: &[u8], signature: &str) -> Result<Option<Signer>, Error> {
        let (secrets, asked_at) = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            (Arc::clone(&known.secrets), known.asked_at)
        };
        let found = signer(&secrets, body, signature);
        let since = self.clock.millis() - asked_at;
        if found.is_some() || u128::try_from(since).is_ok_and(|s| s < AGAIN_AFTER.as_millis()) {
            return Ok(found);
        }
        self.read().await?;
        let secrets = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&known.secrets)
        };
        Ok(signer(&secrets, body, signature))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}
