//! The documentation: its commands are run by tests or marked, its settings are accepted, and it is as long as it may be.
//!
//! `.ci/run` checks the links.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use protocol::signature::{Secret, receipt, sign};

use crate::harness::agent::{Home, run};
use crate::harness::page::{Block, blocks, commands, commands_for};
use crate::harness::terminate;
use crate::structure::{root, source_files};

/// All pages, by their path from the root.
fn pages() -> BTreeMap<String, String> {
    let root = root();
    let mut found = BTreeMap::new();
    for directory in [
        "",
        "docs",
        "docs/adr",
        "edge-agent",
        "packaging",
        "tests/openapi",
        "bench/adapters",
    ] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(&root).unwrap();
                let text = fs::read_to_string(&path).unwrap();
                found.insert(name.to_str().unwrap().to_owned(), text);
            }
        }
    }
    assert!(found.len() > 20, "{:?}", found.keys());
    found
}

/// The text of each file with tests.
fn runners() -> Vec<String> {
    let files = source_files(&root().join("tests/promises"));
    (files.iter().map(|file| fs::read_to_string(file).unwrap())).collect()
}

/// Whether the gate runs a command, perhaps with further options.
fn is_in_the_gate(command: &str) -> bool {
    let command = command.split(" #").next().unwrap_or_default();
    let is_it = |line: &str| {
        let mut words = line.split_whitespace();
        (command.split_whitespace()).all(|word| words.any(|other| other == word))
    };
    let mut gate = include_str!("../../.ci/run").lines();
    command.trim() == ".ci/run" || gate.any(|line| !line.starts_with('#') && is_it(line))
}

/// What is wrong with the mark of a block of commands, if something is.
fn wrong(page: &str, block: &Block, runners: &[String]) -> Option<String> {
    if block.language.is_empty() {
        return Some("a block needs a language".to_owned());
    }
    if block.language != "sh" {
        return None;
    }
    match block.mark.split_once('=') {
        Some(("not-tested", reason)) if reason.contains('-') => None,
        Some(("test", ".ci/run")) => (commands(block).iter())
            .find(|command| !is_in_the_gate(command))
            .map(|command| format!("`.ci/run` does not run `{command}`")),
        Some(("test", test)) => {
            let declared = format!("fn {test}()");
            let reads = format!("../{page}\"");
            let is_run =
                (runners.iter()).any(|text| text.contains(&declared) && text.contains(&reads));
            (!is_run).then(|| format!("no test `{test}` is in a file that reads the page"))
        }
        _ => Some("`sh` needs `test=NAME` or `not-tested=the-reason`".to_owned()),
    }
}

#[test]
fn every_block_of_commands_is_run_by_a_test_or_says_why_not() {
    let runners = runners();
    let mut all = Vec::new();
    for (page, text) in pages() {
        for block in blocks(&text) {
            if let Some(wrong) = wrong(&page, &block, &runners) {
                all.push(format!("{page}: {wrong}: {}", block.text));
            }
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn every_decision_has_its_status_its_date_and_its_alternatives() {
    let pages = pages();
    let is_record = |name: &&String| name.starts_with("docs/adr/0");
    let index = &pages["docs/adr/README.md"];
    for name in pages.keys().filter(is_record) {
        let page = &pages[name];
        for part in [
            "\nStatus: ",
            "\nDate: 20",
            "\n## Context\n",
            "\n## Decision\n",
            "\n## Alternatives\n",
            "\n## Consequences\n",
        ] {
            assert!(page.contains(part), "{name} lacks {part}");
        }
        let file = name.trim_start_matches("docs/adr/");
        assert!(index.contains(file), "docs/adr/README.md lacks {name}");
    }
}

/// A row names files, each with its tests behind a colon.
#[test]
fn every_test_that_the_security_policy_names_exists() {
    let mut count = 0;
    for row in include_str!("../../SECURITY.md").lines() {
        let before = count;
        let mut text = String::new();
        for name in row.split('`').skip(1).step_by(2) {
            let path = root().join(name);
            if name.ends_with(".rs") {
                text = fs::read_to_string(&path).unwrap_or_else(|_| panic!("no {name}"));
            } else if !text.is_empty() {
                assert!(text.contains(&format!("fn {name}(")), "no test {name}");
                count += 1;
            }
        }
        let is_threat = row.matches(" | ").count() == 3 && !row.starts_with("| attacker");
        assert!(!is_threat || count > before, "{row} names no test");
    }
    assert!(count > 50, "{count}");
}

#[test]
fn every_setting_of_the_relay_is_on_the_page_of_settings() {
    let code = include_str!("../../relay/src/config.rs");
    let (code, _) = code.split_once("#[cfg(test)]").unwrap();
    let is_name = |text: &&str| {
        text.len() > 4
            && (text.bytes()).all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
    };
    let names: Vec<_> = code.split('"').skip(1).step_by(2).filter(is_name).collect();
    assert!(names.len() > 20, "{names:?}");
    let page = include_str!("../../docs/settings.md");
    for name in names {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/settings.md lacks {name}"
        );
    }
}

#[test]
fn the_worked_example_of_the_receivers_page_is_right() {
    let blocks = blocks(include_str!("../../docs/receivers.md"));
    let example = blocks
        .iter()
        .find(|block| block.text.starts_with("secret "));
    let fields: BTreeMap<_, _> = (example.unwrap().text.lines())
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name, value.trim()))
        .collect();
    let [secret, id, timestamp, body] =
        ["secret", "webhook-id", "webhook-timestamp", "body"].map(|name| fields[name]);
    let secrets = [Secret::parse(secret).unwrap()];
    let signature = sign(&secrets, id, timestamp.parse().unwrap(), body.as_bytes());
    assert_eq!(signature, fields["webhook-signature"]);
    assert_eq!(receipt(&secrets, id, timestamp), fields["webhook-receipt"]);
}

#[test]
fn the_readme_has_at_most_900_words() {
    let words = include_str!("../../README.md").split_whitespace().count();
    assert!(words <= 900, "{words}");
}

#[tokio::test]
async fn the_settings_in_the_agents_readme_are_accepted() {
    let home = Home::new();
    let page = include_str!("../../edge-agent/README.md");
    let blocks = blocks(page);
    let settings = blocks.iter().find(|block| block.language == "toml");
    home.write("edge-agent.toml", &settings.unwrap().text);
    // A file that is wrong is refused with 2; an agent that does not run, with 3.
    run(&home, &["status"]).await.exits(3);
    home.write("edge-agent.toml", "tunnle = 'auto'");
    run(&home, &["status"]).await.exits(2);
}

#[test]
fn the_relay_on_one_machine_is_as_the_readme_says() {
    let page = include_str!("../../README.md");
    let command = commands_for(page, "the_relay_on_one_machine_is_as_the_readme_says").remove(0);
    let program = env!("CARGO_BIN_EXE_edge");
    let command = command
        .replace("<secret>", "a-secret-of-enough-characters")
        .replace(
            "cargo run --release -p local --",
            &format!("exec {program}"),
        );
    let directory = tempfile::tempdir().unwrap();
    let mut relay = Command::new("sh")
        .args(["-c", &format!("{command} --listen 127.0.0.1:0")])
        .env("XDG_DATA_HOME", directory.path())
        .env("HOME", directory.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(relay.stderr.take().unwrap()).lines();
    let url = said.find_map(|line| {
        let line = line.unwrap();
        let (_, url) = line.split_once("  agents    ")?;
        Some(url.to_owned())
    });
    let health = |url: &str| {
        let mut command = Command::new(program);
        let done = command.args(["health-check", "--relay", url]).output();
        done.unwrap().status.code()
    };
    let url = url.expect("it says where it listens");
    assert_eq!(health(&url), Some(0));
    terminate(relay.id());
    said.for_each(drop);
    assert!(relay.wait().unwrap().success());
    assert_eq!(health(&url), Some(1));
}
