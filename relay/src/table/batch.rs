//! Batches of reads and writes, and the retries of what DynamoDB left unprocessed.
//!
//! Source: the DynamoDB API reference, `BatchWriteItem` and `BatchGetItem`: unprocessed items are sent again with
//! exponential backoff.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{DeleteRequest, KeysAndAttributes, WriteRequest};
use backon::{ExponentialBuilder, RetryableWithContext as _};

use super::{Item, Table, TableError};

/// BatchWriteItem takes this many items.
const WRITES: usize = 25;
/// BatchGetItem takes this many keys.
pub(super) const READS: usize = 100;

fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(20))
        .with_max_times(5)
        .with_jitter()
}

fn is_unprocessed(error: &TableError) -> bool {
    matches!(error, TableError::Unprocessed { .. })
}

impl Table {
    /// Writes items in batches.
    pub(super) async fn write_batch(
        &self,
        writes: &[WriteRequest],
        operation: &'static str,
    ) -> Result<(), TableError> {
        for writes in writes.chunks(WRITES) {
            let requests = HashMap::from([(self.name.clone(), writes.to_vec())]);
            let send = |requests| async {
                let call = self.client.batch_write_item();
                match call.set_request_items(Some(requests)).send().await {
                    Err(error) => (HashMap::new(), Err(TableError::call(operation, error))),
                    Ok(written) => match written.unprocessed_items.unwrap_or_default() {
                        left if left.is_empty() => (left, Ok(())),
                        left => (left, Err(TableError::Unprocessed { operation })),
                    },
                }
            };
            let retried = send.retry(backoff()).context(requests).when(is_unprocessed);
            retried.await.1?;
        }
        Ok(())
    }

    /// Deletes the items with these keys.
    pub(super) async fn delete_batch(
        &self,
        keys: Vec<Item>,
        operation: &'static str,
    ) -> Result<(), TableError> {
        let deletes: Vec<_> = (keys.into_iter())
            .map(|key| {
                let delete = DeleteRequest::builder().set_key(Some(key)).build();
                WriteRequest::builder()
                    .delete_request(delete.expect("a key is given"))
                    .build()
            })
            .collect();
        self.write_batch(&deletes, operation).await
    }

    /// Reads the items with these keys, of which there are at most [`READS`] and no two the same; consistent. Absent and expired
    /// items are left out.
    pub(super) async fn get_batch(
        &self,
        keys: Vec<Item>,
        operation: &'static str,
    ) -> Result<Vec<Item>, TableError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let keys = KeysAndAttributes::builder()
            .set_keys(Some(keys))
            .consistent_read(true)
            .build()
            .expect("keys are given");
        let requests = HashMap::from([(self.name.clone(), keys)]);
        let read = |(requests, mut found): (_, Vec<Item>)| async {
            let call = self.client.batch_get_item();
            let read = match call.set_request_items(Some(requests)).send().await {
                Ok(read) => read,
                Err(error) => {
                    let error = TableError::call(operation, error);
                    return ((HashMap::new(), found), Err(error));
                }
            };
            let tables = read.responses.unwrap_or_default().into_values();
            found.extend(tables.flatten().filter(|item| self.is_alive(item)));
            match read.unprocessed_keys.unwrap_or_default() {
                left if left.is_empty() => ((left, found), Ok(())),
                left => ((left, found), Err(TableError::Unprocessed { operation })),
            }
        };
        let retried = read
            .retry(backoff())
            .context((requests, Vec::new()))
            .when(is_unprocessed);
        let ((_, found), done) = retried.await;
        done.map(|()| found)
    }
}
