//! A worker on the internet is POSTed to over TLS, and only where its certificate is trusted.

use axum::http::Version;
use local::linear_api::LinearApi;
use local::samples::WORKSPACE;
use protocol::messages::Registered;
use protocol::problem::Problem;
use serde_json::json;

use crate::harness::served::{Served, post};
use crate::harness::tls::Certificate;
use crate::harness::{Receiver, TOKEN};

#[tokio::test]
async fn a_worker_gets_what_is_its_over_tls_by_http_2_where_it_speaks_it() {
    let directory = tempfile::tempdir().unwrap();
    let (linear, address) = LinearApi::start().await.unwrap();
    linear.admit(TOKEN, "ana", WORKSPACE);
    let certificate = Certificate::new();
    let trusted = certificate.write(directory.path());
    let relay = Served::start_with(
        &directory.path().join("data"),
        &format!("http://{address}/"),
        &[("SSL_CERT_FILE", &trusted)],
    );
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let register = async |name: &str, receiver: &Receiver| {
        let url = format!("https://localhost:{}/hook", receiver.address.port());
        let request = json!({"name": name, "linearToken": TOKEN, "webhookUrl": url});
        let call = client.post(format!("{}/edge/register", relay.url));
        call.json(&request).send().await.unwrap()
    };
    let mut workers = Vec::new();
    for (version, protocols) in [
        (Version::HTTP_2, &["h2", "http/1.1"][..]),
        (Version::HTTP_11, &["http/1.1"]),
        (Version::HTTP_11, &[]),
    ] {
        let receiver = Receiver::start_over_tls(certificate.acceptor(protocols)).await;
        let answer = register(&format!("worker-{}", workers.len()), &receiver).await;
        let registered: Registered = answer.json().await.unwrap();
        workers.push((version, receiver, registered.secret));
    }
    let stranger = Certificate::new().acceptor(&[]);
    let stranger = Receiver::start_over_tls(stranger).await;
    let answer = register("stranger", &stranger).await;
    let problem: Problem = answer.json().await.unwrap();
    assert_eq!(problem.code, "challenge_failed");
    assert!(
        problem.detail.contains("could not connect"),
        "{}",
        problem.detail
    );

    for number in 0..3 {
        assert_eq!(post(&client, &relay.url, number).await["deliveries"], 3);
    }
    for (version, receiver, secret) in &workers {
        for delivery in receiver.wait_for(3).await {
            assert_eq!(delivery.version, *version);
            assert!(delivery.verifies(secret));
        }
    }
}
