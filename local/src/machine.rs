//! One machine: everything started, wired as the template wires it, and stopped again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::serve::ListenerExt as _;
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{
    ConfigError, DeliverConfig, HealthConfig, IngestConfig, RegisterConfig, Settings,
    webhook_secrets,
};
use relay::deliver::Deliver;
use relay::health::{Health, Roll, Tick};
use relay::ingest::Ingest;
use relay::queue::Queue;
use relay::reach::Reach;
use relay::register::Register;
use relay::table::Table;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::aws::{self, Servers};
use crate::calls::Calls;
use crate::dynamodb::DynamoDb;
use crate::gateway::{self, Functions};
use crate::secrets::{self, Secrets};
use crate::sqs::{self, Sqs};
use crate::{dynamodb, event_source, schedule, sdk};

/// The queue of deliveries.
pub const QUEUE: &str = "edge-relay.fifo";
/// Its dead-letter queue.
pub const DEAD_LETTERS: &str = "edge-relay-dead-letters.fifo";

/// Longer than a batch can take.
pub const VISIBILITY_SECONDS: u32 = 90;
/// Well above what the backoff can reach: only what `deliver` cannot finish is received this often.
pub const MAX_RECEIVE_COUNT: u32 = 200;
/// Longer than a batch takes.
const DRAIN: Duration = Duration::from_secs(45);
/// As long as SQS keeps anything.
pub const RETENTION_SECONDS: u32 = 14 * 24 * 3600;

/// Where everything is kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// Gone when the process ends.
    Memory,
    /// In files in this directory.
    Directory(PathBuf),
}

/// What a machine is started with.
#[derive(Debug)]
pub struct Options {
    /// Where the HTTP API listens.
    pub listen: SocketAddr,
    /// Where SQS, DynamoDB and Secrets Manager listen for other clients.
    pub aws_listen: SocketAddr,
    /// Where everything is kept.
    pub place: Place,
    /// The time.
    pub clock: Clock,
    /// The calls at the embedded servers.
    pub calls: Calls,
    /// What Secrets Manager keeps: Linear's webhook secrets.
    pub webhook_secrets: String,
    /// What `ingest` needs to know.
    pub ingest: IngestConfig,
    /// What `register` needs to know.
    pub register: RegisterConfig,
    /// What `deliver` needs to know.
    pub deliver: DeliverConfig,
    /// What `health` needs to know.
    pub health: HealthConfig,
}

impl Options {
    /// Settings from `lookup`; on free ports of loopback and in memory, unless that is changed.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings::new(lookup);
        let mut options = Self {
            listen: anywhere,
            aws_listen: anywhere,
            place: Place::Memory,
            clock: Clock::system(),
            calls: Calls::default(),
            webhook_secrets: webhook_secrets(&mut settings),
            ingest: IngestConfig::read(&mut settings),
            register: RegisterConfig::read(&mut settings),
            deliver: DeliverConfig::read(&mut settings),
            health: HealthConfig::read(&mut settings),
        };
        options.register.reach = Reach::Loopback;
        options.deliver.reach = Reach::Loopback;
        options.health.reach = Reach::Loopback;
        settings.finish(options)
    }
}

/// A running relay.
#[derive(Debug)]
pub struct Machine {
    /// Where the HTTP API listens.
    pub address: SocketAddr,
    /// Where SQS, DynamoDB and Secrets Manager listen.
    pub aws_address: SocketAddr,
    /// The queues.
    pub sqs: Sqs,
    /// The calls that were made.
    pub calls: Calls,
    health: Arc<Health>,
    clock: Clock,
    ticks: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    serving: Vec<JoinHandle<()>>,
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

/// A directory that only its owner can enter: the files in it hold secrets and events.
fn private_directory(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The directory's lock: two relays must not share their files.
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

async fn create_queues(sqs: &Sqs) -> anyhow::Result<()> {
    let attributes = |more: &[(&str, String)]| -> BTreeMap<String, String> {
        let fifo = [
            ("FifoQueue", "true".to_owned()),
            ("DeduplicationScope", "messageGroup".to_owned()),
            ("FifoThroughputLimit", "perMessageGroupId".to_owned()),
            ("VisibilityTimeout", VISIBILITY_SECONDS.to_string()),
            ("MessageRetentionPeriod", RETENTION_SECONDS.to_string()),
        ];
        (fifo.iter().chain(more))
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    };
    create_queue(sqs, DEAD_LETTERS, attributes(&[])).await?;
    let redrive = serde_json::json!({
        "deadLetterTargetArn": sqs::arn(DEAD_LETTERS),
        "maxReceiveCount": MAX_RECEIVE_COUNT,
    });
    create_queue(
        sqs,
        QUEUE,
        attributes(&[("RedrivePolicy", redrive.to_string())]),
    )
    .await
}

/// Creates a queue; one that is there from before gets the attributes that it has to have now.
async fn create_queue(
    sqs: &Sqs,
    name: &str,
    attributes: BTreeMap<String, String>,
) -> anyhow::Result<()> {
    match sqs.create_queue(name, attributes.clone()).await {
        Ok(_) => Ok(()),
        Err(error) if error.name == "QueueNameExists" => {
            Ok(sqs.set_attributes(name, attributes).await?)
        }
        Err(error) => Err(error.into()),
    }
}

impl Machine {
    /// Starts everything; every listener is bound when this answers.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (held, queues, table) = match &options.place {
            Place::Memory => (None, None, None),
            Place::Directory(directory) => (
                Some(lock(directory)?),
                Some(directory.join("sqs.db")),
                Some(directory.join("dynamodb.db")),
            ),
        };
        let clock = options.clock;
        let (listener, address) = listen(options.listen).await?;
        let (aws_listener, aws_address) = listen(options.aws_listen).await?;
        let dynamodb = DynamoDb::open(table.as_deref(), clock.clone())?;
        let endpoint = format!("http://{aws_address}");
        let sqs = Sqs::open(queues.as_deref(), endpoint, clock.clone())?;
        create_queues(&sqs).await?;
        let calls = options.calls;
        let servers = Servers {
            dynamodb: dynamodb.clone(),
            sqs: sqs.clone(),
            secrets: Secrets::new(options.webhook_secrets),
        };

        // Each function as its own `start` puts it together, with the embedded servers for AWS.
        let clients = |function| sdk::clients(&servers, &calls, function);
        let table = |clients: &Clients| {
            let name = dynamodb::TABLE.to_owned();
            Table::new(clients.dynamodb.clone(), name, clock.clone())
        };
        let queue = |clients: &Clients, name| Queue::new(clients.sqs.clone(), sqs.url(name));
        let ingest = {
            let clients = clients("ingest");
            let id = secrets::SECRET_ID.to_owned();
            let secrets =
                relay::linear::secrets::Secrets::new(clients.secrets.clone(), id, clock.clone());
            let (table, queue) = (table(&clients), queue(&clients, QUEUE));
            ingest::check(&secrets, &table, &queue).await?;
            Ingest::new(options.ingest, secrets, table, queue, clock.clone())
        };
        let register = {
            let table = table(&clients("register"));
            register::check(&table).await?;
            Register::new(options.register, table, clock.clone())?
        };
        let deliver = {
            let clients = clients("deliver");
            let (table, queue, dead_letters) = (
                table(&clients),
                queue(&clients, QUEUE),
                queue(&clients, DEAD_LETTERS),
            );
            deliver::check(&table, &queue, &dead_letters).await?;
            Deliver::new(options.deliver, table, queue, dead_letters, clock.clone())?
        };
        let health = {
            let table = table(&clients("health"));
            health::check(&table).await?;
            Arc::new(Health::new(&options.health, table, clock.clone())?)
        };

        let (stop, stopped) = watch::channel(false);
        let functions = Functions {
            ingest: Arc::new(ingest),
            register: Arc::new(register),
            clock: clock.clone(),
        };
        let front = serve(listener, gateway::router(functions), stopped.clone());
        let source = event_source::run(
            sqs.clone(),
            QUEUE,
            Arc::new(deliver),
            calls.clone(),
            stopped.clone(),
        );
        let ticks = Arc::default();
        let schedule = schedule::run(
            Arc::clone(&health),
            clock.clone(),
            Arc::clone(&ticks),
            stopped.clone(),
        );
        let aws_server = serve(aws_listener, aws::router(servers), stopped);
        Ok(Self {
            address,
            aws_address,
            sqs,
            calls,
            health,
            clock,
            ticks,
            stop,
            serving: vec![
                tokio::spawn(front),
                tokio::spawn(source),
                tokio::spawn(schedule),
            ],
            background: vec![tokio::spawn(aws_server), tokio::spawn(dynamodb.sweep())],
            _lock: held,
        })
    }

    /// The address of the HTTP API.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often the schedule of `health` has run.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Acquire)
    }

    /// Runs `health` once more, now.
    pub async fn run_health(&self) -> anyhow::Result<Roll> {
        let tick = Tick::new(self.clock.millis(), 0, 1)?;
        Ok(self.health.tick(tick).await?)
    }

    /// Takes nothing more, finishes what was begun, and ends.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let drained = async {
            for task in self.serving {
                let _ = task.await;
            }
        };
        // A client that has sent half a request would hold this up for ever.
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!(
                "ended before everything was finished: what is on the queue is there at the next start"
            );
        }
        for task in self.background {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, router: axum::Router, mut stopped: watch::Receiver<bool>) {
    let listener = listener.tap_io(|stream| {
        // Answers are small: waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let until = async move { drop(stopped.wait_for(|stop| *stop).await) };
    if let Err(error) = axum::serve(listener, service)
        .with_graceful_shutdown(until)
        .await
    {
        tracing::error!(%error, "a listener ended");
    }
}
