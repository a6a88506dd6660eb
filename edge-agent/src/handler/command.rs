//! The command handler: a process for each event, its body on stdin.
//!
//! Invariant: no process of the command's group outlives the attempt.

use std::io::ErrorKind;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;

use super::running::RunningCommand;
use super::{ANSWER_LIMIT, Answer, Attempting, Outcome};
use crate::output::{info, short, verbose};
use crate::process::{Group, finish_reading};
use crate::store::{Event, name};
use crate::supervisor;

/// `EX_TEMPFAIL` of sysexits.h: it may go better later.
pub(crate) const TEMPORARY: u8 = 75;

/// How long a command has to end after SIGTERM, until it is killed.
const AFTER_SIGTERM: Duration = Duration::from_secs(10);

/// After how many bytes a line of its output is broken where it is shown.
const SHOWN_LINE: usize = 1000;

/// How long a command runs until this is said: a short one is only seen to end.
const LONG: Duration = Duration::from_secs(2);

/// Runs the command for an event.
pub(super) async fn run(command: &[String], event: &Event, attempting: &Attempting<'_>) -> Answer {
    let (mut child, group) = match start(command, event, attempting) {
        Ok(started) => started,
        Err(error) => {
            return Answer::new(Outcome::Retry, format!("cannot start: {error}"), Vec::new());
        }
    };
    let running = (attempting.running).map(|running| running.add(&event.ordering_key, &group));
    let kept = Arc::new(Mutex::new(Vec::new()));
    let stdin = child.stdin.take();
    let reading = [
        tokio::spawn(keep(child.stdout.take(), Arc::clone(&kept))),
        tokio::spawn(keep(child.stderr.take(), Arc::clone(&kept))),
    ];
    let writing = tokio::spawn({
        let body = event.body.clone();
        async move {
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(&body).await;
                // Its supervisor ends the command when stdin ends.
                std::future::pending::<()>().await;
            }
        }
    });
    let (ended, status) = wait(&mut child, &group, event, attempting).await;
    writing.abort();
    let is_stopped = running.as_ref().is_some_and(RunningCommand::is_stopped);
    drop(running);
    drop(group);
    finish_reading(reading).await;
    let output = std::mem::take(&mut *kept.lock());
    let (outcome, result) = match (ended, status) {
        (Ended::TimeLimit, _) => {
            let limit = humantime::format_duration(attempting.time_limit);
            (Outcome::Failed, format!("ended after {limit}"))
        }
        (_, Ok(status)) if is_stopped => {
            (Outcome::Dropped, format!("stopped: {}", describe(status)))
        }
        (_, Ok(status)) if status.success() => (Outcome::Done, describe(status)),
        (Ended::Shutdown, _) => {
            let result = "was told to end with the agent".to_owned();
            (Outcome::Interrupted, result)
        }
        (Ended::Itself, Ok(status)) if status.code() == Some(TEMPORARY.into()) => {
            (Outcome::Retry, describe(status))
        }
        (Ended::Itself, Ok(status)) => (Outcome::Failed, describe(status)),
        (Ended::Itself, Err(error)) => (Outcome::Retry, error.to_string()),
    };
    Answer::new(outcome, result, output)
}

/// Why a command ends.
#[derive(Debug, Clone, Copy)]
enum Ended {
    Itself,
    TimeLimit,
    Shutdown,
}

/// Waits until a command has ended: by itself, or after SIGTERM.
async fn wait(
    child: &mut Child,
    group: &Group,
    event: &Event,
    attempting: &Attempting<'_>,
) -> (Ended, std::io::Result<ExitStatus>) {
    let limit = tokio::time::sleep(attempting.time_limit);
    let long = tokio::time::sleep(LONG);
    tokio::pin!(limit, long);
    let mut is_long = false;
    let ended = loop {
        tokio::select! {
            status = child.wait() => {
                // Whoever ends the agent may have ended the command, too.
                let is_shutdown = attempting.shutdown.is_cancelled();
                return (if is_shutdown { Ended::Shutdown } else { Ended::Itself }, status);
            }
            () = &mut limit => break Ended::TimeLimit,
            () = attempting.shutdown.cancelled() => break Ended::Shutdown,
            () = &mut long, if !is_long => {
                is_long = true;
                let named = name(&event.kind, &event.action);
                info(format_args!("{named} {}: its command runs", short(&event.id)));
            }
        }
    };
    // What it has begun can be brought to an end.
    group.leader().terminate();
    let ending = tokio::time::timeout(AFTER_SIGTERM, child.wait()).await;
    let status = ending.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    (ended, status)
}

/// Starts a command under its supervisor, which ends it however the agent ends.
fn start(
    command: &[String],
    event: &Event,
    attempting: &Attempting<'_>,
) -> std::io::Result<(Child, Group)> {
    let mut supervised = supervisor::command(attempting.program, Some(event.body.len()));
    supervised
        .args(command)
        .env("EDGE_EVENT_ID", &event.id)
        .env("EDGE_EVENT_TYPE", variable(&event.kind))
        .env("EDGE_EVENT_ACTION", variable(&event.action))
        .env("EDGE_WORKSPACE", variable(&event.workspace))
        .env("EDGE_ATTEMPT", attempting.attempt.to_string());
    Group::spawn(&mut supervised)
}

/// A text of the payload as a variable, which cannot hold a NUL.
fn variable(text: &str) -> String {
    text.replace('\0', "")
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit {code}"),
        None => status.to_string(),
    }
}

/// Keeps the first part of an output and reads the rest, so that the command is not blocked. With `-v`, its lines are shown.
async fn keep(output: Option<impl AsyncRead + Unpin>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut output) = output else {
        return;
    };
    let mut part = vec![0; 8192];
    let mut line = Vec::new();
    while let Ok(length @ 1..) = output.read(&mut part).await {
        for byte in &part[..length] {
            if *byte == b'\n' || line.len() == SHOWN_LINE {
                verbose(format_args!("command: {}", String::from_utf8_lossy(&line)));
                line.clear();
            }
            if *byte != b'\n' {
                line.push(*byte);
            }
        }
        let mut kept = kept.lock();
        let room = ANSWER_LIMIT - kept.len();
        kept.extend_from_slice(&part[..length.min(room)]);
    }
    if !line.is_empty() {
        verbose(format_args!("command: {}", String::from_utf8_lossy(&line)));
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::super::super::store::tests::event;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    async fn sh(script: &str, time_limit: Duration) -> Answer {
        let command = ["sh", "-c", script].map(str::to_owned);
        run_with(&command, time_limit).await
    }

    /// Does with its arguments what the supervisor does, but for ending them.
    const SUPERVISOR: &str = "#!/bin/sh\ntrap : TERM\nn=$3\nshift 4\nhead -c \"$n\" | \"$@\"\n";

    async fn run_with(command: &[String], time_limit: Duration) -> Answer {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("supervisor");
        std::fs::write(&program, SUPERVISOR).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let attempting = Attempting {
            clients: &crate::handler::Clients::default(),
            insecure: false,
            secret: None,
            headers: &crate::config::Headers::default(),
            attempt: 3,
            time_limit,
            stamp: 0,
            running: None,
            program: &program,
            shutdown: &CancellationToken::new(),
        };
        run(command, &event("evt_1"), &attempting).await
    }

    #[tokio::test]
    async fn at_its_time_limit_a_command_is_told_to_end_before_it_is_killed() {
        let script = "trap 'echo cleaned up; exit 0' TERM; while :; do sleep 0.02; done";
        let answer = sh(script, Duration::from_millis(300)).await;
        assert_eq!(answer.outcome, Outcome::Failed);
        assert_eq!(answer.result, "ended after 300ms");
        // A shell may say beside it that its `sleep` was ended, too.
        let printed = String::from_utf8(answer.body).unwrap();
        assert!(printed.contains("cleaned up\n"), "{printed}");
    }

    #[tokio::test]
    async fn the_body_is_on_stdin_and_the_rest_in_the_environment() {
        let script = "cat; echo \"$EDGE_EVENT_ID $EDGE_EVENT_TYPE $EDGE_EVENT_ACTION $EDGE_WORKSPACE $EDGE_ATTEMPT\"";
        let answer = sh(script, LIMIT).await;
        assert_eq!(
            (answer.outcome, answer.result.as_str()),
            (Outcome::Done, "exit 0")
        );
        let mut expected = event("").body;
        expected.extend_from_slice(b"evt_1 Issue create w 3\n");
        assert_eq!(answer.body, expected);
    }

    #[tokio::test]
    async fn the_exit_code_decides() {
        for (script, outcome, result) in [
            ("exit 75", Outcome::Retry, "exit 75"),
            ("exit 1", Outcome::Failed, "exit 1"),
            ("kill -9 $$", Outcome::Failed, "exit 137"),
            ("exec 0<&-; exit 0", Outcome::Done, "exit 0"),
        ] {
            let answer = sh(script, LIMIT).await;
            assert_eq!((answer.outcome, answer.result.as_str()), (outcome, result));
        }
    }

    #[tokio::test]
    async fn output_is_kept_to_its_limit_and_read_to_its_end() {
        let answer = sh("echo begin; head -c 1000000 /dev/zero; echo end >&2", LIMIT).await;
        assert_eq!(answer.outcome, Outcome::Done);
        assert_eq!(answer.body.len(), ANSWER_LIMIT);
        assert!(answer.body.starts_with(b"begin\n"));
    }

    #[tokio::test]
    async fn what_takes_too_long_ends_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let alive = directory.path().join("alive");
        let script = format!(
            "(while :; do touch '{}'; sleep 0.05; done) & echo $!; wait",
            alive.display()
        );
        let answer = sh(&script, Duration::from_millis(500)).await;
        assert_eq!(answer.outcome, Outcome::Failed);
        assert_eq!(answer.result, "ended after 500ms");
        // A shell may say beside it what was ended.
        let printed = String::from_utf8(answer.body).unwrap();
        let pid = printed.lines().find_map(|line| line.parse().ok()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // The process that adopts it may take a moment to reap it.
        while rustix::process::test_kill_process(pid).is_ok() && !is_zombie(pid) {
            assert!(std::time::Instant::now() < deadline, "it still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(alive.exists());
    }

    fn is_zombie(pid: rustix::process::Pid) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
            .is_ok_and(|stat| stat.contains(") Z "))
    }

    #[tokio::test]
    async fn what_is_left_behind_ends_with_the_command() {
        let answer = sh("sleep 1000 & echo started", LIMIT).await;
        assert_eq!(answer.outcome, Outcome::Done);
        assert_eq!(answer.body, b"started\n");
    }
}
