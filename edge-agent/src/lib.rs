//! The agent on a developer's machine: it receives, verifies and stores a delivery, acknowledges it, and only then calls the handler.
//!
//! # Nouns
//!
//! The agent is one *worker* of the relay. Its *registration* is the worker's path, token and signing secret. A *delivery* arrives as a POST at the
//! *listener*, through a *tunnel* or a public address, or is *pulled* from the *mailbox*. The *store* is a SQLite file with all events. A *handler* is
//! the user's code: an HTTP server, a command, or the reader of stdout.
//!
//! # Two halves
//!
//! The *receiving* half owns an event until it is stored: [`receiver`] and [`mailbox`] verify ([`delivery`]), store, and then acknowledge. If storing
//! fails, nothing is acknowledged, and the relay keeps the event. The *handling* half owns a stored event until it is handled: [`handling`] takes the
//! oldest event of each ordering key, passes it to a [`handler`] or prints it ([`ndjson`]), and records the result. Neither half waits for the
//! other, so a handler that takes an hour delays no acknowledgement. The two share [`state`] and the store.
//!
//! # What keeps it going
//!
//! [`membership`] keeps the registration alive: it registers, renews, and goes offline at shutdown. The [`sleep_watcher`] reports that the
//! machine was asleep or has changed networks, which makes the agent renew and pull at once. A [`tunnel`] is watched and reopened. A [`problem`] that
//! lasts is reported once and retried with backoff. The [`supervisor`] is a second process that ends tunnels and commands when the agent ends for
//! any reason.
//!
//! # Commands
//!
//! [`cli`] parses the arguments and [`config`] merges flags, variables and the file into settings that are valid as a whole. [`up`] is the daemon;
//! [`commands`] are all others. They read the same store from processes of their own.
//!
//! The [`inspector`] is a page and an HTTP interface for the developer. It shows the store and the [`report`], has events handled again, and pauses
//! handling.

mod cause;
pub mod cli;
mod commands;
mod config;
mod context;
mod data_directory;
mod delivery;
mod facts;
mod failure;
mod files;
pub mod generated;
mod handler;
mod handling;
mod health;
mod inspector;
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
mod subject;
mod supervisor;
mod target;
pub mod testing;
mod trust;
mod tunnel;
pub mod up;
pub mod write_ahead_log;

/// The version, and the commit that the program was built from with its date (`build.rs`).
pub const VERSION: &str = env!("EDGE_RELAY_VERSION");

pub use failure::Failure;
pub use relay::look;
