//! Tunnels: an address is registered once it reaches the agent, watched, replaced, and gone with the agent.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use protocol::messages::WorkerState;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, Command};

use crate::harness::agent::{Agent, Home, command, output, relay_and_home, run};
use crate::harness::agent::{with_handler, worker};
use crate::harness::until;
use crate::harness::{Receiver, Relay, TOKEN, eventually, is_running, issue, relay, terminate};

/// Where the stand-ins are, and the environment that they get.
struct Programs {
    directory: Home,
}

impl Programs {
    fn installed(names: &[&str]) -> Self {
        let directory = Home::new();
        std::fs::create_dir(directory.join("bin")).unwrap();
        for name in names {
            let link = directory.join("bin").join(name);
            symlink(env!("CARGO_BIN_EXE_tunnel"), link).unwrap();
        }
        Self { directory }
    }

    fn order(&self, order: &str) {
        self.directory.write("order", order);
    }

    fn set(&self, file: &str) {
        self.directory.write(file, "");
    }

    fn unset(&self, file: &str) {
        std::fs::remove_file(self.directory.join(file)).unwrap();
    }

    /// The process ids of all that were started.
    fn started(&self) -> Vec<u32> {
        let text = std::fs::read_to_string(self.directory.join("started")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// The last one that was started, for this time.
    async fn nth(&self, count: usize) -> u32 {
        eventually(&format!("start {count}"), || async {
            self.started().get(count - 1).copied()
        })
        .await
    }

    fn find<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = format!("{}/bin:/usr/bin:/bin", self.directory.display());
        command.env("PATH", path).env("TUNNEL", &*self.directory)
    }

    async fn agent(&self, relay: &Relay, home: &Path, tunnel: &str, handler: &Receiver) -> Agent {
        let mut command = Agent::up(relay, home);
        // What comes, comes through the tunnel: it is not asked for.
        command.args(["--tunnel", tunnel, "--poll", "1h", &handler.port()]);
        // What is on this machine, as the addresses of these programs are, is not asked for through a proxy.
        command.env("HTTP_PROXY", "http://127.0.0.1:1");
        Agent::begin(self.find(&mut command)).await
    }
}

async fn is_live(relay: &Relay, home: &Path) {
    until("the relay has the address", async || {
        let is_registered = home.join("registration.json").exists();
        is_registered && relay.read(&worker(home)).await.state == WorkerState::Live
    })
    .await;
}

async fn ends(pid: u32) {
    until(&format!("process {pid} ends"), async || !is_running(pid)).await;
}

#[tokio::test]
async fn each_program_leads_events_here_and_ends_with_the_agent() {
    let relay = relay().start().await;
    for name in ["cloudflared", "ngrok", "tailscale"] {
        let home = Home::new();
        let programs = Programs::installed(&[name]);
        let handler = Receiver::start().await;
        let mut agent = programs.agent(&relay, &home, "auto", &handler).await;
        agent.says(&format!("{name}: http://127.0.0.1:")).await;
        is_live(&relay, &home).await;
        relay.post(&issue(name, 1)).await;
        handler.wait_for(1).await;
        let status = run(&home, &["status", "--json"]).await.json();
        assert_eq!(status["tunnel"], name);
        let address = status["address"].as_str().unwrap();
        assert!(address.ends_with("/webhook"), "{status}");
        let pid = programs.nth(1).await;
        assert!(is_running(pid));
        agent.stop().await;
        ends(pid).await;
        // The next one is another agent of this name.
        relay.remove(&worker(&home)).await;
    }
}

#[tokio::test]
async fn a_tunnel_ends_with_the_agent_also_when_that_is_killed() {
    let (relay, home, handler) = with_handler().await;
    let programs = Programs::installed(&["cloudflared"]);
    let agent = programs.agent(&relay, &home, "cloudflared", &handler).await;
    let pid = programs.nth(1).await;
    is_live(&relay, &home).await;
    agent.kill().await;
    ends(pid).await;
}

#[tokio::test]
async fn a_program_that_ends_is_restarted_and_its_new_address_registered() {
    let (relay, home, handler) = with_handler().await;
    let programs = Programs::installed(&["cloudflared"]);
    let mut agent = programs.agent(&relay, &home, "cloudflared", &handler).await;
    is_live(&relay, &home).await;
    terminate(programs.nth(1).await);
    let ended = "the tunnel is down: `cloudflared` has ended";
    agent.says(ended).await;
    // What happens meanwhile is pulled once the new address is there.
    relay.post(&issue("i", 1)).await;
    agent.says("reaches this agent").await;
    handler.wait_for(1).await;
    is_live(&relay, &home).await;
    relay.post(&issue("i", 2)).await;
    handler.wait_for(2).await;
    assert_eq!(programs.started().len(), 2);
    agent.stop().await;
}

/// An agent whose clock is moved by lines on its stdin.
async fn clocked(
    programs: &Programs,
    relay: &Relay,
    home: &Home,
    tunnel: &str,
    handler: &Receiver,
) -> (Agent, ChildStdin) {
    let token = home.write("token", TOKEN);
    let mut command = command(home);
    command
        .args(["clock", "up", "--name", "laptop", "--listen", "127.0.0.1:0"])
        .args(["--relay", &relay.local.url(), "--data"])
        .arg(&**home)
        .arg("--linear-token-file")
        .arg(token)
        .args(["--tunnel", tunnel, "--poll", "1h", &handler.port()])
        .stdin(Stdio::piped());
    let mut agent = Agent::start(programs.find(&mut command)).await;
    let clock = agent.child.stdin.take().unwrap();
    (agent, clock)
}

#[tokio::test]
async fn a_program_that_stalls_is_started_again_and_events_are_pulled_meanwhile() {
    let (relay, home, handler) = with_handler().await;
    let programs = Programs::installed(&["tailscale"]);
    programs.order("stall");
    let (mut agent, mut clock) = clocked(&programs, &relay, &home, "tailscale", &handler).await;
    let first = programs.nth(1).await;
    relay.post(&issue("i", 1)).await;
    clock.write_all(b"60\n").await.unwrap();
    let missed = "`tailscale` made no address that reaches this agent within 45 s";
    agent.says(missed).await;
    ends(first).await;
    handler.wait_for(1).await;
    programs.order("");
    agent.says("reaches this agent").await;
    is_live(&relay, &home).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_address_that_changes_or_leads_nowhere_any_more_is_replaced() {
    let (relay, home, handler) = with_handler().await;
    let programs = Programs::installed(&["ngrok"]);
    let (mut agent, mut clock) = clocked(&programs, &relay, &home, "ngrok", &handler).await;
    is_live(&relay, &home).await;
    programs.set("move");
    agent.says("its address has changed").await;
    programs.unset("move");
    agent.says("reaches this agent").await;
    is_live(&relay, &home).await;

    // The laptop sleeps for an hour; meanwhile the tunnel's far end has forgotten it.
    programs.set("block");
    clock.write_all(b"3600\n").await.unwrap();
    agent.says("does not lead here any more").await;
    programs.unset("block");
    agent.says("reaches this agent").await;
    agent.stop().await;
}

#[tokio::test]
async fn an_address_is_registered_only_after_a_probe_through_it() {
    let (relay, home, handler) = with_handler().await;
    let programs = Programs::installed(&["cloudflared"]);
    programs.order("dead-end");
    let mut agent = programs.agent(&relay, &home, "cloudflared", &handler).await;
    agent.says("ready: `laptop` is a pull worker").await;
    programs.nth(1).await;
    let address = programs.directory.join("address");
    until("the program serves its address", async || address.exists()).await;
    assert_eq!(relay.read(&worker(&home)).await.state, WorkerState::Pull);
    assert!(!agent.unheard().concat().contains("reaches this agent"));
    agent.stop().await;
}

#[tokio::test]
async fn a_slow_program_is_waited_for_and_a_failing_one_is_reported() {
    let (relay, home, handler) = with_handler().await;
    let programs = Programs::installed(&["cloudflared"]);
    programs.order("die");
    let mut agent = programs.agent(&relay, &home, "cloudflared", &handler).await;
    let said = agent.says("the tunnel is down").await;
    assert!(said.contains("this account has no tunnels left"), "{said}");
    programs.nth(2).await;
    programs.order("late");
    agent.says("reaches this agent").await;
    is_live(&relay, &home).await;
    agent.stop().await;
    for pid in programs.started() {
        ends(pid).await;
    }
}

#[tokio::test]
async fn without_a_program_auto_pulls_and_a_named_one_is_missed() {
    let (relay, home) = relay_and_home().await;
    let mut command = Agent::up(&relay, &home);
    let mut agent = Agent::begin(command.args(["--tunnel", "auto"])).await;
    agent.says("no tunnel program is installed").await;
    agent.says("ready: `laptop` is a pull worker").await;
    agent.stop().await;
    let mut command = Agent::up(&relay, &home);
    let missing = output(command.args(["--tunnel", "ngrok"])).await.exits(2);
    missing.warns("`ngrok` is not installed");
}
