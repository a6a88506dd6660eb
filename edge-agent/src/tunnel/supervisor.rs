//! Supervises a program: `edge-agent supervise -- PROGRAM…` ends it when its own stdin ends.
//!
//! The agent that starts it keeps the write end of that pipe. The system closes it however the agent ends, also after
//! `kill -9`. Invariant: then the whole process group ends.

use std::io::Read as _;
use std::process::{Command, ExitCode, Stdio};

/// Runs the program until it ends, or stdin does.
pub(crate) fn supervise(command: &[String]) -> ExitCode {
    let [program, arguments @ ..] = command else {
        return ExitCode::from(2);
    };
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            crate::output::error(format_args!("cannot start `{program}`: {error}"));
            return ExitCode::from(1);
        }
    };
    let id = child.id();
    std::thread::spawn(move || {
        let mut ignored = [0; 64];
        while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
        end(id);
    });
    let code = child.wait().ok().and_then(|status| status.code());
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Ends the process group if this process leads it, else the child alone.
#[cfg(unix)]
fn end(child: u32) {
    use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process, kill_process_group};
    if getpgrp() == getpid() {
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    } else if let Some(child) = i32::try_from(child).ok().and_then(Pid::from_raw) {
        let _ = kill_process(child, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn end(_: u32) {
    std::process::exit(1);
}
