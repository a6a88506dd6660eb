//! The relay's rules. The verbs are [`Ingest::accept`], [`Register`]'s `register`, `renew`, `read`, `remove` and
//! `pull`, [`Deliver::batch`] and [`Health::run`]. The other modules serve them, and [`Admin`] the operator.
//!
//! No type of Lambda, axum or clap occurs in this crate: `functions/*` and `local` translate at the edge.
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
pub mod worker;

pub use error::Error;
