//! Handlers: what is handed over, in which order, how often, and what becomes of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edge_agent::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::harness::agent::{Agent, Home, Inside, deliver, events, free_port, kept, reached_at};
use crate::harness::agent::{relay_and_home, run, signed, with_handler};
use crate::harness::{Answer, Receiver, Relay, eventually, is_running, issue};
use crate::harness::{number, numbers, terminate, until};

async fn states(home: &Path) -> Vec<Value> {
    let events = events(home).await;
    events.iter().map(|event| event["state"].clone()).collect()
}

async fn settle(home: &Path, count: usize) {
    until("all are settled", async || {
        let states = states(home).await;
        states.len() == count
            && states
                .iter()
                .all(|state| state.is_string() && state != "waiting")
    })
    .await;
}

/// What became of an event, one attempt after another.
async fn tries(home: &Path, id: &Value) -> Vec<Value> {
    let event = run(home, &["events", id.as_str().unwrap(), "--json"]).await;
    event.json()["tries"].as_array().unwrap().clone()
}

/// Has the event at this place fail three times, the last time without waiting for its retry.
async fn fails_three_times(relay: &Relay, home: &Path, handler: &Receiver, place: usize) {
    for (tries, wait) in [(1, 2), (2, 6), (3, 0)] {
        handler.wait_for(place + tries).await;
        until("its retry is due", async || {
            let event = events(home).await.into_iter().nth(place);
            event.is_some_and(|event| event["attempts"] == tries)
        })
        .await;
        relay.clock.advance(Duration::from_secs(wait));
    }
}

#[tokio::test]
async fn a_handler_gets_the_same_bytes_and_every_value_of_every_header() {
    let (relay, home, handler) = with_handler().await;
    let to = format!(":{}/hook?key=hush", handler.port());
    let agent = Agent::start(Agent::up(&relay, &home).arg(&to)).await;
    let body = "{ \"a\": 1,\r\n \"b\": \"\u{e9}\\u00e9\" }\n";
    let mut headers = signed(&home, "evt_1", body);
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
    // The handler's own count.
    assert_eq!(received.header("edge-attempt"), "1");
    assert_eq!(received.header("linear-event"), "Issue");
    let host = format!("localhost:{}", handler.port());
    assert_eq!(received.header("host"), host);
    assert!(!received.headers.contains_key("te"));
    assert!(received.verifies(kept(&home)["secret"].as_str().unwrap()));
    // Out of the mailbox, where no media type is.
    relay.post(&issue("i", 1)).await;
    let received = handler.wait_for(2).await.remove(1);
    let media_type = received.header("content-type");
    assert_eq!(media_type, "application/json; charset=utf-8");
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_listens_on_ipv6_alone_is_found() {
    let (relay, home) = relay_and_home().await;
    let handler = Receiver::start_at("[::1]:0").await;
    let agent = Agent::handing(&relay, &home, &handler).await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_answer_decides_and_is_kept() {
    let (relay, home, handler) = with_handler().await;
    let long = "x".repeat(100_000);
    handler.answer([
        Answer::With(200, "x-body", long),
        Answer::Status(410),
        Answer::With(500, "x-body", "out of tea".into()),
        Answer::Status(302),
        Answer::Status(204),
    ]);
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    for at in 0..2 {
        relay.post(&issue("i", at)).await;
        handler.wait_for(at + 1).await;
    }
    let third = relay.post(&issue("i", 2)).await;
    handler.wait_for(3).await;
    for tries in 4..=5 {
        until("a retry is due", async || {
            let last = events(&home).await.pop();
            last.is_some_and(|event| event["dueAt"].is_string())
        })
        .await;
        relay.clock.advance(Duration::from_secs(6));
        handler.wait_for(tries).await;
    }
    settle(&home, 3).await;
    assert_eq!(states(&home).await, ["done", "dropped", "done"]);
    let third = tries(&home, &json!(third.event)).await;
    let results: Vec<_> = third.iter().map(|t| &t["result"]).collect();
    assert_eq!(results, ["500", "302", "204"]);
    assert_eq!(third[0]["answer"], "out of tea");
    let first = tries(&home, &events(&home).await[0]["id"]).await;
    assert_eq!(first[0]["answer"].as_str().unwrap().len(), 64 * 1024);
    agent.stop().await;
}

#[tokio::test]
async fn a_failing_event_is_tried_after_1_5_30_120_and_600_seconds_and_then_kept_for_replay() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([Answer::Status(500)]);
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    let posted = relay.post(&issue("i", 1)).await;
    for (tries, wait) in [(1, 1), (2, 5), (3, 30), (4, 120), (5, 600)] {
        handler.wait_for(tries).await;
        let due = eventually("the next attempt has a time", || async {
            let event = events(&home).await.remove(0);
            (event["attempts"] == tries).then(|| event["dueAt"].as_str().unwrap().to_owned())
        })
        .await;
        assert!(!due.is_empty());
        assert_eq!(handler.count(), tries, "not before its time");
        relay.clock.advance(Duration::from_secs(wait));
    }
    handler.wait_for(6).await;
    settle(&home, 1).await;
    assert_eq!(states(&home).await, ["failed"]);
    relay.clock.advance(Duration::from_secs(3600));
    handler.answer([Answer::Status(200)]);
    let replayed = run(&home, &["replay", "--failed", "--json"]).await.exits(0);
    assert_eq!(replayed.json()["id"], posted.event);
    let received = handler.wait_for(7).await;
    assert_eq!(received[6].header("edge-attempt"), "1");
    assert_eq!(received[5].header("edge-attempt"), "6");
    settle(&home, 1).await;
    assert_eq!(states(&home).await, ["done"]);
    agent.stop().await;
}

#[tokio::test]
async fn events_of_one_issue_come_in_order_and_different_issues_side_by_side() {
    let (relay, home, handler) = with_handler().await;
    // The first two are answered only once both are there.
    let both = Arc::new(Barrier::new(2));
    let meet = || Answer::Meet(Arc::clone(&both));
    handler.answer([meet(), meet(), Answer::Status(200)]);
    let arguments = [&handler.port(), "--concurrency", "3", "--poll", "1h"];
    let agent = Inside::start(&relay, &home, &arguments).await;
    for at in 0..3 {
        for key in ["a", "b", "c", "d"] {
            relay.post(&issue(key, at)).await;
        }
    }
    agent.signal.send(Signal::Reload).await.unwrap();
    let received = handler.wait_for(12).await;
    for key in ["a", "b", "c", "d"] {
        let mut of_key = received.clone();
        of_key.retain(|r| r.json()["data"]["id"] == key);
        assert_eq!(numbers(&of_key), [0, 1, 2]);
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_waits_for_its_retry_holds_back_its_own_issue_alone() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([500, 500, 500, 200].map(Answer::Status));
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    relay.post(&issue("a", 1)).await;
    fails_three_times(&relay, &home, &handler, 0).await;
    relay.post(&issue("a", 2)).await;
    relay.post(&issue("b", 3)).await;
    let received = handler.wait_for(4).await;
    assert_eq!(number(&received[3].body), 3);
    relay.clock.advance(Duration::from_secs(31));
    let received = handler.wait_for(6).await;
    assert_eq!(numbers(&received[4..]), [1, 2]);
    agent.stop().await;
}

#[tokio::test]
async fn an_older_event_that_is_replayed_goes_before_one_that_waits_and_takes_none_of_its_time() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([200, 500, 500, 500, 200].map(Answer::Status));
    let agent = Inside::start(&relay, &home, &[&handler.port()]).await;
    let first = relay.post(&issue("a", 1)).await.event;
    handler.wait_for(1).await;
    relay.post(&issue("a", 2)).await;
    fails_three_times(&relay, &home, &handler, 1).await;
    run(&home, &["replay", &first]).await.exits(0);
    let received = handler.wait_for(5).await;
    assert_eq!(number(&received[4].body), 1);
    let is_done_again = async || states(&home).await == ["done", "waiting"];
    until("it is done again", is_done_again).await;
    assert_eq!(handler.count(), 5, "the other one keeps its time");
    relay.clock.advance(Duration::from_secs(31));
    assert_eq!(number(&handler.wait_for(6).await[5].body), 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_noticed_and_costs_no_attempt() {
    let (relay, home) = relay_and_home().await;
    let port = free_port().await;
    let mut agent = Agent::begin(Agent::up(&relay, &home).arg(port.to_string())).await;
    let missed = format!(
        "http://localhost:{port}/ is not there: nothing listens there (connection refused); events wait for it"
    );
    agent.says(&missed).await;
    for at in 0..3 {
        relay.post(&issue("a", at)).await;
        relay.post(&issue("b", at)).await;
    }
    until("all are stored", async || events(&home).await.len() == 6).await;
    let unhealthy = run(&home, &["status", "--json"]).await.exits(3);
    assert_eq!(unhealthy.json()["handlers"][0]["isThere"], false);
    let since = agent.unheard().concat();
    assert!(!since.contains("not there"), "said once");
    let handler = Receiver::start_at(&format!("127.0.0.1:{port}")).await;
    agent.says("is there").await;
    handler.wait_for(6).await;
    settle(&home, 6).await;
    let events = events(&home).await;
    assert!(events.iter().all(|event| event["attempts"] == 1));
    run(&home, &["status"]).await.exits(0);
    handler.close();
    agent.says("is not there").await;
    agent.stop().await;
}

#[tokio::test]
async fn what_was_answered_done_is_not_repeated_after_a_crash_and_nothing_is_lost() {
    let (relay, home, handler) = with_handler().await;
    let agent = Agent::handing(&relay, &home, &handler).await;
    relay.post(&issue("i", 0)).await;
    handler.wait_for(1).await;
    settle(&home, 1).await;
    handler.answer([Answer::Stall(Duration::from_secs(60))]);
    let body = issue("i", 1);
    for id in ["evt_1", "evt_2"] {
        agent.accepts(&home, id, &body).await;
    }
    handler.wait_for(2).await;
    agent.kill().await;
    handler.answer([Answer::Status(200)]);
    let agent = Agent::handing(&relay, &home, &handler).await;
    let received = handler.wait_for(4).await;
    let ids: Vec<_> = received.iter().map(|r| r.header("webhook-id")).collect();
    // The one that was under way, and the one behind it.
    assert_eq!(ids[1..], ["evt_1", "evt_1", "evt_2"]);
    settle(&home, 3).await;
    assert_eq!(handler.count(), 4);
    agent.stop().await;
}

#[tokio::test]
async fn a_command_gets_each_event_and_its_exit_code_decides() {
    let (relay, home) = relay_and_home().await;
    let script = home.join("handle.sh");
    std::fs::write(
        &script,
        "#!/bin/sh\nbody=$(cat)\necho \"$EDGE_EVENT_TYPE.$EDGE_EVENT_ACTION $EDGE_ATTEMPT $1 ${LINEAR_TOKEN-none}\"\n\
         case $body in *'\"number\":1'*) exit 3;; *'\"number\":2'*) [ \"$EDGE_ATTEMPT\" = 2 ] || exit 75;; esac\n",
    )
    .unwrap();
    let path = script.to_str().unwrap();
    let exec = ["--exec", "sh", path, "--an argument; not a shell's"];
    let agent = Agent::start(Agent::up(&relay, &home).args(exec)).await;
    for at in 0..3 {
        relay.post(&issue(&format!("{at}"), at)).await;
    }
    settle(&home, 3).await;
    let events = events(&home).await;
    let states: Vec<_> = events.iter().map(|event| &event["state"]).collect();
    assert_eq!(states, ["done", "failed", "done"]);
    let results: Vec<_> = events.iter().map(|event| &event["result"]).collect();
    assert_eq!(results, ["exit 0", "exit 3", "exit 0"]);
    let third = tries(&home, &events[2]["id"]).await;
    let answers: Vec<_> = third.iter().map(|t| t["answer"].clone()).collect();
    let answer = |at| format!("Issue.update {at} --an argument; not a shell's none\n");
    assert_eq!(answers, [1, 2].map(answer));
    agent.stop().await;
}

#[tokio::test]
async fn the_first_handler_that_matches_has_the_event_and_what_none_is_for_is_dropped() {
    let (relay, home) = relay_and_home().await;
    let (updates, projects) = (Receiver::start().await, Receiver::start().await);
    let file = home.join("edge-agent.toml");
    let write = |first: &str| {
        let text = format!(
            "[[handler]]\ntype = '{first}'\nto = '{}'\n[[handler]]\ntype = 'Project'\nto = '{}'\n",
            updates.port(),
            projects.port()
        );
        std::fs::write(&file, text).unwrap();
    };
    write("Issue.update");
    let mut agent = Agent::start(&mut Agent::up(&relay, &home)).await;
    let project = json!({"type": "Project", "action": "update", "organizationId": local::samples::WORKSPACE, "webhookTimestamp": 0, "data": {"id": "p"}});
    relay.post(&issue("i", 1)).await;
    let cycle = project.to_string().replace("Project", "Cycle");
    relay.post(&project.to_string()).await;
    relay.post(&cycle).await;
    updates.wait_for(1).await;
    projects.wait_for(1).await;
    settle(&home, 3).await;
    assert_eq!(states(&home).await, ["done", "done", "dropped"]);

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
    relay.post(&cycle.replace("\"p\"", "\"q\"")).await;
    updates.wait_for(2).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_end_waits_for_what_runs_and_a_second_signal_does_not() {
    let (relay, home, handler) = with_handler().await;
    let port = free_port().await;
    handler.answer([Answer::Slow(Duration::from_secs(1), 200)]);
    let mut up = Agent::up(&relay, &home);
    let mut agent = Agent::start(up.arg(handler.port()).args(reached_at(port))).await;
    relay.post(&issue("i", 1)).await;
    handler.wait_for(1).await;
    terminate(agent.id());
    agent.says("away: events wait in the mailbox").await;
    let body = issue("i", 2);
    let headers = signed(&home, "evt_x", &body);
    agent.refuses(&headers, &body, (503, "ending")).await;
    assert_eq!(agent.ends().await, Some(0));
    assert_eq!(states(&home).await, ["done"]);
    relay.post(&issue("i", 3)).await;
    relay.settled().await;
    assert_eq!(handler.count(), 1, "its mail waits");

    // What goes on after SIGTERM is cut off by the second signal, with all its processes.
    let pid = home.join("pid");
    let file = pid.display();
    let script = format!("trap '' TERM; echo $$ > '{file}'; while :; do sleep 0.02; done");
    let mut command = Agent::up(&relay, &home);
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
    until("its command has ended", async || !is_running(pid)).await;
    let left = events(&home).await.pop().unwrap();
    assert_eq!(left["state"], "waiting");
    assert_eq!(left["attempts"], 1);
}

/// A handler that writes its process and its attempt into a file, and then runs for ever.
fn endless(home: &Home, before: &str) -> String {
    let script = format!(
        "#!/bin/sh\n{before}\necho $$ $EDGE_ATTEMPT >> \"$0.begun\"\nwhile :; do sleep 0.02; done\n"
    );
    home.script("endless", &script).display().to_string()
}

/// What it wrote, once so many have begun: the process and the attempt of each.
async fn begun(home: &Home, count: usize) -> Vec<(u32, u64)> {
    eventually("its command runs", || async {
        let text = std::fs::read_to_string(home.join("endless.begun")).ok()?;
        let begun: Vec<_> = (text.lines())
            .filter_map(|line| {
                let (process, attempt) = line.split_once(' ')?;
                Some((process.parse().ok()?, attempt.parse().ok()?))
            })
            .collect();
        (begun.len() == count).then_some(begun)
    })
    .await
}

#[tokio::test]
async fn a_command_ends_with_the_agent_however_that_ends_and_its_attempt_is_known() {
    let (relay, home) = relay_and_home().await;
    let script = endless(&home, "cat > /dev/null");
    let up = || {
        let mut up = Agent::up(&relay, &home);
        up.args(["--exec", &script]);
        up
    };
    let mut agent = Agent::start(&mut up()).await;
    let posted = relay.post(&issue("i", 1)).await;
    let (first, _) = begun(&home, 1).await[0];
    agent.says("its command runs").await;
    agent.kill().await;
    until("the first has ended", async || !is_running(first)).await;

    let agent = Agent::start(&mut up()).await;
    let (second, attempt) = begun(&home, 2).await[1];
    assert_eq!(attempt, 2);
    let tries = tries(&home, &json!(posted.event)).await;
    let outcomes: Vec<_> = tries.iter().map(|t| &t["outcome"]).collect();
    assert_eq!(outcomes, ["begun", "begun"]);
    agent.stop().await;
    until("the second has ended", async || !is_running(second)).await;
}

#[tokio::test]
async fn a_command_that_reads_nothing_of_a_large_event_ends_with_the_agent_too() {
    let (relay, home) = relay_and_home().await;
    let script = endless(&home, "");
    let agent = Agent::start(Agent::up(&relay, &home).args(["--exec", &script])).await;
    let large = issue(&"x".repeat(300_000), 1);
    agent.accepts(&home, "evt_1", &large).await;
    let (process, _) = begun(&home, 1).await[0];
    agent.kill().await;
    until("it has ended", async || !is_running(process)).await;
}

#[tokio::test]
async fn what_a_shutdown_interrupts_uses_up_no_retry() {
    let (relay, home) = relay_and_home().await;
    let script = endless(&home, "cat > /dev/null\n[ ! -e \"$0.busy\" ] || exit 75");
    let up = || {
        let mut up = Agent::up(&relay, &home);
        up.args(["--exec", &script]);
        up
    };
    let mut agent = Agent::start(&mut up()).await;
    let posted = relay.post(&issue("i", 1)).await;
    // Once more than there are retries.
    for attempt in 1..=6 {
        assert_eq!(begun(&home, attempt).await[attempt - 1].1, attempt as u64);
        agent.stop().await;
        if attempt == 6 {
            home.write("endless.busy", "");
        }
        agent = Agent::start(&mut up()).await;
    }
    until("it is tried twice more", async || {
        let tries = tries(&home, &json!(posted.event)).await;
        tries.len() == 8 && tries[7]["outcome"] == "retry"
    })
    .await;
    agent.stop().await;
    let tries = tries(&home, &json!(posted.event)).await;
    assert!(tries[..6].iter().all(|t| t["outcome"] == "interrupted"));
}

#[tokio::test]
async fn at_the_shutdown_a_command_is_told_to_end_and_what_it_had_not_done_is_done_again() {
    for (exit, state, outcome) in [(3, "waiting", "interrupted"), (0, "done", "done")] {
        let (relay, home) = relay_and_home().await;
        let trap = format!("trap 'echo saved > \"$0.saved\"; exit {exit}' TERM");
        let script = endless(&home, &trap);
        let agent = Agent::start(Agent::up(&relay, &home).args(["--exec", &script])).await;
        let posted = relay.post(&issue("i", 1)).await;
        begun(&home, 1).await;
        agent.stop().await;
        assert!(home.join("endless.saved").exists());
        assert_eq!(states(&home).await, [state]);
        let tries = tries(&home, &json!(posted.event)).await;
        assert_eq!(tries.len(), 1);
        assert_eq!(tries[0]["outcome"], outcome);
    }
}

/// An event of an agent session.
pub(super) fn session(
    workspace: &str,
    session: &str,
    action: &str,
    signal: Option<&str>,
) -> String {
    json!({
        "type": "AgentSessionEvent", "action": action, "organizationId": workspace, "webhookTimestamp": 0,
        "agentSession": {"id": session}, "agentActivity": {"agentSessionId": session, "signal": signal},
    })
    .to_string()
}

#[tokio::test]
async fn a_stop_passes_the_line_and_all_that_is_being_handled() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([Answer::Stall(Duration::from_secs(600)), Answer::Status(200)]);
    let mut up = Agent::up(&relay, &home);
    let agent = Agent::start(up.args([&*handler.port(), "--concurrency", "1"])).await;
    let created = session("w", "s", "created", None);
    agent.accepts(&home, "evt_1", &created).await;
    handler.wait_for(1).await;
    let prompted = session("w", "s", "prompted", None);
    agent.accepts(&home, "evt_2", &prompted).await;
    agent.accepts(&home, "evt_3", &issue("i", 1)).await;
    let stop = session("w", "s", "prompted", Some("stop"));
    agent.accepts(&home, "evt_4", &stop).await;
    let received = handler.wait_for(2).await;
    assert_eq!(received[1].header("webhook-id"), "evt_4");
    assert_eq!(handler.count(), 2);
    agent.kill().await;
}

#[tokio::test]
async fn a_stop_that_is_being_handled_is_not_begun_again_when_the_waiting_events_are_read() {
    let (relay, home, handler) = with_handler().await;
    let stall = || Answer::Stall(Duration::from_secs(600));
    handler.answer([Answer::Status(200), stall(), stall(), Answer::Status(200)]);
    let mut up = Agent::up(&relay, &home);
    let agent = Agent::start(up.arg(&*handler.port())).await;
    agent.accepts(&home, "evt_1", &issue("i", 1)).await;
    handler.wait_for(1).await;
    let created = session("w", "s", "created", None);
    agent.accepts(&home, "evt_2", &created).await;
    handler.wait_for(2).await;
    let stop = session("w", "s", "prompted", Some("stop"));
    agent.accepts(&home, "evt_3", &stop).await;
    handler.wait_for(3).await;
    run(&home, &["replay", "evt_1"]).await.exits(0);
    let received = handler.wait_for(4).await;
    let ids = received
        .iter()
        .map(|received| received.header("webhook-id"));
    assert_eq!(
        ids.collect::<Vec<_>>(),
        ["evt_1", "evt_2", "evt_3", "evt_1"]
    );
    agent.kill().await;
}

#[tokio::test]
async fn what_comes_after_a_stop_waits_until_the_stop_that_passed_the_line_is_handled() {
    let (relay, home, handler) = with_handler().await;
    handler.answer([
        Answer::Slow(Duration::from_millis(1_500), 200),
        Answer::Slow(Duration::from_secs(2), 500),
        Answer::Status(200),
    ]);
    let mut up = Agent::up(&relay, &home);
    let agent = Agent::start(up.arg(&*handler.port())).await;
    for (id, action, signal) in [
        ("evt_1", "created", None),
        ("evt_2", "prompted", Some("stop")),
        ("evt_3", "prompted", None),
    ] {
        let event = session("w", "s", action, signal);
        agent.accepts(&home, id, &event).await;
    }
    let received = handler.wait_for(4).await;
    let ids: Vec<_> = received
        .iter()
        .map(|received| received.header("webhook-id"))
        .collect();
    assert_eq!(ids, ["evt_1", "evt_2", "evt_2", "evt_3"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_running_command_of_its_session_where_the_handler_says_so() {
    let (relay, home) = relay_and_home().await;
    let script = home.script(
        "work",
        "#!/bin/sh\nif [ \"$EDGE_EVENT_ACTION\" = prompted ]; then echo stop >> log; exit 0; fi\n\
         trap 'echo ended >> log; exit 0' TERM\necho begun >> log\nwhile :; do sleep 0.05; done\n",
    );
    let handler = format!(
        "[[handler]]\nexec = ['{}']\nstop = 'terminate'\n",
        script.display()
    );
    home.write("edge-agent.toml", handler);
    let agent = Agent::pulling(&relay, &home).await;
    let log = || std::fs::read_to_string(home.join("log")).unwrap_or_default();
    for other in ["s", "t"] {
        let created = session("w", other, "created", None);
        agent
            .accepts(&home, &format!("evt_{other}"), &created)
            .await;
    }
    until("both run", async || log() == "begun\nbegun\n").await;
    let stop = session("w", "s", "prompted", Some("stop"));
    agent.accepts(&home, "evt_stop", &stop).await;
    until("it is stopped", async || log().lines().count() == 4).await;
    let states = async || states(&home).await;
    until("the stopped one is settled", async || {
        states().await == ["dropped", "waiting", "done"]
    })
    .await;
    let mut lines: Vec<_> = log().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["begun", "begun", "ended", "stop"]);
    agent.stop().await;
}
