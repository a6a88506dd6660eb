//! The outcome of a POST to a worker, from its answer or from the lack of one.

use std::time::{Duration, UNIX_EPOCH};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::clock::{UnixMillis, elapsed};

use crate::outbound::SendError;

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// 2xx
    Delivered,
    /// 410
    Gone,
    /// The worker is not there: its laptop may be asleep or offline.
    Unreachable(UnreachableCause),
    /// The worker answered with another status, which is a defect on its side or on ours.
    Rejected {
        /// The answer's status.
        status: StatusCode,
        /// The wait that the worker asked for.
        retry_after: Option<Duration>,
    },
}

/// Why a worker counts as unreachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnreachableCause {
    /// There was no answer.
    NoAnswer(SendError),
    /// A redirect, or the error page of a tunnel.
    Status(StatusCode),
    /// A receipt was due, and the answer has none: something else than the worker answered.
    NoReceipt(StatusCode),
}

impl Outcome {
    /// The outcome of an answer that arrived at `now`. `is_own` says whether the worker itself gave an answer with these
    /// headers, as far as that can be told.
    pub(crate) fn of(
        answer: Result<(StatusCode, HeaderMap), SendError>,
        now: UnixMillis,
        is_own: impl FnOnce(&HeaderMap) -> bool,
    ) -> Self {
        let (status, headers) = match answer {
            Ok(answered) => answered,
            Err(error) => return Self::Unreachable(UnreachableCause::NoAnswer(error)),
        };
        if !is_own(&headers) {
            return Self::Unreachable(UnreachableCause::NoReceipt(status));
        }
        // ngrok marks the pages that it answers itself (ngrok documentation, "Error codes").
        if headers.contains_key("ngrok-error-code") {
            return Self::Unreachable(UnreachableCause::Status(status));
        }
        let asks_to_wait = headers.contains_key(RETRY_AFTER);
        let retry_after =
            (headers.get(RETRY_AFTER)).and_then(|value| parse_retry_after(value, now));
        match status.as_u16() {
            200..=299 => Self::Delivered,
            410 => Self::Gone,
            // Tunnels answer 404 for a client that is gone, and captive portals 511 (RFC 6585, section 6). 520 to 527 and
            // 530 are Cloudflare's (Cloudflare documentation, "5xx errors").
            300..=399 | 404 | 502 | 504 | 511 | 520..=527 | 530 => {
                Self::Unreachable(UnreachableCause::Status(status))
            }
            503 if !asks_to_wait => Self::Unreachable(UnreachableCause::Status(status)),
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

    /// The outcome as one word, for logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
            Self::Unreachable(_) => "unreachable",
            Self::Rejected { .. } => "rejected",
        }
    }

    /// The status of the answer, if the attempt failed with one.
    pub(crate) fn status(self) -> Option<u16> {
        match self {
            Self::Unreachable(
                UnreachableCause::Status(status) | UnreachableCause::NoReceipt(status),
            )
            | Self::Rejected { status, .. } => Some(status.as_u16()),
            Self::Delivered | Self::Gone | Self::Unreachable(UnreachableCause::NoAnswer(_)) => None,
        }
    }

    /// The outcome in words, for the log, the worker and the operator.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Delivered => "delivered".to_owned(),
            Self::Gone => "answered 410".to_owned(),
            Self::Unreachable(UnreachableCause::NoAnswer(why)) => format!("unreachable: {why}"),
            Self::Unreachable(UnreachableCause::Status(status)) => {
                format!("unreachable: answered {}", status.as_u16())
            }
            Self::Unreachable(UnreachableCause::NoReceipt(status)) => format!(
                "unreachable: something else answered {}, without the worker's receipt",
                status.as_u16()
            ),
            Self::Rejected { status, .. } => format!("rejected: answered {}", status.as_u16()),
        }
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, section 10.2.3).
fn parse_retry_after(value: &HeaderValue, now: UnixMillis) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number that is too large to parse is a long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let now = UNIX_EPOCH + elapsed(0, now);
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, headers: &[(&'static str, &str)]) -> Outcome {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        Outcome::of(Ok((status, headers)), 0, |_| true)
    }

    #[test]
    fn answers_have_four_outcomes() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(answered(status, &[]), Outcome::Delivered, "{status}");
        }
        assert_eq!(answered(410, &[]), Outcome::Gone);
        for status in [301, 302, 307, 404, 502, 503, 504, 511, 520, 522, 530] {
            assert!(
                matches!(answered(status, &[]), Outcome::Unreachable(_)),
                "{status}"
            );
        }
        for status in [400, 401, 403, 405, 408, 409, 418, 425, 429, 500, 501, 599] {
            assert!(
                matches!(answered(status, &[]), Outcome::Rejected { .. }),
                "{status}"
            );
        }
        let tunnel = answered(401, &[("ngrok-error-code", "ERR_NGROK_3200")]);
        assert!(matches!(tunnel, Outcome::Unreachable(_)));
        let timeout = Outcome::of(Err(SendError::Timeout), 0, |_| true);
        assert!(matches!(timeout, Outcome::Unreachable(_)));
    }

    #[test]
    fn an_answer_that_is_not_the_workers_own_is_unreachable_whatever_its_status() {
        for status in [200, 204, 302, 401, 404, 410, 429, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            let outcome = Outcome::of(Ok((status, HeaderMap::new())), 0, |_| false);
            let cause = UnreachableCause::NoReceipt(status);
            assert_eq!(outcome, Outcome::Unreachable(cause));
        }
    }

    #[test]
    fn retry_after_makes_a_503_a_rejection_and_is_read_in_both_forms() {
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

    #[test]
    fn fuzz_worker_answer() {
        use protocol::headers::WEBHOOK_RECEIPT;
        use protocol::signature::{Secret, is_receipt, receipt};

        use crate::policy::{LONGEST, backoff};

        // The secret of the published examples.
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let own = receipt([&secret], "evt_1", "1764400000");
        fuzz::target!("worker-answer", |input: &[u8]| {
            // The status, and lines with a header each. `RECEIPT` is the receipt.
            let text = String::from_utf8_lossy(input).replace("RECEIPT", &own);
            let mut lines = text.lines();
            let status = lines.next().and_then(|status| status.parse().ok());
            let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
                return;
            };
            let headers: HeaderMap = (lines.filter_map(|line| line.split_once(": ")))
                .filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)))
                .collect::<Vec<(http::HeaderName, HeaderValue)>>()
                .into_iter()
                .collect();
            let value = (headers.get(WEBHOOK_RECEIPT)).and_then(|value| value.to_str().ok());
            let is_own = value.is_some_and(|value| value.split(' ').any(|part| part == own));
            let outcome = Outcome::of(Ok((status, headers)), 1_764_400_000_000, |headers| {
                let value = (headers.get(WEBHOOK_RECEIPT)).and_then(|value| value.to_str().ok());
                value.is_some_and(|value| is_receipt([&secret], "evt_1", 1_764_400_000, value))
            });
            match outcome {
                Outcome::Delivered => assert!(is_own && status.is_success()),
                Outcome::Gone => assert!(is_own && status == StatusCode::GONE),
                Outcome::Unreachable(UnreachableCause::NoReceipt(_)) => assert!(!is_own),
                Outcome::Unreachable(_) => assert!(is_own),
                Outcome::Rejected { retry_after, .. } => {
                    assert!(is_own && !status.is_success());
                    let wait = backoff(Duration::ZERO, retry_after, 1.0);
                    assert!(wait <= LONGEST.mul_f64(1.2));
                }
            }
        });
    }
}
