//! `Linear-Signature`: hex HMAC-SHA256 of the raw body, keyed with the secret's text as Linear shows it.
//!
//! Source: Linear's "Webhooks" documentation, "Securing webhooks". The relay verifies it; the agent makes it anew
//! for a handler that uses Linear's own SDK. Invariant: compared in constant time.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

fn mac(secret: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    mac
}

/// The value of `Linear-Signature`.
pub fn sign(secret: &str, body: &[u8]) -> String {
    hex::encode(mac(secret, body).finalize().into_bytes())
}

/// Whether `signature` is that of `body`; hex of either case is taken.
pub fn verify(secret: &str, body: &[u8], signature: &str) -> bool {
    let mut digest = [0; 32];
    hex::decode_to_slice(signature, &mut digest).is_ok()
        && mac(secret, body).verify_slice(&digest).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_openssls() {
        // printf '{"a":1}' | openssl dgst -sha256 -hmac SECRET
        assert_eq!(
            sign("SECRET", br#"{"a":1}"#),
            "e368dba16378d7e233512666bd0196e1fcc6c08394ab54fbc6a9390d68e878ee"
        );
    }
}
