//! Workers that hold a stream open to the hub: each notes when a line's body was there.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use tokio::sync::mpsc;

use crate::peers::hub::{BETWEEN, CONNECTED};
use crate::receiver::Arrival;

/// Opens so many streams; answers when the hub knows them all. Arrivals come out of the channel.
pub(crate) async fn open(
    url: &str,
    workers: usize,
) -> anyhow::Result<mpsc::UnboundedReceiver<Arrival>> {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let client = reqwest::Client::builder().no_proxy().build()?;
    for _ in 0..workers {
        let mut answer = client.get(format!("{url}/stream")).send().await?;
        ensure!(
            answer.status() == 200,
            "the hub answered {}",
            answer.status()
        );
        let mut lines = Lines::default();
        let greeting = answer.chunk().await?.context("the hub said nothing")?;
        ensure!(greeting.as_ref() == CONNECTED, "the hub did not say hello");
        let arrived = arrived.clone();
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = answer.chunk().await {
                for delivery in lines.take(&chunk) {
                    let _ = arrived.send((delivery, Instant::now()));
                }
            }
        });
    }
    Ok(arrivals)
}

/// Lines as they come, whatever the chunks are.
#[derive(Default)]
struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// The deliveries whose line is whole now, their body at hand.
    fn take(&mut self, chunk: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = chunk;
        while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(&left[..end]);
            left = &left[end + 1..];
            let line = std::mem::take(&mut self.begun);
            found.extend(parse_line(&line).map(|(delivery, _)| delivery.to_owned()));
        }
        self.begun.extend_from_slice(left);
        found
    }
}

/// `{"delivery":"<id>","event":<body>}`: the id, and the body's own bytes.
fn parse_line(line: &[u8]) -> Option<(&str, &[u8])> {
    let line = line.strip_prefix(crate::peers::hub::BEFORE)?;
    let end = line.iter().position(|byte| *byte == b'"')?;
    let body = line[end..].strip_prefix(BETWEEN)?.strip_suffix(b"}")?;
    Some((std::str::from_utf8(&line[..end]).ok()?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_whole_when_its_end_has_come() {
        let mut lines = Lines::default();
        let sent: &[u8] =
            b"{\"delivery\":\"a\",\"event\":{\"x\":1}}\n{\"delivery\":\"b\",\"event\":{}}\n";
        let (first, second) = sent.split_at(40);
        assert_eq!(lines.take(first), ["a"]);
        assert_eq!(lines.take(second), ["b"]);
        let line = sent.split(|byte| *byte == b'\n').next().unwrap();
        assert_eq!(parse_line(line), Some(("a", &b"{\"x\":1}"[..])));
        assert_eq!(parse_line(b"{\"event\":{}}"), None);
    }
}
