//! A fuzz target for what tunnel programs print and answer.

use url::Url;

use super::{cloudflared, ngrok, tailscale, webhook};
use crate::target::is_on_loopback;

/// An address has a host and perhaps a port, and nothing else that the relay would be told.
fn is_plain(url: &Url) -> bool {
    let scheme = if is_on_loopback(url) { "http" } else { "https" };
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    !host.is_empty() && url.as_str() == format!("{scheme}://{host}{port}/")
}

#[test]
fn fuzz_tunnel() {
    fuzz::target!("tunnel", |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        let log: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_ne!(ngrok::api(&log).as_deref(), Some(""));
        let readers = [cloudflared::address, ngrok::address, tailscale::address];
        for url in readers.iter().filter_map(|address| address(input)) {
            assert!(is_plain(&url), "{url}");
            assert!(webhook(&url).as_str() == format!("{url}webhook"));
        }
    });
}
