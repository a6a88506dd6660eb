//! What the check of a secret costs does not tell where a wrong one differs: instructions, counted by callgrind.
//!
//! Source: the Valgrind User Manual, "Callgrind", `--toggle-collect`; it prints `Collected : N`.

use std::hint::black_box;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use protocol::envelope::digest;
use protocol::linear_signature;
use protocol::signature::{Secret, Signed, is_receipt, receipt as receipt_of, sign, verify};
use relay::worker::verify_token;

/// How often each check is made.
const TIMES: usize = 50;

#[test]
#[ignore = "needs valgrind"]
fn a_wrong_signature_or_token_costs_the_same_wherever_it_differs() {
    let difference = |check: &str| {
        let [first, last] =
            ["first", "last"].map(|at| instructions(&format!("timing::{check}_that_differs_{at}")));
        first.abs_diff(last) as f64 / first as f64
    };
    for check in ["webhook", "delivery", "receipt", "token"] {
        let difference = difference(check);
        assert!(difference < 0.001, "{check}: {difference}");
    }
    // The count would show it.
    let difference = difference("plain");
    assert!(difference > 1.0, "{difference}");
}

/// The instructions of one of the tests below, within [`counted`].
fn instructions(test: &str) -> u64 {
    let run = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--vgdb=no",
        ])
        .arg("--toggle-collect=*timing*counted*")
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--test-threads=1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    collected.unwrap().1.trim().parse().unwrap()
}

#[inline(never)]
fn counted(check: &dyn Fn() -> bool) {
    for _ in 0..TIMES {
        assert!(!black_box(check()));
    }
}

/// Where a wrong value differs from the right one.
#[derive(Debug, Clone, Copy)]
enum Differs {
    First,
    Last,
}

/// The same bytes but for one.
fn wrong(mut bytes: Vec<u8>, differs: Differs) -> Vec<u8> {
    let byte = match differs {
        Differs::First => bytes.first_mut(),
        Differs::Last => bytes.last_mut(),
    };
    *byte.unwrap() ^= 1;
    bytes
}

const SECRET: &str = "a-secret-of-some-length";

fn webhook(differs: Differs) {
    let digest = hex::decode(linear_signature::sign(SECRET, b"{}")).unwrap();
    let signature = hex::encode(wrong(digest, differs));
    counted(&|| linear_signature::verify(SECRET, b"{}", &signature));
}

fn delivery(differs: Differs) {
    let secrets = [Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()];
    let right = sign(&secrets, "evt_1", 1, b"{}");
    let digest = BASE64.decode(right.strip_prefix("v1,").unwrap()).unwrap();
    let signature = format!("v1,{}", BASE64.encode(wrong(digest, differs)));
    let signed = Signed {
        id: "evt_1",
        timestamp: "1",
        signature: &signature,
    };
    counted(&|| verify(&secrets, signed, b"{}", 1).is_ok());
}

fn receipt(differs: Differs) {
    let secrets = [Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()];
    let right = receipt_of(&secrets, "evt_1", "1");
    let digest = BASE64.decode(right.strip_prefix("v1,").unwrap()).unwrap();
    let shown = format!("v1,{}", BASE64.encode(wrong(digest, differs)));
    counted(&|| is_receipt(&secrets, "evt_1", 1, &shown));
}

fn token(differs: Differs) {
    let right = "edge_0123456789abcdef0123456789abcdef";
    let hash = digest(right.as_bytes());
    let shown = String::from_utf8(wrong(right.as_bytes().to_vec(), differs)).unwrap();
    counted(&|| verify_token(&shown, &hash));
}

/// As none of them is.
fn plain(differs: Differs) {
    let right = linear_signature::sign(SECRET, b"{}").into_bytes();
    let shown = wrong(right.clone(), differs);
    counted(&|| {
        right
            .iter()
            .zip(&shown)
            .all(|(right, shown)| right == shown)
    });
}

#[test]
#[ignore = "is counted by the test above"]
fn webhook_that_differs_first() {
    webhook(Differs::First);
}

#[test]
#[ignore = "is counted by the test above"]
fn webhook_that_differs_last() {
    webhook(Differs::Last);
}

#[test]
#[ignore = "is counted by the test above"]
fn delivery_that_differs_first() {
    delivery(Differs::First);
}

#[test]
#[ignore = "is counted by the test above"]
fn delivery_that_differs_last() {
    delivery(Differs::Last);
}

#[test]
#[ignore = "is counted by the test above"]
fn receipt_that_differs_first() {
    receipt(Differs::First);
}

#[test]
#[ignore = "is counted by the test above"]
fn receipt_that_differs_last() {
    receipt(Differs::Last);
}

#[test]
#[ignore = "is counted by the test above"]
fn token_that_differs_first() {
    token(Differs::First);
}

#[test]
#[ignore = "is counted by the test above"]
fn token_that_differs_last() {
    token(Differs::Last);
}

#[test]
#[ignore = "is counted by the test above"]
fn plain_that_differs_first() {
    plain(Differs::First);
}

#[test]
#[ignore = "is counted by the test above"]
fn plain_that_differs_last() {
    plain(Differs::Last);
}
