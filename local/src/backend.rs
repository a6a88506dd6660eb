//! What stands behind the HTTP API and the schedule: the embedded servers with the queues and the table in them, and the
//! functions over them, wired as the template wires them. Nothing here listens or runs by itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::clock::Clock;
use relay::config::{DeliverConfig, HealthConfig, IngestConfig, RegisterConfig, Resources};
use relay::deliver::Deliver;
use relay::egress::EgressPolicy;
use relay::health::Health;
use relay::ingest::Ingest;
use relay::outbound::Network;
use relay::register::Register;

use crate::aws::Servers;
use crate::dynamodb::DynamoDb;
use crate::secrets::{self, Secrets};
use crate::sqs::{self, Sqs};
use crate::testing::calls::Calls;
use crate::{dynamodb, sdk};

/// The queue of deliveries.
pub const QUEUE: &str = "edge-relay.fifo";
/// Its dead-letter queue.
pub const DEAD_LETTERS: &str = "edge-relay-dead-letters.fifo";

/// Longer than a batch can take.
pub const VISIBILITY_SECONDS: u32 = 360;
/// More receives than the backoff can lead to. Only a message that `deliver` cannot process is received this often.
pub const MAX_RECEIVE_COUNT: u32 = 200;
/// The longest retention of SQS.
pub const RETENTION_SECONDS: u32 = 14 * 24 * 3600;

/// The settings of the functions.
#[derive(Debug)]
pub struct Configs {
    /// Those of `ingest`.
    pub ingest: IngestConfig,
    /// Those of `register`.
    pub register: RegisterConfig,
    /// Those of `deliver`.
    pub deliver: DeliverConfig,
    /// Those of `health`.
    pub health: HealthConfig,
}

impl Configs {
    /// Sets which addresses workers may have.
    pub fn set_egress(&mut self, egress: EgressPolicy) {
        self.register.egress = egress;
        self.deliver.egress = egress;
        self.health.egress = egress;
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

/// Creates a queue. A queue from an earlier start gets the current attributes.
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

/// Where the embedded servers store what they hold: in these files, or in memory.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) queues: Option<PathBuf>,
    pub(crate) table: Option<PathBuf>,
}

impl Servers {
    /// Opens the servers, with the queues and the table. `endpoint` is where the queues' addresses point: where other clients find them.
    pub(crate) async fn open(
        files: Files,
        endpoint: Option<String>,
        webhook_secrets: String,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let dynamodb = DynamoDb::open(files.table.as_deref(), clock.clone())?;
        let endpoint = endpoint.unwrap_or_else(|| sdk::ENDPOINT.to_owned());
        let sqs = Sqs::open(files.queues.as_deref(), endpoint, clock.clone())?;
        create_queues(&sqs).await?;
        Ok(Self {
            dynamodb,
            sqs,
            secrets: Secrets::new(webhook_secrets),
        })
    }

    /// What the functions use.
    pub(crate) fn resources(&self) -> Resources {
        Resources {
            table: dynamodb::TABLE.to_owned(),
            queue: self.sqs.url(QUEUE),
            dead_letters: self.sqs.url(DEAD_LETTERS),
            webhook_secrets: secrets::SECRET_ID.to_owned(),
        }
    }
}

/// The functions, started.
#[derive(Debug, Clone)]
pub struct Functions {
    /// `ingest`
    pub ingest: Arc<Ingest>,
    /// `register`
    pub register: Arc<Register>,
    /// `deliver`
    pub deliver: Arc<Deliver>,
    /// `health`
    pub health: Arc<Health>,
}

impl Functions {
    /// Starts each function as its bootstrap does, with clients of the embedded servers.
    pub(crate) async fn start(
        servers: &Servers,
        configs: Configs,
        calls: &Calls,
        network: &Network,
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let resources = || servers.resources();
        let clients = |function| sdk::clients(servers, calls, network, function);
        let clock = || clock.clone();
        let boxed = anyhow::Error::from_boxed;
        let ingest = ingest::start(clients("ingest"), resources(), configs.ingest, clock());
        let register = register::start(clients("register"), resources(), configs.register, clock());
        let deliver = deliver::start(clients("deliver"), resources(), configs.deliver, clock());
        let health = health::start(clients("health"), resources(), configs.health, clock());
        Ok(Self {
            ingest: Arc::new(ingest.await?),
            register: Arc::new(register.await.map_err(boxed)?),
            deliver: Arc::new(deliver.await.map_err(boxed)?),
            health: Arc::new(health.await.map_err(boxed)?),
        })
    }
}
