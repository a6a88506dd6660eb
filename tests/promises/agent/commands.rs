//! The commands beside `up`, their output and exit codes.

use std::path::Path;

use local::samples::FIVE_KINDS;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::harness::agent::{Agent, Home, command, events, in_time, output, relay_and_home};
use crate::harness::agent::{run, run_with, with_handler, worker};
use crate::harness::{Answer, Receiver, TOKEN, eventually, issue, until};

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
        (r"evt_[0-9a-f]{8}-[0-9a-f]{4}\b", "[short]"),
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

/// What a terminal shows of a command that ends with this code.
async fn shown(home: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(home, arguments).await;
    assert_eq!(output.code, Some(code), "{arguments:?}: {output:?}");
    let line = arguments.join(" ");
    format!("$ edge-agent {line}\n{}{}\n", output.stdout, output.stderr)
}

#[tokio::test]
async fn help_lists_the_commands_and_the_exit_codes() {
    let home = Home::new();
    for name in [
        "", "up", "inspect", "events", "replay", "send", "verify", "init", "doctor", "service",
        "forget",
    ] {
        let mut arguments = vec![name, "--help"];
        arguments.retain(|argument| !argument.is_empty());
        let help = run(&home, &arguments).await.exits(0).stdout;
        let help = help.replace("Usage: agent", "Usage: edge-agent");
        let name = if name.is_empty() { "edge-agent" } else { name };
        snapshot(&format!("help-{name}"), &help, &home);
    }
}

#[tokio::test]
async fn before_the_first_start_every_command_advises_what_to_do() {
    let home = Home::new();
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
        said.push_str(&shown(&home, &arguments, 3).await);
    }
    snapshot("nothing-yet", &said, &home);
}

#[tokio::test]
async fn status_and_events_tell_what_became_of_everything() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([
        Answer::With(200, "x-body", "thank you\n".into()),
        Answer::With(400, "x-body", "line one\nline two".into()),
    ]);
    let to = format!(":{}/hook?key=hush", handler.port());
    let agent = Agent::start(Agent::up(&relay, &home).arg(&to)).await;
    relay.post(FIVE_KINDS[0]).await;
    handler.wait_for(1).await;
    relay.post(FIVE_KINDS[1]).await;
    let waits = eventually("the second one waits for its retry", || async {
        let second = events(&home).await.get(1)?.clone();
        second["dueAt"].is_string().then_some(second)
    })
    .await;
    let mut said = String::new();
    let id = waits["id"].as_str().unwrap();
    for (arguments, code) in [
        (vec!["status"], 3),
        (vec!["status", "--json"], 3),
        (vec!["events", "--type", "Issue.create"], 0),
        (vec!["events", "--type", "Issue", "--json"], 0),
        (vec!["events", "--failed"], 3),
        (vec!["events", "evt_nowhere"], 3),
    ] {
        said.push_str(&shown(&home, &arguments, code).await);
    }
    snapshot("status-and-events", &said, &home);
    let one = run(&home, &["events", id]).await;
    let answer = "  | line one\n  | line two\n";
    assert!(one.stdout.contains(answer), "{one:?}");
    assert!(!format!("{one:?}{said}").contains("hush"));
    let body = run(&home, &["events", id, "--body"]).await;
    let received = handler.wait_for(2).await;
    assert_eq!(body.stdout.as_bytes(), received[1].body);
    agent.stop().await;
}

#[tokio::test]
async fn followed_events_are_shown_as_they_come() {
    let (relay, home) = relay_and_home().await;
    let agent = Agent::pulling(&relay, &home).await;
    relay.post(&issue("i", 1)).await;
    let mut follow = command(&home);
    let follow = follow.args(["events", "--follow", "--json"]);
    let mut follow = follow.spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    for at in 2..4 {
        let line = in_time(lines.next_line()).await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["type"], "Issue");
        relay.post(&issue("i", at)).await;
    }
    follow.kill().await.unwrap();
    agent.stop().await;
}

#[tokio::test]
async fn what_is_sent_takes_the_path_of_a_delivery() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::handing(&relay, &home, &handler).await;
    let sent = run(&home, &["send", "--type", "Comment"]).await.exits(0);
    let received = handler.wait_for(1).await;
    assert_eq!(received[0].header("webhook-id"), sent.stdout.trim());
    assert!(received[0].verifies(&worker(&home).secret));
    let body = received[0].json();
    assert_eq!(body["type"], "Comment");
    let age = relay.clock.millis() - body["webhookTimestamp"].as_i64().unwrap();
    assert!((0..60_000).contains(&age), "{age}");

    let raw = "{ \"type\" : \"Own\" }\r\n";
    let sent = run_with(&home, &["send", "-", "--json"], raw.as_bytes()).await;
    assert_eq!(sent.json()["status"], 202);
    assert_eq!(handler.wait_for(2).await[1].body, raw.as_bytes());
    run_with(&home, &["send", "-"], b"\xff").await.exits(2);
    agent.stop().await;
    run(&home, &["send"]).await.exits(3);
}

#[tokio::test]
async fn replay_goes_to_the_agent_or_to_a_target_and_has_a_dry_run() {
    let (relay, home, handler) = with_handler().await;
    let mut ids = Vec::new();
    let agent = Agent::handing(&relay, &home, &handler).await;
    for at in 0..3 {
        ids.push(relay.post(&issue("i", at)).await.event);
    }
    handler.wait_for(3).await;
    until("all are done", async || {
        let events = events(&home).await;
        events.len() == 3 && events.iter().all(|e| e["state"] == "done")
    })
    .await;
    let plan = ["replay", "--since", "1h", "--dry-run"];
    let planned = run(&home, &plan).await.exits(0);
    assert_eq!(planned.stdout.lines().count(), 3);
    assert_eq!(handler.count(), 3);
    home.write("handled", format!("{}\n{}\n", ids[0], ids[2]));
    let skipping = [&plan[..], &["--skip", "handled"]].concat();
    let planned = run(&home, &skipping).await.exits(0);
    assert!(planned.stdout.starts_with(&ids[1]), "{planned:?}");
    assert_eq!(planned.stdout.lines().count(), 1);
    run(&home, &["replay", &ids[1][..12], &ids[0]])
        .await
        .exits(0);
    let received = handler.wait_for(5).await;
    let replayed: Vec<_> = (received[3..].iter())
        .map(|r| r.header("webhook-id"))
        .collect();
    assert_eq!(replayed, ids[..2], "in the order in which they came");
    let unknown = run(&home, &["replay", &ids[0], "evt_nowhere"]).await;
    unknown.exits(3).warns("nothing was replayed");
    run(&home, &["replay", "--failed"]).await.exits(3);
    run(&home, &["replay", "evt_"])
        .await
        .exits(2)
        .warns("the ids of 3 events begin with `evt_`");
    let bodies = run(&home, &["events", "--body"]).await.exits(0).stdout;
    assert_eq!(bodies.lines().count(), 3);
    agent.stop().await;

    // Elsewhere, without the agent.
    let other = Receiver::start().await;
    other.answer([200, 500, 200].map(Answer::Status));
    let arguments = ["replay", "--since", "1h", "--to", &other.port(), "--json"];
    let sent = run(&home, &arguments).await.exits(1);
    let lines = sent.lines();
    let results: Vec<_> = lines.iter().map(|line| &line["result"]).collect();
    assert_eq!(results, ["200", "500", "200"]);
    sent.warns("1 of 3 were not taken");
    // Handed to an agent that is not running, it is handled at the next start.
    let handed = run(&home, &["replay", &ids[2]]).await;
    handed.warns("edge-agent is not running");
    let count = handler.count();
    let agent = Agent::handing(&relay, &home, &handler).await;
    let received = handler.wait_for(count + 1).await;
    assert_eq!(received[count].header("webhook-id"), ids[2]);
    agent.stop().await;
}

#[tokio::test]
async fn verify_reports_which_check_of_a_capture_fails() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::handing(&relay, &home, &handler).await;
    relay.post(&issue("i", 1)).await;
    let received = handler.wait_for(1).await.remove(0);
    let headers: String = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| format!("{}: {}\r\n", name.to_uppercase(), received.header(name)))
        .concat();
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    home.write("headers", format!("POST /webhook HTTP/1.1\r\n{headers}"));
    home.write("body", &received.body);
    home.write("changed", [&received.body[..], b"\n"].concat());
    let json = json!({"webhook-id": received.header("webhook-id"), "webhook-timestamp": "1000", "webhook-signature": "v1,x"});
    home.write("headers.json", json.to_string());
    home.write("odd", "no colon here");
    let mut said = String::new();
    for (headers, body, code) in [
        ("headers", "body", 0),
        ("headers", "changed", 3),
        ("headers.json", "body", 3),
        ("odd", "body", 2),
    ] {
        let files = ["--headers", &path(headers), "--body", &path(body)];
        let output = run(&home, &[&["verify"], &files[..]].concat())
            .await
            .exits(code);
        said.push_str(&format!(
            "$ edge-agent verify --headers {headers} --body {body}\n{}{}\n",
            output.stdout, output.stderr
        ));
    }
    snapshot("verify", &said, &home);
    agent.stop().await;
}

#[tokio::test]
async fn init_writes_a_file_that_is_right_and_overwrites_none() {
    let home = Home::new();
    let init = ["init", "--relay", "https://relay.test", "--name", "la\"p"];
    run(&home, &init).await.exits(0);
    let written = || std::fs::read_to_string(home.join("edge-agent.toml")).unwrap();
    let text = written();
    snapshot("edge-agent.toml", &text, &home);
    let again = run(&home, &["init"]).await.exits(2);
    again.warns("`--force` overwrites it");
    assert_eq!(written(), text);
    // Every line that is commented out is a setting that exists.
    let begins = |line: &str, with: &[&str]| with.iter().any(|start| line.starts_with(start));
    let all: String = (text.lines())
        .filter(|line| !begins(line, &["# to", "# exec"]) && !line.contains("[[handler]]"))
        .filter_map(|line| {
            line.strip_prefix("# ")
                .filter(|line| line.contains(" = "))
                .or((!line.starts_with('#')).then_some(line))
        })
        .filter(|line| !begins(line, &["type = \"Comment", "to =", "exec ="]))
        .map(|line| format!("{line}\n"))
        .collect();
    home.write("edge-agent.toml", &all);
    home.write("webhook-secret", "x");
    let read = run(&home, &["doctor", "--json"]).await.json();
    assert_eq!(read[0]["isWell"], true, "{read} {all}");
}

#[tokio::test]
async fn doctor_checks_everything_and_advises_what_to_do() {
    let (relay, home, handler) = with_handler().await;
    let (url, port) = (relay.local.url(), handler.port());
    let settings = format!("relay = '{url}'\nname = 'laptop'\nto = '{port}'\n");
    home.write("edge-agent.toml", settings);
    let agent = Agent::start(&mut Agent::up(&relay, &home)).await;
    let well = run(&home, &["doctor"]).await.exits(0);
    assert!(well.stdout.contains("a signed ping came round"), "{well:?}");
    snapshot("doctor-well", &well.stdout, &home);
    handler.close();
    agent.kill().await;
    relay.remove(&worker(&home)).await;
    let ill = eventually("the handler is gone", || async {
        let ill = run(&home, &["doctor"]).await;
        ill.stdout.contains("refused").then_some(ill)
    })
    .await;
    let ill = ill.exits(3);
    let said = ill.stdout + &ill.stderr;
    snapshot("doctor-ill", &said, &home);
}

#[tokio::test]
async fn a_service_is_written_started_asked_after_and_removed() {
    let (relay, home, handler) = with_handler().await;
    let bin = home.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let unit = home.join("config/systemd/user/edge-agent.service");
    let stand_in = |name: &str, script: &str| {
        let calls = home.join("calls");
        let noted = format!("echo {name} \"$@\" >> '{}'", calls.display());
        let script = format!("#!/bin/sh\n{noted}\n{script}\n");
        home.script(&format!("bin/{name}"), &script);
    };
    // What systemd does with the command of a unit, and with its variables.
    let systemd = format!(
        "unit='{}'\ncase $2 in\n  restart) eval \"exec env $(sed -n 's/^Environment=//p' \"$unit\" | tr '\\n' ' ') \
         $(sed -n 's/^ExecStart=//p' \"$unit\")\" >/dev/null 2>\"$unit.log\" </dev/null & echo $! >\"$unit.pid\";;\n  \
         disable) kill $(cat \"$unit.pid\");;\nesac\nexit 0",
        unit.display()
    );
    stand_in("systemctl", &systemd);
    stand_in("loginctl", "echo no");
    let service = |arguments: &[&str]| {
        let mut command = command(&home);
        let path = format!("{}:/usr/bin:/bin", bin.display());
        command.arg("service").args(arguments).env("PATH", path);
        command.env("EDGE_AGENT_LISTEN", "127.0.0.1:0");
        command
    };
    let ran = async |arguments: &[&str]| output(&mut service(arguments)).await;
    ran(&["install"]).await.exits(2);
    let to = format!("to = '{}'\n", handler.port());
    let named = format!("name = 'x'\nrelay = '{}'\n", relay.local.url());
    home.write("edge-agent.toml", &named);
    ran(&["install"])
        .await
        .exits(2)
        .warns("alone names the relay");
    std::fs::create_dir_all(home.join(".local/share/edge-agent")).unwrap();
    let relays = ".local/share/edge-agent/relays";
    home.write(relays, format!("{}/\n", relay.local.url()));
    ran(&["install"]).await.warns("a service needs a handler");
    home.write("edge-agent.toml", format!("{named}{to}"));
    let tokenless = output(service(&["install"]).env("LINEAR_TOKEN", "x")).await;
    tokenless.warns("a service does not see LINEAR_TOKEN");
    let with_token = format!("{named}linear-token-file = 'linear-token'\n");
    let headers = "header = { Authorization = '$SECRET' }\n";
    home.write(
        "edge-agent.toml",
        format!("{with_token}[[handler]]\n{to}{headers}"),
    );
    ran(&["install"])
        .await
        .exits(2)
        .warns("the variable `SECRET`");
    home.write("edge-agent.toml", format!("{with_token}{to}"));
    ran(&["install"]).await.exits(2).warns("linear-token");
    home.write("linear-token", TOKEN);
    let line = ["install", "--", "--name", "a\nExecStart=/bin/evil"];
    ran(&line).await.exits(2).warns("control character");
    ran(&["install", "--", "--poll", "3"])
        .await
        .exits(2)
        .warns("is written like `3s`");

    let plan = ran(&["install", "--dry-run"]).await.exits(0).stdout;
    let program = env!("CARGO_BIN_EXE_agent");
    snapshot(
        "service-install",
        &plan.replace(program, "[program]"),
        &home,
    );
    let is_done = unit.exists() || home.join("calls").exists();
    assert!(!is_done, "a dry run does nothing");

    let installed = ran(&["install"]).await.exits(0);
    installed.warns("loginctl enable-linger");
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(plan.contains(&text));
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    ran(&["status"]).await.exits(0);
    ran(&["uninstall"]).await.exits(0);
    assert!(!unit.exists());
    ran(&["uninstall"]).await.exits(3);
    let calls = std::fs::read_to_string(home.join("calls")).unwrap();
    let mut calls: Vec<_> = calls.lines().collect();
    calls.retain(|line| line.starts_with("systemctl"));
    let expected = [
        "systemctl --user daemon-reload",
        "systemctl --user enable edge-agent.service",
        "systemctl --user restart edge-agent.service",
        "systemctl --user is-active --quiet edge-agent.service",
        "systemctl --user disable --now edge-agent.service",
    ];
    assert_eq!(calls, expected);

    stand_in("systemctl", "echo 'Failed to connect to bus' >&2; exit 1");
    let failed = ran(&["install"]).await.exits(1);
    failed.warns("Failed to connect to bus");
    assert!(!unit.exists(), "nothing is left half done");
    // systemd is content, and the program ends at once.
    stand_in("systemctl", "exit 0");
    let failed = ran(&["install"]).await.exits(1);
    failed.warns("was started and does not run");
    assert!(!unit.exists(), "nothing is left half done");
}

#[tokio::test]
async fn completions_are_made_for_each_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let made = run(&home, &["completions", shell]).await.exits(0).stdout;
        assert!(
            made.contains("doctor") && !made.contains("supervise"),
            "{shell}"
        );
        assert!(
            made.contains("edge-agent") && made.contains("replay"),
            "{shell}"
        );
    }
}

#[tokio::test]
async fn colours_are_for_terminals_unless_asked_for() {
    let home = Home::new();
    for (arguments, no_color, coloured) in [
        (vec!["status"], false, false),
        (vec!["status", "--color", "always"], false, true),
        (vec!["status", "--color", "never"], false, false),
        (vec!["status"], true, false),
    ] {
        let mut command = command(&home);
        command.args(&arguments);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let output = output(&mut command).await;
        assert_eq!(output.stderr.contains('\x1b'), coloured, "{arguments:?}");
        assert!(!output.stdout.contains('\x1b'));
    }
}
