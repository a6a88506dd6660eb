//! Where the commands find events: the running agent, over the interface of its inspector, or the file if no agent runs or it has
//! no inspector.

use std::time::Duration;

use anyhow::Context as _;
use protocol::clock::rfc3339;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use crate::cause::root_cause;
use crate::context::Context;
use crate::facts::{Detail, EventFacts, StatusFacts};
use crate::failure::Failure;
use crate::report;
use crate::store::{Content, Filter, Store};

/// How long the agent may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many events an answer of the agent can have.
const PAGE: u32 = 500;

pub(crate) enum Source {
    Agent(RunningAgent),
    File(Store),
}

impl Source {
    /// The running agent, or the file.
    pub(crate) fn open(context: &Context) -> Result<Self, Failure> {
        match RunningAgent::find(context)? {
            Some(agent) => Ok(Self::Agent(agent)),
            None => Ok(Self::File(context.store()?)),
        }
    }

    /// Events in the order in which they were stored.
    pub(crate) async fn list(&self, filter: &Filter) -> Result<Vec<EventFacts>, Failure> {
        match self {
            Self::Agent(agent) => agent.list(filter).await,
            Self::File(store) => {
                let listed = store.list(filter.clone()).await?;
                Ok(listed.into_iter().map(EventFacts::from).collect())
            }
        }
    }

    /// An event with its headers and attempts; none if it was deleted.
    pub(crate) async fn detail(&self, event: &EventFacts) -> Result<Option<Detail>, Failure> {
        let store = match self {
            Self::Agent(agent) => return agent.get(&agent.url(&["events", &event.id])).await,
            Self::File(store) => store,
        };
        let (listed, content) = (
            store.find(&event.id).await?,
            store.content(event.sequence).await?,
        );
        let (Some(listed), Some(Content { event: content, .. })) = (listed, content) else {
            return Ok(None);
        };
        let attempts = store.attempts(event.sequence).await?;
        Ok(Some(Detail::new(listed, &content, attempts)))
    }

    /// The body of an event, byte for byte; none if it was deleted.
    pub(crate) async fn body(&self, event: &EventFacts) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Self::Agent(agent) => agent.body(&event.id).await,
            Self::File(store) => {
                let content = store.content(event.sequence).await?;
                Ok(content.map(|content| content.event.body))
            }
        }
    }
}

/// A running agent with an inspector.
pub(crate) struct RunningAgent {
    client: Client,
    inspector: Url,
    key: String,
}

/// What the agent answers to a list.
#[derive(Deserialize)]
struct List {
    events: Vec<EventFacts>,
    more: bool,
}

impl RunningAgent {
    /// None if no agent runs here, or it has no inspector.
    pub(crate) fn find(context: &Context) -> Result<Option<Self>, Failure> {
        let directory = &context.directory;
        let status = report::read(&directory.report()).filter(|_| directory.is_in_use());
        let inspector = status.and_then(|status| status.inspector?.parse().ok());
        let Some(inspector) = inspector else {
            return Ok(None);
        };
        let key = directory.inspector_key();
        let key = std::fs::read_to_string(&key).with_context(|| {
            format!(
                "cannot read `{}`, the key of the running agent",
                key.display()
            )
        })?;
        let client = Client::builder().no_proxy().timeout(TIMEOUT).build();
        Ok(Some(Self {
            client: client.context("cannot make an HTTP client")?,
            inspector,
            key,
        }))
    }

    /// The address of the page, for a browser.
    pub(crate) fn address_with_key(&self) -> String {
        format!("{}?key={}", self.inspector, self.key)
    }

    pub(crate) async fn status(&self) -> Result<StatusFacts, Failure> {
        let status = self.get(&self.url(&["status"])).await?;
        status.ok_or_else(|| Failure::Failed(anyhow::anyhow!("the running agent has no status")))
    }

    /// Has events handled again, all or none.
    pub(crate) async fn replay(&self, events: &[EventFacts]) -> Result<(), Failure> {
        let ids: Vec<_> = events.iter().map(|event| &event.id).collect();
        let request = self.client.post(self.url(&["replay"]));
        let answer = self.send(request.json(&json!({"ids": ids}))).await?;
        answer.map(drop).ok_or_else(|| {
            Failure::Unhealthy("an event was deleted meanwhile: nothing was replayed".to_owned())
        })
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<EventFacts>, Failure> {
        let limit = filter.limit.unwrap_or(u32::MAX) as usize;
        let mut found = Vec::new();
        let mut before = filter.before;
        while found.len() < limit {
            let left = u32::try_from(limit - found.len()).unwrap_or(PAGE);
            let url = self.list_url(filter, before, left.min(PAGE));
            let list = self.get(&url).await?;
            let List { events, more } = list.context("the running agent has no list of events")?;
            before = events.last().map(|event| event.sequence);
            found.extend(events);
            if !more {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }

    fn list_url(&self, filter: &Filter, before: Option<i64>, limit: u32) -> Url {
        let mut url = self.url(&["events"]);
        let Filter {
            id,
            state,
            ordering_key,
            text,
            since,
            after,
            before: _,
            pattern,
            limit: _,
        } = filter;
        let parameters = [
            ("id", id.clone()),
            ("state", state.map(|state| state.as_str().to_owned())),
            ("key", ordering_key.clone()),
            ("text", text.clone()),
            ("type", pattern.clone()),
            ("since", since.map(rfc3339)),
            ("after", after.map(|after| after.to_string())),
            ("before", before.map(|before| before.to_string())),
            ("limit", Some(limit.to_string())),
        ];
        for (name, value) in parameters {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, &value);
            }
        }
        url
    }

    async fn body(&self, id: &str) -> Result<Option<Vec<u8>>, Failure> {
        let url = self.url(&["events", id, "body"]);
        let Some(answer) = self.send(self.client.get(url)).await? else {
            return Ok(None);
        };
        let body = answer
            .bytes()
            .await
            .context("the running agent broke off")?;
        Ok(Some(body.to_vec()))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.inspector.clone();
        (url.path_segments_mut())
            .expect("an http URL has a path")
            .pop_if_empty()
            .push("api")
            .extend(path);
        url
    }

    /// What the agent answers; none if there is no such event.
    async fn get<T: DeserializeOwned>(&self, url: &Url) -> Result<Option<T>, Failure> {
        let Some(answer) = self.send(self.client.get(url.clone())).await? else {
            return Ok(None);
        };
        let answer = answer.json().await;
        Ok(Some(answer.context(
            "the running agent answers in another form: start it again",
        )?))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Option<Response>, Failure> {
        let sent = request.bearer_auth(&self.key).send().await;
        let answer = sent.map_err(|error| {
            let why = root_cause(&error.without_url());
            Failure::Failed(anyhow::anyhow!("the running agent does not answer: {why}"))
        })?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => {
                let problem: Value = answer.json().await.unwrap_or_default();
                let message = problem["message"].as_str().unwrap_or_default();
                Err(Failure::Failed(anyhow::anyhow!(
                    "the running agent answered {status}: {message}"
                )))
            }
        }
    }
}
