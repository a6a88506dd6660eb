//! The signing secrets of one worker while they rotate.
//!
//! A registration brings a new secret. The one before it stays valid for [`OVERLAP`], since deliveries that are on their
//! way carry its signature: the relay signs with every valid secret, the agent accepts any of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{UnixMillis, millis};
use crate::signature::Secret;

/// How long a replaced secret stays valid.
pub const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// How many replaced secrets are kept, so that a worker which registers in a loop does not collect them without bound.
const MAX_REPLACED: usize = 4;

/// The current secret and those that it replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningSecrets {
    /// The newest secret.
    #[serde(rename = "secret")]
    pub current: Secret,
    /// Those before it, the newest first.
    #[serde(default)]
    pub replaced: Vec<ReplacedSecret>,
}

/// A secret that another one has replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedSecret {
    /// The secret.
    pub secret: Secret,
    /// The end of its validity.
    pub until: UnixMillis,
}

impl SigningSecrets {
    /// A first secret.
    pub fn new(current: Secret) -> Self {
        Self {
            current,
            replaced: Vec::new(),
        }
    }

    /// Replaces the current secret at `now`.
    ///
    /// ```
    /// use protocol::signature::Secret;
    /// use protocol::signing_secrets::{OVERLAP, SigningSecrets};
    ///
    /// let now = 1_764_400_000_000;
    /// let secrets = SigningSecrets::new(Secret::generate()).rotate(Secret::generate(), now);
    /// assert_eq!(secrets.valid_at(now).count(), 2);
    /// let later = now + i64::try_from(OVERLAP.as_millis())?;
    /// assert_eq!(secrets.valid_at(later).count(), 1);
    /// # Ok::<(), std::num::TryFromIntError>(())
    /// ```
    pub fn rotate(&self, current: Secret, now: UnixMillis) -> Self {
        let last = ReplacedSecret {
            secret: self.current.clone(),
            until: now + millis(OVERLAP),
        };
        let before = (self.replaced.iter()).filter(|replaced| replaced.until > now);
        Self {
            current,
            replaced: std::iter::once(last)
                .chain(before.cloned())
                .take(MAX_REPLACED)
                .collect(),
        }
    }

    /// The secrets that are valid at `now`, the newest first.
    pub fn valid_at(&self, now: UnixMillis) -> impl Iterator<Item = &Secret> {
        let replaced = (self.replaced.iter()).filter(move |replaced| replaced.until > now);
        std::iter::once(&self.current).chain(replaced.map(|replaced| &replaced.secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_replaced_secret_is_valid_for_a_day_from_its_replacement() {
        let [first, second, third] = [(); 3].map(|()| Secret::generate());
        let secrets = (SigningSecrets::new(first.clone()))
            .rotate(second.clone(), HOUR)
            .rotate(third.clone(), 2 * HOUR);
        let valid = |now| secrets.valid_at(now).cloned().collect::<Vec<_>>();
        assert_eq!(valid(2 * HOUR), [third.clone(), second.clone(), first]);
        assert_eq!(valid(25 * HOUR), [third.clone(), second]);
        assert_eq!(valid(26 * HOUR), [third]);
    }

    #[test]
    fn few_replaced_secrets_are_kept() {
        let mut secrets = SigningSecrets::new(Secret::generate());
        for _ in 0..9 {
            secrets = secrets.rotate(Secret::generate(), 0);
        }
        assert_eq!(secrets.valid_at(0).count(), 1 + MAX_REPLACED);
    }
}
