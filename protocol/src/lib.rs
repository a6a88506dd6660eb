//! The protocol between the relay and the agent, and what both have to do alike: signatures and their secrets, header
//! names, JSON messages and problems, patterns, the envelope of Linear's payloads, and the clock.
//!
//! Nothing in this crate does I/O or depends on AWS.

pub mod capability;
pub mod clock;
pub mod envelope;
pub mod headers;
pub mod linear_signature;
pub mod mention;
pub mod messages;
pub mod problem;
pub mod signature;
pub mod signing_secrets;
