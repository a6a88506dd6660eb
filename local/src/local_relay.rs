//! The whole relay in one process: everything is started, wired as the template wires it, and stopped.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use protocol::clock::Clock;
use relay::config::{
    ConfigError, DeliverConfig, HealthConfig, IngestConfig, RegisterConfig, Settings,
    webhook_secrets,
};
use relay::egress::EgressPolicy;
use relay::health::{Health, ScheduledRun, WorkerCounts};
use relay::outbound::Network;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_key::AccessKey;
use crate::aws::{self, Servers};
use crate::backend::{Files, Functions};
use crate::gateway::{self, Gateway};
use crate::sqs::Sqs;
use crate::testing::calls::Calls;
use crate::trusted_proxies::TrustedProxies;
use crate::{event_source, listener, schedule};

pub use crate::backend::{
    Configs, DEAD_LETTERS, MAX_RECEIVE_COUNT, QUEUE, RETENTION_SECONDS, VISIBILITY_SECONDS,
};

/// A port of loopback that nothing uses.
pub const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Longer than a batch takes.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(45);
/// Where the queues and the table are stored.
#[derive(Debug, Clone)]
pub enum Storage {
    /// In memory, until the process ends.
    Memory,
    /// In files in this directory.
    Directory(PathBuf),
}

impl Storage {
    /// What is stored where, and the lock on it.
    fn open(&self) -> anyhow::Result<(Option<File>, Files)> {
        let Self::Directory(directory) = self else {
            return Ok((None, Files::default()));
        };
        let files = Files {
            queues: Some(directory.join("sqs.db")),
            table: Some(directory.join("dynamodb.db")),
        };
        Ok((Some(lock(directory)?), files))
    }
}

/// The options of a local relay.
#[derive(Debug)]
pub struct Options {
    /// Where the HTTP API listens.
    pub listen: SocketAddr,
    /// The proxies in front of the HTTP API.
    pub trusted_proxies: TrustedProxies,
    /// Where SQS, DynamoDB and Secrets Manager listen for other clients, if they do.
    pub aws_listen: Option<SocketAddr>,
    /// Where the queues and the table are stored.
    pub storage: Storage,
    /// The clock.
    pub clock: Clock,
    /// Observes the calls to the embedded servers.
    pub calls: Calls,
    /// What lies between the relay and the workers and Linear.
    pub network: Network,
    /// The webhook secrets in Secrets Manager.
    pub webhook_secrets: String,
    /// The settings of the functions.
    pub configs: Configs,
}

impl Options {
    /// Options with the settings from `lookup`, on a free port of loopback and in memory, for workers on the internet and on
    /// loopback, and without an endpoint for AWS clients.
    ///
    /// # Errors
    ///
    /// The names of all invalid settings.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut settings = Settings::new(lookup);
        let mut options = Self {
            listen: FREE_PORT,
            trusted_proxies: TrustedProxies::default(),
            aws_listen: None,
            storage: Storage::Memory,
            clock: Clock::system(),
            calls: Calls::default(),
            network: Network::Internet,
            webhook_secrets: webhook_secrets(&mut settings),
            configs: Configs {
                ingest: IngestConfig::read(&mut settings),
                register: RegisterConfig::read(&mut settings),
                deliver: DeliverConfig::read(&mut settings),
                health: HealthConfig::read(&mut settings),
            },
        };
        options.configs.set_egress(EgressPolicy::Loopback);
        settings.finish(options)
    }
}

/// Where the embedded AWS listens, and for whom.
#[derive(Debug, Clone)]
pub struct AwsEndpoint {
    /// Its address.
    pub address: SocketAddr,
    /// The key that its clients sign with.
    pub key: AccessKey,
}

impl AwsEndpoint {
    /// What clients call `endpoint_url`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A running relay.
#[derive(Debug)]
pub struct LocalRelay {
    /// Where the HTTP API listens.
    pub address: SocketAddr,
    /// Where SQS, DynamoDB and Secrets Manager listen for other clients, if they do.
    pub aws: Option<AwsEndpoint>,
    pub(crate) servers: Servers,
    /// The queues.
    pub sqs: Sqs,
    /// The calls to the embedded servers.
    pub calls: Calls,
    health: Arc<Health>,
    clock: Clock,
    health_runs: Arc<AtomicU64>,
    shutdown: CancellationToken,
    /// The tasks that end when they have finished what they began.
    serving: TaskTracker,
    /// The tasks that are aborted after those.
    background: Vec<JoinHandle<()>>,
    _lock: Option<File>,
}

async fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on `{address}`"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Creates a directory that only its owner can enter, because its files hold secrets and events.
fn private_directory(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Takes the lock of the directory, since two relays must not share their files.
fn lock(directory: &Path) -> anyhow::Result<File> {
    private_directory(directory)
        .with_context(|| format!("cannot use `{}`", directory.display()))?;
    let lock = File::create(directory.join("lock"))
        .with_context(|| format!("cannot use `{}`", directory.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another edge-relay uses `{}`: stop it, or use `--data`",
            directory.display()
        ),
        Err(fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

impl LocalRelay {
    /// Starts everything. Every listener is bound when this returns.
    ///
    /// # Errors
    ///
    /// An address is in use, or the data directory cannot be used.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (lock, files) = options.storage.open()?;
        let (clock, calls) = (options.clock, options.calls);
        let (listener, address) = listen(options.listen).await?;
        let aws = match options.aws_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let endpoint = aws.as_ref().map(|(_, address)| format!("http://{address}"));
        let servers = Servers::open(files, endpoint, options.webhook_secrets, &clock).await?;
        let (sqs, dynamodb) = (servers.sqs.clone(), servers.dynamodb.clone());
        let (configs, network) = (options.configs, options.network);
        let functions = Functions::start(&servers, configs, &calls, &network, &clock).await?;
        let health = Arc::clone(&functions.health);
        let (shutdown, serving) = (CancellationToken::new(), TaskTracker::new());

        let health_runs = Arc::default();
        serving.spawn(listener::serve(
            listener,
            gateway::router(Gateway {
                ingest: functions.ingest,
                register: functions.register,
                sqs: sqs.clone(),
                clock: clock.clone(),
                running: serving.clone(),
                proxies: Arc::new(options.trusted_proxies),
                bodies: gateway::bodies(),
            }),
            shutdown.clone(),
        ));
        serving.spawn(event_source::run(
            sqs.clone(),
            QUEUE,
            functions.deliver,
            calls.clone(),
            shutdown.clone(),
        ));
        serving.spawn(schedule::run(
            Arc::clone(&health),
            clock.clone(),
            Arc::clone(&health_runs),
            shutdown.clone(),
        ));
        let mut background = vec![tokio::spawn(dynamodb.sweep(clock.clone()))];
        let aws = aws.map(|(listener, address)| {
            let key = AccessKey::generate();
            let router = aws::router(servers.clone(), key.clone());
            background.push(tokio::spawn(listener::serve(
                listener,
                router,
                shutdown.clone(),
            )));
            AwsEndpoint { address, key }
        });
        Ok(Self {
            address,
            aws,
            servers,
            sqs,
            calls,
            health,
            clock,
            health_runs,
            shutdown,
            serving,
            background,
            _lock: lock,
        })
    }

    /// The address of the HTTP API.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often the schedule has run `health`.
    pub fn health_runs(&self) -> u64 {
        self.health_runs.load(Ordering::Acquire)
    }

    /// Runs `health` once, now.
    ///
    /// # Errors
    ///
    /// The workers could not be read.
    pub async fn run_health(&self) -> anyhow::Result<WorkerCounts> {
        let run = ScheduledRun::new(self.clock.millis(), 0, 1)?;
        Ok(self.health.run(run).await?)
    }

    /// Shuts down gracefully: accepts nothing new and finishes what was begun.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.serving.close();
        // A client that has sent half a request would delay this without end.
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.serving.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                "shut down before everything was finished: messages on the queue are delivered after the next start"
            );
        }
        if let Err(error) = self.sqs.flush().await {
            tracing::error!(%error, "what was delivered last may be delivered once more after the next start");
        }
        for task in self.background {
            task.abort();
        }
    }
}
