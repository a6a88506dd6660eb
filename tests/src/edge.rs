//! `edge-relay`, built where the tests find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    local::cli::main()
}
