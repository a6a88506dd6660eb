//! The laptop side: receive, verify, store, answer, and only then hand over.
//!
//! [`cli`] reads the arguments and [`config`] the settings; [`up`] is the daemon: the [`receiver`] takes deliveries,
//! [`membership`] keeps the agent a worker of the relay and empties its [`mailbox`], [`handling`] gives what is in the
//! [`store`] to the user's code ([`handler`]) or [`output`] prints it, a [`tunnel`] makes it reachable, and
//! [`absence`] notices sleep. [`commands`] are all the others.

mod absence;
pub mod cli;
mod commands;
mod config;
mod delivery;
mod failure;
mod handler;
mod handling;
mod home;
mod mailbox;
mod membership;
mod output;
mod process;
mod receiver;
mod registration;
mod relay;
mod report;
mod samples;
pub mod signal;
mod store;
mod talk;
mod target;
mod tunnel;
pub mod up;

pub use failure::Failure;
