//! The inspector: a page for the developer on this machine, and the interface behind it. It shows what arrived, what became of
//! it and what the relay kept back, and has events handled again.
//!
//! Invariant: only loopback is listened at, only a request for loopback is answered, and only one with the key of this run gets
//! anything but the page's own files ([`access`]).

mod access;
mod activity;
mod api;
mod changes;
mod edit;
mod page;
mod problem;
mod request;
mod status;
mod stream;
mod verdict;
mod worker_reader;

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::service::TowerToHyperService;
use protocol::envelope::digest;
use protocol::signature::Secret;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Inspect;
use crate::data_directory::DataDirectory;
use crate::failure::Failure;
use crate::files::replace;
use crate::listener::{self, ConnectionError};
use crate::output::{info, verbose, warn};
use crate::relay::Relay;
use crate::report::Report;
use crate::state::AgentState;
use access::Access;
use status::LastCount;
use worker_reader::WorkerReader;

/// Where nothing else is asked for.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4748);
/// How many connections are served concurrently. A browser opens six at most for a page.
const CONNECTIONS: usize = 32;

/// What the handlers of requests need.
struct Inspector {
    state: Arc<AgentState>,
    report: Report,
    worker: WorkerReader,
    counted: LastCount,
    access: Access,
}

/// The listener; none if the inspector is off. Any free port will do if the default one is taken and none is asked for.
pub(crate) async fn listen(inspect: Option<Inspect>) -> Result<Option<TcpListener>, Failure> {
    let address = match inspect {
        Some(Inspect::Off) => return Ok(None),
        Some(Inspect::At(address)) => address,
        None => LISTEN,
    };
    let mut bound = TcpListener::bind(address).await;
    if bound.is_err() && inspect.is_none() {
        bound = TcpListener::bind((LISTEN.ip(), 0)).await;
    }
    bound.map(Some).map_err(|error| {
        Failure::Configuration(format!(
            "cannot listen on `{address}` for the inspector: {error}; use another `--inspect`, or `--inspect off`"
        ))
    })
}

/// Serves the inspector until `stop` is cancelled, and says where. Its key is in a file that only the user can read.
pub(crate) fn serve(
    listener: TcpListener,
    directory: &DataDirectory,
    state: &Arc<AgentState>,
    report: &Report,
    relay: &Relay,
    stop: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let address = listener
        .local_addr()
        .context("the inspector has no address")?;
    let random = || digest(Secret::generate().expose().as_bytes());
    let (key, path) = (random(), format!("/{}", &random()[..32]));
    replace(&directory.inspector_key(), key.as_bytes())
        .context("cannot write the key of the inspector")?;
    let inspector = Arc::new(Inspector {
        state: Arc::clone(state),
        report: report.clone(),
        counted: LastCount::default(),
        worker: WorkerReader::new(relay.clone(), Arc::clone(state)),
        access: Access::new(&key, path.clone(), address.port()),
    });
    let address = format!("http://{address}{path}/");
    announce(&address, &key);
    report.change(|status| status.inspector = Some(address));
    let router = access::guard(page::routes(&path, api::routes()), &inspector)
        .with_state(Arc::clone(&inspector));
    let service = move |_| TowerToHyperService::new(router.clone());
    Ok(tokio::spawn(async move {
        let ending = listener::serve(listener, CONNECTIONS, stop, service, log).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), ending.shutdown()).await;
    }))
}

/// Says where the inspector is. The key is for a terminal: what is logged elsewhere may have other readers.
fn announce(address: &str, key: &str) {
    if std::io::stderr().is_terminal() {
        info(format_args!("inspector at {address}?key={key}"));
    } else {
        info(format_args!(
            "inspector at {address}, which `edge-agent inspect` prints with its key"
        ));
    }
}

fn log(error: ConnectionError) {
    match error {
        ConnectionError::Accept(_) => warn(format_args!("the inspector: {error}")),
        ConnectionError::BrokeOff(_) => verbose(format_args!("the inspector: {error}")),
    }
}
