//! The command handler: a process for each event, its body on stdin.
//!
//! Invariant: no process of the command's group outlives the attempt.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::running::RunningCommand;
use super::{ANSWER_LIMIT, Answer, Attempting, Outcome};
use crate::process::{Group, finish_reading};
use crate::store::Event;

/// `EX_TEMPFAIL` of sysexits.h: it may go better later.
const TEMPORARY: i32 = 75;

/// How long a command has to end after SIGTERM, until it is killed.
const AFTER_SIGTERM: Duration = Duration::from_secs(10);

/// Runs the command for an event.
pub(super) async fn run(command: &[String], event: &Event, attempting: &Attempting<'_>) -> Answer {
    let time_limit = attempting.time_limit;
    let (mut child, group) = match start(command, event, attempting.attempt) {
        Ok(started) => started,
        Err(error) => {
            let outcome = match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
                    Outcome::Absent
                }
                _ => Outcome::Retry,
            };
            return Answer::new(outcome, format!("cannot start: {error}"), Vec::new());
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
                // A command need not read its input.
                let _ = stdin.write_all(&body).await;
            }
        }
    });
    let ended = tokio::time::timeout(time_limit, child.wait()).await;
    if ended.is_err() {
        // What it has begun can be brought to an end.
        group.leader().terminate();
        let _ = tokio::time::timeout(AFTER_SIGTERM, child.wait()).await;
    }
    writing.abort();
    let is_stopped = running.as_ref().is_some_and(RunningCommand::is_stopped);
    drop(running);
    drop(group);
    finish_reading(reading).await;
    let output = std::mem::take(&mut *kept.lock());
    match ended {
        Ok(Ok(status)) if is_stopped => {
            let result = format!("stopped: {}", describe(status));
            Answer::new(Outcome::Dropped, result, output)
        }
        Ok(Ok(status)) => {
            let outcome = match status.code() {
                Some(0) => Outcome::Done,
                Some(TEMPORARY) => Outcome::Retry,
                _ => Outcome::Failed,
            };
            Answer::new(outcome, describe(status), output)
        }
        Ok(Err(error)) => Answer::new(Outcome::Retry, error.to_string(), output),
        Err(_) => {
            let limit = humantime::format_duration(time_limit);
            Answer::new(Outcome::Failed, format!("ended after {limit}"), output)
        }
    }
}

fn start(command: &[String], event: &Event, attempt: u64) -> std::io::Result<(Child, Group)> {
    let [program, arguments @ ..] = command else {
        return Err(std::io::ErrorKind::NotFound.into());
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("EDGE_EVENT_ID", &event.id)
        .env("EDGE_EVENT_TYPE", &event.kind)
        .env("EDGE_EVENT_ACTION", &event.action)
        .env("EDGE_WORKSPACE", &event.workspace)
        .env("EDGE_ATTEMPT", attempt.to_string())
        // Linear's token is the agent's, not its handlers'.
        .env_remove(crate::config::TOKEN)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Group::spawn(&mut command)
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit {code}"),
        None => status.to_string(),
    }
}

/// Keeps the first part of an output and reads the rest, so that the command is not blocked.
async fn keep(output: Option<impl AsyncRead + Unpin>, kept: Arc<Mutex<Vec<u8>>>) {
    let Some(mut output) = output else {
        return;
    };
    let mut part = vec![0; 8192];
    while let Ok(length @ 1..) = output.read(&mut part).await {
        let mut kept = kept.lock();
        let room = ANSWER_LIMIT - kept.len();
        kept.extend_from_slice(&part[..length.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::store::tests::event;
    use super::*;

    async fn sh(script: &str, time_limit: Duration) -> Answer {
        let command = ["sh", "-c", script].map(str::to_owned);
        run_with(&command, time_limit).await
    }

    async fn run_with(command: &[String], time_limit: Duration) -> Answer {
        let attempting = Attempting {
            client: &crate::handler::client().unwrap(),
            secret: None,
            headers: &crate::config::Headers::default(),
            attempt: 3,
            time_limit,
            stamp: 0,
            running: None,
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

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_body_is_on_stdin_and_the_rest_in_the_environment() {
        let script = "cat; echo \"$EDGE_EVENT_ID $EDGE_EVENT_TYPE $EDGE_EVENT_ACTION $EDGE_WORKSPACE $EDGE_ATTEMPT\"";
        let answer = sh(script, LONG).await;
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
            ("kill -9 $$", Outcome::Failed, "signal: 9 (SIGKILL)"),
            ("exec 0<&-; exit 0", Outcome::Done, "exit 0"),
        ] {
            let answer = sh(script, LONG).await;
            assert_eq!((answer.outcome, answer.result.as_str()), (outcome, result));
        }
        let missing = run_with(&["/nowhere".to_owned()], LONG).await;
        assert_eq!(missing.outcome, Outcome::Absent);
    }

    #[tokio::test]
    async fn output_is_kept_to_its_limit_and_read_to_its_end() {
        let answer = sh("echo begin; head -c 1000000 /dev/zero; echo end >&2", LONG).await;
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
        let pid: i32 = String::from_utf8(answer.body)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
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
        let answer = sh("sleep 1000 & echo started", LONG).await;
        assert_eq!(answer.outcome, Outcome::Done);
        assert_eq!(answer.body, b"started\n");
    }
}
