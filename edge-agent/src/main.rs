//! `edge-agent`: receives events on a developer's machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_agent::cli::main()
}
