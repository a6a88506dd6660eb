//! The protocol between the relay and its workers.
//!
//! A *worker* is a program that receives Linear's events from the relay. `edge-agent` is one; this crate has what another one needs. It does
//! no I/O and does not depend on AWS. `docs/receivers.md` describes the protocol without Rust.
//!
//! # A worker's life
//!
//! 1. It registers: `POST /edge/register` with a [`Register`](messages::Register). The relay POSTs a
//!    [`Challenge`](messages::Control::Challenge) to its address, which it echoes, and then responds with a
//!    [`Registered`](messages::Registered): the path of the worker, a bearer token and a signing secret. A worker without an address is a
//!    *pull* worker and gets no challenge.
//! 2. It receives deliveries. A *delivery* is one event as a POST: Linear's raw body, with the headers in [`headers`], signed as
//!    [Standard Webhooks](https://www.standardwebhooks.com) specifies. The worker verifies the signature over the bytes as they came, stores
//!    the event, and then responds with 2xx.
//! 3. If it registered with `receipts`, each response to a signed request carries a [receipt](signature::receipt). Any other response in
//!    its place, such as a tunnel's error page, counts as unreachable.
//! 4. If it cannot be reached, the relay marks it *away* and parks its events in its *mailbox*. It empties the mailbox with
//!    `POST {worker}/mailbox`: a [`Pull`](messages::Pull) acknowledges what it has stored and returns the oldest events that wait.
//! 5. It renews its *lease* with `PUT {worker}` ([`Renew`](messages::Renew)), and removes itself with `DELETE {worker}`.
//!
//! Every refusal is a [`Problem`](problem::Problem) (RFC 9457) with a stable [`Code`](problem::Code).
//!
//! # Example
//!
//! A worker verifies a delivery and makes the receipt of its response:
//!
//! ```
//! use protocol::signature::{Secret, Signed, receipt, sign, verify};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secrets = [Secret::parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")?];
//! let body = br#"{"type":"Issue","action":"create"}"#;
//! # let now = 1_764_400_000;
//! # let signature = sign(&secrets, "evt_1", now, body);
//! // The values of `webhook-id`, `webhook-timestamp` and `webhook-signature`.
//! let signed = Signed { id: "evt_1", timestamp: "1764400000", signature: &signature };
//!
//! verify(&secrets, signed, body, now)?;
//! // Now the worker stores the event. Then it responds with 2xx and this `webhook-receipt`:
//! let receipt = receipt(&secrets, signed.id, signed.timestamp);
//! assert!(receipt.starts_with("v1,"));
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! [`signature`] and [`signing_secrets`] sign and verify deliveries; [`linear_signature`] does so for Linear's own webhooks. [`messages`] are
//! the JSON objects of the interface and [`problem`] its errors. [`capability`] matches patterns of event types. [`envelope`] and [`mention`]
//! read the few fields of a payload that decide order and audience, for which [`surrogates`] makes texts of what is none. [`clock`] is the time as an argument.
#![warn(missing_docs)]

pub mod capability;
pub mod clock;
pub mod envelope;
#[cfg(test)]
mod fuzz;
pub mod headers;
pub mod linear_signature;
pub mod mention;
pub mod messages;
pub mod problem;
pub mod signature;
pub mod signing_secrets;
pub mod surrogates;
