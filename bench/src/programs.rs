//! The programs that are measured: built, started as processes of their own, and asked what they used.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// Of `clock_t` in `/proc/<pid>/stat`: 100 a second on Linux, whatever the kernel's own is (proc(5)).
const TICKS: f64 = 100.0;

/// The packages of the programs on one machine, and the bench: a library is built with the features of all that
/// are built at once.
pub(crate) const MACHINE: [&str; 3] = ["bench", "local", "edge-agent"];
/// Those of the functions, without any other, as they are deployed.
pub(crate) const FUNCTIONS: [&str; 4] = ["ingest", "register", "deliver", "health"];

/// A thousand workers are two thousand connections, more than a process may have open at first; what it starts may
/// then have as many.
pub(crate) fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is not allowed, opening too many says so.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// Builds what is to be measured, if it is not there.
pub(crate) async fn build(packages: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--locked"]);
    if cfg!(debug_assertions) {
        // Nothing is measured: what was built with everything else will do, and takes no time.
        command.args(["--workspace", "--all-targets"]);
    } else {
        command.arg("--release");
        let of = |package| ["--package", package];
        command.args(packages.iter().copied().flat_map(of));
    }
    let built = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .await
        .context("cannot start cargo")?;
    ensure!(
        built.success(),
        "`{}` could not be built",
        packages.join(", ")
    );
    Ok(())
}

/// Where a program is: beside this one.
pub(crate) fn path(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Where a function is as it is deployed: its release build, also where this program is another build.
pub(crate) fn deployed(function: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = (program.parent().and_then(Path::parent))
        .context("this program is not in a directory of cargo")?;
    let path = target.join("release").join(function);
    ensure!(
        path.exists(),
        "`{}` does not exist: build the functions with `cargo build --release -p ingest -p deliver`",
        path.display()
    );
    Ok(path)
}

/// A running program; it ends when this is dropped.
pub(crate) struct Program {
    child: Child,
    said: Option<Lines<BufReader<ChildStderr>>>,
    name: String,
    /// What it keeps; removed when it has ended.
    data: Option<TempDir>,
}

impl Program {
    /// Starts it; what it says on stderr is for [`Self::says`].
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        let stderr = child.stderr.take().context("it has no stderr")?;
        let mut stdout = child.stdout.take().context("it has no stdout")?;
        tokio::spawn(async move { tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await });
        Ok(Self {
            child,
            said: Some(BufReader::new(stderr).lines()),
            name,
            data: None,
        })
    }

    /// Keeps its data until it ends.
    pub(crate) fn with_data(mut self, data: Option<TempDir>) -> Self {
        self.data = data;
        self
    }

    /// Waits for a line with `words`; answers with what follows them.
    pub(crate) async fn says(&mut self, words: &str) -> anyhow::Result<String> {
        if let Some(said) = &mut self.said {
            while let Some(line) = said.next_line().await? {
                if let Some((_, rest)) = line.split_once(words) {
                    return Ok(rest.trim().to_owned());
                }
            }
        }
        bail!("`{}` ended before it said `{words}`", self.name)
    }

    /// From now on what it says goes to this program's stderr, or nowhere.
    pub(crate) fn pass_on(&mut self, aloud: bool) {
        if let Some(mut said) = self.said.take() {
            tokio::spawn(async move {
                while let Ok(Some(line)) = said.next_line().await {
                    if aloud {
                        eprintln!("{line}");
                    }
                }
            });
        }
    }

    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Ends it by SIGTERM. Returns what follows `words` in what it says at its end.
    pub(crate) async fn terminate(mut self, words: &str) -> anyhow::Result<String> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("it has no process id")?;
        kill_process(pid, Signal::TERM)?;
        let said = self.says(words).await?;
        self.child.wait().await?;
        Ok(said)
    }

    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("it has ended")
    }

    /// `VmRSS` or `VmHWM`, in MB.
    pub(crate) fn memory(&self, field: &str) -> anyhow::Result<f64> {
        memory_of(self.pid()?, field)
    }

    /// Peak resident memory, in MB.
    pub(crate) fn peak_memory(&self) -> anyhow::Result<f64> {
        self.memory("VmHWM")
    }
}

/// CPU time that this process used so far, in seconds.
pub(crate) fn own_cpu_seconds() -> anyhow::Result<f64> {
    cpu_seconds_of("self")
}

/// CPU time that these processes used so far, in seconds; `None` if there are none.
pub(crate) fn cpu_seconds(pids: &[u32]) -> anyhow::Result<Option<f64>> {
    sum(pids, |pid| cpu_seconds_of(&pid.to_string()))
}

/// The sum of the peak resident memory of each of these processes since its start, in MB; `None` if there are none.
pub(crate) fn peak_memory(pids: &[u32]) -> anyhow::Result<Option<f64>> {
    sum(pids, |pid| memory_of(pid, "VmHWM"))
}

fn sum(pids: &[u32], figure: impl Fn(u32) -> anyhow::Result<f64>) -> anyhow::Result<Option<f64>> {
    let mut sum: Option<f64> = None;
    for &pid in pids {
        let used = figure(pid).with_context(|| format!("cannot measure process {pid}"))?;
        sum = Some(sum.unwrap_or_default() + used);
    }
    Ok(sum)
}

fn memory_of(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {field}"))? * 1024.0 / 1e6)
}

fn cpu_seconds_of(pid: &str) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // utime and stime are the 14th and 15th field; the name, the second, may hold spaces.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2);
    Ok(ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_processes_are_summed() {
        let own = std::process::id();
        let one = peak_memory(&[own]).unwrap().unwrap();
        let two = peak_memory(&[own, own]).unwrap().unwrap();
        assert!(one > 0.0 && two >= 2.0 * one, "{one}, {two}");
        assert!(cpu_seconds(&[own]).unwrap().is_some());
        assert_eq!(cpu_seconds(&[]).unwrap(), None);
        // No process can have this id (proc(5), `pid_max`).
        assert!(cpu_seconds(&[u32::MAX]).is_err());
    }
}
