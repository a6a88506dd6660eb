//! `edge-relay`: the whole relay on one machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    local::cli::main()
}
