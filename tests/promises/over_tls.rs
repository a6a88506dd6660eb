//! A worker on the internet is POSTed to over TLS, and only where its certificate is trusted.

use axum::http::Version;
use protocol::messages::Registered;
use protocol::problem::Problem;
use serde_json::json;

use crate::harness::served::Served;
use crate::harness::tls::Certificate;
use crate::harness::{Receiver, TOKEN, linear};

#[tokio::test]
async fn a_worker_gets_what_is_its_over_tls_by_http_2_where_it_speaks_it() {
    let directory = tempfile::tempdir().unwrap();
    let (_, linear) = linear().await;
    let certificate = Certificate::new();
    let trusted = certificate.write(directory.path());
    let data = directory.path().join("data");
    let relay = Served::start_with(&data, &linear, &[("SSL_CERT_FILE", &trusted)]);
    let request = |name: &str, receiver: &Receiver| {
        let url = format!("https://localhost:{}/hook", receiver.port());
        json!({"name": name, "linearToken": TOKEN, "webhookUrl": url})
    };
    let mut workers = Vec::new();
    for (version, protocols) in [
        (Version::HTTP_2, &["h2", "http/1.1"][..]),
        (Version::HTTP_11, &["http/1.1"]),
        (Version::HTTP_11, &[]),
    ] {
        let receiver = Receiver::start_over_tls(certificate.acceptor(protocols)).await;
        let request = request(&format!("worker-{}", workers.len()), &receiver);
        let registered: Registered = relay.register(&request).await;
        workers.push((version, receiver, registered.secret));
    }
    let stranger = Certificate::new().acceptor(&[]);
    let stranger = Receiver::start_over_tls(stranger).await;
    let problem: Problem = relay.register(&request("stranger", &stranger)).await;
    assert_eq!(problem.code, "challenge_failed");
    assert!(problem.detail.contains("could not connect"), "{problem:?}");

    for number in 0..3 {
        assert_eq!(relay.post(number).await["deliveries"], 3);
    }
    for (version, receiver, secret) in &workers {
        for delivery in receiver.wait_for(3).await {
            assert_eq!(delivery.version, *version);
            assert!(delivery.verifies(secret));
        }
    }
}
