//! What the relay and the agent say to each other, and what both have to do alike: signatures, header names, JSON
//! shapes, patterns, the envelope of Linear's payloads, and the clock by which they judge ages.
//!
//! Nothing in here does I/O or knows AWS, so both sides can hold each other to it.

pub mod capability;
pub mod clock;
pub mod envelope;
pub mod headers;
pub mod linear_signature;
pub mod messages;
pub mod problem;
pub mod signature;
pub mod signing_secrets;
