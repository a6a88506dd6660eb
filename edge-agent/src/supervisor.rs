//! Supervises a program: `edge-agent supervise -- PROGRAM…` ends it when its own stdin ends.
//!
//! The agent that starts it keeps the write end of that pipe. The system closes it however the agent ends, also after
//! `kill -9`. Invariant: then the whole process group ends.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, ExitCode, ExitStatus, Stdio};

use crate::handler::TEMPORARY;
use crate::signal::Signals;

/// The command that supervises a program, whose arguments are to be added. So many bytes that are written to its stdin are the
/// program's; without a number, the program has no input.
pub(crate) fn command(own_program: &Path, input: Option<usize>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(own_program);
    command.arg("supervise");
    if let Some(length) = input {
        command.args(["--input", &length.to_string()]);
    }
    command
        .arg("--")
        // Linear's token is the agent's alone.
        .env_remove(crate::config::TOKEN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program until it ends, or stdin does. Ends as it does; with 128 and the signal's number after a signal, as shells do.
pub(crate) fn supervise(input: Option<usize>, command: &[String]) -> ExitCode {
    let [program, arguments @ ..] = command else {
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let _context = runtime.as_ref().map(tokio::runtime::Runtime::enter);
    // SIGTERM goes to the whole group, and is the program's to obey. A program begins without these handlers.
    let _signals = Signals::listen();
    let child = Command::new(program)
        .args(arguments)
        .stdin(input.map_or_else(Stdio::null, |_| Stdio::piped()))
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            crate::output::error(format_args!("cannot start `{program}`: {error}"));
            return ExitCode::from(TEMPORARY);
        }
    };
    let (id, stdin) = (child.id(), child.stdin.take());
    std::thread::spawn(move || {
        pass(input, stdin);
        let mut ignored = [0; 64];
        while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
        end(id);
    });
    child.wait().map_or(ExitCode::FAILURE, exit_code)
}

/// Passes the program its input. It need not read it, and whether the agent is there has to be known meanwhile.
fn pass(input: Option<usize>, program: Option<ChildStdin>) {
    let (Some(length), Some(mut program)) = (input, program) else {
        return;
    };
    let mut bytes = vec![0; length];
    if std::io::stdin().read_exact(&mut bytes).is_ok() {
        std::thread::spawn(move || program.write_all(&bytes));
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    #[cfg(unix)]
    let code = {
        use std::os::unix::process::ExitStatusExt as _;
        (status.code()).or_else(|| status.signal().map(|signal| 128 + signal))
    };
    #[cfg(not(unix))]
    let code = status.code();
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
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
