//! One machine: everything started, wired as the template wires it, and stopped again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::serve::ListenerExt as _;
use relay::clock::Clock;
use relay::config::{ConfigError, DeliverConfig, IngestConfig, RegisterConfig, Settings};
use relay::deliver::Deliver;
use relay::ingest::Ingest;
use relay::outbound::Reach;
use relay::queue::Queue;
use relay::register::Register;
use relay::table::Table;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::gateway::{self, Functions};
use crate::sqs::{self, Sqs};
use crate::{dynamodb, event_source, sdk};

/// The queue of deliveries.
pub const QUEUE: &str = "edge-relay.fifo";
/// Its dead-letter queue.
pub const DEAD_LETTERS: &str = "edge-relay-dead-letters.fifo";

/// Longer than a batch can take.
const VISIBILITY_SECONDS: u32 = 90;
/// Well above what the backoff can reach: only what `deliver` cannot finish is received this often.
const MAX_RECEIVE_COUNT: u32 = 200;
/// Longer than a batch takes.
const DRAIN: Duration = Duration::from_secs(45);
const RETENTION_SECONDS: u32 = 14 * 24 * 3600;

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
    /// Where SQS listens for other clients.
    pub sqs_listen: SocketAddr,
    /// Where DynamoDB listens for other clients.
    pub dynamodb_listen: SocketAddr,
    /// Where everything is kept.
    pub place: Place,
    /// The time.
    pub clock: Clock,
    /// What `ingest` needs to know.
    pub ingest: IngestConfig,
    /// What `register` needs to know.
    pub register: RegisterConfig,
    /// What `deliver` needs to know.
    pub deliver: DeliverConfig,
}

impl Options {
    /// Settings from `lookup`; on free ports of loopback and in memory, unless that is changed.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = Settings::new(lookup);
        let options = Self {
            listen: anywhere,
            sqs_listen: anywhere,
            dynamodb_listen: anywhere,
            place: Place::Memory,
            clock: Clock::system(),
            ingest: IngestConfig::read(&mut settings),
            register: RegisterConfig::read(&mut settings, Reach::Loopback),
            deliver: DeliverConfig::read(&mut settings, Reach::Loopback),
        };
        settings.finish(options)
    }
}

/// Counts the calls at the embedded servers, by action.
#[derive(Debug, Clone)]
pub struct Calls(pub(crate) Arc<Mutex<BTreeMap<String, u64>>>);

/// A running relay.
#[derive(Debug)]
pub struct Machine {
    /// Where the HTTP API listens.
    pub address: SocketAddr,
    /// Where SQS listens.
    pub sqs_address: SocketAddr,
    /// Where DynamoDB listens.
    pub dynamodb_address: SocketAddr,
    /// The queues.
    pub sqs: Sqs,
    /// The calls that were made.
    pub calls: Calls,
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
        let (sqs_listener, sqs_address) = listen(options.sqs_listen).await?;
        let (dynamodb_listener, dynamodb_address) = listen(options.dynamodb_listen).await?;
        let database = dynamodb::open(table.as_deref(), clock.clone())?;
        let endpoint = format!("http://{sqs_address}");
        let sqs = Sqs::open(queues.as_deref(), endpoint, clock.clone())?;
        create_queues(&sqs).await?;

        let calls = Calls::new();
        let (dynamodb, sqs_client) = sdk::clients(
            database.clone(),
            matches!(options.place, Place::Directory(_)),
            sqs.clone(),
            calls.clone(),
        );
        let table = Table::new(dynamodb, dynamodb::TABLE.to_owned(), clock.clone());
        let queue = Queue::new(sqs_client.clone(), sqs.url(QUEUE));
        let dead_letters = Queue::new(sqs_client, sqs.url(DEAD_LETTERS));
        let ingest = Ingest::new(options.ingest, table.clone(), queue.clone(), clock.clone());
        let register = Register::new(options.register, table.clone(), clock.clone())?;
        let deliver = Deliver::new(options.deliver, table, queue, dead_letters, clock.clone())?;

        let (stop, stopped) = watch::channel(false);
        let functions = Functions {
            ingest: Arc::new(ingest),
            register: Arc::new(register),
            clock,
        };
        let front = serve(listener, gateway::router(functions), stopped.clone());
        let source = event_source::run(
            sqs.clone(),
            QUEUE,
            Arc::new(deliver),
            calls.clone(),
            stopped.clone(),
        );
        let sqs_server = serve(
            sqs_listener,
            sqs::wire::router(sqs.clone()),
            stopped.clone(),
        );
        let dynamodb_server = serve(
            dynamodb_listener,
            dynamodb::router(database.clone()),
            stopped,
        );
        Ok(Self {
            address,
            sqs_address,
            dynamodb_address,
            sqs,
            calls,
            stop,
            serving: vec![tokio::spawn(front), tokio::spawn(source)],
            background: vec![
                tokio::spawn(sqs_server),
                tokio::spawn(dynamodb_server),
                tokio::spawn(dynamodb::sweep(database)),
            ],
            _lock: held,
        })
    }

    /// The address of the HTTP API.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
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
