//! Limits a process to the memory and the CPU time of a function with a memory size, by a control group (version 1).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::money::WHOLE_CPU;

const CONTROLLERS: [&str; 2] = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"];
/// CPU time is given out anew after so many microseconds. AWS does not say how Lambda does it.
const PERIOD_US: f64 = 20_000.0;

/// It is removed when this is dropped, unless a process is left in it, as after an error.
pub(super) struct ControlGroup {
    cpu: PathBuf,
    memory: PathBuf,
}

impl ControlGroup {
    /// With so many MB, as Lambda counts them.
    pub(super) fn new(size: u64) -> anyhow::Result<Self> {
        let name = format!("edge-relay-bench-{}", std::process::id());
        let [cpu, memory] = CONTROLLERS.map(|controller| Path::new(controller).join(&name));
        let group = Self { cpu, memory };
        for directory in [&group.cpu, &group.memory] {
            fs::create_dir(directory).with_context(|| {
                let directory = directory.display();
                format!("cannot make the control group `{directory}`: this part needs root, and version 1 of control groups")
            })?;
        }
        let quota_us = PERIOD_US * size as f64 / WHOLE_CPU;
        write(&group.cpu, "cpu.cfs_period_us", PERIOD_US as u64)?;
        write(&group.cpu, "cpu.cfs_quota_us", quota_us as u64)?;
        write(&group.memory, "memory.swappiness", 0)?;
        write(&group.memory, "memory.limit_in_bytes", size * 1024 * 1024)?;
        Ok(group)
    }

    /// Limits a process from now on.
    pub(super) fn add(&self, process: u32) -> anyhow::Result<()> {
        for directory in [&self.cpu, &self.memory] {
            write(directory, "cgroup.procs", process.into())?;
        }
        Ok(())
    }

    /// Whether a process was ended because there was no memory left.
    pub(super) fn was_killed(&self) -> anyhow::Result<bool> {
        let state = fs::read_to_string(self.memory.join("memory.oom_control"))?;
        Ok(!state.lines().any(|line| line == "oom_kill 0"))
    }
}

fn write(directory: &Path, file: &str, value: u64) -> anyhow::Result<()> {
    let path = directory.join(file);
    fs::write(&path, value.to_string())
        .with_context(|| format!("cannot write `{}`", path.display()))
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        for directory in [&self.cpu, &self.memory] {
            let _ = fs::remove_dir(directory);
        }
    }
}
