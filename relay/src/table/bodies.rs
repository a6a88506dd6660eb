//! Large bodies: each is stored once under its digest, compressed, in chunks that fit into an item.
//!
//! Invariant: a stored body is returned only if it has the digest that was asked for.

use std::borrow::Cow;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use bytes::Bytes;
use protocol::envelope::digest;

use super::{Table, TableError, item_key, n, s};
use crate::config::LONGEST_MAILBOX;
use crate::delivery::{Body, Delivery, QUEUED_FOR};
use crate::event::Event;
use crate::transport::{self, Chosen};

/// An item holds 400 KB with its keys.
const CHUNK_BYTES: usize = 350 * 1024;
/// A parked body is stored beside its item if more than this is left of it.
const BESIDE_FROM_BYTES: usize = 16 * 1024;

fn partition(workspace: &str, digest: &str) -> String {
    format!("WS#{workspace}#BODY#{digest}")
}

impl Table {
    /// The body of an event as its messages to so many workers carry it. One that they do not carry is stored under its digest,
    /// for this long.
    pub(crate) async fn store_body(
        &self,
        event: &Event,
        recipients: usize,
        keep: Duration,
    ) -> Result<Body, TableError> {
        let packed = match transport::choose(&event.body, recipients) {
            Chosen::Raw => return Ok(Body::Inline(event.body.clone())),
            Chosen::Packed(packed) => return Ok(Body::Packed(packed.into())),
            Chosen::Stored(packed) => packed,
        };
        (self.store_packed(&event.workspace, &event.digest, &packed, keep)).await?;
        Ok(Body::Stored(event.digest.clone()))
    }

    /// A delivery as it is kept in a mailbox for so long: one with a large body has it stored under its digest.
    ///
    /// An item of a mailbox is written in a transaction, which bills each KB twice, and its deletion bills it once more. A
    /// stored body is billed once, and its TTL deletes it at no cost.
    pub(super) async fn with_body_beside<'a>(
        &self,
        delivery: &'a Delivery,
        keep: Duration,
    ) -> Result<Cow<'a, Delivery>, TableError> {
        let packed = match &delivery.body {
            Body::Inline(bytes) if bytes.len() > BESIDE_FROM_BYTES => transport::pack(bytes).into(),
            Body::Packed(packed) => packed.clone(),
            Body::Inline(_) | Body::Stored(_) => return Ok(Cow::Borrowed(delivery)),
        };
        let body = match (packed.len() > BESIDE_FROM_BYTES).then(|| transport::unpack(&packed)) {
            Some(Some(bytes)) => {
                let (workspace, digest) = (&delivery.workspace, digest(&bytes));
                let keep = keep + QUEUED_FOR;
                (self.store_packed(workspace, &digest, &packed, keep)).await?;
                Body::Stored(digest)
            }
            _ => Body::Packed(packed),
        };
        Ok(Cow::Owned(Delivery {
            body,
            ..delivery.clone()
        }))
    }

    /// Stores the body of a dead letter again if it is stored: it has to be there as long as the letter, and then in a mailbox as
    /// long as any event, should the letter be moved back.
    pub(crate) async fn store_again(&self, delivery: &Delivery) -> Result<(), TableError> {
        let Body::Stored(digest) = &delivery.body else {
            return Ok(());
        };
        let workspace = &delivery.workspace;
        let Some(body) = self.body(workspace, &delivery.body).await? else {
            return Ok(());
        };
        let keep = LONGEST_MAILBOX + QUEUED_FOR;
        (self.store_packed(workspace, digest, &transport::pack(&body), keep)).await
    }

    async fn store_packed(
        &self,
        workspace: &str,
        digest: &str,
        packed: &[u8],
        keep: Duration,
    ) -> Result<(), TableError> {
        let expires_at = self.expiry(keep);
        let partition = partition(workspace, digest);
        let writes: Vec<_> = (packed.chunks(CHUNK_BYTES).enumerate())
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
        self.write_batch(&writes, "store the event's body").await
    }

    /// The body of a delivery; none if it was stored and is absent, expired or damaged.
    pub(crate) async fn body(
        &self,
        workspace: &str,
        body: &Body,
    ) -> Result<Option<Bytes>, TableError> {
        let digest = match body {
            Body::Inline(bytes) => return Ok(Some(bytes.clone())),
            Body::Packed(packed) => return Ok(transport::unpack(packed)),
            Body::Stored(digest) => digest,
        };
        // It was stored before its messages were sent. A read that costs half may come too early all the same, and the digest
        // tells.
        match self.stored_body(workspace, digest, false).await? {
            None => self.stored_body(workspace, digest, true).await,
            found => Ok(found),
        }
    }

    async fn stored_body(
        &self,
        workspace: &str,
        expected: &str,
        is_consistent: bool,
    ) -> Result<Option<Bytes>, TableError> {
        let mut packed = Vec::new();
        let mut pages = (self.client.query())
            .table_name(&self.name)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(partition(workspace, expected)))
            .consistent_read(is_consistent)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| TableError::call("read an event's body", e))?;
            for item in page.items() {
                if let (true, Some(AttributeValue::B(part))) =
                    (self.is_alive(item), item.get("part"))
                {
                    packed.extend_from_slice(part.as_ref());
                }
            }
        }
        Ok(transport::unpack(&packed).filter(|body| digest(body) == expected))
    }
}
