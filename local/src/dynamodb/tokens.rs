//! What transactions were answered, by their `ClientRequestToken`: one that is sent again is not carried out again.
//!
//! DynamoDB keeps a token for ten minutes (API Reference, "TransactWriteItems"). dynoxide does so too, and looks at each of its tokens
//! at each transaction, which took more time than all else after some thousand. So it gets none. Here a token is kept for a minute,
//! which is longer than the AWS SDK tries, and only those that have been kept for as long are looked at.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dynoxide::DynoxideError;
use parking_lot::Mutex;

const KEPT: Duration = Duration::from_secs(60);

/// Clones are the same ones.
#[derive(Clone, Default)]
pub(super) struct Tokens(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    /// The hash of the request and the answer, by token.
    answers: HashMap<String, (u64, Vec<u8>)>,
    /// Since when each is kept, the oldest first.
    since: VecDeque<(Instant, String)>,
}

impl Tokens {
    /// Carries a transaction out, or answers it as it was answered before. One that failed is carried out again.
    pub(super) fn once(
        &self,
        token: String,
        request: &[u8],
        now: Instant,
        carry_out: impl FnOnce() -> Result<Vec<u8>, DynoxideError>,
    ) -> Result<Vec<u8>, DynoxideError> {
        let mut hasher = DefaultHasher::new();
        request.hash(&mut hasher);
        let hash = hasher.finish();
        // Held until the end: the request may come again meanwhile.
        let mut kept = self.0.lock();
        kept.forget(now);
        match kept.answers.get(&token) {
            Some((of, answer)) if *of == hash => return Ok(answer.clone()),
            Some(_) => {
                return Err(DynoxideError::IdempotentParameterMismatchException(
                    "the token was used for another request".to_owned(),
                ));
            }
            None => {}
        }
        let answer = carry_out()?;
        kept.since.push_back((now, token.clone()));
        kept.answers.insert(token, (hash, answer.clone()));
        Ok(answer)
    }
}

impl Kept {
    fn forget(&mut self, now: Instant) {
        while let Some((_, token)) =
            (self.since).pop_front_if(|(since, _)| now.saturating_duration_since(*since) > KEPT)
        {
            self.answers.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_carried_out_once_for_its_token() {
        let tokens = Tokens::default();
        let mut carried_out = 0;
        let mut once = |token: &str, request: &str, now, fails| {
            let answer = tokens.once(token.to_owned(), request.as_bytes(), now, || {
                carried_out += 1;
                if fails {
                    return Err(DynoxideError::ValidationException(String::new()));
                }
                Ok(request.as_bytes().to_vec())
            });
            (answer.is_ok(), carried_out)
        };
        let now = Instant::now();
        assert_eq!(once("a", "x", now, true), (false, 1));
        assert_eq!(once("a", "x", now, false), (true, 2));
        assert_eq!(once("a", "x", now, false), (true, 2));
        assert_eq!(once("a", "y", now, false), (false, 2));
        assert_eq!(once("b", "x", now + KEPT, false), (true, 3));
        let later = now + KEPT + Duration::from_secs(1);
        assert_eq!(once("a", "y", later, false), (true, 4));
        assert_eq!(once("b", "x", later, false), (true, 4));
        assert_eq!(tokens.0.lock().since.len(), 2);
    }
}
