//! Linear's side: the secrets that sign its webhooks, and its API.

pub mod api;
pub mod secrets;
pub mod signer;
