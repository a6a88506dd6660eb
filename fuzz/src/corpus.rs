//! The files that a target begins with.

use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Files and their content, by the name from the root of the workspace.
#[derive(Debug)]
pub struct Corpus(Vec<(String, Vec<u8>)>);

impl Corpus {
    /// Reads the files in these directories, which are named from the root of the workspace.
    ///
    /// # Panics
    ///
    /// A directory is missing or empty: a target without examples finds nothing.
    pub fn read(directories: &[&str]) -> Self {
        let mut files: Vec<_> = (directories.iter())
            .flat_map(|directory| {
                let files = files_in(directory);
                assert!(!files.is_empty(), "there is no file in `{directory}`");
                files
            })
            .collect();
        files.sort();
        Self(files)
    }

    /// The files, with the name of each.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, file)| (&**name, &**file))
    }
}

fn files_in(directory: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(Path::new(ROOT).join(directory));
    (entries.into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((format!("{directory}/{name}"), fs::read(entry.path()).ok()?))
        })
        .collect()
}
