//! What the relay and the agent say to each other: signatures, header names, JSON shapes.
//!
//! Nothing in here does I/O, reads a clock or knows AWS, so both sides can hold each other to it.

pub mod headers;
pub mod messages;
pub mod signature;
