//! Whether a command's program can be started, and if not, why.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// How much of a file is read for its first line. Linux reads no more of it either (`BINPRM_BUF_SIZE`).
const FIRST_LINE: u64 = 256;

/// Whether the program can be started, or why not and what would be right.
pub(super) fn can_start(program: &str) -> Result<(), String> {
    match which::which(program) {
        Ok(path) => interpreter(&path),
        Err(_) => Err(missing(program)),
    }
}

/// Why no program of this name was found.
fn missing(program: &str) -> String {
    let path = Path::new(program);
    if path.is_dir() {
        return "it is a directory".to_owned();
    }
    if path.is_file() && program.contains('/') {
        return format!("it is not executable: `chmod +x {program}`");
    }
    if path.is_file() {
        return format!("it is not in PATH; the file here is `./{program}`");
    }
    if program.contains(char::is_whitespace) {
        return "there is no program of this name; no shell is used, unless you write one: `--exec sh -c '…'`"
            .to_owned();
    }
    if program.contains('/') {
        "there is no such file".to_owned()
    } else {
        "it is not in PATH".to_owned()
    }
}

/// Whether the file can be executed: it is no text, or a text whose first line names an interpreter that is there.
fn interpreter(path: &Path) -> Result<(), String> {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FIRST_LINE).read_to_end(&mut begin));
    // Who may execute a file need not be allowed to read it.
    if read.is_err() || begin.contains(&0) {
        return Ok(());
    }
    let Some(line) = begin.strip_prefix(b"#!") else {
        return Err(
            "it is a script whose first line names no interpreter, as `#!/bin/sh` does".to_owned(),
        );
    };
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    if line.ends_with('\r') {
        return Err(
            "its lines end with CR LF, and so does its interpreter's name: save it with LF alone"
                .to_owned(),
        );
    }
    let name = line.split_whitespace().next().unwrap_or_default();
    if Path::new(name).exists() {
        Ok(())
    } else {
        Err(format!("its interpreter `{name}` is not there"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_keeps_a_program_from_starting_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = |content: &str, mode: u32| {
            let file = directory.path().join(format!("{mode:o}-{}", content.len()));
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            can_start(file.to_str().unwrap())
        };
        assert_eq!(can_start("sh"), Ok(()));
        assert_eq!(file("#!/bin/sh\nexit 0\n", 0o755), Ok(()));
        assert_eq!(file("#! /bin/sh -e", 0o755), Ok(()));
        for (found, expected) in [
            (file("#!/bin/sh\nexit 1\n", 0o644), "chmod +x /"),
            (file("echo hi\n", 0o755), "names no interpreter"),
            (file("#!/bin/sh\r\necho\r\n", 0o755), "CR LF"),
            (file("#!/nowhere/sh\n", 0o755), "`/nowhere/sh` is not there"),
            (can_start("/"), "is a directory"),
            (can_start("/nowhere/program"), "no such file"),
            (can_start("no-such-program"), "not in PATH"),
            (can_start("echo hi | cat"), "no shell is used"),
            (can_start("Cargo.toml"), "`./Cargo.toml`"),
        ] {
            let why = found.unwrap_err();
            assert!(why.contains(expected), "{expected}: {why}");
        }
    }
}
