//! Who listens at a port of this machine. While a developer's server is down, another user of the machine can take its port, and
//! would get the events.

/// Whether another user's process listens at this port of loopback, perhaps beside one of this user, as at 127.0.0.1 and at ::1. Root
/// is no other user: it can read everything anyway, and publishes the ports of containers.
#[cfg(target_os = "linux")]
pub(super) fn is_another_users(port: u16) -> bool {
    let user = rustix::process::geteuid().as_raw();
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|file| {
        let table = std::fs::read_to_string(file).unwrap_or_default();
        (listeners(&table, port).iter()).any(|owner| ![user, 0].contains(owner))
    })
}

/// Other systems do not say.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_another_users(_: u16) -> bool {
    false
}

/// The users of what listens at this port of loopback or of all addresses, from a table of the kernel's (proc_net_tcp in its
/// documentation: `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid …`).
#[cfg(target_os = "linux")]
fn listeners(table: &str, port: u16) -> Vec<u32> {
    const LISTEN: &str = "0A";
    const ADDRESSES: [&str; 6] = [
        "00000000",
        "0100007F",
        "00000000000000000000000000000000",
        "00000000000000000000000001000000",
        "0000000000000000FFFF000000000000",
        "0000000000000000FFFF00000100007F",
    ];
    let owner = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (address, at) = fields.get(1)?.split_once(':')?;
        let is_it = u16::from_str_radix(at, 16).ok()? == port
            && ADDRESSES.contains(&address)
            && *fields.get(3)? == LISTEN;
        is_it.then(|| fields.get(7)?.parse().ok()).flatten()
    };
    table.lines().filter_map(owner).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_users_of_a_port_are_read_from_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24 1 0\n   \
            1: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 25 1 0\n   \
            2: 0100007F:0BB8 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1002        0 26 1 0\n   \
            3: 0200A8C0:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1003        0 27 1 0\n";
        assert_eq!(listeners(table, 3000), [1000, 1001]);
        assert!(listeners(table, 3001).is_empty());
        let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_another_users(own.local_addr().unwrap().port()));
    }
}
