//! Standard Webhooks 1.0.0, scheme `v1`: HMAC-SHA256 over `{id}.{timestamp}.{body}`.
//!
//! A receipt is the same HMAC over `receipt.{id}.{timestamp}`, in the answer to a signed request: it proves that the
//! worker itself answered, and not a tunnel's page or a stranger at an address that the worker has left.
//!
//! Invariant: the body is signed and verified as the bytes it is; nothing here parses it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::clock::UnixSeconds;

/// How far a signature's timestamp may lie from now, either way, as the public libraries have it.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

const PREFIX: &str = "whsec_";

/// A worker's signing secret: 24 to 64 bytes, written `whsec_<base64>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why a text is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is `whsec_` and 24 to 64 bytes in padded base64")]
pub struct InvalidSecret;

impl Secret {
    /// 32 bytes from the system's random source.
    pub fn generate() -> Self {
        let mut key = vec![0; 32];
        getrandom::fill(&mut key).expect("the system's random source works");
        Self(key)
    }

    /// Reads `whsec_<base64>`; the prefix may be missing, as it is in older examples of the standard.
    ///
    /// # Errors
    ///
    /// The text is not padded base64 of 24 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).unwrap_or(text);
        let key = BASE64.decode(encoded).map_err(|_| InvalidSecret)?;
        if (24..=64).contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(InvalidSecret)
        }
    }

    /// The secret as `whsec_<base64>`, to be shown once or stored; never logged.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.0))
    }

    /// The HMAC over these parts, with a full stop between two of them.
    fn mac(&self, parts: [&[u8]; 3]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for (at, part) in parts.into_iter().enumerate() {
            if at > 0 {
                mac.update(b".");
            }
            mac.update(part);
        }
        mac
    }
}

/// As [`Secret::expose`] writes it.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.expose())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The value of `webhook-signature`: one signature for each secret, separated by one space.
///
/// `timestamp` is in seconds since the Unix epoch, as in `webhook-timestamp`.
///
/// ```
/// use protocol::signature::{Secret, sign};
///
/// // The example of the Standard Webhooks specification.
/// let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
/// let body = br#"{"test": 2432232314}"#;
/// let signature = sign([&secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
/// assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
/// # Ok::<(), protocol::signature::InvalidSecret>(())
/// ```
pub fn sign<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: UnixSeconds,
    body: &[u8],
) -> String {
    let timestamp = timestamp.to_string();
    encode(secrets, [id.as_bytes(), timestamp.as_bytes(), body])
}

/// The value of `webhook-receipt` in the answer to a request with this `webhook-id` and `webhook-timestamp`: one receipt
/// for each secret, separated by one space.
///
/// Only a response to a request whose signature matches may carry one. Otherwise an attacker who intercepts deliveries could obtain their
/// receipts from the worker.
pub fn receipt<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: &str,
) -> String {
    encode(secrets, receipt_parts(id, timestamp))
}

/// Whether one of the receipts in `value` is that of one of `secrets` for a request with this id and timestamp.
pub fn is_receipt<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: UnixSeconds,
    value: &str,
) -> bool {
    let timestamp = timestamp.to_string();
    matches(secrets, receipt_parts(id, &timestamp), digests(value))
}

fn receipt_parts<'a>(id: &'a str, timestamp: &'a str) -> [&'a [u8]; 3] {
    [b"receipt", id.as_bytes(), timestamp.as_bytes()]
}

/// `v1,<base64>` for each secret, separated by one space.
fn encode<'a>(secrets: impl IntoIterator<Item = &'a Secret>, parts: [&[u8]; 3]) -> String {
    // One of them, as there is most of the time.
    let mut value = String::with_capacity(48);
    for secret in secrets {
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str("v1,");
        let digest = secret.mac(parts).finalize().into_bytes();
        BASE64.encode_string(digest, &mut value);
    }
    value
}

/// The well-formed digests in a header's value.
fn digests(value: &str) -> impl Iterator<Item = Vec<u8>> {
    (value.split(' '))
        .filter_map(|part| part.strip_prefix("v1,"))
        .filter_map(|encoded| BASE64.decode(encoded).ok())
        .filter(|digest| digest.len() == 32)
}

/// Whether a digest is that of one of `secrets` over these parts.
fn matches<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    parts: [&[u8]; 3],
    mut digests: impl Iterator<Item = Vec<u8>>,
) -> bool {
    let macs: Vec<_> = (secrets.into_iter())
        .map(|secret| secret.mac(parts))
        .collect();
    // `verify_slice` compares in constant time.
    digests.any(|digest| (macs.iter()).any(|mac| mac.clone().verify_slice(&digest).is_ok()))
}

/// The check that a delivery failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// A header is missing or is not of its form.
    #[error("`{header}` {wrong}")]
    Format {
        /// The header's name.
        header: &'static str,
        /// What is wrong with it and what would be right.
        wrong: &'static str,
    },
    /// The timestamp is too far from now: the delivery is old, or a clock is wrong.
    #[error(
        "the signature was made {seconds} s {}, more than the {tolerance} s allowed",
        if *.past { "ago" } else { "in the future" }
    )]
    Age {
        /// How far from now.
        seconds: u64,
        /// Before now, or after it.
        past: bool,
        /// How far would have been accepted.
        tolerance: u64,
    },
    /// No signature is that of an active secret over this id, timestamp and body.
    #[error("no signature matches: another secret, or the body was changed on its way")]
    Digest,
}

/// The three headers of a signed delivery, as received.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `webhook-id`
    pub id: &'a str,
    /// `webhook-timestamp`
    pub timestamp: &'a str,
    /// `webhook-signature`
    pub signature: &'a str,
}

/// Verifies the form, then the digest with each of `secrets`, then the age against `now`, in seconds since the Unix epoch. A delivery that
/// fails by its age alone was therefore signed with one of the secrets.
///
/// # Errors
///
/// The first check that failed.
pub fn verify(
    secrets: &[Secret],
    signed: Signed<'_>,
    body: &[u8],
    now: UnixSeconds,
) -> Result<(), SignatureError> {
    let timestamp = verify_form(signed)?;
    let parts = [signed.id.as_bytes(), signed.timestamp.as_bytes(), body];
    if !matches(secrets, parts, digests(signed.signature)) {
        return Err(SignatureError::Digest);
    }
    verify_age(timestamp, now)
}

/// Checks the form of the three headers, before there is a body. Returns the time.
///
/// # Errors
///
/// [`SignatureError::Format`]
pub fn verify_form(signed: Signed<'_>) -> Result<UnixSeconds, SignatureError> {
    use crate::headers::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

    let format = |header, wrong| SignatureError::Format { header, wrong };
    if signed.id.is_empty() || signed.id.contains('.') {
        return Err(format(WEBHOOK_ID, "has to be a text without a full stop"));
    }
    if signed.timestamp.is_empty() || !signed.timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format(
            WEBHOOK_TIMESTAMP,
            "has to be whole seconds since the Unix epoch",
        ));
    }
    let timestamp: UnixSeconds = (signed.timestamp.parse())
        .map_err(|_| format(WEBHOOK_TIMESTAMP, "is too large to be a time"))?;
    if digests(signed.signature).next().is_none() {
        return Err(format(
            WEBHOOK_SIGNATURE,
            "has to hold a `v1,<base64 of 32 bytes>`",
        ));
    }
    Ok(timestamp)
}

/// Checks that a signature was made at most [`TOLERANCE`] before or after `now`.
///
/// # Errors
///
/// [`SignatureError::Age`]
pub fn verify_age(timestamp: UnixSeconds, now: UnixSeconds) -> Result<(), SignatureError> {
    let seconds = now.abs_diff(timestamp);
    if seconds <= TOLERANCE.as_secs() {
        return Ok(());
    }
    Err(SignatureError::Age {
        seconds,
        past: timestamp < now,
        tolerance: TOLERANCE.as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The standard's published example, and a second one from its libraries' tests.
    const VECTORS: [(&str, &str, i64, &str, &str); 2] = [
        (
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
        ),
    ];

    fn signed<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> Signed<'a> {
        Signed {
            id,
            timestamp,
            signature,
        }
    }

    #[test]
    fn the_published_vectors_are_signed_and_verified() {
        for (secret, id, timestamp, body, expected) in VECTORS {
            let secrets = [Secret::parse(secret).unwrap()];
            assert_eq!(sign(&secrets, id, timestamp, body.as_bytes()), expected);
            let at = timestamp.to_string();
            let signed = signed(id, &at, expected);
            assert_eq!(verify(&secrets, signed, body.as_bytes(), timestamp), Ok(()));
        }
    }

    #[test]
    fn the_published_invalid_example_fails_by_its_digest() {
        let (secret, id, timestamp, body, _) = VECTORS[0];
        let at = timestamp.to_string();
        let signed = signed(id, &at, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OA=");
        let secrets = [Secret::parse(secret).unwrap()];
        let verified = verify(&secrets, signed, body.as_bytes(), timestamp);
        assert_eq!(verified, Err(SignatureError::Digest));
    }

    #[test]
    fn each_wrong_header_is_named() {
        let secret = [Secret::generate()];
        let good = sign(&secret, "evt_1", 1_000, b"{}");
        for (id, timestamp, signature, header) in [
            ("", "1000", good.as_str(), "webhook-id"),
            ("a.b", "1000", &good, "webhook-id"),
            ("evt_1", "", &good, "webhook-timestamp"),
            ("evt_1", "-5", &good, "webhook-timestamp"),
            ("evt_1", "1e3", &good, "webhook-timestamp"),
            ("evt_1", "99999999999999999999", &good, "webhook-timestamp"),
            ("evt_1", "1000", "", "webhook-signature"),
            ("evt_1", "1000", "v1,short", "webhook-signature"),
            ("evt_1", "1000", "v1a,AAAA", "webhook-signature"),
        ] {
            match verify(&secret, signed(id, timestamp, signature), b"{}", 1_000) {
                Err(SignatureError::Format { header: named, .. }) => assert_eq!(named, header),
                other => panic!("{id} {timestamp} {signature}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_timestamp_is_verified_as_it_is_written() {
        let secrets = [Secret::generate()];
        let signature = sign(&secrets, "evt_1", 1_000, b"{}");
        let signed = signed("evt_1", "01000", &signature);
        assert_eq!(
            verify(&secrets, signed, b"{}", 1_000),
            Err(SignatureError::Digest)
        );
    }

    #[test]
    fn an_old_and_a_future_timestamp_fail_by_their_age() {
        let secrets = [Secret::generate()];
        let signature = sign(&secrets, "evt_1", 1_000, b"{}");
        let signed = signed("evt_1", "1000", &signature);
        for now in [700, 1_300] {
            assert_eq!(verify(&secrets, signed, b"{}", now), Ok(()));
        }
        for now in [699, 1_301] {
            let verified = verify(&secrets, signed, b"{}", now);
            assert!(matches!(
                verified,
                Err(SignatureError::Age { seconds: 301, .. })
            ));
        }
    }

    #[test]
    fn a_receipt_is_for_one_request_and_of_a_secret_that_is_known() {
        let (own, other) = (Secret::generate(), Secret::generate());
        let value = receipt([&own], "evt_1", "1000");
        assert!(is_receipt([&other, &own], "evt_1", 1_000, &value));
        assert!(!is_receipt([&other], "evt_1", 1_000, &value));
        assert!(!is_receipt([&own], "evt_2", 1_000, &value));
        assert!(!is_receipt([&own], "evt_1", 1_001, &value));
        // While a secret is being replaced, the worker and the relay may know different ones.
        let both = receipt([&other, &own], "evt_1", "1000");
        assert!(is_receipt([&own], "evt_1", 1_000, &both));
        let signature = sign([&own], "evt_1", 1_000, b"");
        for wrong in ["", "v1,", &value[3..], &signature] {
            assert!(!is_receipt([&own], "evt_1", 1_000, wrong), "{wrong}");
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::generate();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(Secret::parse("whsec_c2hvcnQ=").is_err());
        assert!(Secret::parse("whsec_!").is_err());
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_here_and_in_the_public_library(
            body in "\\PC{0,200}",
            id in "[A-Za-z0-9_-]{1,40}",
            old in any::<[u8; 32]>(),
            new in any::<[u8; 24]>(),
        ) {
            let secrets = [Secret(new.to_vec()), Secret(old.to_vec())];
            // The public library reads the system's clock.
            let now = crate::clock::Clock::system().seconds();
            let body = body.as_bytes();
            let signature = sign(&secrets, &id, now, body);
            let timestamp = now.to_string();
            let headers = [
                ("webhook-id", &id),
                ("webhook-timestamp", &timestamp),
                ("webhook-signature", &signature),
            ];
            let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let headers = http::HeaderMap::from_iter(headers);
            for secret in &secrets {
                let signed = signed(&id, &timestamp, &signature);
                prop_assert_eq!(verify(std::slice::from_ref(secret), signed, body, now), Ok(()));
                let theirs = standardwebhooks::Webhook::new(&secret.expose()).unwrap();
                prop_assert!(theirs.verify(body, &headers).is_ok());
            }
        }

        #[test]
        fn one_changed_byte_does_not_verify(
            body in proptest::collection::vec(any::<u8>(), 1..200),
            at in any::<proptest::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let secrets = [Secret::generate()];
            let signature = sign(&secrets, "evt_1", 1_000, &body);
            let signed = signed("evt_1", "1000", &signature);
            let mut changed = body.clone();
            changed[at.index(body.len())] ^= 1 << bit;
            let verified = verify(&secrets, signed, &changed, 1_000);
            prop_assert_eq!(verified, Err(SignatureError::Digest));
        }

        #[test]
        fn a_secret_survives_its_text(key in proptest::collection::vec(any::<u8>(), 24..=64)) {
            let secret = Secret(key);
            prop_assert_eq!(Secret::parse(&secret.expose()), Ok(secret));
        }
    }
}
