//! The promises of the design, one file each, kept through the front door: HTTP in, HTTP out.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod harness;

mod access;
mod access_ends;
mod addresses;
mod admin;
mod agent;
mod alarms;
mod audience;
mod aws_endpoint;
mod bad_days;
mod bad_input;
mod bodies_are_bytes;
mod calls;
mod crashes;
mod dependencies;
mod deployed;
mod documentation;
mod drain;
mod durability;
mod faults;
mod fuzz;
mod gone;
mod groups;
mod health;
mod hostile_receivers;
mod isolation;
mod no_duplicate_effect;
mod nothing_is_lost;
mod nothing_secret_is_logged;
mod order;
mod over_tls;
mod receipts;
mod receivers;
mod registration;
mod rejecting_workers;
mod sam_deploy;
mod signatures;
mod sleeping_laptops;
mod sqs;
mod sqs_behaviours;
mod standard_webhooks;
mod structure;
mod template;
mod timing;
mod tokens;
mod who_gets_what;
