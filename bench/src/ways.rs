//! What each way of carrying a body costs, by the list of prices, and which one the relay takes: worked out, not measured.

use protocol::clock::UnixMillis;
use relay::transport::{self, Way};
use serde::Serialize;

use crate::payload;

const BODIES: [usize; 6] = [2_048, 20_480, 61_440, 204_800, 614_400, 2_048_000];
const FAN_OUTS: [usize; 4] = [1, 10, 100, 1_000];
/// Of the payloads, so that they are the same each time: digits that differ can compress to a byte more.
const TIMESTAMP: UnixMillis = 1_792_000_000_000;
/// The unit in which the relay compares costs, in dollars a million.
const UNIT: f64 = 1.0 / 16.0;

/// Dollars for the body in a million events, beside what they cost in any way; none where it does not fit.
#[derive(Serialize)]
pub(crate) struct Costs {
    body: usize,
    packed_bytes: usize,
    workers: usize,
    raw: Option<f64>,
    packed: Option<f64>,
    stored: Option<f64>,
    taken: &'static str,
}

fn costs(body: &[u8], packed_bytes: usize, workers: usize) -> Costs {
    // With nothing in the messages there are still as many requests.
    let least = Way::Raw.cost(0, workers).unwrap_or_default();
    let dollars = |way: Way, bytes| {
        let cost = way.cost(bytes, workers)?;
        Some((cost - least) as f64 * UNIT)
    };
    Costs {
        body: body.len(),
        packed_bytes,
        workers,
        raw: dollars(Way::Raw, body.len()),
        packed: dollars(Way::Packed, packed_bytes),
        stored: dollars(Way::Stored, packed_bytes),
        taken: match transport::way(body, workers) {
            Way::Raw => "as it is",
            Way::Packed => "compressed",
            Way::Stored => "stored",
        },
    }
}

/// How many requests of SQS the relay takes an event of this size to be, when it chooses the way of the body: for sending,
/// receiving and deleting its messages.
pub(crate) fn sqs_requests(size: usize, workers: usize) -> u64 {
    let body = payload::body_at(TIMESTAMP, 0, size).into_bytes();
    let in_messages = match transport::way(&body, workers) {
        Way::Raw => body.len(),
        Way::Packed => transport::packed_bytes(&body),
        Way::Stored => 0,
    };
    let cost = Way::Raw.cost(in_messages, workers).unwrap_or_default();
    cost / transport::REQUEST + workers.div_ceil(transport::BATCH_SIZE) as u64
}

/// For each size of a body and each fan-out.
pub(crate) fn all() -> Vec<Costs> {
    let rows = BODIES.iter().flat_map(|size| {
        let body = payload::body_at(TIMESTAMP, 0, *size).into_bytes();
        let packed_bytes = transport::packed_bytes(&body);
        FAN_OUTS.map(|workers| costs(&body, packed_bytes, workers))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::price;

    #[test]
    fn the_relay_compares_by_the_listed_prices() {
        for (name, units) in [
            ("sqs", transport::REQUEST as f64),
            ("write_unit", transport::WRITE_UNIT as f64),
            ("read_unit", 2.0 * transport::HALF_READ_UNIT as f64),
        ] {
            let (listed, compared) = (price(name) * 1e6, units * UNIT);
            assert!((listed - compared).abs() < 1e-9, "{name}: {listed}");
        }
    }

    #[test]
    fn the_cheapest_way_is_taken() {
        for row in all() {
            let taken = match row.taken {
                "as it is" => row.raw,
                "compressed" => row.packed,
                _ => row.stored,
            };
            let cheapest = [row.raw, row.packed, row.stored].into_iter().flatten();
            assert_eq!(taken, cheapest.reduce(f64::min), "{} bytes", row.body);
        }
    }
}
