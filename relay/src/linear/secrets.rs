//! Linear's webhook secrets, which Secrets Manager stores.
//!
//! Invariant: the secrets are read when the function starts, again when a signature does not verify, so that a rotated
//! secret takes effect without a deployment, and again once they are [`MAX_AGE`] old, so that a removed one is not accepted
//! for as long as an instance lives. They are read at most once in [`REFRESH_INTERVAL`], because any sender can post a body
//! with a wrong signature.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use parking_lot::RwLock;
use protocol::clock::{Clock, UnixMillis};

use super::signer::{InvalidSecrets, Signer, WebhookSecret, find_signer};
use crate::cause::chain;

/// The shortest time between two reads.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// How old the secrets may be before they are read again.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(60);

/// Why the webhook secrets could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Secrets Manager failed.
    #[error("could not read Linear's webhook secrets; try again")]
    Call(#[from] Box<SdkError<GetSecretValueError>>),
    /// What it stores is malformed.
    #[error("could not read Linear's webhook secrets: the secret {0}")]
    Malformed(InvalidSecrets),
}

#[derive(Debug, Default)]
struct Cached {
    secrets: Arc<[WebhookSecret]>,
    /// When the last read began.
    read_at: UnixMillis,
}

/// The secrets that Linear signs with. Clones share them.
#[derive(Debug, Clone)]
pub struct Secrets {
    client: Client,
    id: String,
    clock: Clock,
    cached: Arc<RwLock<Cached>>,
}

impl Secrets {
    /// The secrets with this name or ARN. None is known before [`Self::verify_access`].
    pub fn new(client: Client, id: String, clock: Clock) -> Self {
        Self {
            client,
            id,
            clock,
            cached: Arc::default(),
        }
    }

    /// Verifies that the secrets can be read. They are known afterwards.
    ///
    /// # Errors
    ///
    /// Secrets Manager failed, or what it stores is malformed.
    pub async fn verify_access(&self) -> Result<(), SecretsError> {
        self.read().await
    }

    /// The workspaces that a secret belongs to.
    pub(crate) fn workspaces(&self) -> Vec<String> {
        let secrets = Arc::clone(&self.cached.read().secrets);
        (secrets.iter())
            .filter_map(|secret| secret.workspace().map(str::to_owned))
            .collect()
    }

    /// Reads the secrets, as [`WebhookSecret::parse_list`] takes them. If that fails, the secrets from before
    /// stay in use.
    async fn read(&self) -> Result<(), SecretsError> {
        self.cached.write().read_at = self.clock.millis();
        let stored = (self.client.get_secret_value())
            .secret_id(&self.id)
            .send()
            .await
            .map_err(Box::new)?;
        let text = stored.secret_string.unwrap_or_default();
        let secrets = WebhookSecret::parse_list(&text).map_err(SecretsError::Malformed)?;
        self.cached.write().secrets = secrets.into();
        Ok(())
    }

    /// Finds whose secret signed `body`. If none did, the secrets are read again, because one may have been rotated.
    ///
    /// # Errors
    ///
    /// The secrets could not be read again, and those from before did not sign it.
    pub(crate) async fn signer(
        &self,
        body: &[u8],
        signature: &str,
    ) -> Result<Option<Signer>, SecretsError> {
        // While Secrets Manager cannot be read, the secrets from before stay in use: webhooks must not be lost for that.
        if !self.is_younger_than(MAX_AGE)
            && let Err(error) = self.read().await
        {
            let error = chain(&error);
            tracing::warn!(error, "the webhook secrets are older than they may be");
        }
        let found = self.find_signer(body, signature);
        if found.is_some() || self.is_younger_than(REFRESH_INTERVAL) {
            return Ok(found);
        }
        self.read().await?;
        Ok(self.find_signer(body, signature))
    }

    fn find_signer(&self, body: &[u8], signature: &str) -> Option<Signer> {
        let secrets = Arc::clone(&self.cached.read().secrets);
        find_signer(&secrets, body, signature)
    }

    /// Whether the last read began less than `age` ago. A clock that was set back makes the age negative: then they are read
    /// again.
    fn is_younger_than(&self, age: Duration) -> bool {
        let since = self.clock.millis() - self.cached.read().read_at;
        u128::try_from(since).is_ok_and(|since| since < age.as_millis())
    }
}
