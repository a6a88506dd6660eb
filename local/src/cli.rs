//! The arguments of `edge-relay`, and its exit codes: 0 done, 1 failed, 2 usage or configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use edge_agent::VERSION;
use edge_agent::generated::{print_completions, write_manual_pages};
use edge_agent::printable::printable;
use edge_agent::signal::Signals;
use ipnet::IpNet;
use relay::config::{ConfigError, environment};
use relay::egress::EgressPolicy;
use relay::logging;
use relay::metrics::TARGET;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use url::Url;

use crate::access_key::AccessKey;
use crate::admin::{self, Admin};
use crate::demo;
use crate::local_relay::{LocalRelay, Options, Storage};
use crate::trusted_proxies::{TrustedProxies, parse_network};

#[derive(Debug, Parser)]
#[command(
    name = "edge-relay",
    version = VERSION,
    about = "Linear's webhooks, delivered to every developer's machine: the whole relay on one machine"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay here: HTTP API, functions, SQS, DynamoDB and Secrets Manager in one process
    ///
    /// Reads WORKSPACES (the workspaces that may register, by id or URL key), LINEAR_WEBHOOK_SECRETS (one secret, or a JSON
    /// list of {"secret","workspace"?}) and LINEAR_API_URL from the environment, and the other settings of the functions.
    Serve(Serve),
    /// Show the relay at work, without a network and an account
    Demo,
    /// Show and repair workers, events and dead letters of a relay
    ///
    /// It works with a stack in AWS, with credentials and a region as the AWS CLI takes them, and with
    /// `edge-relay serve --aws-listen`, with the variables that it prints.
    Admin(Admin),
    /// Succeed if a relay answers at an address: a health check for containers
    HealthCheck {
        /// The relay's address
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8477")]
        relay: Url,
    },
    /// Write the manual pages into a directory, such as `~/.cargo/share/man/man1`
    Man {
        /// Where to write them; it is created if it does not exist
        directory: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Run as an edge-agent, which the demo starts
    #[command(hide = true)]
    Agent(edge_agent::cli::Cli),
}

#[derive(Debug, Args)]
struct Serve {
    /// Where the HTTP API listens
    #[arg(long, default_value = "127.0.0.1:8477")]
    listen: SocketAddr,
    /// Where the queues and the table are stored [default: the platform's data directory]
    #[arg(long, value_name = "DIR", conflicts_with = "in_memory")]
    data: Option<PathBuf>,
    /// Store nothing on disk
    #[arg(long)]
    in_memory: bool,
    /// Accept workers with addresses on this machine and in private networks; any member of a served workspace can then
    /// cause requests there
    #[arg(long)]
    allow_private_workers: bool,
    /// A reverse proxy, or a network of proxies, in front of the relay: the client is the last address in its
    /// `X-Forwarded-For`; may be repeated
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    trusted_proxy: Vec<IpNet>,
    /// Let AWS clients on this machine use SQS, DynamoDB and Secrets Manager, with an access key that is printed
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8478", value_parser = loopback)]
    aws_listen: Option<SocketAddr>,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "not an address with a port".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("has to be a loopback address: what this endpoint answers is not encrypted".to_owned())
    }
}

/// Reads the arguments and runs.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Agent(command) => return edge_agent::cli::run(command),
        Command::Serve(arguments) => run(serve(arguments), "info"),
        Command::Demo => run(demo::run(), "warn"),
        Command::Admin(arguments) => run(admin::run(arguments), "error"),
        Command::HealthCheck { relay } => run(edge_agent::look(relay), "error"),
        Command::Man { directory } => {
            write_manual_pages(Cli::command(), &directory).map_err(anyhow::Error::from)
        }
        Command::Completions { shell } => {
            print_completions("edge-relay", &Cli::command(), shell).map_err(anyhow::Error::from)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // It may say what a server has answered.
            let text = format!("{error:#}");
            let lines: Vec<_> = text.lines().map(printable).collect();
            eprintln!("edge-relay: error: {}", lines.join("\n"));
            ExitCode::from(if error.is::<ConfigError>() { 2 } else { 1 })
        }
    }
}

fn run(main: impl Future<Output = anyhow::Result<()>>, log: &str) -> anyhow::Result<()> {
    let filter = environment("RUST_LOG").unwrap_or_else(|| log.to_owned());
    // A line that is written for a metric alone is for CloudWatch, not for a terminal.
    let filter = format!("{filter},{TARGET}=off");
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(logging::filter(&filter)))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(main)
}

async fn serve(arguments: Serve) -> anyhow::Result<()> {
    let mut options = Options::read(&environment)?;
    options
        .configs
        .set_egress(if arguments.allow_private_workers {
            EgressPolicy::Private
        } else {
            EgressPolicy::Public
        });
    let storage = match (arguments.in_memory, arguments.data) {
        (true, _) => Storage::Memory,
        (false, Some(directory)) => Storage::Directory(directory),
        (false, None) => Storage::Directory(default_directory()?),
    };
    let kept = match &storage {
        Storage::Memory => "in memory".to_owned(),
        Storage::Directory(directory) => format!("in {}", directory.display()),
    };
    let relay = LocalRelay::start(Options {
        listen: arguments.listen,
        trusted_proxies: TrustedProxies::new(arguments.trusted_proxy),
        aws_listen: arguments.aws_listen,
        storage,
        ..options
    })
    .await?;
    eprintln!("edge-relay {VERSION}");
    eprintln!("  webhooks  {}/webhooks/linear", relay.url());
    eprintln!("  agents    {}", relay.url());
    if let Some(aws) = &relay.aws {
        eprintln!(
            "  AWS       AWS_ENDPOINT_URL={} AWS_REGION=us-east-1",
            aws.url()
        );
        let AccessKey { id, secret } = &aws.key;
        eprintln!("            AWS_ACCESS_KEY_ID={id} AWS_SECRET_ACCESS_KEY={secret}");
    }
    eprintln!("  kept      {kept}");
    let mut signals = Signals::listen()?;
    signals.shutdown().await;
    eprintln!("edge-relay: finishing what was begun; a second signal ends it at once");
    tokio::select! {
        () = relay.stop() => Ok(()),
        () = signals.shutdown() => Ok(()),
    }
}

fn default_directory() -> anyhow::Result<PathBuf> {
    use etcetera::BaseStrategy as _;
    let base =
        etcetera::choose_base_strategy().context("there is no data directory: use `--data`")?;
    Ok(base.data_dir().join("edge-relay"))
}
