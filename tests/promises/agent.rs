//! The agent: as a process where it is killed, sent signals or used by its commands; in this process where its
//! clock is moved.

mod browser;
mod commands;
mod complaints;
mod consumers;
mod handlers;
mod inspector;
mod linear_sdk;
mod membership;
mod newcomers;
mod pages;
mod receiver;
mod settings;
mod sleep;
mod stdout;
mod store;
mod targets;
mod tunnels;
