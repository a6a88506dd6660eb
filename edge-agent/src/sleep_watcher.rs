//! Detects that the machine was asleep, that the process was stopped, or that the machine has moved to another network.
//!
//! Wall-clock gaps reveal sleep: a monotonic clock stands still while the machine is suspended, on Linux and macOS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::clock::{Clock, millis};
use tokio::sync::Notify;

use crate::output::info;

/// How often the clocks and the route are compared.
const INTERVAL: Duration = Duration::from_secs(1);
/// By how much the wall clock may advance more than the monotonic one.
const GAP: Duration = Duration::from_secs(5);

/// Notifies `resumed` whenever the machine was asleep or has moved. `route` returns the default route, if there is one.
pub(crate) async fn watch<const N: usize>(
    clock: Clock,
    route: impl Fn() -> Option<String>,
    resumed: [Arc<Notify>; N],
) {
    let mut route_before = route();
    let mut wall = clock.millis();
    let mut monotonic = Instant::now();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let passed = millis(monotonic.elapsed());
        let gap = clock.millis() - wall - passed;
        (wall, monotonic) = (clock.millis(), Instant::now());
        let route_now = route();
        // Without a network there is nothing to do yet.
        let has_moved = route_now.is_some() && route_now != route_before;
        let was_asleep = u64::try_from(gap).is_ok_and(|gap| Duration::from_millis(gap) > GAP);
        // The process was stopped, or the machine did nothing else for long: what was sent meanwhile may not have been answered.
        let was_stopped = passed > millis(INTERVAL + GAP);
        if was_asleep {
            info(format_args!("back after {} s of sleep", gap / 1000));
        } else if was_stopped {
            info(format_args!(
                "back after {} s in which nothing ran",
                passed / 1000
            ));
        } else if has_moved {
            info("back in a network");
        }
        if route_now != route_before {
            route_before = route_now;
        }
        if was_asleep || was_stopped || has_moved {
            for one in &resumed {
                one.notify_one();
            }
        }
    }
}

/// The default route: interface and gateway.
#[cfg(target_os = "linux")]
pub(crate) fn default_route() -> Option<String> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    // `Iface Destination Gateway …`, see proc_net_route in the kernel's documentation.
    let default = routes.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (interface, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| format!("{interface} {}", fields.next().unwrap_or("")))
    });
    default.or_else(|| {
        let routes = std::fs::read_to_string("/proc/net/ipv6_route").ok()?;
        // `Destination Length Source Length NextHop … Iface`
        routes.lines().find_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let is_default = fields.get(1) == Some(&"00") && fields.last() != Some(&"lo");
            (is_default && fields.len() > 4)
                .then(|| format!("{} {}", fields[fields.len() - 1], fields[4]))
        })
    })
}

/// The source address of packets to the internet. No packet is sent to find it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn default_route() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-1 (RFC 5737) is not assigned to any network.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    async fn is_notified(notify: &Notify, within: Duration) -> bool {
        tokio::time::timeout(within, notify.notified())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn sleep_and_another_network_are_detected_and_nothing_else_is() {
        let clock = Clock::system();
        let notified = Arc::new(Notify::new());
        let route = Arc::new(Mutex::new(Some("wlan0 1".to_owned())));
        let watching = tokio::spawn({
            let (clock, notified, route) =
                (clock.clone(), Arc::clone(&notified), Arc::clone(&route));
            watch(clock, move || route.lock().unwrap().clone(), [notified])
        });
        let long = Duration::from_secs(5);
        let quiet = Duration::from_millis(1_500);
        assert!(!is_notified(&notified, quiet).await);
        clock.advance(Duration::from_secs(3600));
        assert!(is_notified(&notified, long).await);
        *route.lock().unwrap() = None;
        assert!(!is_notified(&notified, quiet).await, "no network yet");
        *route.lock().unwrap() = Some("wlan0 2".to_owned());
        assert!(is_notified(&notified, long).await);
        watching.abort();
    }
}
