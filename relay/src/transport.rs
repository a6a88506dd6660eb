//! How an event's body gets to `deliver`: as it is in each message, compressed in each message, or stored once in the table,
//! compressed.
//!
//! The cheapest way is taken. SQS bills a request for each 64 KiB of its payload, once for the send and once for the receive
//! (Amazon SQS pricing); DynamoDB bills a write unit for each KiB of an item, and half a read unit for each 4 KiB that are read
//! without strong consistency (DynamoDB Developer Guide, "Read and write operations"). A body is compressed only where that
//! can save a request.
//!
//! Invariant: [`unpack`] returns what [`pack`] was given, byte for byte.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use memchr::memmem;

use crate::event::MAX_BODY_BYTES;

/// How many messages a batch call of SQS takes.
pub const BATCH_SIZE: usize = 10;
/// The most of a body that a message carries. A batch of ten with all attributes is less than the 1 MiB that SQS takes.
pub const MESSAGE_LIMIT: usize = 96 * 1024;
/// What a message has beside its body, about: ids, type and action in its attributes.
const ENVELOPE: usize = 256;
/// SQS bills a request for each so many bytes of a payload.
const REQUEST_BYTES: usize = 64 * 1024;

/// Prices in sixteenths of a dollar a million, us-east-1: a request of SQS FIFO.
pub const REQUEST: u64 = 8;
/// A write unit of DynamoDB on demand.
pub const WRITE_UNIT: u64 = 10;
/// Half a read unit.
pub const HALF_READ_UNIT: u64 = 1;

/// The zlib level. Level 1 leaves a third more of a payload; higher levels take longer and save next to nothing.
const LEVEL: Compression = Compression::new(2);

/// A way to carry a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As it is, in each message.
    Raw,
    /// Compressed, in each message.
    Packed,
    /// Compressed, once in the table.
    Stored,
}

/// The way for a body, with what it has compressed for that.
#[derive(Debug)]
pub(crate) enum Chosen {
    Raw,
    Packed(Vec<u8>),
    Stored(Vec<u8>),
}

/// The requests for sending and receiving so many messages with so much of a body in each.
fn requests(bytes: usize, recipients: usize) -> u64 {
    let billed = |messages: usize| (messages * (bytes + ENVELOPE)).div_ceil(REQUEST_BYTES) as u64;
    let full = (recipients / BATCH_SIZE) as u64;
    2 * (full * billed(BATCH_SIZE) + billed(recipients % BATCH_SIZE))
}

impl Way {
    /// What a million events cost this way beside all that they cost in any way, in sixteenths of a dollar, if a body has so
    /// many bytes as this way carries it; none if it does not fit. Batches are taken to be received as they are sent.
    pub fn cost(self, bytes: usize, recipients: usize) -> Option<u64> {
        match self {
            Self::Raw | Self::Packed => {
                (bytes <= MESSAGE_LIMIT).then(|| REQUEST * requests(bytes, recipients))
            }
            Self::Stored => {
                let write = WRITE_UNIT * bytes.div_ceil(1024) as u64;
                let read = HALF_READ_UNIT * bytes.div_ceil(4096) as u64;
                let batches = recipients.div_ceil(BATCH_SIZE) as u64;
                Some(REQUEST * requests(0, recipients) + write + batches * read)
            }
        }
    }
}

/// The cheapest way for a body to this number of workers.
pub(crate) fn choose(body: &[u8], recipients: usize) -> Chosen {
    let raw = Way::Raw
        .cost(body.len(), recipients)
        .filter(|_| is_allowed(body));
    if raw.is_some_and(|raw| raw <= REQUEST * requests(0, recipients)) {
        return Chosen::Raw;
    }
    let packed = pack(body);
    let [in_messages, stored] =
        [Way::Packed, Way::Stored].map(|way| way.cost(packed.len(), recipients));
    let cheapest = [raw, in_messages, stored].into_iter().flatten().min();
    if raw.is_some() && raw == cheapest {
        Chosen::Raw
    } else if in_messages.is_some() && in_messages == cheapest {
        Chosen::Packed(packed)
    } else {
        Chosen::Stored(packed)
    }
}

/// The way that a body to this number of workers goes.
pub fn way(body: &[u8], recipients: usize) -> Way {
    match choose(body, recipients) {
        Chosen::Raw => Way::Raw,
        Chosen::Packed(_) => Way::Packed,
        Chosen::Stored(_) => Way::Stored,
    }
}

/// How many bytes of a body are left when it is compressed.
pub fn packed_bytes(body: &[u8]) -> usize {
    pack(body).len()
}

/// Whether a message can carry a body as it is.
pub(crate) fn fits_raw(body: &[u8]) -> bool {
    body.len() <= MESSAGE_LIMIT && is_allowed(body)
}

/// SQS accepts UTF-8 of `#x9 | #xA | #xD | #x20-#xD7FF | #xE000-#xFFFD | #x10000-#x10FFFF` (SendMessage, API reference).
/// That a text is UTF-8 is not asked here.
pub(crate) fn is_allowed(text: &[u8]) -> bool {
    // Without an early end, so that many bytes are compared at once.
    let has_control = (text.iter()).fold(false, |found, b| {
        found | (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r'))
    });
    let has = |character: &str| memmem::find(text, character.as_bytes()).is_some();
    !(has_control || has("\u{fffe}") || has("\u{ffff}"))
}

/// Compresses a body.
pub(crate) fn pack(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(body.len() / 4), LEVEL);
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.expect("a vector takes all that is written")
}

/// The body that was compressed; none if it is damaged or larger than any that was accepted.
pub(crate) fn unpack(packed: &[u8]) -> Option<Bytes> {
    let mut body = Vec::with_capacity(packed.len() * 4);
    let decoder = ZlibDecoder::new(packed);
    let limit = MAX_BODY_BYTES as u64 + 1;
    let read = decoder.take(limit).read_to_end(&mut body).ok()?;
    (read <= MAX_BODY_BYTES).then(|| body.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that compresses to about a quarter, as Linear's payloads do.
    fn text(bytes: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(bytes as u64);
        let mut text = Vec::with_capacity(bytes + 64);
        while text.len() < bytes {
            let value = random.u64(..);
            text.extend_from_slice(
                format!("\"identifier\":\"{value:016x}\",\"description\":null,\n").as_bytes(),
            );
        }
        text.truncate(bytes);
        text
    }

    #[test]
    fn a_body_goes_the_cheapest_way() {
        for (bytes, recipients, expected) in [
            (2_000, 1, Way::Raw),
            (2_000, 1_000, Way::Raw),
            (20_000, 1, Way::Raw),
            (20_000, 10, Way::Packed),
            (60_000, 1, Way::Raw),
            (200_000, 1, Way::Packed),
            (200_000, 1_000, Way::Stored),
            (2_000_000, 1, Way::Stored),
        ] {
            let found = way(&text(bytes), recipients);
            assert_eq!(found, expected, "{bytes} bytes, {recipients} workers");
        }
    }

    #[test]
    fn what_sqs_forbids_is_never_carried_as_it_is() {
        for body in ["\u{ffff}", "\u{fffe}", "\u{1}"] {
            assert!(matches!(choose(body.as_bytes(), 1), Chosen::Packed(_)));
        }
        for body in ["{}\r\n\t", "{\"a\":\"é\u{1f600}\u{fffd}\u{7f}\"}"] {
            assert!(matches!(choose(body.as_bytes(), 1), Chosen::Raw), "{body}");
        }
    }

    #[test]
    fn ten_of_the_largest_messages_fit_into_one_batch() {
        const { assert!(BATCH_SIZE * (MESSAGE_LIMIT + 2048) < 1024 * 1024) };
    }

    #[test]
    fn no_more_is_unpacked_than_was_accepted() {
        assert!(unpack(&pack(&vec![0; MAX_BODY_BYTES])).is_some());
        assert_eq!(unpack(&pack(&vec![0; MAX_BODY_BYTES + 1])), None);
    }

    proptest! {
        #[test]
        fn a_body_survives_packing(body in proptest::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert_eq!(unpack(&pack(&body)).unwrap(), body);
        }

        #[test]
        fn damage_is_never_a_panic(mut body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = unpack(&body);
            body = pack(&body);
            body.truncate(body.len() / 2);
            prop_assert_eq!(unpack(&body), None);
        }
    }
}
