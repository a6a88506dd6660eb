//! Linear's webhook secrets, which Secrets Manager stores.
//!
//! Invariant: the secrets are read when the function starts, and again when a signature does not verify, so that a rotated
//! secret takes effect without a deployment. They are read at most once in [`REFRESH_INTERVAL`], because any sender can post
//! a body with a wrong signature.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::SdkError;
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use parking_lot::RwLock;
use protocol::clock::{Clock, UnixMillis};

use super::signer::{InvalidSecrets, Signer, WebhookSecret, find_signer};

/// The shortest time between two reads.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

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

    /// Reads the secrets: one secret, or a JSON list of `{"secret","workspace"?}`. If that fails, the secrets from before
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
    /// The secrets could not be read again.
    pub(crate) async fn signer(
        &self,
        body: &[u8],
        signature: &str,
    ) -> Result<Option<Signer>, SecretsError> {
        let (secrets, read_at) = {
            let cached = self.cached.read();
            (Arc::clone(&cached.secrets), cached.read_at)
        };
        let found = find_signer(&secrets, body, signature);
        let since = self.clock.millis() - read_at;
        // A clock that was set back makes `since` negative: then they are read again.
        let is_fresh = u128::try_from(since).is_ok_and(|s| s < REFRESH_INTERVAL.as_millis());
        if found.is_some() || is_fresh {
            return Ok(found);
        }
        self.read().await?;
        let secrets = Arc::clone(&self.cached.read().secrets);
        Ok(find_signer(&secrets, body, signature))
    }
}
