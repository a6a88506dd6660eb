//! Who listens at a port of this machine. While a developer's server is down, another user of the machine can take its port, and
//! would get the events.

/// Whether another user's process listens at this port of loopback, perhaps beside one of this user, as at 127.0.0.1 and at ::1. Root
/// is no other user: it can read everything anyway, and publishes the ports of containers.
#[cfg(target_os = "linux")]
pub(super) fn is_another_users(port: u16) -> bool {
    let user = rustix::process::geteuid().as_raw();
    (sock_diag::listeners(port).iter()).any(|owner| ![user, 0].contains(owner))
}

/// Other systems do not say.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_another_users(_: u16) -> bool {
    false
}

/// The kernel's list of sockets (sock_diag(7)). It lists those that listen without a look at all connections, which `/proc/net/tcp`
/// needs milliseconds for.
#[cfg(target_os = "linux")]
mod sock_diag {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use rustix::io::{Errno, Result};
    use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

    /// `SOCK_DIAG_BY_FAMILY`, and the end of an answer.
    const BY_FAMILY: u16 = 20;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    /// `NLM_F_REQUEST | NLM_F_DUMP`
    const DUMP: u16 = 0x301;
    const TCP: u8 = 6;
    /// One bit for each state: `TCP_LISTEN`.
    const LISTENING: u32 = 1 << 10;
    /// The lengths of `struct nlmsghdr`, and of it with `struct inet_diag_req_v2`.
    const HEADER: usize = 16;
    const REQUEST: usize = HEADER + 56;

    /// The users of what listens at this port where `localhost` leads to. A kernel without this interface does not say.
    pub(super) fn listeners(port: u16) -> Vec<u32> {
        let mut owners = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let _ = list(family, port, &mut owners);
        }
        owners
    }

    fn list(family: AddressFamily, port: u16, owners: &mut Vec<u32>) -> Result<()> {
        let socket = net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(net::netlink::SOCK_DIAG),
        )?;
        net::send(&socket, &request(family, port), SendFlags::empty())?;
        let mut answer = vec![0; 32 * 1024];
        loop {
            let (length, _) = net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
            let mut rest = &answer[..length];
            while let Some((kind, message, after)) = next(rest) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return Err(Errno::INVAL),
                    BY_FAMILY => owners.extend(owner(message)),
                    _ => {}
                }
                rest = after;
            }
        }
    }

    /// Asks for the sockets of TCP that listen at a port.
    fn request(family: AddressFamily, port: u16) -> [u8; REQUEST] {
        let mut request = [0; REQUEST];
        request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        request[6..8].copy_from_slice(&DUMP.to_ne_bytes());
        request[HEADER] = family.as_raw() as u8;
        request[HEADER + 1] = TCP;
        request[HEADER + 4..HEADER + 8].copy_from_slice(&LISTENING.to_ne_bytes());
        request[HEADER + 8..HEADER + 10].copy_from_slice(&port.to_be_bytes());
        request
    }

    /// The type and the content of the first message, and what follows it.
    fn next(messages: &[u8]) -> Option<(u16, &[u8], &[u8])> {
        let length = u32::from_ne_bytes(*messages.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk()?);
        let message = messages.get(HEADER..length)?;
        let after = messages
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((kind, message, after))
    }

    /// The user in a `struct inet_diag_msg`, if the socket is at 127.0.0.1, at ::1 or at all addresses.
    fn owner(message: &[u8]) -> Option<u32> {
        let address: &[u8; 16] = message.get(8..)?.first_chunk()?;
        let address = match AddressFamily::from_raw((*message.first()?).into()) {
            AddressFamily::INET => IpAddr::V4(Ipv4Addr::from(*address.first_chunk::<4>()?)),
            _ => Ipv6Addr::from(*address).to_canonical(),
        };
        let user = u32::from_ne_bytes(*message.get(64..)?.first_chunk()?);
        let is_localhost =
            [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].contains(&address);
        (is_localhost || address.is_unspecified()).then_some(user)
    }

    #[cfg(test)]
    mod tests {
        use std::net::TcpListener;

        use super::*;

        #[test]
        fn the_users_of_a_port_are_those_of_its_listeners_at_localhost() {
            let user = rustix::process::geteuid().as_raw();
            let first = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = first.local_addr().unwrap().port();
            assert_eq!(listeners(port), [user]);
            let connected = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let second = TcpListener::bind(("::1", port)).unwrap();
            assert_eq!(listeners(port), [user, user]);
            drop(first);
            assert_eq!(listeners(port), [user]);
            drop((second, connected));
            assert!(listeners(port).is_empty());
            let everywhere = TcpListener::bind("[::]:0").unwrap();
            let port = everywhere.local_addr().unwrap().port();
            assert_eq!(listeners(port), [user]);
        }
    }
}
