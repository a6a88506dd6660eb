//! Transactions: all of their writes happen, or none.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem, Update};
use backon::{ExponentialBuilder, Retryable as _};

use super::{Item, Table, TableError};

pub(super) fn put(put: Put) -> TransactWriteItem {
    TransactWriteItem::builder().put(put).build()
}

pub(super) fn update(update: Update) -> TransactWriteItem {
    TransactWriteItem::builder().update(update).build()
}

pub(super) fn delete(delete: Delete) -> TransactWriteItem {
    TransactWriteItem::builder().delete(delete).build()
}

/// Whether a transaction was cancelled for a reason of this code (DynamoDB API reference, `TransactWriteItems`).
fn is_cancelled_by(error: &SdkError<TransactWriteItemsError>, code: &str) -> bool {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
            (cancelled.cancellation_reasons().iter()).any(|reason| reason.code() == Some(code))
        }
        _ => false,
    }
}

/// A conflict means that another write changes the same worker. The jitter keeps them apart.
pub(super) fn conflict_backoff() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(10))
        .with_max_times(7)
        .with_jitter()
}

impl Table {
    /// A write of this item, without a condition.
    pub(super) fn put_of(&self, item: Item) -> TransactWriteItem {
        let built = Put::builder().table_name(&self.name).set_item(Some(item));
        put(built.build().expect("a table and an item are given"))
    }

    /// A deletion of the item with this key, without a condition.
    pub(super) fn delete_of(&self, key: Item) -> TransactWriteItem {
        let built = Delete::builder().table_name(&self.name).set_key(Some(key));
        delete(built.build().expect("a table and a key are given"))
    }

    /// Writes all or nothing. Returns whether all is written: if not, a condition did not hold.
    pub(super) async fn transact(
        &self,
        writes: Vec<TransactWriteItem>,
        operation: &'static str,
    ) -> Result<bool, TableError> {
        let transact = || async {
            let call = self.client.transact_write_items();
            match call.set_transact_items(Some(writes.clone())).send().await {
                Ok(_) => Ok(true),
                Err(e) if is_cancelled_by(&e, "ConditionalCheckFailed") => Ok(false),
                Err(e) if is_cancelled_by(&e, "TransactionConflict") => {
                    Err(TableError::Conflict { operation })
                }
                Err(e) => Err(TableError::call(operation, e)),
            }
        };
        (transact.retry(conflict_backoff()))
            .when(|error| matches!(error, TableError::Conflict { .. }))
            .await
    }
}
