//! Nothing secret is logged: not by the relay, not by the agent, whatever happens.

use std::process::Stdio;

use local::linear_api::LinearApi;
use local::samples::{WORKSPACE, Webhook};
use protocol::clock::Clock;
use protocol::messages::Registered;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use crate::harness::agent::{Agent, deliver as agent_deliver, free_port, run, signed};
use crate::harness::agent::{with_handler, worker};
use crate::harness::{Answer, Receiver, client, issue, terminate};

const SECRET: &str = "the webhook-hush secret";
const TOKEN: &str = "lin_api_hush";

#[tokio::test]
async fn no_token_secret_body_or_query_is_in_the_log_at_its_most_talkative() {
    let (linear, address) = LinearApi::start().await.unwrap();
    linear.admit(TOKEN, "ana", WORKSPACE);
    let mut child = Command::new(env!("CARGO_BIN_EXE_edge"))
        .args(["serve", "--in-memory", "--allow-private-workers"])
        .args(["--listen", "127.0.0.1:0"])
        .env("LINEAR_WEBHOOK_SECRETS", SECRET)
        .env("WORKSPACES", WORKSPACE)
        .env("LINEAR_API_URL", format!("http://{address}/?key=hush"))
        .env("RUST_LOG", "trace")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    let url = loop {
        let mut line = String::new();
        let length = stderr.read_line(&mut line).await.unwrap();
        assert!(length > 0, "the relay ended");
        said.push_str(&line);
        if let Some(url) = line.trim().strip_prefix("agents") {
            break url.trim().to_owned();
        }
    };
    let rest = tokio::spawn(async move {
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).await.unwrap();
        rest
    });
    let client = client();
    let receiver = Receiver::start().await;
    let mut secrets = vec!["hush".to_owned()];
    for (name, webhook_url) in [("live", Some(receiver.url())), ("pull", None)] {
        let request = json!({"name": name, "linearToken": TOKEN, "webhookUrl": webhook_url});
        let call = client.post(format!("{url}/edge/register")).json(&request);
        let answer = call.send().await.unwrap();
        let registered: Registered = answer.json().await.unwrap();
        secrets.extend([registered.token, registered.secret]);
    }
    receiver.answer([500, 302, 200, 410].map(Answer::Status));
    let now = Clock::system().millis();
    for at in 0..4 {
        let body = issue("i", at).replace("\"number\"", "\"hush\":1,\"number\"");
        let webhook = Webhook::sample(SECRET, &body, now);
        let wrong = Webhook {
            signature: "00".repeat(32),
            ..webhook.clone()
        };
        for webhook in [wrong, webhook] {
            let call = webhook.request(&client, &format!("{url}/webhooks/linear"));
            call.send().await.unwrap();
        }
    }
    receiver.wait_for(4).await;
    terminate(child.id().unwrap());
    said.push_str(&rest.await.unwrap());
    let is_logged = said.contains("accepted") && said.contains("delivered");
    assert!(is_logged, "{said}");
    for secret in secrets {
        assert!(!said.contains(&secret), "`{secret}` is in the log: {said}");
    }
}

#[tokio::test]
async fn the_agent_prints_no_token_secret_body_or_query_either() {
    let (relay, home, handler) = with_handler().await;
    let port = free_port().await;
    handler.answer([Answer::Status(500), Answer::Status(200)]);
    let mut up = Agent::up(&relay, &home);
    let public = format!("http://127.0.0.1:{port}/webhook?key=hush");
    up.args(["-v", "--listen", &format!("127.0.0.1:{port}")]);
    up.args(["--public-url", &public]);
    up.arg(format!(":{}/?key=hush", handler.port()));
    let mut agent = Agent::start(&mut up).await;
    // Which issue it is about is shown, and nothing of what it says.
    let body = issue("one", 1).replace("\"number\"", "\"description\":\"hush\",\"number\"");
    relay.post(&body).await;
    handler.wait_for(2).await;
    let mut wrong = signed(&home, "evt_1", &body);
    wrong[2].1 = format!("v1,{}", "hush".repeat(11));
    agent_deliver(&agent.address, &wrong, &body).await;
    agent.says("a delivery was refused").await;
    let worker = worker(&home);
    let mut said = String::new();
    for arguments in [
        vec!["status", "-v"],
        vec!["status", "--json"],
        vec!["events", "--json"],
        vec!["doctor", "-v", "--relay", "https://relay.test/?key=hush"],
        vec!["replay", "--since", "1h", "--dry-run"],
        vec!["forget"],
    ] {
        let output = run(&home, &arguments).await;
        said.push_str(&format!("{}{}", output.stdout, output.stderr));
    }
    said.push_str(&agent.unheard().concat());
    for hidden in ["hush", crate::harness::TOKEN, &worker.token, &worker.secret] {
        assert!(!said.contains(hidden), "{hidden} in {said}");
    }
    assert!(said.contains("pull") || said.contains("live"), "{said}");
    agent.stop().await;
}
