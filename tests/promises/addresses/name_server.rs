//! Names that a real name server resolves, by the resolver of this machine. The test runs in a network namespace of its own: its only
//! interface is loopback, which has a public address for the worker, and private ones for what may not be reached.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use tokio::net::UdpSocket;

use super::{BLOCKED, failure, refusal};
use crate::harness::target::Target;
use crate::harness::tls::Certificate;
use crate::harness::{Receiver, issue, relay};

/// A public address, which leads nowhere but to this test.
const WORKER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const UNIQUE_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// The test below.
const TEST: &str = "addresses::name_server::a_name_server_that_mixes_or_changes_its_answers_leads_to_allowed_addresses_alone";

/// Names the directory of the files that the namespace's side of the test uses.
const DIRECTORY: &str = "NAME_SERVER_TEST";

/// The arguments are the directory, the addresses, the test program and the test.
const SCRIPT: &str = r#"
set -e
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
ip link set lo up
for address in $2; do ip address add "$address" dev lo; done
exec "$3" --ignored --exact "$4" --nocapture
"#;

#[expect(
    clippy::disallowed_methods,
    reason = "the two sides of the test are one program"
)]
#[tokio::test]
#[ignore = "needs unshare, mount and ip, and root or user namespaces"]
async fn a_name_server_that_mixes_or_changes_its_answers_leads_to_allowed_addresses_alone() {
    match std::env::var_os(DIRECTORY) {
        Some(directory) => in_namespace(directory.as_ref()).await,
        None => in_a_namespace_of_its_own(),
    }
}

/// Runs the test again, in a new namespace.
fn in_a_namespace_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let write = |file, text| std::fs::write(directory.path().join(file), text).unwrap();
    write("resolv.conf", "nameserver 127.0.0.1\n");
    write("nsswitch.conf", "hosts: dns\n");
    let authority = directory.path().join("ca.pem");
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let status = command
        .args(["--net", "--mount", "sh", "-c", SCRIPT, "sh"])
        .arg(directory.path())
        .arg(format!(
            "{WORKER}/32 {PRIVATE}/32 {METADATA}/32 {UNIQUE_LOCAL}/128"
        ))
        .arg(std::env::current_exe().unwrap())
        .arg(TEST)
        .env(DIRECTORY, directory.path())
        .env("SSL_CERT_FILE", &authority)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    assert!(authority.exists(), "there is no test {TEST}");
}

async fn in_namespace(directory: &Path) {
    let certificate = Certificate::for_names(&["mixed.example", "changing.example"]);
    certificate.write(directory);
    let address = SocketAddr::from((WORKER, 0)).to_string();
    let mut receiver = Receiver::start_over_tls_at(&address, certificate.acceptor(&[])).await;
    let port = receiver.address.port();
    let reached: [IpAddr; 5] = [
        Ipv4Addr::LOCALHOST.into(),
        PRIVATE.into(),
        METADATA.into(),
        Ipv6Addr::LOCALHOST.into(),
        UNIQUE_LOCAL.into(),
    ];
    let mut targets = Vec::new();
    for address in reached {
        targets.push(Target::start_at(&SocketAddr::from((address, port)).to_string()).await);
    }
    // And the private ones in IPv4-mapped (RFC 4291) and NAT64 (RFC 6052) form.
    let nat64 = Ipv6Addr::from((0x64_ff9b_u128 << 96) | u128::from(u32::from(PRIVATE)));
    let hidden = [
        &reached[..],
        &[PRIVATE.to_ipv6_mapped().into(), nat64.into()],
    ]
    .concat();
    let mixed = [&hidden[..], &[WORKER.into()], &hidden[..]].concat();
    serve(HashMap::from([
        ("mixed.example", vec![mixed]),
        ("private.example", vec![hidden]),
        (
            "changing.example",
            vec![vec![WORKER.into()], vec![PRIVATE.into()]],
        ),
    ]))
    .await;
    let relay = relay().public().start().await;

    let unknown = refusal(&relay, &format!("https://unknown.example:{port}/")).await;
    for name in ["private", "alias"] {
        let refused = refusal(&relay, &format!("https://{name}.example:{port}/")).await;
        assert_eq!(refused["code"], "address_blocked");
        assert_eq!(refused["detail"], unknown["detail"]);
    }

    let url = format!("https://mixed.example:{port}/");
    let worker = relay.register("mixed", &url).await;
    relay.post(&issue("i", 1)).await;
    receiver.wait_for(1).await;
    relay.remove(&worker).await;

    let url = format!("https://changing.example:{port}/");
    let worker = relay.register("changing", &url).await;
    // The next delivery needs a connection, and for that a look-up, which has another answer.
    receiver.close();
    receiver.reopen().await;
    relay.post(&issue("i", 2)).await;
    assert_eq!(failure(&relay, &worker).await, BLOCKED);
    relay.settled().await;
    receiver.wait_for(2).await;
    for target in &targets {
        assert_eq!(target.connections().await, 0, "{}", target.address);
    }
}

/// The addresses of names, look-up by look-up, again and again.
type Names = HashMap<&'static str, Vec<Vec<IpAddr>>>;

/// A name that stands for another one.
const ALIAS: (&str, &str) = ("alias.example", "private.example");

/// Types of records (RFC 1035, RFC 3596).
const A: u8 = 1;
const CNAME: u8 = 5;
const AAAA: u8 = 28;

/// Answers questions for these names (RFC 1035): the first look-up of a name with the first addresses, the next one with the next,
/// and so on again and again.
async fn serve(mut names: Names) {
    let socket = UdpSocket::bind("127.0.0.1:53").await.unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            let answer = answer(&packet[..length], &mut names);
            socket.send_to(&answer, peer).await.unwrap();
        }
    });
}

fn answer(query: &[u8], names: &mut Names) -> Vec<u8> {
    const HEADER: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEADER;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(str::from_utf8(&query[at + 1..end]).unwrap());
        at = end;
    }
    let (question, kind) = (&query[HEADER..at + 5], query[at + 2]);
    let asked = labels.join(".");
    let is_alias = asked == ALIAS.0;
    let known = names.get_mut(if is_alias { ALIAS.1 } else { asked.as_str() });
    let code = if known.is_some() { 0 } else { 3 };
    let addresses = known.map_or_else(Vec::new, |answers| {
        if kind == A {
            answers.rotate_left(1);
        }
        answers.last().cloned().unwrap_or_default()
    });
    let mut records = Vec::new();
    if is_alias {
        let target = ALIAS.1.split('.').flat_map(|label| {
            let length = label.len() as u8;
            std::iter::once(length).chain(label.bytes())
        });
        records.push((CNAME, target.chain([0]).collect()));
    }
    records.extend(addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => (kind == A).then(|| (A, address.octets().to_vec())),
        IpAddr::V6(address) => (kind == AAAA).then(|| (AAAA, address.octets().to_vec())),
    }));
    let mut answer = query[..2].to_vec();
    // A response, recursion desired and available, the code, and how many of each part follow.
    let count = records.len() as u8;
    answer.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(question);
    let mut name = HEADER;
    for (kind, data) in records {
        // The name, by where it stands, the type, the class, for no time, in so many bytes.
        answer.extend([
            0xc0,
            name as u8,
            0,
            kind,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            data.len() as u8,
        ]);
        if kind == CNAME {
            // What follows is of the name that the alias stands for.
            name = answer.len();
        }
        answer.extend(data);
    }
    answer
}
