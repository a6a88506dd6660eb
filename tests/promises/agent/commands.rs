//! The commands beside `up`, their output and exit codes.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, command, output, run, run_with, worker};
use crate::harness::{Answer, Receiver, eventually, issue, relay};

/// Output with what differs from run to run replaced.
fn snapshot(name: &str, text: &str, home: &Path) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("../snapshots");
    let text = text.replace(&home.display().to_string(), "[home]");
    for (pattern, replacement) in [
        // Shorter by a digit when it ends in zero, and padded in a list.
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z {2,}", "[time]  "),
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "[time]"),
        (r"evt_[0-9a-f-]{36}", "[event]"),
        (r"evt_sent-[0-9a-f]{24}", "[event]"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
        (r"localhost:\d+", "localhost:[port]"),
        (r"process \d+", "process [pid]"),
        (r#""pid":\d+"#, r#""pid":"[pid]""#),
        (r"in \d+ ms", "in [n] ms"),
        (r#""milliseconds":\d+"#, r#""milliseconds":"[n]""#),
        (r"v1,[A-Za-z0-9+/=]+", "v1,[signature]"),
        (r#"webhook-timestamp: \d+"#, "webhook-timestamp: [seconds]"),
        (
            r#"\["webhook-timestamp","\d+"\]"#,
            r#"["webhook-timestamp","[seconds]"]"#,
        ),
        (r"linear-delivery: [0-9a-f-]{36}", "linear-delivery: [uuid]"),
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[uuid]"),
        (r"-?\d+ bytes", "[n] bytes"),
        (r#""size":\d+"#, r#""size":"[n]""#),
    ] {
        settings.add_filter(pattern, replacement);
    }
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[tokio::test]
async fn help_lists_the_commands_and_the_exit_codes() {
    let home = tempfile::tempdir().unwrap();
    for name in [
        "", "up", "events", "replay", "send", "verify", "init", "doctor", "service", "forget",
    ] {
        let arguments: Vec<_> = [name, "--help"]
            .into_iter()
            .filter(|a| !a.is_empty())
            .collect();
        let help = run(home.path(), &arguments).await;
        assert_eq!(help.code, Some(0));
        let name = if name.is_empty() { "edge-agent" } else { name };
        snapshot(
            &format!("help-{name}"),
            &help.stdout.replace("Usage: agent", "Usage: edge-agent"),
            home.path(),
        );
    }
}

#[tokio::test]
async fn before_the_first_start_every_command_advises_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let mut said = String::new();
    for arguments in [
        vec!["status"],
        vec!["status", "--json"],
        vec!["events"],
        vec!["replay", "--failed"],
        vec!["send"],
        vec!["forget"],
        vec!["doctor"],
        vec!["service", "status"],
    ] {
        let output = run(home.path(), &arguments).await;
        assert_eq!(output.code, Some(3), "{arguments:?}: {output:?}");
        said.push_str(&format!(
            "$ edge-agent {}\n{}{}\n",
            arguments.join(" "),
            output.stdout,
            output.stderr
        ));
    }
    snapshot("nothing-yet", &said, home.path());
}

#[tokio::test]
async fn status_and_events_tell_what_became_of_everything() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    handler.answer([
        Answer::With(200, "x-body", "thank you\n".into()),
        Answer::With(400, "x-body", "line one\nline two".into()),
    ]);
    let to = format!(":{}/hook?key=hush", handler.address.port());
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    relay.post(local::samples::FIVE_KINDS[0]).await;
    handler.wait_for(1).await;
    relay.post(local::samples::FIVE_KINDS[1]).await;
    let waits = eventually("the second one waits for its retry", || async {
        let events = run(home.path(), &["events", "--json"]).await.lines();
        let second = events.get(1)?.clone();
        second["dueAt"].is_string().then_some(second)
    })
    .await;
    let mut said = String::new();
    let id = waits["id"].as_str().unwrap();
    for arguments in [
        vec!["status"],
        vec!["status", "--json"],
        vec!["events", "--type", "Issue.create"],
        vec!["events", "--type", "Issue", "--json"],
        vec!["events", "--failed"],
        vec!["events", "evt_nowhere"],
    ] {
        let output = run(home.path(), &arguments).await;
        let code = if arguments.contains(&"--failed") || arguments.contains(&"evt_nowhere") {
            3
        } else {
            0
        };
        assert_eq!(output.code, Some(code), "{output:?}");
        said.push_str(&format!(
            "$ edge-agent {}\n{}{}\n",
            arguments.join(" "),
            output.stdout,
            output.stderr
        ));
    }
    snapshot("status-and-events", &said, home.path());
    let one = run(home.path(), &["events", id]).await;
    assert!(
        one.stdout.contains("  | line one\n  | line two\n"),
        "{one:?}"
    );
    assert!(!format!("{one:?}{said}").contains("hush"));
    let body = run(home.path(), &["events", id, "--body"]).await;
    let received = handler.wait_for(2).await;
    assert_eq!(body.stdout.as_bytes(), received[1].body);
    agent.stop().await;
}

#[tokio::test]
async fn followed_events_are_shown_as_they_come() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::pulling(&relay, home.path()).await;
    relay.post(&issue("i", 1)).await;
    let mut follow = command(home.path());
    let mut follow = follow
        .args(["events", "--follow", "--json"])
        .spawn()
        .unwrap();
    let stdout = follow.stdout.take().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(stdout));
    for at in 2..4 {
        let line = tokio::time::timeout(crate::harness::agent::PATIENCE, lines.next_line()).await;
        let event: Value = serde_json::from_str(&line.unwrap().unwrap().unwrap()).unwrap();
        assert_eq!(event["type"], "Issue");
        relay.post(&issue("i", at)).await;
    }
    follow.kill().await.unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn what_is_sent_takes_the_path_of_a_delivery() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    let sent = run(home.path(), &["send", "--type", "Comment"]).await;
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let received = handler.wait_for(1).await;
    assert_eq!(received[0].header("webhook-id"), sent.stdout.trim());
    assert!(received[0].verifies(&worker(home.path()).secret));
    let body: Value = serde_json::from_slice(&received[0].body).unwrap();
    assert_eq!(body["type"], "Comment");
    let age = relay.clock.millis() - body["webhookTimestamp"].as_i64().unwrap();
    assert!((0..60_000).contains(&age), "{age}");

    let raw = "{ \"type\" : \"Own\" }\r\n";
    let sent = run_with(home.path(), &["send", "-", "--json"], raw.as_bytes()).await;
    assert_eq!(sent.json()["status"], 202);
    assert_eq!(handler.wait_for(2).await[1].body, raw.as_bytes());
    let wrong = run_with(home.path(), &["send", "-"], b"\xff").await;
    assert_eq!(wrong.code, Some(2));
    agent.stop().await;
    assert_eq!(run(home.path(), &["send"]).await.code, Some(3));
}

#[tokio::test]
async fn replay_goes_to_the_agent_or_to_a_target_and_has_a_dry_run() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let mut ids = Vec::new();
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    for at in 0..3 {
        ids.push(relay.post(&issue("i", at)).await.event);
    }
    handler.wait_for(3).await;
    eventually("all are done", || async {
        let events = run(home.path(), &["events", "--json"]).await.lines();
        (events.len() == 3 && events.iter().all(|e| e["state"] == "done")).then_some(())
    })
    .await;
    let planned = run(home.path(), &["replay", "--since", "1h", "--dry-run"]).await;
    assert_eq!((planned.code, planned.stdout.lines().count()), (Some(0), 3));
    assert_eq!(handler.count(), 3);
    assert_eq!(
        run(home.path(), &["replay", &ids[1], &ids[0]]).await.code,
        Some(0)
    );
    let received = handler.wait_for(5).await;
    let replayed: Vec<_> = received[3..]
        .iter()
        .map(|r| r.header("webhook-id").to_owned())
        .collect();
    assert_eq!(replayed, ids[..2], "in the order in which they came");
    let unknown = run(home.path(), &["replay", &ids[0], "evt_nowhere"]).await;
    assert_eq!(unknown.code, Some(3));
    assert!(unknown.stderr.contains("nothing was replayed"));
    assert_eq!(
        run(home.path(), &["replay", "--failed"]).await.code,
        Some(3)
    );
    agent.stop().await;

    // Elsewhere, without the agent.
    let other = Receiver::start().await;
    other.answer([
        Answer::Status(200),
        Answer::Status(500),
        Answer::Status(200),
    ]);
    let target = other.address.port().to_string();
    let sent = run(
        home.path(),
        &["replay", "--since", "1h", "--to", &target, "--json"],
    )
    .await;
    assert_eq!(sent.code, Some(1));
    let results: Vec<_> = sent
        .lines()
        .iter()
        .map(|line| line["result"].clone())
        .collect();
    assert_eq!(results, ["200", "500", "200"]);
    sent.warns("1 of 3 were not taken");
    // Handed to an agent that is not running, it is handled at the next start.
    let handed = run(home.path(), &["replay", &ids[2]]).await;
    handed.warns("edge-agent is not running");
    let count = handler.count();
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    assert_eq!(
        handler.wait_for(count + 1).await[count].header("webhook-id"),
        ids[2]
    );
    agent.stop().await;
}

#[tokio::test]
async fn verify_reports_which_check_of_a_capture_fails() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    relay.post(&issue("i", 1)).await;
    let received = handler.wait_for(1).await.remove(0);
    let headers: String = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| format!("{}: {}\r\n", name.to_uppercase(), received.header(name)))
        .concat();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(
        path("headers"),
        format!("POST /webhook HTTP/1.1\r\n{headers}"),
    )
    .unwrap();
    std::fs::write(path("body"), &received.body).unwrap();
    std::fs::write(path("changed"), [&received.body[..], b"\n"].concat()).unwrap();
    let json = json!({"webhook-id": received.header("webhook-id"), "webhook-timestamp": "1000", "webhook-signature": "v1,x"});
    std::fs::write(path("headers.json"), json.to_string()).unwrap();
    std::fs::write(path("odd"), "no colon here").unwrap();
    let verify = |headers: &str, body: &str| {
        let arguments = [
            "verify".to_owned(),
            "--headers".to_owned(),
            path(headers),
            "--body".to_owned(),
            path(body),
        ];
        let home = home.path().to_owned();
        async move { run(&home, &arguments.each_ref().map(String::as_str)).await }
    };
    let mut said = String::new();
    for (headers, body, code) in [
        ("headers", "body", 0),
        ("headers", "changed", 3),
        ("headers.json", "body", 3),
        ("odd", "body", 2),
    ] {
        let output = verify(headers, body).await;
        assert_eq!(output.code, Some(code), "{output:?}");
        said.push_str(&format!(
            "$ edge-agent verify --headers {headers} --body {body}\n{}{}\n",
            output.stdout, output.stderr
        ));
    }
    snapshot("verify", &said, home.path());
    agent.stop().await;
}

#[tokio::test]
async fn init_writes_a_file_that_is_right_and_overwrites_none() {
    let home = tempfile::tempdir().unwrap();
    let written = run(
        home.path(),
        &["init", "--relay", "https://relay.test", "--name", "la\"p"],
    )
    .await;
    assert_eq!(written.code, Some(0), "{written:?}");
    let text = std::fs::read_to_string(home.path().join("edge-agent.toml")).unwrap();
    snapshot("edge-agent.toml", &text, home.path());
    let again = run(home.path(), &["init"]).await;
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("`--force` overwrites it"));
    assert_eq!(
        std::fs::read_to_string(home.path().join("edge-agent.toml")).unwrap(),
        text
    );
    // Every line that is commented out is a setting that exists.
    let all: String = text
        .lines()
        .filter(|line| {
            !line.starts_with("# to")
                && !line.starts_with("# exec")
                && !line.contains("[[handler]]")
        })
        .filter_map(|line| {
            line.strip_prefix("# ")
                .filter(|line| line.contains(" = "))
                .or((!line.starts_with('#')).then_some(line))
        })
        .filter(|line| {
            !line.starts_with("type = \"Comment")
                && !line.starts_with("to =")
                && !line.starts_with("exec =")
        })
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(home.path().join("edge-agent.toml"), &all).unwrap();
    std::fs::write(home.path().join("webhook-secret"), "x").unwrap();
    let read = run(home.path(), &["doctor", "--json"]).await.json();
    assert_eq!(read[0]["isWell"], true, "{read} {all}");
}

#[tokio::test]
async fn doctor_checks_everything_and_advises_what_to_do() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let port = handler.address.port();
    let relay_url = relay.local.url();
    std::fs::write(
        home.path().join("edge-agent.toml"),
        format!("relay = '{relay_url}'\nname = 'laptop'\nto = '{port}'\n"),
    )
    .unwrap();
    let agent = Agent::start(&mut Agent::up(&relay, home.path())).await;
    let well = run(home.path(), &["doctor"]).await;
    assert_eq!(well.code, Some(0), "{well:?}");
    let ping = agent.address.replace("/webhook", "");
    assert!(
        well.stdout.contains("a signed ping came round"),
        "{ping} {well:?}"
    );
    snapshot("doctor-well", &well.stdout, home.path());
    handler.close();
    agent.kill().await;
    let gone = worker(home.path());
    relay
        .call(
            reqwest::Method::DELETE,
            &gone.path,
            Some(&gone.token),
            &json!({}),
        )
        .await;
    let ill = eventually("the handler is gone", || async {
        let ill = run(home.path(), &["doctor"]).await;
        ill.stdout.contains("refused").then_some(ill)
    })
    .await;
    assert_eq!(ill.code, Some(3));
    snapshot(
        "doctor-ill",
        &format!("{}{}", ill.stdout, ill.stderr),
        home.path(),
    );
}

#[tokio::test]
async fn a_service_is_written_started_asked_after_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let stand_in = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let file = bin.join(name);
        std::fs::write(
            &file,
            format!(
                "#!/bin/sh\necho {name} \"$@\" >> '{}/calls'\n{script}\n",
                home.path().display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    stand_in("systemctl", "exit 0");
    stand_in("loginctl", "echo no");
    let service = |arguments: &[&str]| {
        let mut command = command(home.path());
        command
            .arg("service")
            .args(arguments)
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        command
    };
    let unready = output(&mut service(&["install"])).await;
    assert_eq!(unready.code, Some(2), "{unready:?}");
    std::fs::write(
        home.path().join("edge-agent.toml"),
        "relay = 'https://relay.test'\nname = 'x'\n",
    )
    .unwrap();
    let silent = output(&mut service(&["install"])).await;
    silent.warns("a service needs a handler");
    std::fs::write(
        home.path().join("edge-agent.toml"),
        "relay = 'https://relay.test'\nname = 'x'\nto = '3000'\n",
    )
    .unwrap();
    let tokenless = output(service(&["install"]).env("LINEAR_TOKEN", "x")).await;
    tokenless.warns("a service does not see LINEAR_TOKEN");
    std::fs::write(home.path().join("registration.json"), "{}").unwrap();

    let plan = output(&mut service(&["install", "--dry-run"])).await;
    assert_eq!(plan.code, Some(0), "{plan:?}");
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_agent"))
        .display()
        .to_string();
    snapshot(
        "service-install",
        &plan.stdout.replace(&program, "[program]"),
        home.path(),
    );
    let unit = home.path().join("config/systemd/user/edge-agent.service");
    assert!(
        !unit.exists() && !home.path().join("calls").exists(),
        "a dry run does nothing"
    );

    let installed = output(&mut service(&["install"])).await;
    assert_eq!(installed.code, Some(0), "{installed:?}");
    installed.warns("loginctl enable-linger");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(plan.stdout.contains(&text));
    assert_eq!(output(&mut service(&["status"])).await.code, Some(0));
    assert_eq!(output(&mut service(&["uninstall"])).await.code, Some(0));
    assert!(!unit.exists());
    assert_eq!(output(&mut service(&["uninstall"])).await.code, Some(3));
    let calls = std::fs::read_to_string(home.path().join("calls")).unwrap();
    let calls: Vec<_> = calls
        .lines()
        .filter(|line| line.starts_with("systemctl"))
        .collect();
    assert_eq!(
        calls,
        [
            "systemctl --user daemon-reload",
            "systemctl --user enable edge-agent.service",
            "systemctl --user restart edge-agent.service",
            "systemctl --user is-active --quiet edge-agent.service",
            "systemctl --user disable --now edge-agent.service",
        ]
    );

    stand_in("systemctl", "echo 'Failed to connect to bus' >&2; exit 1");
    let failed = output(&mut service(&["install"])).await;
    assert_eq!(failed.code, Some(1));
    failed.warns("Failed to connect to bus");
    assert!(!unit.exists(), "nothing is left half done");
}

#[tokio::test]
async fn completions_are_made_for_each_shell() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let made = run(home.path(), &["completions", shell]).await;
        assert_eq!(made.code, Some(0));
        assert!(
            made.stdout.contains("edge-agent") && made.stdout.contains("replay"),
            "{shell}"
        );
    }
}

#[tokio::test]
async fn colours_are_for_terminals_unless_asked_for() {
    let home = tempfile::tempdir().unwrap();
    for (arguments, no_color, coloured) in [
        (vec!["status"], false, false),
        (vec!["status", "--color", "always"], false, true),
        (vec!["status", "--color", "never"], false, false),
        (vec!["status"], true, false),
    ] {
        let mut command = command(home.path());
        command.args(&arguments);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let output = output(&mut command).await;
        assert_eq!(output.stderr.contains('\x1b'), coloured, "{arguments:?}");
        assert!(!output.stdout.contains('\x1b'));
    }
}
