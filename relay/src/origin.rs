//! The secret that CloudFront puts into each request to its origin, the HTTP API: with a firewall in front, nobody can walk around
//! it, also not by the HTTP API's own address (CloudFront developer guide, "Restrict access to files on custom origins").

use std::fmt;

use http::HeaderMap;
use protocol::envelope::digest;

use crate::error::Error;

/// The header.
const HEADER: &str = "x-origin-secret";

/// The secret, as a hash; none if there is no firewall.
#[derive(Clone)]
pub struct OriginSecret(Option<String>);

impl fmt::Debug for OriginSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OriginSecret(..)")
    }
}

impl OriginSecret {
    /// From the setting, if there is one.
    pub(crate) fn new(secret: Option<&str>) -> Self {
        Self(secret.map(|secret| digest(secret.as_bytes())))
    }

    /// Whether all requests come through CloudFront.
    pub fn is_behind_cloudfront(&self) -> bool {
        self.0.is_some()
    }

    /// Verifies that a request has come through CloudFront, if all have to. The hashes are compared, so that the time reveals
    /// nothing of use.
    ///
    /// # Errors
    ///
    /// It has not.
    pub fn verify(&self, headers: &HeaderMap) -> Result<(), Error> {
        let Some(expected) = &self.0 else {
            return Ok(());
        };
        match headers.get(HEADER) {
            Some(shown) if digest(shown.as_bytes()) == *expected => Ok(()),
            // Whoever asks here has no business here.
            _ => Err(Error::not_found()),
        }
    }
}
