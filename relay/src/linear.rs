//! Linear's side: its signature, the envelope of its payloads, and its word on a token.

pub mod envelope;
pub mod member;
pub mod signature;
