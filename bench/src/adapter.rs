//! The HTTP adapter of a webhook sender that `bench compare` measures. `bench/adapters/README.md` has the whole contract.
//!
//! - `PUT /receivers` with [`Receivers`] returns 204 once each further event goes to these URLs and to no others.
//! - `POST /events` with an event's body and Linear's headers returns 2xx once the sender has accepted the event.
//! - `GET /process` returns [`Processes`], or 404 if they are not known.

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// The body of `PUT /receivers`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Receivers {
    pub(crate) urls: Vec<String>,
}

/// The response to `GET /process`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Processes {
    pub(crate) pids: Vec<u32>,
}

/// A sender's adapter.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// The sender's name in the tables.
    pub(crate) name: String,
    /// Without a slash at its end.
    pub(crate) url: String,
}

impl Adapter {
    /// Parses `NAME=URL`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (name, url) = text.split_once('=').ok_or("it is not NAME=URL")?;
        if name.is_empty() || name.contains(['|', '\n']) {
            return Err("the name is empty or would break a table".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            url: url.trim_end_matches('/').to_owned(),
        })
    }

    /// Sends each further event to these URLs and to no others.
    pub(crate) async fn send_to(
        &self,
        client: &reqwest::Client,
        urls: Vec<String>,
    ) -> anyhow::Result<()> {
        let request = client.put(format!("{}/receivers", self.url));
        let response = request.json(&Receivers { urls }).send().await;
        let response = response.with_context(|| self.cannot("be reached"))?;
        let status = response.status();
        ensure!(
            status == 204,
            self.cannot(&format!("take receivers: {status}"))
        );
        Ok(())
    }

    /// The sender's processes on this machine; none if the adapter does not know them.
    pub(crate) async fn pids(&self, client: &reqwest::Client) -> anyhow::Result<Vec<u32>> {
        let request = client.get(format!("{}/process", self.url));
        let response = request.send().await;
        let response = response.with_context(|| self.cannot("be reached"))?;
        let status = response.status();
        if status == 404 {
            return Ok(Vec::new());
        }
        ensure!(
            status == 200,
            self.cannot(&format!("name processes: {status}"))
        );
        let processes: Processes = response.json().await?;
        Ok(processes.pids)
    }

    fn cannot(&self, what: &str) -> String {
        format!("the adapter of `{}` cannot {what}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapter_is_a_name_and_a_url() {
        let adapter = Adapter::parse("svix=http://127.0.0.1:8072/?a=b").unwrap();
        assert_eq!(
            (&*adapter.name, &*adapter.url),
            ("svix", "http://127.0.0.1:8072/?a=b")
        );
        let adapter = Adapter::parse("svix=http://127.0.0.1:8072/").unwrap();
        assert_eq!(adapter.url, "http://127.0.0.1:8072");
        assert!(Adapter::parse("http://127.0.0.1:8072").is_err());
        assert!(Adapter::parse("=http://127.0.0.1:8072").is_err());
        assert!(Adapter::parse("a|b=http://127.0.0.1:8072").is_err());
    }
}
