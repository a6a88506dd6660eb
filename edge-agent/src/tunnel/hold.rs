//! Holds a program: `edge-agent hold -- PROGRAM…` ends it when its own stdin ends.
//!
//! Whoever starts it keeps the other end of that pipe, which the system closes even when nothing else can be done
//! any more: after `kill -9`, say. Invariant: then the whole process group ends.

use std::io::Read as _;
use std::process::{Command, ExitCode, Stdio};

/// Runs the program until it ends, or stdin does.
pub(crate) fn hold(command: &[String]) -> ExitCode {
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
            crate::talk::error(format_args!("cannot start `{program}`: {error}"));
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

/// Ends the group if this process leads it, and the child alone if somebody else does.
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
