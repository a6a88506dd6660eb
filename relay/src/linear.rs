//! Linear's side: its signature, and its word on a token.

pub mod member;
pub mod signature;
