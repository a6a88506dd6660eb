//! The HTTP client towards workers: it refuses private addresses, redirects and proxies.
//!
//! Invariant: the address that is connected to is the address that was checked. Names are checked in the
//! client's resolver, literal addresses (which no resolver sees) when the URL is read.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use tokio::time::Instant;

use crate::Error;
use crate::reach::{Blocked, Reach, check_url};

/// How the relay names itself.
pub const USER_AGENT: &str = concat!("edge-relay/", env!("CARGO_PKG_VERSION"));

/// How much of an answer is read.
pub const ANSWER_LIMIT: usize = 16 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the rest of an answer is waited for, once its status is known, to use the connection again.
const DRAIN: Duration = Duration::from_millis(500);

/// Resolves names and keeps back every address that is not allowed.
struct Resolver(Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> = (found.into_iter())
                .filter(|address| reach.allows(address.ip()))
                .collect();
            if allowed.is_empty() {
                return Err(Blocked.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// The headers of a POST to a worker: what every one carries, and what this one does.
pub fn headers(more: impl IntoIterator<Item = (&'static str, String)>) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    for (name, value) in more {
        let value = HeaderValue::try_from(value)
            .map_err(|e| Error::storage("write the delivery's headers", e))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// What every client of the relay has in common: no proxy from the environment, no decompression.
pub fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
}

/// The one HTTP client towards workers.
#[derive(Debug, Clone)]
pub struct Outbound {
    client: reqwest::Client,
    reach: Reach,
    timeout: Duration,
}

/// Why nothing was answered; no part of the address is in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// Not a public address.
    #[error("the address is not allowed")]
    Blocked,
    /// DNS, TCP or TLS.
    #[error("could not connect")]
    Connect,
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout,
    /// The connection ended before an answer.
    #[error("the connection was closed without an answer")]
    Closed,
}

impl Outbound {
    /// A client with one deadline over everything: resolve, connect, send, status, and what is read of the body.
    pub fn new(reach: Reach, timeout: Duration) -> Result<Self, Error> {
        let client = client_builder()
            .dns_resolver(Resolver(reach))
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|e| Error::storage("set up the client for workers", e))?;
        Ok(Self {
            client,
            reach,
            timeout,
        })
    }

    /// POSTs `body` and answers with the status and headers; the connection is kept if the answer ends soon.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap), Unreachable> {
        let deadline = Instant::now() + self.timeout;
        let mut response = self.send(url, headers, body, deadline).await?;
        let answered = (response.status(), std::mem::take(response.headers_mut()));
        // What the worker decided is known. Reading on only saves the next connection.
        let drained = deadline.min(Instant::now() + DRAIN);
        let _ = tokio::time::timeout_at(drained, read(&mut response)).await;
        Ok(answered)
    }

    /// POSTs `body` and answers with the status and the first 16 KiB of the answer's body.
    pub async fn ask(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, Vec<u8>), Unreachable> {
        let deadline = Instant::now() + self.timeout;
        let mut response = self.send(url, headers, body, deadline).await?;
        let answer = tokio::time::timeout_at(deadline, read(&mut response))
            .await
            .map_err(|_| Unreachable::Timeout)?
            .map_err(|_| Unreachable::Closed)?;
        Ok((response.status(), answer))
    }

    async fn send(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        deadline: Instant,
    ) -> Result<reqwest::Response, Unreachable> {
        let url = check_url(url, self.reach).map_err(|_| Unreachable::Blocked)?;
        let request = self.client.post(url).headers(headers).body(body).send();
        match tokio::time::timeout_at(deadline, request).await {
            Err(_) => Err(Unreachable::Timeout),
            Ok(sent) => sent.map_err(|error| unreachable(&error)),
        }
    }
}

async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let left = ANSWER_LIMIT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(left)]);
        if body.len() == ANSWER_LIMIT {
            break;
        }
    }
    Ok(body)
}

fn unreachable(error: &reqwest::Error) -> Unreachable {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<Blocked>() {
            return Unreachable::Blocked;
        }
        cause = error.source();
    }
    if error.is_timeout() {
        Unreachable::Timeout
    } else if error.is_connect() {
        Unreachable::Connect
    } else {
        Unreachable::Closed
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[tokio::test]
    async fn a_name_that_resolves_to_a_private_address_is_not_connected_to() {
        let name = || Name::from_str("localhost").unwrap();
        let refused = Resolver(Reach::Public).resolve(name()).await;
        assert!(refused.is_err_and(|error| error.is::<Blocked>()));
        let allowed = Resolver(Reach::Loopback).resolve(name()).await;
        assert!(allowed.unwrap().all(|address| address.ip().is_loopback()));
    }
}
