//! Linear's side: its signature and the secrets that make it, and its word on a token.

pub mod member;
pub mod secrets;
pub mod signature;
