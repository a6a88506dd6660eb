//! The world of a history: the relay, the machines, and Linear.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::http::{Request, Response};
use lambda_http::Body;
use local::local_relay::Options;
use local::samples::WORKSPACE;
use local::testing::bare::BareRelay;
use local::testing::calls::{Calls, Interference};
use relay::outbound::{Network, SendError};
use serde_json::json;

use crate::history::History;
use crate::machine::Machine;
use crate::old_faults::OldFault;
use crate::wire::{Wire, invocation};

/// Linear's webhook secret.
pub(crate) const SECRET: &str = "the simulated secret";

/// Everything.
pub(crate) struct World {
    pub(crate) wire: Arc<Wire>,
    pub(crate) machines: Vec<Arc<Machine>>,
    relay: OnceLock<BareRelay>,
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl World {
    /// The world of a history, with nobody there yet.
    pub(crate) async fn new(
        history: &History,
        old_fault: Option<OldFault>,
        is_printed: bool,
    ) -> anyhow::Result<Arc<Self>> {
        let wire = Arc::new(Wire::new(history, is_printed));
        let mut machines = Vec::new();
        for (number, spec) in history.machines.iter().enumerate() {
            let machine = Machine::new(number, *spec, old_fault, Arc::clone(&wire));
            machines.push(Arc::new(machine));
        }
        let world = Arc::new(Self {
            wire,
            machines,
            relay: OnceLock::new(),
        });
        for machine in &world.machines {
            machine.boot(world.calls())?;
        }
        let mut options = Options::read(&|name| setting(history, name))?;
        options.clock = world.wire.clock.clone();
        options.calls = world.interfering(old_fault);
        let relay = BareRelay::start(options, &world.network()).await?;
        let _ = world.relay.set(relay);
        Ok(world)
    }

    pub(crate) fn relay(&self) -> &BareRelay {
        (self.relay.get()).expect("the relay is started with the world")
    }

    /// The calls of the relay to AWS, once it is started.
    fn interfering(self: &Arc<Self>, old_fault: Option<OldFault>) -> Calls {
        let world = Arc::downgrade(self);
        Calls::default().interfered(Arc::new(move |function, target, body: &[u8]| {
            match world.upgrade() {
                Some(world) if world.relay.get().is_some() => Interference {
                    body: old_fault.and_then(|fault| fault.changed(target, body)),
                    ..world.wire.interference(function, target, body)
                },
                _ => Interference::default(),
            }
        }))
    }

    /// The way of the relay to the machines and to Linear.
    fn network(self: &Arc<Self>) -> Network {
        let world = Arc::downgrade(self);
        Network::Simulated(Arc::new(move |request| {
            let world = world.upgrade();
            Box::pin(async move {
                let world = world.ok_or(SendError::Closed)?;
                world.reach(request).await
            })
        }))
    }

    /// A request of the relay to the outside.
    async fn reach(&self, request: Request<Bytes>) -> Result<Response<Bytes>, SendError> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let machine = Machine::at(&host, &self.machines);
        let mut life = None;
        let purpose = purpose(&request);
        let exchange = async {
            life = machine.map(|machine| machine.life());
            match machine {
                Some(machine) => machine.answer(&host, request).await,
                None => Ok(linear(&request)),
            }
        };
        let whom = machine.map_or("Linear", |_| "a worker");
        let what = format!("{purpose} to {whom}");
        let answer = self
            .wire
            .carry(&what, exchange)
            .await
            .unwrap_or(Err(SendError::Closed));
        self.wire.note(|| match &answer {
            Ok(answer) => format!("{host} answered {}", answer.status()),
            Err(error) => format!("{host}: {error}"),
        });
        // What has left in between has stored the event, perhaps, and has not answered.
        if machine.map(|machine| machine.life()) != life {
            return Err(SendError::Closed);
        }
        answer
    }

    /// The way of the agents to the relay. What a function has begun goes on if the agent ends.
    fn calls(self: &Arc<Self>) -> edge_agent::testing::Exchange {
        let world = Arc::downgrade(self);
        Arc::new(move |request| -> Pending<_> {
            let world = world.upgrade();
            Box::pin(async move {
                let world = world.ok_or_else(|| "the world has ended".to_owned())?;
                let register = Arc::clone(&world.relay().functions.register);
                let what = format!("{} {}", request.method(), route(request.uri().path()));
                let request = request.map(|body: Bytes| Body::Binary(body.to_vec()));
                let running = async {
                    let handling = async move { register::handle(&register, request).await };
                    tokio::spawn(invocation(handling)).await
                };
                let Some(Ok(Some(Ok(answer)))) = world.wire.carry(&what, running).await else {
                    return Err("there is no answer".to_owned());
                };
                Ok(answer.map(|body| match body {
                    Body::Text(text) => text.into(),
                    Body::Binary(bytes) => bytes.into(),
                    _ => Bytes::new(),
                }))
            })
        })
    }
}

/// What a request of the relay is for: a worker's test or an event.
fn purpose(request: &Request<Bytes>) -> &'static str {
    match request.headers().get("webhook-id").map(|id| id.as_bytes()) {
        None => "a question",
        Some(id) if id.starts_with(b"evt_") => "an event",
        Some(_) => "a test",
    }
}

/// A path without its ids.
fn route(path: &str) -> String {
    let parts = path.split('/');
    let parts = parts.map(|part| {
        if part.bytes().any(|b| b.is_ascii_digit()) {
            "…"
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

fn setting(history: &History, name: &str) -> Option<String> {
    let limits = history.limits;
    match name {
        "LINEAR_WEBHOOK_SECRETS" => Some(SECRET.to_owned()),
        "WORKSPACES" => Some(WORKSPACE.to_owned()),
        "GIVE_UP_SECONDS" => Some(limits.give_up.to_string()),
        "GIVE_UP_4XX_SECONDS" => Some(limits.give_up_4xx.to_string()),
        "DELIVERIES_IN_BACKOFF" => Some(limits.deliveries_in_backoff.to_string()),
        "REGISTRATIONS_PER_MINUTE" => Some("100000".to_owned()),
        _ => None,
    }
}

/// Linear's API knows everybody. A token is the name of its user.
fn linear(request: &Request<Bytes>) -> Response<Bytes> {
    let token = request
        .headers()
        .get("authorization")
        .map(|value| value.as_bytes());
    let user = String::from_utf8_lossy(token.unwrap_or_default()).into_owned();
    let body = json!({"data": {
        "viewer": {"id": user, "active": true, "guest": false},
        "organization": {"id": WORKSPACE, "urlKey": "simulated", "name": "Simulated"},
        "teams": {"nodes": [], "pageInfo": {"hasNextPage": false, "endCursor": null}},
    }});
    Response::new(Bytes::from(body.to_string()))
}
