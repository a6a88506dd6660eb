//! How many calls a caller makes in a minute.

use std::time::Duration;

use aws_sdk_dynamodb::types::ReturnValue;

use super::{Table, TableError, n, number, s};

const WINDOW_SECONDS: i64 = 60;

impl Table {
    /// Counts a call. Returns the number of calls in this minute and the time until the next one.
    pub(crate) async fn count_call(&self, caller: &str) -> Result<(u64, Duration), TableError> {
        let operation = "count the calls of a caller";
        let now = self.clock.seconds();
        let window = now - now.rem_euclid(WINDOW_SECONDS);
        let counted = (self.client.update_item())
            .table_name(&self.name)
            .key("pk", s(format!("RATE#{caller}")))
            .key("sk", s(window.to_string()))
            .update_expression("ADD calls :one SET expires_at = :until")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":until", n(window + 2 * WINDOW_SECONDS))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|e| TableError::call(operation, e))?;
        let calls = counted
            .attributes
            .as_ref()
            .and_then(|item| number(item, "calls"));
        let left = u64::try_from(window + WINDOW_SECONDS - now).unwrap_or_default();
        Ok((
            calls.ok_or(TableError::Malformed { operation })?,
            Duration::from_secs(left),
        ))
    }
}
