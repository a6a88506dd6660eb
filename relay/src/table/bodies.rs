//! Large bodies: stored once, compressed, in chunks that fit into an item, under the body's own digest.
//!
//! Invariant: what `body` answers has the digest it was asked for.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::{Item, Table, n, s};
use crate::Error;
use crate::event::digest;
use crate::ingest::BODY_LIMIT;

/// An item holds 400 KB with its keys.
const CHUNK: usize = 350 * 1024;
/// BatchWriteItem takes 25 items.
const BATCH: usize = 25;
/// Of zlib: 1 leaves a third more of a payload, and what is above takes longer for next to nothing.
const LEVEL: u32 = 2;
/// How often items that DynamoDB did not get to are written again.
const TRIES: u32 = 6;

fn partition(workspace: &str, digest: &str) -> String {
    format!("WS#{workspace}#BODY#{digest}")
}

pub(super) fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 4), Compression::new(LEVEL));
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.expect("a vector takes all that is written")
}

pub(super) fn decompress(compressed: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let decoder = ZlibDecoder::new(compressed);
    let read = decoder.take(limit as u64 + 1).read_to_end(&mut body).ok()?;
    (read <= limit).then_some(body)
}

impl Table {
    /// Stores a body under its digest, for `keep`.
    pub async fn put_body(
        &self,
        workspace: &str,
        digest: &str,
        body: &[u8],
        keep: Duration,
    ) -> Result<(), Error> {
        let expires_at = self.in_seconds(keep);
        let compressed = compress(body);
        let chunks: Vec<_> = compressed.chunks(CHUNK).enumerate().collect();
        for chunks in chunks.chunks(BATCH) {
            let writes = (chunks.iter())
                .map(|(at, chunk)| {
                    let item = Item::from([
                        ("pk".to_owned(), s(partition(workspace, digest))),
                        ("sk".to_owned(), s(format!("{at:04}"))),
                        ("part".to_owned(), AttributeValue::B(Blob::new(*chunk))),
                        ("expires_at".to_owned(), n(expires_at)),
                    ]);
                    let put = PutRequest::builder().set_item(Some(item)).build();
                    WriteRequest::builder()
                        .put_request(put.expect("an item is given"))
                        .build()
                })
                .collect();
            self.write(writes, "store the event's body").await?;
        }
        Ok(())
    }

    /// Reads a stored body; none if it is absent, expired or damaged.
    pub async fn body(&self, workspace: &str, expected: &str) -> Result<Option<Bytes>, Error> {
        let mut compressed = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(partition(workspace, expected)))
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| Error::storage("read an event's body", e))?;
            for item in page.items() {
                if let (true, Some(AttributeValue::B(part))) =
                    (self.is_alive(item), item.get("part"))
                {
                    compressed.extend_from_slice(part.as_ref());
                }
            }
        }
        let body = decompress(&compressed, BODY_LIMIT);
        Ok(body
            .filter(|body| digest(body) == expected)
            .map(Bytes::from))
    }

    /// Writes up to 25 items, and those that DynamoDB did not get to once more.
    pub(super) async fn write(
        &self,
        writes: Vec<WriteRequest>,
        what: &'static str,
    ) -> Result<(), Error> {
        let mut left = Some(std::collections::HashMap::from([(
            self.name.clone(),
            writes,
        )]));
        for tries in 0..TRIES {
            let written = (self.client.batch_write_item())
                .set_request_items(left.take())
                .send()
                .await
                .map_err(|e| Error::storage(what, e))?;
            left = written.unprocessed_items.filter(|items| !items.is_empty());
            if left.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20 << tries)).await;
        }
        Err(Error::storage(what, "DynamoDB left items unprocessed"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_body_survives_compression(body in proptest::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert_eq!(decompress(&compress(&body), 4096), Some(body));
        }

        #[test]
        fn damage_is_never_a_panic(mut body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = decompress(&body, 4096);
            body = compress(&body);
            body.truncate(body.len() / 2);
            prop_assert_eq!(decompress(&body, 4096), None);
        }
    }

    #[test]
    fn no_more_is_unpacked_than_was_accepted() {
        assert_eq!(decompress(&compress(&[0; 5000]), 4096), None);
    }
}
