//! The whole relay on one machine: the same handlers that run on Lambda, behind a stand-in for the HTTP API
//! ([`gateway`]), fed by a stand-in for the event source mapping ([`event_source`]), over an embedded DynamoDB
//! ([`dynamodb`]), our own SQS ([`sqs`]) and one secret ([`secrets`]), through the same SDK calls ([`sdk`]), and
//! every five minutes the schedule of `health` ([`schedule`]).
//!
//! [`admin`] is the operator's command line, for a relay here or on AWS.

pub mod access_key;
pub mod admin;
mod aws;
mod backend;
pub mod cli;
mod demo;
pub mod dynamodb;
mod event_source;
pub mod gateway;
mod lambda;
pub mod linear_api;
mod listener;
pub mod local_relay;
pub mod samples;
mod schedule;
mod sdk;
pub mod secrets;
pub mod sqs;
mod stored;
pub mod testing;
pub mod trusted_proxies;
