//! The arguments, and how the program ends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstream::ColorChoice;
use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use protocol::clock::Clock;
use tokio::sync::mpsc;

use crate::config::Settings;
use crate::context::Context;
use crate::failure::{EXIT_CODES, Failure};
use crate::output::{self, Volume};
use crate::signal::Signals;
use crate::up::{self, Environment};
use crate::{VERSION, commands, config, generated, ndjson, sleep_watcher, supervisor};

/// The arguments.
#[derive(Debug, Parser)]
#[command(
    name = "edge-agent",
    version = VERSION,
    about = "Receives Linear's webhooks on this machine, through edge-relay",
    after_help = EXIT_CODES,
    subcommand_required = true,
)]
pub struct Cli {
    #[command(flatten)]
    general: General,
    #[command(subcommand)]
    command: Command,
}

/// The options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "General options")]
struct General {
    /// The settings file [default: edge-agent.toml here, else in the user's configuration directory]
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "EDGE_AGENT_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Where the registration and the events are stored [default: the platform's data directory]
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        env = "EDGE_AGENT_DATA",
        hide_env_values = true
    )]
    data: Option<PathBuf>,
    /// Print JSON on stdout
    #[arg(long, global = true)]
    json: bool,
    /// Print only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print details, too
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Under launchd: messages go to this file, which is rotated; where a restart would not help, the program ends with 0
    #[arg(long, value_name = "FILE", global = true, hide = true)]
    launchd_log: Option<PathBuf>,
    /// When to use colours; NO_COLOR disables them, too
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto")]
    color: Color,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// The other sources of settings.
const VARIABLES: &str = "Each is also a variable (`--keep-size`: EDGE_AGENT_KEEP_SIZE, TARGET: EDGE_AGENT_TO) and a key of \
    edge-agent.toml;\nflags go before variables, those before the file. A command is a flag or a key only.";

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Receive events, and pass each to your code or print it as a line of JSON
    #[command(after_help = VARIABLES)]
    Up(Box<Settings>),
    /// Show whether the agent runs, is registered and can be reached, and what waits
    Status,
    /// Print the address of the inspector, a page that shows what arrived, with its key
    Inspect,
    /// Show which events were received, and what happened to them
    Events(commands::events::Events),
    /// Handle events again
    Replay(commands::replay::Replay),
    /// Send a signed sample event, or a file, to the agent that runs here
    Send(commands::send::Send),
    /// Explain why a delivery verifies or does not: format, age, digest
    Verify(commands::verify::Verify),
    /// Write an edge-agent.toml here
    Init(commands::init::Init),
    /// Check everything between Linear and your code, and say how to correct each problem
    #[command(after_help = VARIABLES)]
    Doctor(Box<Settings>),
    /// Start the agent at login, as a service
    #[command(subcommand)]
    Service(commands::service::Service),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory, such as `~/.cargo/share/man/man1`
    Man {
        /// Where to write them; it is created if it does not exist
        directory: PathBuf,
    },
    /// Print the JSON schema of edge-agent.toml, for editors
    Schema,
    /// Remove this worker and its mailbox from the relay
    Forget,
    /// Run a program until stdin ends, so that it does not outlive its agent
    // An agent that was started before this program was replaced calls it `hold`.
    #[command(hide = true, alias = "hold")]
    Supervise {
        /// How many bytes on stdin are the program's
        #[arg(long)]
        input: Option<usize>,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

fn context(general: &General) -> Result<Context, Failure> {
    Context::read(
        general.config.as_deref(),
        general.data.as_deref(),
        general.json,
    )
}

/// Reads the arguments and runs.
pub fn main() -> ExitCode {
    run(Cli::parse())
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> ExitCode {
    set_output(&cli.general);
    let is_under_launchd = cli.general.launchd_log.is_some();
    let done = match cli.command {
        Command::Supervise { input, command } => return supervisor::supervise(input, &command),
        Command::Completions { shell } => {
            generated::print_completions("edge-agent", &Cli::command(), shell)
        }
        Command::Man { directory } => generated::write_manual_pages(Cli::command(), &directory),
        Command::Schema => config::schema().and_then(|schema| commands::print(schema.as_bytes())),
        command => in_runtime(cli.general, command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::error(&failure);
            if is_under_launchd && failure.is_lasting() {
                return ExitCode::SUCCESS;
            }
            ExitCode::from(failure.code())
        }
    }
}

fn set_output(general: &General) {
    let color = match general.color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    let volume = match (general.quiet, general.verbose) {
        (true, _) => Volume::Quiet,
        (_, true) => Volume::Verbose,
        _ => Volume::Normal,
    };
    output::set(volume, color);
    if let Some(log) = &general.launchd_log {
        output::log_to(log.clone());
    }
}

fn in_runtime(general: General, command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let done = runtime.block_on(async {
        let settings = match command {
            Command::Up(settings) => return daemon(general, *settings).await,
            command => command,
        };
        let context = context(&general)?;
        match settings {
            Command::Status => commands::status::run(&context).await,
            Command::Inspect => commands::inspect::run(&context),
            Command::Events(arguments) => commands::events::run(&context, arguments).await,
            Command::Replay(arguments) => commands::replay::run(&context, arguments).await,
            Command::Send(arguments) => commands::send::run(&context, arguments).await,
            Command::Verify(arguments) => commands::verify::run(&context, &arguments),
            Command::Init(arguments) => commands::init::run(&context, &arguments).await,
            Command::Doctor(flags) => commands::doctor::run(&context, *flags).await,
            Command::Service(arguments) => commands::service::run(&context, arguments).await,
            Command::Forget => commands::forget::run(&context).await,
            Command::Up(_)
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::Schema
            | Command::Supervise { .. } => Ok(()),
        }
    });
    // A write to a stdout that is not read would block the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn daemon(general: General, flags: Settings) -> Result<(), Failure> {
    output::with_times();
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move { while sender.send(signals.next().await).await.is_ok() {} });
    let environment = Environment {
        clock: Clock::system(),
        route: Box::new(sleep_watcher::default_route),
        program: std::env::current_exe().context("cannot find this program")?,
        prints_to_nowhere: ndjson::is_null_device(),
        signals: receiver,
    };
    up_in(general, flags, environment).await
}

async fn up_in(general: General, flags: Settings, environment: Environment) -> Result<(), Failure> {
    let directory = context(&general)?.directory;
    let read = || {
        let context = context(&general)?;
        let mut settings = flags.clone().over(context.settings);
        settings.project = (context.project).filter(|_| flags.relay.is_none());
        settings.config(context.file)
    };
    up::run(&directory, read, environment).await
}

/// Runs `edge-agent up …` in this environment.
///
/// # Errors
///
/// The arguments or settings are invalid, the agent cannot start, or the relay refuses its first registration.
pub async fn up(
    arguments: impl IntoIterator<Item = OsString>,
    environment: Environment,
) -> Result<(), Failure> {
    let cli = Cli::try_parse_from(arguments).map_err(|e| Failure::Configuration(e.to_string()))?;
    set_output(&cli.general);
    match cli.command {
        Command::Up(flags) => up_in(cli.general, *flags, environment).await,
        _ => Err(Failure::Configuration("this is for `up` alone".to_owned())),
    }
}
