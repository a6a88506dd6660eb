//! The addresses that IANA's special-purpose registries set apart, in every notation in which a URL can name them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const REGISTRIES: [&str; 2] = [
    include_str!("../../cases/special-purpose/ipv4.csv"),
    include_str!("../../cases/special-purpose/ipv6.csv"),
];

/// Not in the registries of special-purpose addresses, but no host either.
const MULTICAST: &str = "224.0.0.0/4,Multicast,RFC 5771,False\nff00::/8,Multicast,RFC 4291,False";

/// A block is judged by the IPv4 address inside if it is this one. [`embedded`] has its addresses.
const MAPPED: &str = "::ffff:0:0/96";

/// The first, a middle and the last address of every block that is not globally reachable.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let mut found = Vec::new();
    let rows = REGISTRIES.into_iter().chain([MULTICAST]);
    for row in rows.flat_map(str::lines) {
        let fields: Vec<_> = row.split(',').collect();
        let is_block = fields.len() == 4 && fields[0].contains('/');
        if is_block && fields[3] != "True" && fields[0] != MAPPED {
            found.extend(of_block(fields[0]));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn of_block(block: &str) -> [IpAddr; 3] {
    let (first, length) = block.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    match first.parse().unwrap() {
        IpAddr::V4(first) => {
            let hosts = u32::MAX.checked_shr(length).unwrap_or_default();
            let at = |host| Ipv4Addr::from_bits(first.to_bits() | host).into();
            [at(0), at(hosts / 2 + hosts % 2), at(hosts)]
        }
        IpAddr::V6(first) => {
            let hosts = u128::MAX.checked_shr(length).unwrap_or_default();
            let at = |host| Ipv6Addr::from_bits(first.to_bits() | host).into();
            [at(0), at(hosts / 2 + hosts % 2), at(hosts)]
        }
    }
}

/// The IPv6 addresses that lead to an IPv4 address, or once did.
pub(crate) fn embedded(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let bits = u128::from(v4.to_bits());
    let at = |prefix: &str, shift: u32| {
        let prefix: Ipv6Addr = prefix.parse().unwrap();
        Ipv6Addr::from_bits(prefix.to_bits() | bits << shift)
    };
    let teredo_client = u128::from(!v4.to_bits());
    let teredo: Ipv6Addr = "2001:0:808:808::".parse().unwrap();
    vec![
        // v4-mapped, v4-compatible, and v4-translated (RFC 4291, RFC 2765).
        at("::ffff:0:0", 0),
        at("::", 0),
        at("::ffff:0:0:0", 0),
        // NAT64 with the well-known prefix (RFC 6052), and for local use (RFC 8215).
        at("64:ff9b::", 0),
        at("64:ff9b:1::", 0),
        // 6to4 (RFC 3056).
        at("2002::1", 80),
        // Teredo (RFC 4380): the address of the server, and that of the client, which is inverted.
        at("2001::", 64),
        Ipv6Addr::from_bits(teredo.to_bits() | teredo_client),
    ]
}

/// An address as the host of a URL, and for an IPv4 address also the addresses that lead to it.
pub(crate) fn notations(address: IpAddr) -> Vec<String> {
    match address {
        IpAddr::V4(v4) => {
            let mut found = v4_notations(v4);
            found.extend(embedded(v4).into_iter().map(|v6| format!("[{v6}]")));
            found
        }
        IpAddr::V6(v6) => v6_notations(v6),
    }
}

fn v4_notations(v4: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = v4.octets();
    let (bits, low24, low16) = (
        v4.to_bits(),
        v4.to_bits() & 0xff_ffff,
        v4.to_bits() & 0xffff,
    );
    let dotted = v4.to_string();
    let wide = |character: char| match character.to_digit(10) {
        Some(digit) => char::from_u32(0xff10 + digit).unwrap(),
        None => '\u{3002}',
    };
    vec![
        format!("{dotted}."),
        format!("{bits}"),
        format!("{bits}."),
        format!("0x{bits:x}"),
        format!("0X{bits:X}"),
        format!("0{bits:o}"),
        format!("{a}.{low24}"),
        format!("0x{a:x}.0{low24:o}"),
        format!("{a}.{b}.{low16}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.{b}.0x000{c:x}.{d}"),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        dotted.chars().map(wide).collect(),
        dotted.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        dotted.replacen('.', "\u{ad}.", 1),
        dotted,
    ]
}

fn v6_notations(v6: Ipv6Addr) -> Vec<String> {
    let [a, b, c, d, e, f, ..] = v6.segments();
    let v4 = Ipv4Addr::from_bits((v6.to_bits() & 0xffff_ffff) as u32);
    let groups = v6.segments().map(|group| format!("{group:04X}"));
    vec![
        format!("[{v6}]"),
        format!("[{}]", groups.join(":")),
        format!("[{a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{v4}]"),
    ]
}
