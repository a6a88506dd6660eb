//! The whole relay on one machine: the same handlers that run on Lambda, behind a stand-in for the HTTP API
//! ([`gateway`]), fed by a stand-in for the event source mapping ([`event_source`]), over an embedded DynamoDB
//! ([`dynamodb`]) and our own SQS ([`sqs`]), through the same SDK calls ([`sdk`]).

pub mod cli;
mod demo;
pub mod dynamodb;
mod event_source;
mod gateway;
pub mod linear_api;
mod loopback;
pub mod machine;
pub mod samples;
mod sdk;
pub mod sqs;
