//! Large bodies: each is stored once under its digest, compressed, in chunks that fit into an item.
//!
//! Invariant: `body` returns a body only if it has the digest that was asked for.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use protocol::envelope::digest;

use super::{Table, TableError, item_key, n, s};
use crate::delivery::Body;
use crate::event::{Event, MAX_BODY_BYTES};
use crate::queue::INLINE_LIMIT;

/// An item holds 400 KB with its keys.
const CHUNK_BYTES: usize = 350 * 1024;
/// The zlib level. Level 1 leaves a third more of a payload; higher levels take longer and save next to nothing.
const LEVEL: u32 = 2;

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
    /// The body of an event as its messages carry it. A large one is stored under its digest, for this long.
    pub(crate) async fn store_body(
        &self,
        event: &Event,
        keep: Duration,
    ) -> Result<Body, TableError> {
        if event.body.len() <= INLINE_LIMIT {
            return Ok(Body::Inline(event.body.clone()));
        }
        let expires_at = self.expiry(keep);
        let partition = partition(&event.workspace, &event.digest);
        let writes: Vec<_> = (compress(&event.body).chunks(CHUNK_BYTES).enumerate())
            .map(|(at, chunk)| {
                let mut item = item_key(&partition, format!("{at:04}"));
                item.insert("part".to_owned(), AttributeValue::B(Blob::new(chunk)));
                item.insert("expires_at".to_owned(), n(expires_at));
                let put = PutRequest::builder().set_item(Some(item)).build();
                WriteRequest::builder()
                    .put_request(put.expect("an item is given"))
                    .build()
            })
            .collect();
        self.write_batch(&writes, "store the event's body").await?;
        Ok(Body::Stored(event.digest.clone()))
    }

    /// Reads a stored body; none if it is absent, expired or damaged.
    pub(crate) async fn body(
        &self,
        workspace: &str,
        expected: &str,
    ) -> Result<Option<Bytes>, TableError> {
        let mut compressed = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(partition(workspace, expected)))
            .consistent_read(true)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call("read an event's body", e))?;
            for item in page.items() {
                if let (true, Some(AttributeValue::B(part))) =
                    (self.is_alive(item), item.get("part"))
                {
                    compressed.extend_from_slice(part.as_ref());
                }
            }
        }
        let body = decompress(&compressed, MAX_BODY_BYTES);
        Ok(body
            .filter(|body| digest(body) == expected)
            .map(Bytes::from))
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
    fn no_more_is_decompressed_than_was_accepted() {
        assert_eq!(decompress(&compress(&[0; 5000]), 4096), None);
    }
}
