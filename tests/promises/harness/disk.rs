//! A disk that is slow, or reports an error, when it is to keep what was written: `fsync` and `fdatasync` take longer, or fail with
//! `EIO` as long as a file is there, in a program that this is preloaded into (ld.so(8), `LD_PRELOAD`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

pub(crate) struct Disk {
    directory: TempDir,
    sync_takes: Duration,
}

impl Disk {
    /// Compiles it. Nothing fails yet.
    pub(crate) fn new(sync_takes: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let this = Self {
            directory,
            sync_takes,
        };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/promises/harness/disk.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(this.library())
            .args([source, "-ldl"])
            .status();
        assert!(compiled.unwrap().success());
        this
    }

    fn library(&self) -> PathBuf {
        self.directory.path().join("disk.so")
    }

    fn marker(&self) -> PathBuf {
        self.directory.path().join("fails")
    }

    /// What a program needs in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 3] {
        let takes = self.sync_takes.as_millis().to_string();
        [
            ("LD_PRELOAD", self.library().into()),
            ("SYNC_FAILS_WHILE", self.marker().into()),
            ("SYNC_TAKES_MS", takes.into()),
        ]
    }

    pub(crate) fn fails(&self) {
        std::fs::write(self.marker(), "").unwrap();
    }

    pub(crate) fn works(&self) {
        std::fs::remove_file(self.marker()).unwrap();
    }
}
