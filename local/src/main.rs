//! `edge-relay`: the whole relay on one machine.

use std::process::ExitCode;

/// An event makes thousands of small allocations, most of them in the AWS SDK.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    local::cli::main()
}
