//! What was measured: kept as JSON, shown as Markdown, and drawn.
//!
//! Invariant: the Markdown, the plots and `scale.md` are made from `results.json` alone, so that they can be made
//! again without measuring, and every part says when, where and of what it was taken.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use relay::clock::{Clock, rfc3339};
use serde::{Deserialize, Serialize};

use crate::{agent, calls, cold_start, function, money, plots, scale, whole_way};

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
    Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// One part, and what it was taken of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part<T> {
    pub(crate) taken: Taken,
    pub(crate) found: T,
}

/// All parts that were measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) whole_way: Option<Part<Vec<whole_way::Row>>>,
    pub(crate) function: Option<Part<function::Found>>,
    pub(crate) calls: Option<Part<calls::Found>>,
    pub(crate) cold_start: Option<Part<Vec<cold_start::Row>>>,
    pub(crate) agent: Option<Part<agent::Found>>,
}

impl Results {
    /// What is in this directory; nothing, if there is no `results.json`.
    pub(crate) fn read(directory: &Path) -> anyhow::Result<Self> {
        let file = directory.join("results.json");
        match std::fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("`{}` is of another version: remove it", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read `{}`", file.display())),
        }
    }

    /// Writes `results.json`, `results.md` and the plots.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot use `{}`", directory.display()))?;
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        std::fs::write(directory.join("results.json"), json)?;
        std::fs::write(directory.join("results.md"), self.markdown())?;
        if let Some(rows) = &self.whole_way {
            plots::whole_way(&rows.found, directory)?;
        }
        if let (Some(calls), Some(function)) = (&self.calls, &self.function) {
            let bursts = scale::bursts(&calls.found, &function.found);
            plots::burst(&bursts, directory)?;
        }
        Ok(())
    }

    /// Everything that was measured, as a page.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from(
            "# What was measured\n\nMade by `cargo run --release -p bench -- all`; a part by its name. Not to be edited.\n",
        );
        if let Some(part) = &self.whole_way {
            section(
                &mut out,
                "Whole way",
                &part.taken,
                &whole_way::markdown(&part.found),
            );
        }
        if let Some(part) = &self.function {
            section(
                &mut out,
                "In the function",
                &part.taken,
                &part.found.markdown(),
            );
        }
        if let Some(part) = &self.calls {
            section(&mut out, "Calls", &part.taken, &part.found.markdown());
        }
        if let (Some(calls), Some(function)) = (&self.calls, &self.function) {
            section(
                &mut out,
                "Money",
                &calls.taken,
                &money::markdown(&calls.found, &function.found),
            );
        }
        if let Some(part) = &self.cold_start {
            section(
                &mut out,
                "Start-up",
                &part.taken,
                &cold_start::markdown(&part.found),
            );
        }
        if let Some(part) = &self.agent {
            section(&mut out, "The agent", &part.taken, &part.found.markdown());
        }
        out
    }

    /// The page on scale; none before what it is made from was measured.
    pub(crate) fn scale(&self) -> Option<String> {
        let (calls, function) = (self.calls.as_ref()?, self.function.as_ref()?);
        scale::markdown(&calls.found, function)
    }
}

fn section(out: &mut String, title: &str, taken: &Taken, text: &str) {
    *out += &format!("\n## {title}\n\n{}\n\n{text}", taken.line());
}

/// A Markdown table; `sides` has an `l` or an `r` for each column.
pub(crate) fn table(head: &str, sides: &str, rows: impl IntoIterator<Item = String>) -> String {
    let sides: Vec<_> = (sides.split(' '))
        .map(|side| if side == "r" { "---:" } else { "---" })
        .collect();
    let mut out = format!("| {head} |\n|{}|\n", sides.join("|"));
    for row in rows {
        out += &format!("| {row} |\n");
    }
    out
}

/// Milliseconds, to three digits.
pub(crate) fn ms(value: f64) -> String {
    let decimals = if value < 10.0 {
        2
    } else {
        usize::from(value < 100.0)
    };
    format!("{value:.decimals$}")
}

/// With commas between thousands.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is in the repository.
    fn committed() -> Results {
        Results::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/results"))).unwrap()
    }

    fn file(path: &str) -> String {
        std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn what_is_shown_is_what_was_measured() {
        let results = committed();
        assert_eq!(file("results/results.md"), results.markdown());
        assert_eq!(Some(file("../docs/scale.md")), results.scale());
    }

    /// Each row of a table under "Figures" is one of those that were measured, and the plot is there.
    #[test]
    fn the_readme_quotes_what_was_measured() {
        let readme = file("../README.md");
        let (_, figures) = readme.split_once("\n## Figures\n").unwrap();
        let (figures, _) = figures.split_once("\n## ").unwrap();
        let measured = file("results/results.md");
        let rows: Vec<_> = figures
            .lines()
            .filter(|line| line.starts_with('|'))
            .collect();
        assert!(rows.len() > 10);
        for row in rows {
            assert!(measured.lines().any(|line| line == row), "{row}");
        }
        let (_, plot) = figures.split_once("\n![").unwrap();
        let (_, plot) = plot.split_once("](bench/").unwrap();
        let (plot, _) = plot.split_once(')').unwrap();
        assert!(file(plot).starts_with("<svg"));
        let taken = committed().whole_way.unwrap().taken;
        assert!(figures.contains(&taken.date), "{}", taken.date);
        assert!(
            taken.build == "release" && !taken.command.contains("--quick"),
            "{taken:?}"
        );
    }

    #[test]
    fn a_number_is_shown_as_people_read_it() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!([ms(3.456), ms(34.56), ms(345.6)], ["3.46", "34.6", "346"]);
    }
}
