//! The address of a client behind a reverse proxy. A proxy appends the address that it saw to `X-Forwarded-For`; what stands
//! there further left may have been written by anybody.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The networks whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// These.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the client: the last one that no trusted proxy has.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let values = headers.get_all("x-forwarded-for").iter().rev();
        let values = values.filter_map(|value| value.to_str().ok());
        for hop in values.flat_map(|value| value.rsplit(',')) {
            if !self.trust(client) {
                break;
            }
            // Behind what cannot be read, nothing is known.
            let Some(address) = parse_hop(hop.trim()) else {
                break;
            };
            client = address;
        }
        client
    }
}

/// Some proxies add the port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let address = hop.parse().ok();
    let address = address.or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// A network like `10.0.0.0/8`, or one address.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().ok();
    let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.ok_or_else(|| "not a network like `10.0.0.0/8`, or an address".to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// The client of a request from `peer` with these `X-Forwarded-For`, where `10.0.0.0/8` and `fd00::1` are trusted.
    fn client(peer: &str, forwarded: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "fd00::1"].map(|text| parse_network(text).unwrap());
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        let proxies = TrustedProxies::new(networks.to_vec());
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        assert_eq!(client("8.8.8.8", &["1.1.1.1"]), "8.8.8.8");
        assert_eq!(client("fd00::2", &["1.1.1.1"]), "fd00::2");
        // What the client itself has sent stands left of what the proxy has added.
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 8.8.8.8"]), "8.8.8.8");
        assert_eq!(client("10.0.0.1", &["10.0.0.9, 8.8.8.8"]), "8.8.8.8");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "8.8.8.8"]), "8.8.8.8");
    }

    #[test]
    fn a_trusted_proxy_says_for_whom_it_asks() {
        for (peer, forwarded, expected) in [
            ("10.0.0.1", "8.8.8.8", "8.8.8.8"),
            ("fd00::1", "2001:db8::1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "8.8.8.8", "8.8.8.8"),
            ("10.0.0.1", "8.8.8.8:1234", "8.8.8.8"),
            ("10.0.0.1", "[2001:db8::1]:1234", "2001:db8::1"),
            ("10.0.0.1", "::ffff:8.8.8.8", "8.8.8.8"),
            // Two proxies, one behind the other.
            ("10.0.0.1", "8.8.8.8,10.0.0.2", "8.8.8.8"),
            // Clients in the proxies' network.
            ("10.0.0.1", "10.0.0.7", "10.0.0.7"),
            ("10.0.0.1", "8.8.8.8, unknown", "10.0.0.1"),
            ("10.0.0.1", "8.8.8.8, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            assert_eq!(client(peer, &[forwarded]), expected, "{forwarded}");
        }
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn a_network_has_a_length_or_is_one_address() {
        for text in ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "::1"] {
            assert!(parse_network(text).is_ok(), "{text}");
        }
        for text in ["", "10.0.0.0/33", "localhost", "10.0.0"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }
}
