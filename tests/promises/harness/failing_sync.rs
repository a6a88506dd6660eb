//! A disk that reports an error when it is to keep what was written: `fsync` and `fdatasync` fail with `EIO` in a program that this is
//! preloaded into (ld.so(8), `LD_PRELOAD`), as long as a file is there.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

pub(crate) struct FailingSync(TempDir);

impl FailingSync {
    /// Compiles it. Nothing fails yet.
    pub(crate) fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/promises/harness/failing_sync.c"
        );
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(this.library())
            .args([source, "-ldl"])
            .status();
        assert!(compiled.unwrap().success());
        this
    }

    fn library(&self) -> PathBuf {
        self.0.path().join("failing_sync.so")
    }

    fn marker(&self) -> PathBuf {
        self.0.path().join("fails")
    }

    /// What a program needs in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", self.library()),
            ("SYNC_FAILS_WHILE", self.marker()),
        ]
    }

    pub(crate) fn begin(&self) {
        std::fs::write(self.marker(), "").unwrap();
    }

    pub(crate) fn end(&self) {
        std::fs::remove_file(self.marker()).unwrap();
    }
}
