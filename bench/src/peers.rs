//! The systems that the relay is compared with, each in its own process.

pub(crate) mod hub;
pub(crate) mod outbox;

use axum::http::HeaderMap;
use axum::serve::ListenerExt as _;
use clap::Subcommand;
use protocol::headers::{LINEAR_DELIVERY, LINEAR_SIGNATURE};
use protocol::linear_signature::verify;
use tokio::net::TcpListener;

use crate::load::SECRET;

/// Which one to be.
#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// Passes each event to every held stream; stores nothing
    Hub,
    /// Commits each delivery to SQLite before it POSTs it
    Outbox { file: std::path::PathBuf },
}

/// Before the address, on stderr.
pub(crate) const LISTENS: &str = "listening on ";

pub(crate) async fn run(peer: Peer) -> anyhow::Result<()> {
    let router = match peer {
        Peer::Hub => hub::router(),
        Peer::Outbox { file } => outbox::router(&file)?,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("{LISTENS}http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    Ok(axum::serve(listener, router).await?)
}

/// The delivery's id, if the webhook is signed.
fn checked<'a>(headers: &'a HeaderMap, body: &[u8]) -> Option<&'a str> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    verify(SECRET, body, text(LINEAR_SIGNATURE)?)
        .then(|| text(LINEAR_DELIVERY))
        .flatten()
}
