//! Names that a real name server resolves, by the resolver of this machine. The test runs in a network namespace of its own: its only
//! interface is loopback, which has a public address for the worker, and private ones for what may not be reached.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
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
for address in $2; do ip address add "$address/32" dev lo; done
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
        .arg(
            [WORKER, PRIVATE, METADATA]
                .map(|ip| ip.to_string())
                .join(" "),
        )
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
    let mut targets = Vec::new();
    for address in [Ipv4Addr::LOCALHOST, PRIVATE, METADATA] {
        targets.push(Target::start_at(&format!("{address}:{port}")).await);
    }
    let hidden = vec![Ipv4Addr::LOCALHOST, PRIVATE, METADATA];
    let mixed = [&hidden[..], &[WORKER], &hidden[..]].concat();
    serve(HashMap::from([
        ("mixed.example", vec![mixed]),
        ("private.example", vec![hidden]),
        ("changing.example", vec![vec![WORKER], vec![PRIVATE]]),
    ]))
    .await;
    let relay = relay().public().start().await;

    let refused = refusal(&relay, &format!("https://private.example:{port}/")).await;
    let unknown = refusal(&relay, &format!("https://unknown.example:{port}/")).await;
    assert_eq!(refused["code"], "address_blocked");
    assert_eq!(refused["detail"], unknown["detail"]);

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

/// Answers questions for these names (RFC 1035): the first look-up of a name with the first addresses, the next one with the next,
/// and so on again and again.
async fn serve(mut names: HashMap<&'static str, Vec<Vec<Ipv4Addr>>>) {
    let socket = UdpSocket::bind("127.0.0.1:53").await.unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            let answer = answer(&packet[..length], &mut names);
            socket.send_to(&answer, peer).await.unwrap();
        }
    });
}

fn answer(query: &[u8], names: &mut HashMap<&'static str, Vec<Vec<Ipv4Addr>>>) -> Vec<u8> {
    const HEADER: usize = 12;
    const A: [u8; 2] = [0, 1];
    let mut labels = Vec::new();
    let mut at = HEADER;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(str::from_utf8(&query[at + 1..end]).unwrap());
        at = end;
    }
    let question = &query[HEADER..at + 5];
    let known = names.get_mut(labels.join(".").as_str());
    let code = if known.is_some() { 0 } else { 3 };
    let addresses = match known {
        Some(answers) if query[at + 1..at + 3] == A => {
            answers.rotate_left(1);
            answers.last().cloned().unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let mut answer = query[..2].to_vec();
    // A response, recursion desired and available, the code, and how many of each part follow.
    answer.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    for address in addresses {
        // The name of the question, of this type and class, for no time, in so many bytes.
        answer.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
