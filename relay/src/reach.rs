//! Where workers may be: on the public internet, by https.
//!
//! Invariant: an address is judged by what is connected to, in whatever notation it is written.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use http::Uri;
use http::uri::Scheme;
use ipnet::IpNet;
use url::{Host, Url};

use crate::Error;

/// The longest address of a worker.
pub const MAX_URL: usize = 2048;

/// Where workers may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On the public internet, by https.
    Public,
    /// There, or on this machine's loopback interface, by http too.
    Loopback,
}

/// Networks that are not the public internet: the IANA IPv4 and IPv6 Special-Purpose Address Registries,
/// and multicast. Where an entry there is globally reachable (as `192.31.196.0/24`), it is not listed here.
static SPECIAL: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "::ffff:0:0/96",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
    ]
    .iter()
    .map(|net| net.parse().expect("the list holds networks"))
    .collect()
});

/// IPv6 addresses that are given out for the public internet.
static GLOBAL_UNICAST: LazyLock<IpNet> =
    LazyLock::new(|| "2000::/3".parse().expect("this is a network"));

impl Reach {
    pub(crate) fn allows(self, address: IpAddr) -> bool {
        let address = innermost(address);
        if address.is_loopback() {
            return self == Self::Loopback;
        }
        (address.is_ipv4() || GLOBAL_UNICAST.contains(&address))
            && !SPECIAL.iter().any(|net| net.contains(&address))
    }

    /// Whether a connection may be made for this, as far as it can be told before a name is resolved.
    pub(crate) fn admits(self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default();
        let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        let on_loopback = host == "localhost" || literal.is_some_and(is_loopback);
        let is_https = uri.scheme() == Some(&Scheme::HTTPS);
        (is_https || (self == Self::Loopback && on_loopback))
            && literal.is_none_or(|address| self.allows(address))
    }
}

fn is_loopback(address: IpAddr) -> bool {
    innermost(address).is_loopback()
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

/// One answer for all addresses that are not allowed, so that nobody can map a network with it.
pub(crate) fn blocked() -> Error {
    Error::bad_request(
        "address_blocked",
        "`webhookUrl` has to be a public https address",
    )
}

/// Why an address is not connected to.
#[derive(Debug, thiserror::Error)]
#[error("the address is not allowed")]
pub(crate) struct Blocked;

/// Reads a worker's address: https on port 443 or above 1023, a name or a public address, no user, no fragment.
/// Answers with it as it is kept and connected to.
pub fn check_url(text: &str, reach: Reach) -> Result<String, Error> {
    let wrong = |detail: &str| Error::bad_request("invalid_webhook_url", detail);
    let no_address = || wrong("`webhookUrl` has to be a whole https address");
    let url = Url::parse(text).map_err(|_| no_address())?;
    if url.as_str().len() > MAX_URL {
        return Err(wrong(
            "`webhookUrl` has to be at most 2048 bytes long, percent-encoded",
        ));
    }
    let literal = match url.host() {
        Some(Host::Ipv4(v4)) => Some(IpAddr::from(v4)),
        Some(Host::Ipv6(v6)) => Some(IpAddr::from(v6)),
        Some(Host::Domain("localhost")) => Some(Ipv4Addr::LOCALHOST.into()),
        Some(Host::Domain(_)) => None,
        None => return Err(wrong("`webhookUrl` has to name a host")),
    };
    let on_loopback = literal.is_some_and(is_loopback);
    match url.scheme() {
        "https" => {}
        "http" if reach == Reach::Loopback && on_loopback => {}
        "http" if on_loopback => return Err(blocked()),
        _ => return Err(wrong("`webhookUrl` has to begin with `https://`")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("`webhookUrl` must not hold a user or a password"));
    }
    if url.fragment().is_some() {
        return Err(wrong("`webhookUrl` must not hold a fragment (`#…`)"));
    }
    if url.port().is_some_and(|port| port < 1024) && !on_loopback {
        return Err(wrong("`webhookUrl` has to use port 443 or one above 1023"));
    }
    if literal.is_some_and(|address| !reach.allows(address)) {
        return Err(blocked());
    }
    Uri::try_from(url.as_str()).map_err(|_| no_address())?;
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_purpose_addresses_are_refused_in_every_notation() {
        for host in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "localhost",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::1]",
            "[100::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[2002:7f00:1::1]",
            "[3fff::1]",
            "[5f00::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ] {
            let error = check_url(&format!("https://{host}/"), Reach::Public).unwrap_err();
            assert_eq!(error.code, "address_blocked", "{host}");
        }
    }

    #[test]
    fn public_addresses_and_names_are_taken() {
        for host in [
            "example.com",
            "8.8.8.8",
            "[2606:4700::1111]",
            "[64:ff9b::808:808]",
            "[::ffff:8.8.8.8]",
            "example.com:8443",
        ] {
            assert!(
                check_url(&format!("https://{host}/hook?x=1"), Reach::Public).is_ok(),
                "{host}"
            );
        }
    }

    #[test]
    fn an_address_of_a_wrong_form_is_told_what_is_wrong() {
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
            let error = check_url(url, Reach::Public).unwrap_err();
            assert!(error.detail.contains(part), "{url}: {}", error.detail);
            assert!(!error.detail.contains("hush"));
        }
    }

    #[test]
    fn loopback_is_for_one_machine_only() {
        for url in [
            "http://127.0.0.1:8080/x",
            "http://localhost:1/",
            "http://[::1]:9/",
        ] {
            assert!(check_url(url, Reach::Loopback).is_ok(), "{url}");
            assert_eq!(
                check_url(url, Reach::Public).unwrap_err().code,
                "address_blocked"
            );
        }
        assert!(check_url("http://10.0.0.1/", Reach::Loopback).is_err());
        assert!(check_url("https://10.0.0.1/", Reach::Loopback).is_err());
    }

    #[test]
    fn an_address_is_kept_as_it_is_connected_to() {
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
            let address = check_url(text, Reach::Public).unwrap();
            assert_eq!(address, kept);
            assert_eq!(check_url(&address, Reach::Public).unwrap(), kept);
            assert!(Reach::Public.admits(&Uri::try_from(address).unwrap()));
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
            assert_eq!(Reach::Public.admits(&uri), public, "{uri}");
            assert_eq!(Reach::Loopback.admits(&uri), loopback, "{uri}");
        }
    }

    #[test]
    fn an_unwrapped_address_is_judged_by_what_is_inside() {
        let inside = innermost("::ffff:192.168.0.1".parse().unwrap());
        assert_eq!(inside, IpAddr::from([192, 168, 0, 1]));
        let v6: std::net::Ipv6Addr = "2606:4700::1111".parse().unwrap();
        assert_eq!(innermost(v6.into()), IpAddr::from(v6));
    }
}
