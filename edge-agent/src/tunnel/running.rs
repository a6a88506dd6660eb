//! A running tunnel program and what it prints.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

use crate::output::verbose;
use crate::process::{Group, finish_reading};

/// The last lines that a program has printed.
#[derive(Debug, Clone, Default)]
pub(super) struct Printed(Arc<Mutex<Vec<String>>>);

impl Printed {
    const LINES: usize = 50;
    /// A longer line is taken for several.
    const LINE_BYTES: u64 = 4_096;

    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn last(&self) -> String {
        self.lines().pop().unwrap_or_default()
    }

    /// Reads an output to its end.
    fn read(&self, output: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<()> {
        let kept = Arc::clone(&self.0);
        tokio::spawn(async move {
            let Some(output) = output else {
                return;
            };
            let mut output = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                let mut part = (&mut output).take(Self::LINE_BYTES);
                if !matches!(part.read_until(b'\n', &mut line).await, Ok(1..)) {
                    return;
                }
                let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
                verbose(format_args!("tunnel: {line}"));
                let mut kept = kept.lock();
                kept.push(line);
                if kept.len() > Self::LINES {
                    kept.remove(0);
                }
            }
        })
    }
}

/// A running program. It ends when this is dropped.
pub(super) struct Running {
    child: Child,
    group: Option<Group>,
    /// The program ends when the write end of its stdin is closed.
    _stdin: Option<ChildStdin>,
    pub(super) printed: Printed,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        let (mut child, group) = Group::spawn(command)?;
        let printed = Printed::default();
        let readers = vec![
            printed.read(child.stdout.take()),
            printed.read(child.stderr.take()),
        ];
        Ok(Self {
            _stdin: child.stdin.take(),
            child,
            group: Some(group),
            printed,
            readers,
        })
    }

    /// Waits until the program has ended. Returns why, with the last line that it has printed.
    pub(super) async fn ended(&mut self, name: &str) -> String {
        let ended = self.child.wait().await;
        drop(self.group.take());
        finish_reading(self.readers.drain(..)).await;
        let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        match self.printed.last().as_str() {
            "" => format!("`{name}` has ended ({status})"),
            last => format!("`{name}` has ended ({status}): {last}"),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_reason_has_the_last_line_also_when_the_program_ends_at_once() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 60 & echo no tunnels left >&2; exit 1"])
            .stderr(Stdio::piped());
        let mut running = Running::start(&mut command).unwrap();
        // This thread is blocked, so nothing has been read when the end is found.
        while running.child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let why = running.ended("sh").await;
        assert_eq!(why, "`sh` has ended (exit status: 1): no tunnels left");
    }

    #[tokio::test]
    async fn output_that_is_no_text_or_has_no_lines_is_read_to_its_end() {
        let mut command = Command::new("sh");
        let script = r"printf '\377\n'; head -c 1000000 /dev/zero | tr '\0' x; echo; echo last";
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut running = Running::start(&mut command).unwrap();
        let why = running.ended("sh").await;
        assert_eq!(why, "`sh` has ended (exit status: 0): last");
        let longest = running.printed.lines().iter().map(String::len).max();
        assert_eq!(longest, Some(4_096));
    }
}
