//! What came of a POST to a worker: four classes, by the answer or by its absence.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::outbound::Unreachable;

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx
    Delivered,
    /// 410
    Gone,
    /// Nobody was there to answer: perhaps a laptop's lid is closed.
    Unreachable(Why),
    /// Somebody answered something else: somebody's bug.
    Rejected {
        /// The answer's status.
        status: StatusCode,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
}

/// Why a worker counts as unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No answer.
    Unanswered(Unreachable),
    /// A redirect, or a tunnel's own error page.
    Status(StatusCode),
}

impl Outcome {
    /// From what was answered, at `now` (Unix milliseconds).
    pub(crate) fn of(answer: Result<(StatusCode, HeaderMap), Unreachable>, now: i64) -> Self {
        let (status, headers) = match answer {
            Ok(answered) => answered,
            Err(unreachable) => return Self::Unreachable(Why::Unanswered(unreachable)),
        };
        // ngrok marks the pages that it answers itself (ngrok documentation, "Error codes").
        if headers.contains_key("ngrok-error-code") {
            return Self::Unreachable(Why::Status(status));
        }
        let asks_to_wait = headers.contains_key(RETRY_AFTER);
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| wish(value, now));
        match status.as_u16() {
            200..=299 => Self::Delivered,
            410 => Self::Gone,
            // 520 to 527 and 530 are Cloudflare's (Cloudflare documentation, "5xx errors").
            300..=399 | 502 | 504 | 520..=527 | 530 => Self::Unreachable(Why::Status(status)),
            503 if !asks_to_wait => Self::Unreachable(Why::Status(status)),
            429 | 503 => Self::Rejected {
                status,
                retry_after,
            },
            _ => Self::Rejected {
                status,
                retry_after: None,
            },
        }
    }

    /// Its class, in one word.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
            Self::Unreachable(_) => "unreachable",
            Self::Rejected { .. } => "rejected",
        }
    }

    /// The answer's status, if the attempt failed with one.
    pub(crate) fn status(self) -> Option<u16> {
        match self {
            Self::Unreachable(Why::Status(status)) | Self::Rejected { status, .. } => {
                Some(status.as_u16())
            }
            Self::Delivered | Self::Gone | Self::Unreachable(Why::Unanswered(_)) => None,
        }
    }

    /// In words, for the log, the worker and the operator.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Delivered => "delivered".to_owned(),
            Self::Gone => "answered 410".to_owned(),
            Self::Unreachable(Why::Unanswered(why)) => format!("unreachable: {why}"),
            Self::Unreachable(Why::Status(status)) => {
                format!("unreachable: answered {}", status.as_u16())
            }
            Self::Rejected { status, .. } => format!("rejected: answered {}", status.as_u16()),
        }
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3).
fn wish(value: &HeaderValue, now: i64) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number too large to read is a long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::PrimitiveDateTime::parse(text, format)
        .ok()?
        .assume_utc();
    let left = at.unix_timestamp() - now / 1000;
    Some(Duration::from_secs(u64::try_from(left).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &str)]) -> Outcome {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect();
        Outcome::of(Ok((StatusCode::from_u16(status).unwrap(), headers)), 0)
    }

    #[test]
    fn answers_fall_into_four_classes() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(answered(status, &[]), Outcome::Delivered, "{status}");
        }
        assert_eq!(answered(410, &[]), Outcome::Gone);
        for status in [301, 302, 307, 502, 503, 504, 520, 522, 530] {
            assert!(
                matches!(answered(status, &[]), Outcome::Unreachable(_)),
                "{status}"
            );
        }
        for status in [
            400, 401, 403, 404, 408, 409, 418, 425, 429, 500, 501, 511, 599,
        ] {
            assert!(
                matches!(answered(status, &[]), Outcome::Rejected { .. }),
                "{status}"
            );
        }
        let tunnel = answered(404, &[("ngrok-error-code", "ERR_NGROK_3200")]);
        assert!(matches!(tunnel, Outcome::Unreachable(_)));
        let timeout = Outcome::of(Err(Unreachable::Timeout), 0);
        assert!(matches!(timeout, Outcome::Unreachable(_)));
    }

    #[test]
    fn a_wish_to_wait_makes_a_503_a_rejection_and_is_read_in_both_forms() {
        for (text, expected) in [
            ("7", Some(7)),
            ("Thu, 01 Jan 1970 00:01:00 GMT", Some(60)),
            ("soon", None),
            ("-7", None),
        ] {
            let outcome = answered(429, &[("retry-after", text)]);
            let Outcome::Rejected { retry_after, .. } = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(retry_after, expected.map(Duration::from_secs), "{text}");
        }
        let busy = answered(503, &[("retry-after", "1")]);
        assert!(matches!(busy, Outcome::Rejected { .. }));
    }
}
