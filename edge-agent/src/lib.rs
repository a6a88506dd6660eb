//! The laptop side: receive, verify, store, answer, and only then hand over.
//!
//! [`cli`] reads the arguments, [`up`] is the daemon: it starts the [`receiver`], registers through [`relay`],
//! empties the mailbox ([`mailbox`]) and prints what is in the [`store`] ([`output`]).

pub mod cli;
mod delivery;
mod mailbox;
mod output;
mod receiver;
mod registration;
mod relay;
pub mod signal;
mod store;
mod talk;
mod up;
