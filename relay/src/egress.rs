//! The egress policy: workers are on the public internet and are reached by https.
//!
//! Invariant: an address is checked as the one that is connected to, whatever its notation.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use http::Uri;
use http::uri::Scheme;
use ipnet::IpNet;
use url::{Host, Url};

/// The longest address of a worker.
pub(crate) const MAX_URL: usize = 2048;

/// Which addresses a connection to a worker may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EgressPolicy {
    /// On the public internet, by https.
    Public,
    /// Also on the loopback interface of this machine, by http or https.
    Loopback,
    /// Also there and in private networks, by http or https.
    Private,
}

/// The networks for private use: RFC 1918, RFC 4193, and RFC 6598, which VPNs such as Tailscale use.
static PRIVATE: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7"
        .split_whitespace()
        .map(|net| net.parse().expect("the list holds networks"))
        .collect()
});

/// An address that only some policies allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inner {
    Loopback,
    Private,
}

impl Inner {
    fn of(address: IpAddr) -> Option<Self> {
        let address = innermost(address);
        if address.is_loopback() {
            Some(Self::Loopback)
        } else if PRIVATE.iter().any(|net| net.contains(&address)) {
            Some(Self::Private)
        } else {
            None
        }
    }
}

/// Networks that are not the public internet: the IANA IPv4 and IPv6 Special-Purpose Address Registries,
/// and multicast. Where an entry there is globally reachable (as `192.31.196.0/24`), it is not listed here.
static SPECIAL: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 \
     192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 \
     224.0.0.0/4 240.0.0.0/4 ::/128 ::1/128 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 \
     2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 ff00::/8"
        .split_whitespace()
        .map(|net| net.parse().expect("the list holds networks"))
        .collect()
});

/// The IPv6 addresses that are assigned on the public internet.
static GLOBAL_UNICAST: LazyLock<IpNet> =
    LazyLock::new(|| "2000::/3".parse().expect("this is a network"));

impl EgressPolicy {
    /// Whether the policy allows an inner address.
    fn allows_inner(self, inner: Inner) -> bool {
        match inner {
            Inner::Loopback => self != Self::Public,
            Inner::Private => self == Self::Private,
        }
    }

    pub(crate) fn allows_ip(self, address: IpAddr) -> bool {
        if let Some(inner) = Inner::of(address) {
            return self.allows_inner(inner);
        }
        let address = innermost(address);
        (address.is_ipv4() || GLOBAL_UNICAST.contains(&address))
            && !SPECIAL.iter().any(|net| net.contains(&address))
    }

    /// Whether a connection to this URI may be made, as far as that is known before its name is resolved.
    pub(crate) fn allows_uri(self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default();
        let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let inner = match literal {
            None => (host == "localhost").then_some(Inner::Loopback),
            Some(literal) => Inner::of(literal),
        };
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        (is_https || inner.is_some_and(|inner| self.allows_inner(inner)))
            && literal.is_none_or(|address| self.allows_ip(address))
    }
}

/// The IPv4 address inside a v4-mapped (RFC 4291) or NAT64 (RFC 6052) one.
fn innermost(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                Ipv4Addr::new(a, b, c, d).into()
            }
            _ => v6.into(),
        },
        v4 => v4,
    }
}

/// The egress policy does not allow the address, or its name is not resolved: one error for both, so that nobody can find
/// out which names there are in a private network. The cause is for the log.
#[derive(Debug, thiserror::Error)]
#[error("the address is not allowed or its name is not resolved")]
pub(crate) struct Blocked(#[source] pub(crate) Option<std::io::Error>);

/// Why a `webhookUrl` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// One error for all addresses that the egress policy does not allow and for names that are not resolved, so that a
    /// caller cannot map a network with it, or find out which names there are in it.
    #[error("`webhookUrl` has to be a public https address whose name is resolved")]
    Blocked,
    /// It is not an absolute URL.
    #[error("`webhookUrl` has to be a whole https address")]
    NotAbsolute,
    /// It is too long.
    #[error("`webhookUrl` has to be at most {MAX_URL} bytes long, percent-encoded")]
    TooLong,
    /// It has no host.
    #[error("`webhookUrl` has to name a host")]
    NoHost,
    /// Its scheme is not https.
    #[error("`webhookUrl` has to begin with `https://`")]
    NotHttps,
    /// It holds credentials.
    #[error("`webhookUrl` must not hold a user or a password")]
    Credentials,
    /// It has a fragment.
    #[error("`webhookUrl` must not hold a fragment (`#…`)")]
    Fragment,
    /// Its port is reserved for another service.
    #[error("`webhookUrl` has to use port 443 or one above 1023")]
    Port,
}

/// Parses a worker's address: https on port 443 or above 1023, a name or a public address, no user, no fragment. Returns
/// the form that is stored and connected to.
///
/// # Errors
///
/// The first rule that the address breaks.
pub(crate) fn parse_webhook_url(text: &str, policy: EgressPolicy) -> Result<String, UrlError> {
    let url = Url::parse(text).map_err(|_| UrlError::NotAbsolute)?;
    if url.as_str().len() > MAX_URL {
        return Err(UrlError::TooLong);
    }
    let literal = match url.host() {
        Some(Host::Ipv4(v4)) => Some(IpAddr::from(v4)),
        Some(Host::Ipv6(v6)) => Some(IpAddr::from(v6)),
        Some(Host::Domain("localhost")) => Some(Ipv4Addr::LOCALHOST.into()),
        Some(Host::Domain(_)) => None,
        None => return Err(UrlError::NoHost),
    };
    let inner = literal.and_then(Inner::of);
    match url.scheme() {
        "https" => {}
        "http" if inner.is_some_and(|inner| policy.allows_inner(inner)) => {}
        "http" if inner == Some(Inner::Loopback) => return Err(UrlError::Blocked),
        _ => return Err(UrlError::NotHttps),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials);
    }
    if url.fragment().is_some() {
        return Err(UrlError::Fragment);
    }
    if url.port().is_some_and(|port| port < 1024) && inner.is_none() {
        return Err(UrlError::Port);
    }
    if literal.is_some_and(|address| !policy.allows_ip(address)) {
        return Err(UrlError::Blocked);
    }
    Uri::try_from(url.as_str()).map_err(|_| UrlError::NotAbsolute)?;
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn special_purpose_addresses_are_refused_in_every_notation() {
        let hosts = "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 2130706433 0x7f.1 169.254.169.254 \
            172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.0.1 198.19.0.1 198.51.100.1 \
            203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 localhost [::] [::1] \
            [::ffff:127.0.0.1] [::ffff:10.0.0.1] [::127.0.0.1] [64:ff9b::a9fe:a9fe] \
            [64:ff9b:1::1] [100::1] [2001::1] [2001:db8::1] [2002:7f00:1::1] [3fff::1] [5f00::1] \
            [fc00::1] [fd00:ec2::254] [fe80::1] [fec0::1] [ff02::1]";
        for host in hosts.split_whitespace() {
            let error =
                parse_webhook_url(&format!("https://{host}/"), EgressPolicy::Public).unwrap_err();
            assert_eq!(error, UrlError::Blocked, "{host}");
        }
    }

    /// The blocks of IANA's registries, multicast, and whether each is globally reachable.
    fn blocks() -> Vec<(IpNet, bool)> {
        let rows = [
            include_str!("../../tests/cases/special-purpose/ipv4.csv"),
            include_str!("../../tests/cases/special-purpose/ipv6.csv"),
            "224.0.0.0/4,Multicast,RFC 5771,False\nff00::/8,Multicast,RFC 4291,False",
        ];
        let fields = |row: &'static str| row.split(',').collect::<Vec<_>>();
        let rows = rows.into_iter().flat_map(str::lines).map(fields);
        rows.filter_map(|fields| Some((fields[0].parse().ok()?, fields[3] == "True")))
            .collect()
    }

    /// What is judged by the IPv4 address inside, whatever its own block is called.
    fn is_judged_by_the_inside(address: IpAddr) -> bool {
        innermost(address).is_ipv4() && address.is_ipv6()
    }

    #[test]
    fn the_registries_decide_which_addresses_are_public() {
        let blocks = blocks();
        assert_eq!(blocks.len(), 26 + 25 + 2);
        let mut count = 0;
        for (block, is_reachable) in &blocks {
            for address in [block.network(), block.broadcast()] {
                if is_judged_by_the_inside(address) {
                    continue;
                }
                // Some blocks are inside larger ones, which are refused as a whole.
                let is_inside_another =
                    |other: &&(IpNet, bool)| !other.1 && other.0.contains(&address);
                let is_public =
                    *is_reachable && !blocks.iter().any(|other| is_inside_another(&other));
                for policy in [
                    EgressPolicy::Public,
                    EgressPolicy::Loopback,
                    EgressPolicy::Private,
                ] {
                    let is_allowed = match Inner::of(address) {
                        Some(inner) => policy.allows_inner(inner),
                        None => is_public,
                    };
                    assert_eq!(
                        policy.allows_ip(address),
                        is_allowed,
                        "{address} {policy:?}"
                    );
                    count += 1;
                }
            }
        }
        assert!(count > 250, "{count}");
    }

    /// The addresses right before and right after a block.
    fn beside(block: &IpNet) -> Vec<IpAddr> {
        match (block.network(), block.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let bits = [first.checked_sub(1), last.checked_add(1)];
                let address = |bits| IpAddr::from(Ipv4Addr::from_bits(bits));
                bits.into_iter().flatten().map(address).collect()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let bits = [first.checked_sub(1), last.checked_add(1)];
                let address = |bits| IpAddr::from(Ipv6Addr::from_bits(bits));
                bits.into_iter().flatten().map(address).collect()
            }
            _ => unreachable!("both are of one family"),
        }
    }

    #[test]
    fn no_more_is_refused_than_the_registries_say() {
        let blocks = blocks();
        let is_in_a_block =
            |address: IpAddr| blocks.iter().any(|(block, _)| block.contains(&address));
        let mut neighbours: Vec<_> = blocks.iter().flat_map(|(block, _)| beside(block)).collect();
        neighbours.retain(|address| !is_in_a_block(*address));
        assert!(neighbours.len() > 30, "{neighbours:?}");
        for address in neighbours {
            let is_assigned = address.is_ipv4() || GLOBAL_UNICAST.contains(&address);
            assert_eq!(
                EgressPolicy::Public.allows_ip(address),
                is_assigned,
                "{address}"
            );
        }
    }

    #[test]
    fn public_addresses_and_names_are_taken() {
        let hosts = "example.com 8.8.8.8 [2606:4700::1111] [64:ff9b::808:808] [::ffff:8.8.8.8] \
            example.com:8443";
        for host in hosts.split_whitespace() {
            assert!(
                parse_webhook_url(&format!("https://{host}/hook?x=1"), EgressPolicy::Public)
                    .is_ok(),
                "{host}"
            );
        }
    }

    #[test]
    fn the_error_for_a_malformed_address_names_the_rule() {
        for (url, part) in [
            ("", "whole https address"),
            ("example.com", "whole https address"),
            ("ftp://example.com", "`https://`"),
            ("http://example.com", "`https://`"),
            ("https://user:hush@example.com", "user"),
            ("https://example.com/#hush", "fragment"),
            ("https://example.com:22/", "port"),
            (
                &format!("https://example.com/{}", "x".repeat(MAX_URL)),
                "2048",
            ),
            (
                &format!("https://example.com/{}", "ü".repeat(400)),
                "percent-encoded",
            ),
        ] {
            let error = parse_webhook_url(url, EgressPolicy::Public)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn loopback_is_for_one_machine_only() {
        for url in [
            "http://127.0.0.1:8080/x",
            "http://localhost:1/",
            "http://[::1]:9/",
        ] {
            assert!(
                parse_webhook_url(url, EgressPolicy::Loopback).is_ok(),
                "{url}"
            );
            let blocked = Err(UrlError::Blocked);
            assert_eq!(parse_webhook_url(url, EgressPolicy::Public), blocked);
        }
        assert!(parse_webhook_url("http://10.0.0.1/", EgressPolicy::Loopback).is_err());
        assert!(parse_webhook_url("https://10.0.0.1/", EgressPolicy::Loopback).is_err());
    }

    #[test]
    fn private_networks_are_for_those_who_allow_them() {
        for host in [
            "10.1.2.3",
            "192.168.0.7:8080",
            "100.100.1.1",
            "[fd00::1]",
            "127.0.0.1",
        ] {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{host}/");
                let uri = url.parse().unwrap();
                assert!(EgressPolicy::Private.allows_uri(&uri), "{url}");
                assert!(
                    parse_webhook_url(&url, EgressPolicy::Private).is_ok(),
                    "{url}"
                );
                assert!(
                    parse_webhook_url(&url, EgressPolicy::Public).is_err(),
                    "{url}"
                );
            }
        }
        for url in [
            "http://169.254.169.254/",
            "https://169.254.169.254/",
            "http://example.com/",
        ] {
            assert!(
                parse_webhook_url(url, EgressPolicy::Private).is_err(),
                "{url}"
            );
        }
    }

    #[test]
    fn an_address_is_stored_as_it_is_connected_to() {
        for (text, kept) in [
            ("https://example.com", "https://example.com/"),
            (
                "HTTPS://Example.com:443/a b?c=ü",
                "https://example.com/a%20b?c=%C3%BC",
            ),
            ("https://bücher.example/", "https://xn--bcher-kva.example/"),
            (
                "https://example.com/{a}|^`'\"<>?{a}|^`'\"<>",
                "https://example.com/%7Ba%7D|^%60'%22%3C%3E?{a}|^`%27%22%3C%3E",
            ),
        ] {
            let address = parse_webhook_url(text, EgressPolicy::Public).unwrap();
            assert_eq!(address, kept);
            assert_eq!(
                parse_webhook_url(&address, EgressPolicy::Public).unwrap(),
                kept
            );
            assert!(EgressPolicy::Public.allows_uri(&Uri::try_from(address).unwrap()));
        }
    }

    #[test]
    fn what_was_not_read_is_not_connected_to_either() {
        for (uri, public, loopback) in [
            ("https://example.com/", true, true),
            ("https://8.8.8.8/", true, true),
            ("http://example.com/", false, false),
            ("http://8.8.8.8/", false, false),
            ("https://10.0.0.1/", false, false),
            ("https://[fd00:ec2::254]/", false, false),
            ("https://[64:ff9b::a9fe:a9fe]/", false, false),
            ("http://127.0.0.1:80/", false, true),
            ("http://[::1]:80/", false, true),
            ("http://localhost:80/", false, true),
            ("/relative", false, false),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(EgressPolicy::Public.allows_uri(&uri), public, "{uri}");
            assert_eq!(EgressPolicy::Loopback.allows_uri(&uri), loopback, "{uri}");
        }
    }

    #[test]
    fn an_unwrapped_address_is_judged_by_what_is_inside() {
        let inside = innermost("::ffff:192.168.0.1".parse().unwrap());
        assert_eq!(inside, IpAddr::from([192, 168, 0, 1]));
        let v6: Ipv6Addr = "2606:4700::1111".parse().unwrap();
        assert_eq!(innermost(v6.into()), IpAddr::from(v6));
    }
}
