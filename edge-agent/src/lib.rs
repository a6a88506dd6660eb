//! The agent on a developer's machine: it receives, verifies and stores a delivery, answers it, and only then calls the
//! handler.
//!
//! [`cli`] parses the arguments and [`config`] reads the settings. [`up`] is the daemon: the [`receiver`] accepts
//! deliveries at a [`listener`], [`membership`] keeps the agent registered and empties its [`mailbox`], [`handling`] passes
//! the stored events to a [`handler`] or [`ndjson`] prints them, a [`tunnel`] makes the agent reachable, and the
//! [`sleep_watcher`] detects that the machine was asleep. [`commands`] are all other commands.

mod cause;
pub mod cli;
mod commands;
mod config;
mod context;
mod data_directory;
mod delivery;
mod failure;
mod files;
pub mod generated;
mod handler;
mod handling;
pub mod listener;
mod mailbox;
mod membership;
mod ndjson;
mod output;
pub mod printable;
mod problem;
mod process;
mod receiver;
mod registration;
mod relay;
mod report;
mod samples;
pub mod signal;
mod sleep_watcher;
mod state;
mod store;
mod supervisor;
mod target;
pub mod testing;
mod trust;
mod tunnel;
pub mod up;

pub use failure::Failure;
pub use relay::look;
