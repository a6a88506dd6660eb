//! Calls of a caller in a minute.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;

use super::{Table, n, number, s};
use crate::Error;

const WINDOW: i64 = 60;

impl Table {
    /// Counts a call; answers how many there were in this minute, and when the next one begins.
    pub async fn count_call(&self, caller: &str) -> Result<(u64, Duration), Error> {
        let what = "count the calls of a caller";
        let now = self.clock.seconds();
        let window = now - now.rem_euclid(WINDOW);
        let counted = (self.client.update_item())
            .table_name(&self.name)
            .key("pk", s(format!("RATE#{caller}")))
            .key("sk", s(window.to_string()))
            .update_expression("ADD calls :one SET expires_at = :until")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":until", n(window + 2 * WINDOW))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|e| Error::storage(what, e))?;
        let calls = counted
            .attributes
            .as_ref()
            .and_then(|item| number(item, "calls"));
        let left = u64::try_from(window + WINDOW - now).unwrap_or_default();
        Ok((
            calls.ok_or_else(|| super::unreadable(what))?,
            Duration::from_secs(left),
        ))
    }
}
