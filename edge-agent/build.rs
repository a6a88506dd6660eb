//! Tells the programs which commit they were built from, for `--version`.
//!
//! `EDGE_RELAY_COMMIT` (`<hash> <date>`) goes first, for builds from an archive, in which git finds nothing. A build that does not
//! optimise asks once, so that not every commit compiles everything again.

use std::path::Path;
use std::process::Command;

#[expect(
    clippy::disallowed_methods,
    reason = "these are cargo's variables, not settings"
)]
fn main() {
    println!("cargo::rerun-if-env-changed=EDGE_RELAY_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let given = std::env::var("EDGE_RELAY_COMMIT").ok();
    let commit = given.filter(|commit| !commit.is_empty()).or_else(commit);
    let version = env!("CARGO_PKG_VERSION");
    match commit {
        Some(commit) => println!("cargo::rustc-env=EDGE_RELAY_VERSION={version} ({commit})"),
        None => println!("cargo::rustc-env=EDGE_RELAY_VERSION={version}"),
    }
}

/// The commit of this repository. An unpacked archive may lie in that of something else.
#[expect(
    clippy::disallowed_methods,
    reason = "these are cargo's variables, not settings"
)]
fn commit() -> Option<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != here.canonicalize().ok()? {
        return None;
    }
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let log = git(&["rev-parse", "--git-path", "logs/HEAD"]);
        for log in log.iter().filter(|log| Path::new(log).exists()) {
            println!("cargo::rerun-if-changed={log}");
        }
    }
    git(&["log", "-1", "--format=%h %cs", "--abbrev=12"])
}

/// What git prints; none where it fails, as outside a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // A hook of another repository sets them.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    let output = git.args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}
