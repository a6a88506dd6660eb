//! The access key of the endpoint for AWS clients. A request has to be signed with it by AWS Signature Version 4, in its
//! `Authorization` header:
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.

use std::time::{Duration, SystemTime};

use aws_sdk_sqs::config::Credentials;
use aws_sigv4::SigningOutput;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SigningError, SigningInstructions, SigningSettings, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use axum::http::request::Parts;
use subtle::ConstantTimeEq as _;
use time::PrimitiveDateTime;
use time::macros::format_description;

/// How old a request may be, or how far ahead of this machine's clock.
const OLDEST: Duration = Duration::from_secs(5 * 60);

/// An access key, whose secret signs requests.
#[derive(Clone)]
pub struct AccessKey {
    /// Names the key.
    pub id: String,
    /// Signs.
    pub secret: String,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({})", self.id)
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// There is no signature.
    #[error(
        "the request is not signed: sign it with the access key that `edge-relay serve` printed"
    )]
    MissingAuthenticationToken,
    /// There is one that is not complete.
    #[error(
        "`Authorization` has to be `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, \
         SignedHeaders=<names>, Signature=<hex>`, with an `X-Amz-Date` like `20150830T123600Z`"
    )]
    IncompleteSignature,
    /// It is of another key.
    #[error(
        "there is no such access key: use the one that `edge-relay serve` printed when it was started last"
    )]
    InvalidClientTokenId,
    /// It is too old.
    #[error("`X-Amz-Date` is more than five minutes from this machine's time")]
    RequestExpired,
    /// It was made with another secret, or of another request.
    #[error(
        "the signature does not match: sign the request as it is sent, with the secret access key that was printed"
    )]
    SignatureDoesNotMatch,
}

/// The signature that a request has, before its body was read.
#[derive(Debug)]
pub(crate) struct Signature<'a> {
    key: &'a AccessKey,
    request: &'a Parts,
    authorization: &'a str,
    time: SystemTime,
    region: &'a str,
    service: &'a str,
    headers: &'a str,
    signature: &'a str,
}

/// The value of a field of `Authorization`.
fn field<'a>(authorization: &'a str, name: &str) -> Option<&'a str> {
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256")?;
    let mut fields = fields
        .split(',')
        .filter_map(|field| field.trim().split_once('='));
    fields.find_map(|(field, value)| (field == name).then_some(value))
}

impl AccessKey {
    /// A new one.
    pub(crate) fn generate() -> Self {
        let [id, first, second] = [(); 3].map(|()| uuid::Uuid::new_v4().simple().to_string());
        Self {
            id: format!("LOCAL{}", id[..15].to_uppercase()),
            secret: first + &second,
        }
    }

    /// Signs a request to a service in a region, with all its headers and with `host` and `x-amz-date`, which are added.
    pub(crate) fn sign(
        &self,
        (region, service): (&str, &str),
        time: SystemTime,
        request: SignableRequest<'_>,
    ) -> Result<SigningOutput<SigningInstructions>, SigningError> {
        let credentials = Credentials::new(&self.id, &self.secret, None, None, "local");
        let identity = Identity::from(credentials);
        let mut settings = SigningSettings::default();
        settings.excluded_headers = None;
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name(service)
            .time(time)
            .settings(settings)
            .build()
            .expect("nothing is missing");
        sign(request, &parameters.into())
    }

    /// Reads a request's signature, which has to be made with this key and about now.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(crate) fn signature<'a>(
        &'a self,
        request: &'a Parts,
        now: SystemTime,
    ) -> Result<Signature<'a>, Refusal> {
        let header = |name| {
            request
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let text = header("authorization").ok_or(Refusal::MissingAuthenticationToken)?;
        let signature = self.parse(request, text, header("x-amz-date").unwrap_or_default());
        let (id, signature) = signature.ok_or(Refusal::IncompleteSignature)?;
        if id != self.id {
            return Err(Refusal::InvalidClientTokenId);
        }
        let apart = now.duration_since(signature.time);
        if apart.unwrap_or_else(|ahead| ahead.duration()) > OLDEST {
            return Err(Refusal::RequestExpired);
        }
        Ok(signature)
    }

    fn parse<'a>(
        &'a self,
        request: &'a Parts,
        authorization: &'a str,
        date: &str,
    ) -> Option<(&'a str, Signature<'a>)> {
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let time = PrimitiveDateTime::parse(date, format).ok()?.assume_utc();
        let mut scope = field(authorization, "Credential")?.split('/');
        let (id, _date) = (scope.next()?, scope.next()?);
        let signature = Signature {
            key: self,
            request,
            authorization,
            time: time.into(),
            region: scope.next()?,
            service: scope.next()?,
            headers: field(authorization, "SignedHeaders")?,
            signature: field(authorization, "Signature")?,
        };
        Some((id, signature))
    }
}

impl Signature<'_> {
    /// Verifies it, now that the body is known.
    ///
    /// # Errors
    ///
    /// It is of another request, or made with another secret.
    pub(crate) fn verify(&self, body: &[u8]) -> Result<(), Refusal> {
        let headers = (self.headers.split(';')).flat_map(|name| {
            self.request
                .headers
                .get_all(name)
                .iter()
                .map(move |value| (name, value))
        });
        let headers = headers.filter_map(|(name, value)| Some((name, value.to_str().ok()?)));
        // A request whose target is a path has no authority but `Host`.
        let uri = format!("http://local{}", self.request.uri);
        let method = self.request.method.as_str();
        let expected = SignableRequest::new(method, uri, headers, SignableBody::Bytes(body))
            .and_then(|request| {
                self.key
                    .sign((self.region, self.service), self.time, request)
            });
        let expected = expected.map_err(|_| Refusal::SignatureDoesNotMatch)?;
        let (output, expected) = expected.into_parts();
        let mut signed = output.headers();
        let written = signed.find_map(|(name, value)| (name == "authorization").then_some(value));
        // What is signed has the date of `X-Amz-Date` and those headers alone that the request has, whatever the field says.
        let is_written = ["Credential", "SignedHeaders"].iter().all(|name| {
            field(self.authorization, name) == field(written.unwrap_or_default(), name)
        });
        if is_written && bool::from(expected.as_bytes().ct_eq(self.signature.as_bytes())) {
            Ok(())
        } else {
            Err(Refusal::SignatureDoesNotMatch)
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    /// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-test-suite.html>
    fn key() -> AccessKey {
        AccessKey {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
        }
    }

    const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
        SignedHeaders=host;x-amz-date, Signature=";
    const POST: &str = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
    const GET: &str = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";

    /// Checks a request of the suite, with a body, so many seconds after it was signed.
    fn check(method: &str, authorization: &str, body: &[u8], late: i64) -> Result<(), Refusal> {
        let mut request = Request::builder().method(method).uri("/");
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let request = request.header("host", "example.amazonaws.com");
        let request = request.header("x-amz-date", "20150830T123600Z").body(());
        let (parts, ()) = request.unwrap().into_parts();
        let signed = time::macros::datetime!(2015-08-30 12:36:00 UTC);
        let now = (signed + time::Duration::seconds(late)).into();
        key().signature(&parts, now)?.verify(body)
    }

    #[test]
    fn a_request_that_is_signed_as_amazon_says_is_answered() {
        assert_eq!(check("POST", &format!("{SIGNED}{POST}"), b"", 0), Ok(()));
        assert_eq!(check("GET", &format!("{SIGNED}{GET}"), b"", 300), Ok(()));
        assert_eq!(check("GET", &format!("{SIGNED}{GET}"), b"", -300), Ok(()));
    }

    #[test]
    fn any_other_is_refused_with_its_reason() {
        let right = format!("{SIGNED}{POST}");
        for (authorization, body, late, refusal) in [
            ("".to_owned(), "", 0, Refusal::MissingAuthenticationToken),
            ("Bearer x".to_owned(), "", 0, Refusal::IncompleteSignature),
            (
                SIGNED.replace(", Signature=", ""),
                "",
                0,
                Refusal::IncompleteSignature,
            ),
            (
                right.replace("AKID", "akid"),
                "",
                0,
                Refusal::InvalidClientTokenId,
            ),
            (right.clone(), "", 301, Refusal::RequestExpired),
            (right.clone(), "", -301, Refusal::RequestExpired),
            (right.clone(), "{}", 0, Refusal::SignatureDoesNotMatch),
            (
                format!("{SIGNED}{GET}"),
                "",
                0,
                Refusal::SignatureDoesNotMatch,
            ),
            (SIGNED.to_owned(), "", 0, Refusal::SignatureDoesNotMatch),
            (
                right.replace("us-east-1", "us-east-2"),
                "",
                0,
                Refusal::SignatureDoesNotMatch,
            ),
            (
                right.replace("host;", ""),
                "",
                0,
                Refusal::SignatureDoesNotMatch,
            ),
            (
                right.replace("x-amz-date", "y-amz-date"),
                "",
                0,
                Refusal::SignatureDoesNotMatch,
            ),
            (
                right.replace("20150830", "20150831"),
                "",
                0,
                Refusal::SignatureDoesNotMatch,
            ),
        ] {
            let checked = check("POST", &authorization, body.as_bytes(), late);
            assert_eq!(checked, Err(refusal), "{authorization}");
        }
    }

    /// A request as an input has it: method and target, lines with a header each, an empty line, and the body.
    fn parse(input: &[u8]) -> Option<(Request<()>, &[u8])> {
        let at = input.windows(2).position(|two| two == b"\n\n")?;
        let mut lines = std::str::from_utf8(&input[..at]).ok()?.lines();
        let (method, target) = lines.next()?.split_once(' ')?;
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            request = request.header(name, value);
        }
        Some((request.body(()).ok()?, &input[at + 2..]))
    }

    #[test]
    fn fuzz_aws_signature() {
        fuzz::target!("aws-signature", |input: &[u8]| {
            let Some((request, body)) = parse(input) else {
                return;
            };
            let (parts, ()) = request.into_parts();
            let now = time::macros::datetime!(2015-08-30 12:36:00 UTC).into();
            let key = key();
            let Ok(signature) = key.signature(&parts, now) else {
                return;
            };
            let known = [GET, POST].contains(&signature.signature);
            if signature.verify(body).is_ok() {
                // No other request than those of the suite is signed.
                assert!(known && body.is_empty());
                let other = signature.verify(b"{}");
                assert_eq!(other, Err(Refusal::SignatureDoesNotMatch));
                let is_signed =
                    |name: &str| signature.headers.split(';').any(|other| other == name);
                assert!(is_signed("host") && is_signed("x-amz-date"));
            }
        });
    }
}
