//! Settings: flags over `EDGE_AGENT_*` over the file over defaults, and what is wrong with them.

use crate::harness::agent::{Agent, Home, command, output, relay_and_home, run};
use crate::harness::{Receiver, TOKEN, issue};

#[tokio::test]
async fn flags_go_before_variables_and_those_before_the_file() {
    let (relay, home) = relay_and_home().await;
    let (file, flag) = (Receiver::start().await, Receiver::start().await);
    let variable = Receiver::start().await;
    let handler = format!("[[handler]]\nto = '{}'\n", file.port());
    // The user's file, since there is none in the project.
    std::fs::create_dir_all(home.join("config/edge-agent")).unwrap();
    let text = format!("name = 'from-the-file'\n{handler}");
    home.write("config/edge-agent/edge-agent.toml", text);
    let up = || {
        let mut command = command(&home);
        command
            .arg("up")
            .env("EDGE_AGENT_RELAY", relay.local.url())
            .env("EDGE_AGENT_POLL", "1s")
            .env("EDGE_AGENT_LISTEN", "127.0.0.1:0")
            .env("LINEAR_TOKEN", TOKEN);
        command
    };
    let mut agent = Agent::begin(&mut up()).await;
    agent.says("ready: `from-the-file`").await;
    relay.post(&issue("i", 1)).await;
    file.wait_for(1).await;
    agent.stop().await;

    let mut with_variables = up();
    with_variables.env("EDGE_AGENT_NAME", "from-a-variable");
    with_variables.env("EDGE_AGENT_TO", variable.port());
    let mut agent = Agent::begin(&mut with_variables).await;
    agent.says("ready: `from-a-variable`").await;
    relay.post(&issue("i", 2)).await;
    variable.wait_for(1).await;
    agent.stop().await;

    let with_flags = with_variables.args(["--name", "from-a-flag", &flag.port()]);
    let mut agent = Agent::begin(with_flags).await;
    agent.says("ready: `from-a-flag`").await;
    relay.post(&issue("i", 3)).await;
    flag.wait_for(1).await;
    agent.stop().await;

    // The project's file goes before the user's.
    home.write("edge-agent.toml", "name = 'from-the-project'\n");
    let mut agent = Agent::begin(&mut up()).await;
    agent.says("ready: `from-the-project`").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_flag_replaces_a_variable_of_another_name_for_the_same_setting() {
    let (relay, home) = relay_and_home().await;
    let mut up = Agent::up(&relay, &home);
    up.env("EDGE_AGENT_TO", "1")
        .env("EDGE_AGENT_TUNNEL", "ngrok");
    up.args(["--pull", "--exec", "true"]);
    let mut agent = Agent::begin(&mut up).await;
    agent.says("ready: `laptop` is a pull worker").await;
    let posted = relay.post(&issue("i", 1)).await;
    let said = agent.says(&posted.event[..17]).await;
    assert!(said.contains("true exit 0"), "{said}");
    agent.stop().await;
}

#[tokio::test]
async fn invalid_settings_are_reported_before_anything_starts() {
    let home = Home::new();
    let relay = "https://relay.test";
    let empty = home.write("empty", "\n").display().to_string();
    let misspelled = home.write("misspelled.toml", "tunel = 'auto'\n");
    let misspelled = format!("--config {}", misspelled.display());
    let hint = "there is no `tunel`: did you mean `tunnel`?";
    let programs = "values: auto, cloudflared, ngrok, tailscale, none]";
    let up = |rest: &str| format!("up --relay {relay} {rest}");
    for (line, part) in [
        ("up", "the relay's address is missing"),
        (
            "up --exec ./run --relay https://relay.test",
            "write it before `--exec`",
        ),
        (
            "up --relay http://example.com",
            "has to begin with `https://`",
        ),
        (
            &up("--public-url nowhere"),
            "a whole address begins with `https://`",
        ),
        (&up("70000"), "this is no target"),
        (&up("3000 --exec x"), "cannot be used with"),
        (&up("--tunnel carrier-pigeon"), programs),
        (&up("--tunnel auto --pull"), "cannot be used with"),
        (&up("--poll 3"), "is written like `3s`"),
        (&up("--concurrency 0"), "`concurrency` has to be 1 to 64"),
        (&up(&format!("--linear-secret-file {empty}")), "is empty"),
        (&up("--linear-token-file /nowhere"), "/nowhere"),
        ("up --config /nowhere.toml", "/nowhere.toml"),
        (&format!("up {misspelled}"), hint),
        (&format!("status {misspelled}"), hint),
        ("replay", "required arguments were not provided"),
        ("events --type ?", "use `Issue`"),
        ("events --since yesterday", "is written like `3s`"),
        ("send --type Nothing", "there are samples of Issue.create"),
        ("send /nowhere", "/nowhere"),
        ("verify --headers /nowhere --body /nowhere", "/nowhere"),
        ("completions tcl", "[possible values: bash"),
        ("upp", "tip: a similar subcommand exists: 'up'"),
    ] {
        let arguments: Vec<_> = line.split_whitespace().collect();
        let output = run(&home, &arguments).await;
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(part), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "stdout is data");
    }
    // The keyring, the network, a port: nothing is touched before the arguments are right.
    assert!(!home.join("lock").exists());
    let mut command = command(&home);
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    command
        .args(["up", "--relay", relay, "--listen", &taken])
        .env("LINEAR_TOKEN", "x");
    let refused = output(&mut command).await.exits(2);
    refused.warns("use another `--listen`");
}
