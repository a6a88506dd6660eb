//! The rules of the relay: how one webhook of Linear becomes a delivery to every worker that wants it.
//!
//! # Nouns
//!
//! An *event* is a webhook of Linear that was accepted. A *worker* is a registered receiver in a *workspace*; it is *live*, *away* or *pull*. A
//! *delivery* is one event for one worker, and an *attempt* is one POST of it. The *outcome* of an attempt is delivered, gone, unreachable or
//! rejected. The *ordering key* of an event is the issue, agent session or other entity whose events have to stay in order. Deliveries that
//! cannot be made wait in the worker's *mailbox*.
//!
//! # Verbs
//!
//! - [`Ingest::accept`] verifies a webhook, selects the workers ([`access`]), and puts one message per worker onto the queue. It returns after
//!   every message is on the queue, so that the response of 200 promises a delivery.
//! - [`Deliver::batch`] processes messages of the queue. For each outcome the delivery policy ([`policy`]), a pure function, decides what happens
//!   to the delivery and to its worker. It also drains the mailboxes of workers that do not pull.
//! - [`Register`] registers, renews, reads and removes workers, and returns mailboxes to workers that pull.
//! - [`Health::run`] probes workers that are away or silent, and counts all.
//! - [`Admin`] reads and changes the same records for the operator.
//!
//! # Who owns retries
//!
//! Linear retries a webhook that was not answered with 200; messages that were queued before the failure are recognised as duplicates
//! then. From the 200 on, SQS owns the delivery: a message
//! that is not acknowledged becomes visible again, whatever happens to the process. `deliver` acknowledges a message only after its delivery was
//! made, parked in the mailbox, withheld next to it, or dead-lettered with its reason, or if its worker is gone. From the mailbox on, the table
//! owns the delivery: an item is deleted only after the worker has acknowledged it, its time has expired, which is counted, or the worker was
//! removed or may not see the event. After that the worker owns the event.
//!
//! # What correctness does not depend on
//!
//! SQS's deduplication only saves work, because a worker recognises an event by its id. (The marker on the digest of a body does more: it
//! recognises a replay under another `Linear-Delivery`.) `health` only shortens absences, because a worker that renews or pulls is live again
//! without it. Failure counts, backoff and the limit of deliveries in backoff only
//! protect other workers. Order depends on the FIFO groups and on two conditional writes: parking requires that the worker is away, and
//! marking it live requires that nothing was parked since its mailbox was seen empty ([`table`]).
//!
//! # Layers
//!
//! No type of Lambda, axum or clap occurs in this crate: `functions/*` and `local` translate at the edge. Storage is the AWS SDK alone; on one
//! machine the same calls go to embedded servers. Errors are enums without HTTP, which one module turns into problems with a code.
//!
//! [`Admin`]: admin::Admin
//! [`Ingest::accept`]: ingest::Ingest::accept
//! [`Register`]: register::Register
//! [`Deliver::batch`]: deliver::Deliver::batch
//! [`Health::run`]: health::Health::run
#![warn(missing_docs)]

pub mod access;
pub mod admin;
pub mod aws;
mod cause;
pub mod config;
pub mod deliver;
pub mod delivery;
pub mod egress;
mod error;
pub mod event;
pub mod health;
pub mod ingest;
pub mod linear;
pub mod logging;
mod mailbox;
pub mod metrics;
pub mod origin;
pub mod outbound;
mod outcome;
pub mod policy;
mod probe;
mod problem;
pub mod queue;
pub mod register;
pub mod subscription;
pub mod table;
pub mod transport;
pub mod worker;

pub use error::Error;
