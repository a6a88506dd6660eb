//! When, where and of what a part was measured.

use std::process::Command;

use minijinja::{Value, context};
use protocol::clock::{Clock, rfc3339};
use serde::{Deserialize, Serialize};

/// When, where and of what something was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) date: String,
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    pub(crate) version: String,
    pub(crate) commit: String,
    pub(crate) build: String,
    pub(crate) command: String,
}

impl Taken {
    /// Here and now.
    pub(crate) fn now() -> Self {
        let arguments: Vec<_> = std::env::args().skip(1).collect();
        Self {
            date: rfc3339(Clock::system().millis())[..10].to_owned(),
            machine: machine(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            rustc: said("rustc", &["--version"]),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: said("git", &["describe", "--always", "--dirty"]),
            build: if cfg!(debug_assertions) {
                "debug".to_owned()
            } else {
                "release".to_owned()
            },
            command: format!("bench {}", arguments.join(" ")),
        }
    }

    fn line(&self) -> String {
        format!(
            "{}, {}, Linux {}, {}, edge-relay {} ({}), {} build, `{}`",
            self.date,
            self.machine,
            self.kernel,
            self.rustc,
            self.version,
            self.commit,
            self.build,
            self.command
        )
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = (info.lines())
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    format!("{cores} cores, {model}")
}

fn said(program: &str, arguments: &[&str]) -> String {
    output(program, arguments).unwrap_or_else(|| "unknown".to_owned())
}

/// The version of a program; none, if it is not installed.
pub(crate) fn version(program: &str) -> Option<String> {
    output(program, &["--version"])
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|text| text.trim().to_owned())
}

/// One part, and what it was taken of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part<T> {
    pub(crate) taken: Taken,
    pub(crate) found: T,
}

impl<T: Serialize> Part<T> {
    /// What the page shows of the part.
    pub(crate) fn context(&self) -> Value {
        context! {
            taken => self.taken.line(),
            machine => self.taken.machine,
            found => self.found,
        }
    }
}
