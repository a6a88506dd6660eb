//! How many calls a caller makes in a minute, the Linear tokens that were accepted, and the challenges under way.

use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use protocol::clock::{UnixSeconds, millis};

use super::workers::conditional;
use super::{Item, Table, TableError, item_key, n, number, s, text};

const WINDOW_SECONDS: i64 = 60;

/// How long it is known that Linear accepted a token.
const TOKEN_KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// How many challenges of one user may be under way at once.
const CHALLENGES_AT_ONCE: u32 = 2;

/// A caller's calls in one minute.
#[derive(Debug)]
pub(crate) struct Counted {
    caller: String,
    window: UnixSeconds,
    /// How many there were, this one included.
    pub(crate) calls: u64,
    /// The time until the next minute.
    pub(crate) wait: Duration,
}

/// One of the challenges that a user may have under way at once.
#[derive(Debug)]
pub(crate) struct ChallengeSlot {
    key: Item,
    until: AttributeValue,
}

fn key(caller: &str, window: UnixSeconds) -> Item {
    item_key(format!("RATE#{caller}"), window.to_string())
}

/// The key of a token that Linear accepted, by its SHA-256.
fn token_key(digest: &str) -> Item {
    item_key(format!("TOKEN#{digest}"), "TOKEN")
}

impl Table {
    /// Counts a call.
    pub(crate) async fn count_call(&self, caller: &str) -> Result<Counted, TableError> {
        let now = self.clock.seconds();
        let window = now - now.rem_euclid(WINDOW_SECONDS);
        let calls = self.add_calls(caller, window, 1).await?;
        let left = u64::try_from(window + WINDOW_SECONDS - now).unwrap_or_default();
        Ok(Counted {
            caller: caller.to_owned(),
            window,
            calls: u64::try_from(calls).unwrap_or_default(),
            wait: Duration::from_secs(left),
        })
    }

    /// Takes back that a call was counted.
    pub(crate) async fn uncount_call(&self, counted: Counted) -> Result<(), TableError> {
        (self.add_calls(&counted.caller, counted.window, -1).await).map(drop)
    }

    async fn add_calls(
        &self,
        caller: &str,
        window: UnixSeconds,
        calls: i64,
    ) -> Result<i64, TableError> {
        let operation = "count the calls of a caller";
        let counted = (self.client.update_item())
            .table_name(&self.name)
            .set_key(Some(key(caller, window)))
            .update_expression("ADD calls :calls SET expires_at = :until")
            .expression_attribute_values(":calls", n(calls))
            .expression_attribute_values(":until", n(window + 2 * WINDOW_SECONDS))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|e| TableError::call(operation, e))?;
        (counted.attributes.as_ref())
            .and_then(|item| number(item, "calls"))
            .ok_or(TableError::Malformed { operation })
    }

    /// The user of the token with this SHA-256, if Linear has accepted it before.
    pub(crate) async fn user_of_token(&self, digest: &str) -> Result<Option<String>, TableError> {
        let known = self.get(token_key(digest), "look for the token").await?;
        Ok(known.and_then(|item| text(&item, "user").map(str::to_owned)))
    }

    /// Records that Linear accepted a token of a user.
    pub(crate) async fn remember_token(&self, digest: &str, user: &str) -> Result<(), TableError> {
        let mut item = token_key(digest);
        item.insert("user".to_owned(), s(user));
        self.put(item, TOKEN_KNOWN_FOR, "remember the token").await
    }

    /// Records that Linear accepts a token no more.
    pub(crate) async fn forget_token(&self, digest: &str) -> Result<(), TableError> {
        (self.client.delete_item())
            .table_name(&self.name)
            .set_key(Some(token_key(digest)))
            .send()
            .await
            .map(drop)
            .map_err(|e| TableError::call("forget the token", e))
    }

    /// Takes one of the slots for challenges of a user, for this long at most; none if all are taken.
    pub(crate) async fn take_challenge_slot(
        &self,
        user: &str,
        longest: Duration,
    ) -> Result<Option<ChallengeSlot>, TableError> {
        let now = self.clock.millis();
        let until = n(now + millis(longest));
        for slot in 0..CHALLENGES_AT_ONCE {
            let key = item_key(format!("RATE#challenge-{user}"), format!("slot-{slot}"));
            let taken = (self.client.put_item())
                .table_name(&self.name)
                .set_item(Some(key.clone()))
                .item("until", until.clone())
                .item(
                    "expires_at",
                    n(self.expiry(longest + Duration::from_secs(60))),
                )
                .condition_expression("attribute_not_exists(pk) OR #until <= :now")
                .expression_attribute_names("#until", "until")
                .expression_attribute_values(":now", n(now))
                .send()
                .await;
            if conditional(taken, "begin a challenge")?.is_some() {
                return Ok(Some(ChallengeSlot { key, until }));
            }
        }
        Ok(None)
    }

    /// Gives a slot back.
    pub(crate) async fn free_challenge_slot(&self, slot: ChallengeSlot) -> Result<(), TableError> {
        let freed = (self.client.delete_item())
            .table_name(&self.name)
            .set_key(Some(slot.key))
            .condition_expression("#until = :until")
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":until", slot.until)
            .send()
            .await;
        conditional(freed, "end a challenge").map(drop)
    }
}
