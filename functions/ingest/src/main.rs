//! Runs `ingest` on Lambda.

use std::process::ExitCode;

use protocol::clock::Clock;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    ingest::run(Clock::system()).await
}
