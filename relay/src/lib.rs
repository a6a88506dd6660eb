//! What the relay is. The verbs are [`Ingest::accept`], [`Register`]'s `register`, `renew`, `read`, `remove`
//! and `pull`, [`Deliver::batch`] and [`Health::tick`]; everything else in here serves them.
//!
//! No Lambda, axum or clap type appears in this crate: `functions/*` and `local` translate at the edge.
//!
//! [`Ingest::accept`]: ingest::Ingest::accept
//! [`Register`]: register::Register
//! [`Deliver::batch`]: deliver::Deliver::batch
//! [`Health::tick`]: health::Health::tick
#![warn(missing_docs)]

pub mod aws;
pub mod config;
pub mod deliver;
pub mod error;
pub mod event;
pub mod health;
pub mod ingest;
pub mod linear;
pub mod logging;
pub mod mailbox;
pub mod metrics;
pub mod outbound;
pub mod outcome;
pub mod queue;
pub mod reach;
pub mod register;
pub mod schedule;
pub mod table;
pub mod worker;

pub use error::Error;
pub use protocol::{capability, clock, headers};
