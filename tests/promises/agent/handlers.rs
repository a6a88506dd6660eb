//! Handlers: what is handed over, in which order, how often, and what becomes of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::harness::agent::{Agent, Inside, deliver, free_port, run, signed};
use crate::harness::{Answer, Receiver, eventually, is_running, issue, number, relay, terminate};

/// What `events` says of each event, the oldest first.
async fn events(home: &Path) -> Vec<Value> {
    run(home, &["events", "--json"]).await.lines()
}

async fn states(home: &Path) -> Vec<String> {
    let events = events(home).await;
    events
        .iter()
        .map(|event| event["state"].as_str().unwrap().to_owned())
        .collect()
}

async fn settle(home: &Path, count: usize) {
    eventually("all are settled", || async {
        let states = states(home).await;
        (states.len() == count && states.iter().all(|state| state != "waiting")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_handler_gets_the_same_bytes_and_every_value_of_every_header() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = format!(":{}/hook?key=hush", handler.address.port());
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    let body = "{ \"a\": 1,\r\n \"b\": \"\u{e9}\\u00e9\" }\n";
    let mut headers = signed(home.path(), "evt_1", body);
    headers.extend([
        ("x-twice", "one".to_owned()),
        ("x-twice", "two".to_owned()),
        ("edge-attempt", "7".to_owned()),
        ("te", "trailers".to_owned()),
        ("linear-event", "Issue".to_owned()),
    ]);
    assert_eq!(deliver(&agent.address, &headers, body).await.0, 202);
    let received = handler.wait_for(1).await.remove(0);
    assert_eq!(received.body, body.as_bytes());
    let twice: Vec<_> = received.headers.get_all("x-twice").iter().collect();
    assert_eq!(twice, ["one", "two"]);
    assert_eq!(received.header("webhook-id"), "evt_1");
    assert_eq!(
        received.header("edge-attempt"),
        "1",
        "the handler's own count"
    );
    assert_eq!(received.header("linear-event"), "Issue");
    assert_eq!(
        received.header("host"),
        format!("localhost:{}", handler.address.port())
    );
    assert!(!received.headers.contains_key("te"));
    assert!(
        received.verifies(
            crate::harness::agent::kept(home.path())["secret"]
                .as_str()
                .unwrap()
        )
    );
    // Out of the mailbox, where no media type is.
    relay.post(&issue("i", 1)).await;
    let received = handler.wait_for(2).await.remove(1);
    assert_eq!(
        received.header("content-type"),
        "application/json; charset=utf-8"
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_listens_on_ipv6_alone_is_found() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start_at("[::1]:0").await;
    let to = handler.address.port().to_string();
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_answer_decides_and_is_kept() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let long = "x".repeat(100_000);
    handler.answer([
        Answer::With(200, "x-body", long),
        Answer::Status(410),
        Answer::With(500, "x-body", "out of tea".into()),
        Answer::Status(302),
        Answer::Status(204),
    ]);
    let to = handler.address.port().to_string();
    let agent = Inside::start(&relay, home.path(), &[&to]).await;
    for at in 0..2 {
        relay.post(&issue("i", at)).await;
        handler.wait_for(at + 1).await;
    }
    let third = relay.post(&issue("i", 2)).await;
    handler.wait_for(3).await;
    for tries in 4..=5 {
        eventually("a retry is due", || async {
            let last = events(home.path()).await.pop()?;
            last["dueAt"].is_string().then_some(())
        })
        .await;
        relay.clock.advance(Duration::from_secs(6));
        handler.wait_for(tries).await;
    }
    settle(home.path(), 3).await;
    assert_eq!(states(home.path()).await, ["done", "dropped", "done"]);
    let third = run(home.path(), &["events", &third.event, "--json"])
        .await
        .json();
    let results: Vec<_> = third["tries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["result"])
        .collect();
    assert_eq!(results, ["500", "302", "204"]);
    assert_eq!(third["tries"][0]["answer"], "out of tea");
    let first = events(home.path()).await.remove(0);
    let first = run(
        home.path(),
        &["events", first["id"].as_str().unwrap(), "--json"],
    )
    .await
    .json();
    assert_eq!(
        first["tries"][0]["answer"].as_str().unwrap().len(),
        64 * 1024
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_failing_event_is_tried_after_1_5_30_120_and_600_seconds_and_then_kept_for_replay() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    handler.answer([Answer::Status(500)]);
    let to = handler.address.port().to_string();
    let agent = Inside::start(&relay, home.path(), &[&to]).await;
    let posted = relay.post(&issue("i", 1)).await;
    for (tries, wait) in [(1, 1), (2, 5), (3, 30), (4, 120), (5, 600)] {
        handler.wait_for(tries).await;
        let due = eventually("the next attempt has a time", || async {
            let event = events(home.path()).await.remove(0);
            (event["attempts"] == tries).then(|| event["dueAt"].as_str().unwrap().to_owned())
        })
        .await;
        assert!(!due.is_empty());
        assert_eq!(handler.count(), tries, "not before its time");
        relay.clock.advance(Duration::from_secs(wait));
    }
    handler.wait_for(6).await;
    settle(home.path(), 1).await;
    assert_eq!(states(home.path()).await, ["failed"]);
    relay.clock.advance(Duration::from_secs(3600));
    handler.answer([Answer::Status(200)]);
    let replayed = run(home.path(), &["replay", "--failed", "--json"]).await;
    assert_eq!(
        (replayed.code, replayed.json()["id"].as_str()),
        (Some(0), Some(&*posted.event))
    );
    let received = handler.wait_for(7).await;
    assert_eq!(received[6].header("edge-attempt"), "1");
    assert_eq!(received[5].header("edge-attempt"), "6");
    settle(home.path(), 1).await;
    assert_eq!(states(home.path()).await, ["done"]);
    agent.stop().await;
}

#[tokio::test]
async fn events_of_one_issue_come_in_order_and_different_issues_side_by_side() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    // The first two are answered only once both are there.
    let both = Arc::new(Barrier::new(2));
    let meet = || Answer::Meet(Arc::clone(&both));
    handler.answer([meet(), meet(), Answer::Status(200)]);
    let to = handler.address.port().to_string();
    let agent = Inside::start(
        &relay,
        home.path(),
        &[&to, "--concurrency", "3", "--poll", "1h"],
    )
    .await;
    for at in 0..3 {
        for key in ["a", "b", "c", "d"] {
            relay.post(&issue(key, at)).await;
        }
    }
    agent
        .signal
        .send(edge_agent::signal::Signal::Reload)
        .await
        .unwrap();
    let received = handler.wait_for(12).await;
    for key in ["a", "b", "c", "d"] {
        let of_key: Vec<_> = received
            .iter()
            .filter(|r| serde_json::from_slice::<Value>(&r.body).unwrap()["data"]["id"] == key)
            .map(|r| number(&r.body))
            .collect();
        assert_eq!(of_key, [0, 1, 2]);
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_retry_holds_back_its_own_issue_alone() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let failure = Answer::Status(500);
    handler.answer([
        failure.clone(),
        failure.clone(),
        failure,
        Answer::Status(200),
    ]);
    let to = handler.address.port().to_string();
    let agent = Inside::start(&relay, home.path(), &[&to]).await;
    relay.post(&issue("a", 1)).await;
    for (tries, wait) in [(1, 2), (2, 6), (3, 0)] {
        handler.wait_for(tries).await;
        eventually("its retry is due", || async {
            let event = events(home.path()).await.remove(0);
            (event["attempts"] == tries).then_some(())
        })
        .await;
        relay.clock.advance(Duration::from_secs(wait));
    }
    relay.post(&issue("a", 2)).await;
    relay.post(&issue("b", 3)).await;
    let received = handler.wait_for(4).await;
    assert_eq!(number(&received[3].body), 3);
    relay.clock.advance(Duration::from_secs(31));
    let received = handler.wait_for(6).await;
    assert_eq!(
        [number(&received[4].body), number(&received[5].body)],
        [1, 2]
    );
    agent.stop().await;
}

#[tokio::test]
async fn an_older_event_that_is_replayed_goes_before_one_that_waits_and_takes_none_of_its_time() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let (success, failure) = (Answer::Status(200), Answer::Status(500));
    handler.answer([
        success.clone(),
        failure.clone(),
        failure.clone(),
        failure,
        success,
    ]);
    let to = handler.address.port().to_string();
    let agent = Inside::start(&relay, home.path(), &[&to]).await;
    let first = relay.post(&issue("a", 1)).await.event;
    handler.wait_for(1).await;
    relay.post(&issue("a", 2)).await;
    for (tries, wait) in [(1, 2), (2, 6), (3, 0)] {
        handler.wait_for(tries + 1).await;
        eventually("its retry is due", || async {
            (events(home.path()).await.get(1)?["attempts"] == tries).then_some(())
        })
        .await;
        relay.clock.advance(Duration::from_secs(wait));
    }
    assert_eq!(run(home.path(), &["replay", &first]).await.code, Some(0));
    let received = handler.wait_for(5).await;
    assert_eq!(number(&received[4].body), 1);
    eventually("it is done again", || async {
        (states(home.path()).await == ["done", "waiting"]).then_some(())
    })
    .await;
    assert_eq!(handler.count(), 5, "the other one keeps its time");
    relay.clock.advance(Duration::from_secs(31));
    assert_eq!(number(&handler.wait_for(6).await[5].body), 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_noticed_and_costs_no_attempt() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let mut agent = Agent::begin(Agent::up(&relay, home.path()).arg(port.to_string())).await;
    agent
        .says(&format!(
            "http://localhost:{port}/ is not there: events wait for it"
        ))
        .await;
    for at in 0..3 {
        relay.post(&issue("a", at)).await;
        relay.post(&issue("b", at)).await;
    }
    eventually("all are stored", || async {
        (events(home.path()).await.len() == 6).then_some(())
    })
    .await;
    let unhealthy = run(home.path(), &["status", "--json"]).await;
    assert_eq!(unhealthy.code, Some(3));
    assert_eq!(unhealthy.json()["handlers"][0]["isThere"], false);
    assert!(
        agent
            .unheard()
            .iter()
            .all(|line| !line.contains("not there")),
        "said once"
    );
    let handler = Receiver::start_at(&format!("127.0.0.1:{port}")).await;
    agent.says("is there").await;
    handler.wait_for(6).await;
    settle(home.path(), 6).await;
    assert!(
        events(home.path())
            .await
            .iter()
            .all(|event| event["attempts"] == 1)
    );
    assert_eq!(run(home.path(), &["status"]).await.code, Some(0));
    handler.close();
    agent.says("is not there").await;
    agent.stop().await;
}

#[tokio::test]
async fn what_was_answered_done_is_not_repeated_after_a_crash_and_nothing_is_lost() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let handler = Receiver::start().await;
    let to = handler.address.port().to_string();
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    relay.post(&issue("i", 0)).await;
    handler.wait_for(1).await;
    settle(home.path(), 1).await;
    handler.answer([Answer::Stall(Duration::from_secs(60))]);
    let body = issue("i", 1);
    for id in ["evt_1", "evt_2"] {
        agent.accepts(home.path(), id, &body).await;
    }
    handler.wait_for(2).await;
    agent.kill().await;
    handler.answer([Answer::Status(200)]);
    let agent = Agent::start(Agent::up(&relay, home.path()).arg(&to)).await;
    let received = handler.wait_for(4).await;
    let ids: Vec<_> = received.iter().map(|r| r.header("webhook-id")).collect();
    assert_eq!(
        ids[1..],
        ["evt_1", "evt_1", "evt_2"],
        "the one that was under way, and the one behind it"
    );
    settle(home.path(), 3).await;
    assert_eq!(handler.count(), 4);
    agent.stop().await;
}

#[tokio::test]
async fn a_command_gets_each_event_and_its_exit_code_decides() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let script = home.path().join("handle.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\nbody=$(cat)\necho \"$EDGE_EVENT_TYPE.$EDGE_EVENT_ACTION $EDGE_ATTEMPT $1 ${LINEAR_TOKEN-none}\"\n\
         case $body in *'\"number\":1'*) exit 3;; *'\"number\":2'*) [ \"$EDGE_ATTEMPT\" = 2 ] || exit 75;; esac\n",
    )
    .unwrap();
    let path = script.to_str().unwrap();
    let agent = Agent::start(Agent::up(&relay, home.path()).args([
        "--exec",
        "sh",
        path,
        "--an argument; not a shell's",
    ]))
    .await;
    for at in 0..3 {
        relay.post(&issue(&format!("{at}"), at)).await;
    }
    settle(home.path(), 3).await;
    let events = events(home.path()).await;
    let found: Vec<_> = (events.iter())
        .map(|event| {
            (
                event["state"].as_str().unwrap(),
                event["result"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [("done", "exit 0"), ("failed", "exit 3"), ("done", "exit 0")]
    );
    let third = run(
        home.path(),
        &["events", events[2]["id"].as_str().unwrap(), "--json"],
    )
    .await
    .json();
    let answers: Vec<_> = third["tries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["answer"].as_str().unwrap())
        .collect();
    assert_eq!(
        answers,
        [
            "Issue.update 1 --an argument; not a shell's none\n",
            "Issue.update 2 --an argument; not a shell's none\n",
        ]
    );
    agent.stop().await;
}

#[tokio::test]
async fn the_first_handler_that_matches_has_the_event_and_what_none_is_for_is_dropped() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let (updates, projects) = (Receiver::start().await, Receiver::start().await);
    let file = home.path().join("edge-agent.toml");
    let write = |first: &str| {
        let text = format!(
            "[[handler]]\ntype = '{first}'\nto = '{}'\n[[handler]]\ntype = 'Project'\nto = '{}'\n",
            updates.address.port(),
            projects.address.port()
        );
        std::fs::write(&file, text).unwrap();
    };
    write("Issue.update");
    let mut agent = Agent::start(&mut Agent::up(&relay, home.path())).await;
    let project = json!({"type": "Project", "action": "update", "organizationId": local::samples::WORKSPACE, "webhookTimestamp": 0, "data": {"id": "p"}});
    relay.post(&issue("i", 1)).await;
    relay.post(&project.to_string()).await;
    relay
        .post(&project.to_string().replace("Project", "Cycle"))
        .await;
    updates.wait_for(1).await;
    projects.wait_for(1).await;
    settle(home.path(), 3).await;
    assert_eq!(states(home.path()).await, ["done", "done", "dropped"]);

    // Read again on SIGHUP; refused as a whole when wrong.
    let hang_up = |id: u32| {
        use rustix::process::{Pid, Signal, kill_process};
        kill_process(Pid::from_raw(id.cast_signed()).unwrap(), Signal::HUP).unwrap();
    };
    write("Isue?");
    hang_up(agent.id());
    let said = agent.says("the settings stay as they were").await;
    assert!(said.contains("handler 1: `Isue?` is no pattern"), "{said}");
    std::fs::write(&file, "listen = '127.0.0.1:1'\n[[handler]]\nto = '1'").unwrap();
    hang_up(agent.id());
    // The flag goes before the file, so only what the file alone says differs.
    agent.says("the settings were read again").await;
    write("Cycle");
    hang_up(agent.id());
    agent.says("the settings were read again").await;
    relay
        .post(
            &project
                .to_string()
                .replace("Project", "Cycle")
                .replace("\"p\"", "\"q\""),
        )
        .await;
    updates.wait_for(2).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_end_waits_for_what_runs_and_a_second_signal_does_not() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let handler = Receiver::start().await;
    handler.answer([Answer::Slow(Duration::from_secs(1), 200)]);
    let to = handler.address.port().to_string();
    let up = |listen: u16| {
        let mut command = Agent::up(&relay, home.path());
        let listen = format!("127.0.0.1:{listen}");
        command.args([
            &to,
            "--listen",
            &listen,
            "--public-url",
            &format!("http://{listen}/webhook"),
        ]);
        command
    };
    let mut agent = Agent::start(&mut up(port)).await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    terminate(agent.id());
    agent.says("away: events wait in the mailbox").await;
    let body = issue("i", 2);
    let refused = deliver(&agent.address, &signed(home.path(), "evt_x", &body), &body).await;
    assert_eq!((refused.0, &refused.1["code"]), (503, &json!("ending")));
    assert_eq!(agent.ends().await, Some(0));
    assert_eq!(states(home.path()).await, ["done"]);
    relay.post(&issue("i", 3)).await;
    relay.settled().await;
    assert_eq!(handler.count(), 1, "its mail waits");

    // What runs for long is cut off by the second signal, with all its processes.
    let pid = home.path().join("pid");
    let script = format!(
        "echo $$ > '{}'; while :; do sleep 0.02; done",
        pid.display()
    );
    let mut command = Agent::up(&relay, home.path());
    command.args(["--exec", "sh", "-c", &script]);
    let mut agent = Agent::start(&mut command).await;
    let pid = eventually("the command runs", || async {
        std::fs::read_to_string(&pid).ok()?.trim().parse().ok()
    })
    .await;
    terminate(agent.id());
    agent.says("waiting up to 10 s for 1 running").await;
    terminate(agent.id());
    agent.says("ending at once").await;
    assert_eq!(agent.ends().await, Some(0));
    eventually("its command has ended", || async {
        (!is_running(pid)).then_some(())
    })
    .await;
    let left = events(home.path()).await.pop().unwrap();
    assert_eq!(
        (&left["state"], &left["attempts"]),
        (&json!("waiting"), &json!(0))
    );
}
