//! What the commands print: tables for people, one JSON object a line for programs.

use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use comfy_table::{Table, presets};
use edge_agent::printable::printable;
use serde::Serialize;

/// For whom it is printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    /// For programs.
    pub(super) json: bool,
}

/// Writes to stdout. A reader that has closed it is no error.
fn print(text: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

impl Show {
    /// Prints rows, each a JSON object or the cells under this header.
    pub(super) fn rows<T: Serialize, const N: usize>(
        self,
        header: [&str; N],
        rows: &[T],
        cells: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<()> {
        if self.json {
            let mut lines = Vec::new();
            for row in rows {
                serde_json::to_writer(&mut lines, row)?;
                lines.push(b'\n');
            }
            return print(&lines);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for row in rows {
            table.add_row(cells(row).map(|cell| printable(&cell)));
        }
        let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
        print(lines.collect::<String>().as_bytes())
    }

    /// Prints facts, as a JSON object or one a line, each with its name. A fact that is empty is left out.
    pub(super) fn facts<const N: usize>(
        self,
        object: &impl Serialize,
        facts: [(&str, String); N],
    ) -> anyhow::Result<()> {
        if self.json {
            let mut line = serde_json::to_vec(object)?;
            line.push(b'\n');
            return print(&line);
        }
        let facts = facts.into_iter().filter(|(_, fact)| !fact.is_empty());
        let lines = facts.map(|(name, fact)| format!("{name:<15} {}\n", printable(&fact)));
        print(lines.collect::<String>().as_bytes())
    }
}
