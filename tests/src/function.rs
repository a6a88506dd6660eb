//! A function of the relay as Lambda runs it, built where the tests find it. `function deliver` is `deliver`, with a clock that
//! is moved by stdin, of which each time a line on stdout tells.

mod moved_clock;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let clock = moved_clock::by_stdin(|| println!("moved"));
    match std::env::args().nth(1).as_deref() {
        Some("ingest") => ingest::run(clock).await,
        Some("register") => register::run(clock).await,
        Some("deliver") => deliver::run(clock).await,
        Some("health") => health::run(clock).await,
        _ => ExitCode::FAILURE,
    }
}
