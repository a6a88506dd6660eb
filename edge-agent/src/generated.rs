//! Manual pages and completions, which are generated from the arguments. Neither names a hidden command.

use std::path::Path;

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use crate::VERSION;
use crate::commands::print;
use crate::failure::Failure;

/// Writes `<program>.1` and a page for each of its commands, `<program>-<command>.1`. Creates the directory.
///
/// # Errors
///
/// The directory cannot be created, or a page cannot be written.
pub fn write_manual_pages(program: Command, directory: &Path) -> Result<(), Failure> {
    let cannot = || format!("cannot write manual pages into `{}`", directory.display());
    std::fs::create_dir_all(directory).with_context(cannot)?;
    clap_mangen::generate_to(program, directory).with_context(cannot)?;
    Ok(())
}

/// Prints the completions of the program `name` for a shell.
///
/// # Errors
///
/// They cannot be written to stdout.
pub fn print_completions(
    name: &'static str,
    program: &Command,
    shell: Shell,
) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut visible(name, program), name, &mut text);
    print(&text)
}

/// The program as help shows it: completions would offer hidden commands, too.
fn visible(name: &'static str, program: &Command) -> Command {
    let arguments = (program.get_arguments()).filter(|argument| !argument.is_hide_set());
    let commands = (program.get_subcommands()).filter(|command| !command.is_hide_set());
    Command::new(name)
        .version(VERSION)
        .args(arguments)
        .subcommands(commands)
}
