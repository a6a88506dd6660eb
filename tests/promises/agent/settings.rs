//! Settings: flags over `EDGE_AGENT_*` over the file over defaults, and what is wrong with them.

use crate::harness::agent::{Agent, command, output, run};
use crate::harness::{Receiver, issue, relay};

#[tokio::test]
async fn flags_go_before_variables_and_those_before_the_file() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let (file, variable, flag) = (
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    let port = |receiver: &Receiver| receiver.address.port().to_string();
    let text = format!(
        "name = 'from-the-file'\n[[handler]]\nto = '{}'\n",
        port(&file)
    );
    // The user's file, since there is none in the project.
    std::fs::create_dir_all(home.path().join("config/edge-agent")).unwrap();
    std::fs::write(home.path().join("config/edge-agent/edge-agent.toml"), &text).unwrap();
    let up = || {
        let mut command = command(home.path());
        command
            .arg("up")
            .env("EDGE_AGENT_RELAY", relay.local.url())
            .env("EDGE_AGENT_POLL", "1s")
            .env("EDGE_AGENT_LISTEN", "127.0.0.1:0")
            .env("LINEAR_TOKEN", crate::harness::TOKEN);
        command
    };
    let mut agent = Agent::begin(&mut up()).await;
    agent.says("ready: `from-the-file`").await;
    relay.post(&issue("i", 1)).await;
    file.wait_for(1).await;
    agent.stop().await;

    let mut agent = Agent::begin(
        up().env("EDGE_AGENT_NAME", "from-a-variable")
            .env("EDGE_AGENT_TO", port(&variable)),
    )
    .await;
    agent.says("ready: `from-a-variable`").await;
    relay.post(&issue("i", 2)).await;
    variable.wait_for(1).await;
    agent.stop().await;

    let mut agent = Agent::begin(
        up().env("EDGE_AGENT_NAME", "from-a-variable")
            .env("EDGE_AGENT_TO", port(&variable))
            .args(["--name", "from-a-flag", &port(&flag)]),
    )
    .await;
    agent.says("ready: `from-a-flag`").await;
    relay.post(&issue("i", 3)).await;
    flag.wait_for(1).await;
    agent.stop().await;

    // The project's file goes before the user's.
    std::fs::write(
        home.path().join("edge-agent.toml"),
        "name = 'from-the-project'\n",
    )
    .unwrap();
    let mut agent = Agent::begin(&mut up()).await;
    agent.says("ready: `from-the-project`").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_flag_replaces_a_variable_of_another_name_for_the_same_setting() {
    let relay = relay().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut up = Agent::up(&relay, home.path());
    up.env("EDGE_AGENT_TO", "1")
        .env("EDGE_AGENT_TUNNEL", "ngrok");
    up.args(["--pull", "--exec", "true"]);
    let mut agent = Agent::begin(&mut up).await;
    agent.says("ready: `laptop` is a pull worker").await;
    let posted = relay.post(&issue("i", 1)).await;
    let said = agent.says(&posted.event).await;
    assert!(said.contains("true exit 0"), "{said}");
    agent.stop().await;
}

#[tokio::test]
async fn invalid_settings_are_reported_before_anything_starts() {
    let home = tempfile::tempdir().unwrap();
    let relay = "https://relay.test";
    let write = |name: &str, text: &str| {
        let file = home.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let empty = write("empty", "\n");
    let misspelled = write("misspelled.toml", "tunel = 'auto'\n");
    let up = |rest: &str| format!("up --relay {relay} {rest}");
    for (line, part) in [
        ("up", "the relay's address is missing"),
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
        (
            &up("--tunnel carrier-pigeon"),
            "values: auto, cloudflared, ngrok, tailscale, none]",
        ),
        (&up("--tunnel auto --pull"), "cannot be used with"),
        (&up("--poll 3"), "is written like `3s`"),
        (&up("--concurrency 0"), "`concurrency` has to be 1 to 64"),
        (&up(&format!("--linear-secret-file {empty}")), "is empty"),
        (&up("--linear-token-file /nowhere"), "/nowhere"),
        ("up --config /nowhere.toml", "/nowhere.toml"),
        (
            &format!("up --config {misspelled}"),
            "there is no `tunel`: did you mean `tunnel`?",
        ),
        (
            &format!("status --config {misspelled}"),
            "there is no `tunel`: did you mean `tunnel`?",
        ),
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
        let output = run(home.path(), &arguments).await;
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(part), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "stdout is data");
    }
    // The keyring, the network, a port: nothing is touched before the arguments are right.
    assert!(!home.path().join("lock").exists());
    let mut command = command(home.path());
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    command
        .args(["up", "--relay", relay, "--listen", &taken])
        .env("LINEAR_TOKEN", "x");
    let refused = output(&mut command).await;
    assert_eq!(refused.code, Some(2));
    refused.warns("use another `--listen`");
}
