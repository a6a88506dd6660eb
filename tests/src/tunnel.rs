//! A stand-in for cloudflared, ngrok and tailscale: by the name that it is called by it takes the arguments and
//! serves the local interface of one of them, and passes what comes to its address on to the agent.
//!
//! `TUNNEL` is a directory. A file in it called `order` says how it misbehaves: `stall` (never ready), `late` (ready
//! after a while), `die` (ends at once), `dead-end` (its address leads nowhere). Each start appends its process id to
//! `started`; a file called `move` makes it change its address; `block` makes its address stop leading anywhere.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

#[expect(
    clippy::disallowed_methods,
    reason = "a stand-in takes its orders from its environment"
)]
fn orders() -> PathBuf {
    PathBuf::from(std::env::var_os("TUNNEL").unwrap_or_default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let arguments: Vec<String> = arguments.collect();
    let orders = orders();
    if name == "tailscale" && arguments.first().is_some_and(|first| first == "status") {
        let address = std::fs::read_to_string(orders.join("address")).unwrap_or_default();
        let is_in = !address.is_empty();
        let state = if is_in { "Running" } else { "NeedsLogin" };
        let name = format!("{address}.");
        println!(
            "{}",
            json!({"BackendState": state, "Self": {"DNSName": name}})
        );
        return ExitCode::SUCCESS;
    }
    let _ = std::fs::remove_file(orders.join("address"));
    let started = std::fs::read_to_string(orders.join("started")).unwrap_or_default();
    let started = format!("{started}{}\n", std::process::id());
    let _ = std::fs::write(orders.join("started"), started);
    let order = std::fs::read_to_string(orders.join("order")).unwrap_or_default();
    match order.as_str() {
        "die" => {
            eprintln!("this account has no tunnels left");
            return ExitCode::FAILURE;
        }
        "stall" => std::future::pending().await,
        "late" => tokio::time::sleep(Duration::from_secs(2)).await,
        _ => {}
    }
    let last = arguments.last().cloned().unwrap_or_default();
    let agent = last.trim_start_matches("http://").parse();
    let agent = agent.expect("an address to lead to");
    let first = lead(agent, orders.clone(), order == "dead-end").await;
    let second = lead(agent, orders.clone(), false).await;
    let address = {
        let orders = orders.clone();
        move || {
            let is_moved = orders.join("move").exists();
            if is_moved { second } else { first }
        }
    };
    let _ = std::fs::write(orders.join("address"), first.to_string());
    let router = match name.as_str() {
        "cloudflared" => Router::new()
            .route("/ready", get(|| async { StatusCode::OK }))
            .route("/quicktunnel", get(move || async move { Json(json!({"hostname": address().to_string()})) })),
        _ => Router::new().route("/api/tunnels", get(move || async move {
            Json(json!({"tunnels": [{"public_url": format!("http://{}", address()), "proto": "https"}]}))
        })),
    };
    let metrics = arguments
        .iter()
        .position(|argument| argument == "--metrics");
    let listen = metrics.map_or("127.0.0.1:0", |at| &arguments[at + 1]);
    let listener = TcpListener::bind(listen).await.expect("a free port");
    if name == "ngrok" {
        let address = listener.local_addr().expect("an address").to_string();
        let line =
            json!({"lvl": "info", "msg": "starting web service", "obj": "web", "addr": address});
        println!("{line}");
    }
    axum::serve(listener, router)
        .await
        .expect("it serves for ever");
    ExitCode::SUCCESS
}

/// An address that leads to the agent, or nowhere.
async fn lead(agent: SocketAddr, orders: PathBuf, nowhere: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut outer, _)) = listener.accept().await {
            if nowhere || orders.join("block").exists() {
                continue;
            }
            tokio::spawn(async move {
                if let Ok(mut inner) = TcpStream::connect(agent).await {
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                }
            });
        }
    });
    address
}
