//! What may depend on what: by `cargo metadata`, so that it costs nothing to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

fn metadata() -> Metadata {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let mut lines = rustc.lines();
    let host = lines.find_map(|line| line.strip_prefix("host: ")).unwrap();
    // What this machine has built is there: nothing needs to be fetched.
    let options = ["--locked", "--offline", "--filter-platform", host].map(str::to_owned);
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .other_options(options)
        .exec()
        .unwrap()
}

fn package<'a>(metadata: &'a Metadata, member: &str) -> &'a Package {
    let mut members = metadata.workspace_packages().into_iter();
    members.find(|package| package.name == member).unwrap()
}

/// All that a member is built from for this machine, tests aside.
fn built_from<'a>(metadata: &'a Metadata, member: &str) -> BTreeSet<&'a str> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let nodes: BTreeMap<&PackageId, _> =
        resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let mut found = BTreeSet::new();
    let mut left = vec![&package(metadata, member).id];
    while let Some(id) = left.pop() {
        if found.insert(id) {
            let normal = nodes[id].deps.iter().filter(|dependency| {
                (dependency.dep_kinds.iter()).any(|kind| kind.kind != DependencyKind::Development)
            });
            left.extend(normal.map(|dependency| &dependency.pkg));
        }
    }
    let names = found.into_iter().map(|id| metadata[id].name.as_str());
    names.collect()
}

fn is_aws(name: &str) -> bool {
    "aws-sdk aws-config aws-smithy aws-sigv4 aws-credential aws-runtime aws-types aws_lambda lambda_"
        .split(' ')
        .any(|prefix| name.starts_with(prefix))
}

/// Each dependency with its features, when these are built.
fn with_features(built: &[&str]) -> BTreeSet<String> {
    let tree = Command::new("cargo")
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(["--format", "{p} {f}"])
        .args(built)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let lines = String::from_utf8(tree.stdout).unwrap();
    (lines.lines())
        .map(|line| line.trim_end_matches(" (*)").to_owned())
        .collect()
}

/// Who has seen the demo has compiled most of what the tests need.
#[test]
fn a_dependency_is_compiled_once_for_the_demo_and_for_the_tests() {
    let demo = with_features(&["--package", "local", "--edges", "normal,build"]);
    let tests = with_features(&["--workspace", "--edges", "normal,build,dev"]);
    assert!(demo.len() > 200, "{demo:?}");
    let twice: Vec<_> = demo.difference(&tests).collect();
    assert!(
        twice.is_empty(),
        "the tests have more features of these, which local/Cargo.toml has to name: {twice:?}"
    );
}

#[test]
fn every_week_and_with_each_change_dependencies_are_looked_up_among_the_vulnerable_ones() {
    let audit = include_str!("../../.github/workflows/audit.yml");
    for part in [
        "    - cron: \"17 5 * * 1\"\n",
        "paths: [Cargo.lock, deny.toml]",
        "- run: cargo deny --workspace check\n",
    ] {
        assert!(audit.contains(part), "audit.yml lacks {part}");
    }
    let rules = include_str!("../../deny.toml");
    assert!(rules.contains("[advisories]"), "{rules}");
}

#[test]
fn only_the_relay_and_the_one_machine_name_the_aws_sdk() {
    let metadata = metadata();
    for package in metadata.workspace_packages() {
        for dependency in &package.dependencies {
            let is_sdk = is_aws(&dependency.name) && !dependency.name.contains("lambda");
            let may = matches!(package.name.as_str(), "relay" | "local");
            let (name, named) = (&package.name, &dependency.name);
            assert!(!is_sdk || may, "`{name}` names `{named}`");
        }
    }
}

#[test]
fn the_agent_and_the_protocol_contain_no_aws_crate() {
    let metadata = metadata();
    for member in ["edge-agent", "protocol"] {
        let mut found = built_from(&metadata, member);
        found.retain(|name| is_aws(name));
        assert!(found.is_empty(), "`{member}` is built from {found:?}");
    }
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let members = metadata.workspace_packages();
    let members: BTreeSet<_> = members.iter().map(|p| p.name.as_str()).collect();
    let functions = ["ingest", "register", "deliver", "health"];
    for (member, allowed) in [
        ("fuzz", vec![]),
        ("protocol", vec![]),
        ("relay", vec!["protocol"]),
        ("ingest", vec!["relay", "protocol"]),
        ("register", vec!["relay", "protocol"]),
        ("deliver", vec!["relay", "protocol"]),
        ("health", vec!["relay", "protocol"]),
        ("edge-agent", vec!["protocol"]),
        (
            "local",
            [&["protocol", "relay", "edge-agent"], &functions[..]].concat(),
        ),
    ] {
        for dependency in &package(&metadata, member).dependencies {
            let name = dependency.name.as_str();
            // The fuzz targets are tests next to the code.
            let is_of_tests = name == "fuzz" && dependency.kind == DependencyKind::Development;
            let may = !members.contains(name) || allowed.contains(&name) || is_of_tests;
            assert!(may, "`{member}` names `{name}`");
        }
    }
}

#[test]
fn the_middle_names_no_lambda_axum_or_clap_and_a_function_no_rule_of_its_own() {
    let metadata = metadata();
    for dependency in &package(&metadata, "relay").dependencies {
        let name = dependency.name.as_str();
        let may = !name.contains("lambda") && !matches!(name, "axum" | "clap");
        assert!(may, "`relay` names `{name}`");
    }
}

#[test]
fn there_is_one_tls_stack_and_one_sqlite() {
    let metadata = metadata();
    let names: Vec<_> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    for banned in [
        "openssl",
        "openssl-sys",
        "native-tls",
        "aws-smithy-http-client-hyper-014",
    ] {
        assert!(!names.contains(&banned), "`{banned}` is in the tree");
    }
    for single in "rustls hyper rusqlite libsqlite3-sys reqwest tokio".split(' ') {
        let count = names.iter().filter(|name| **name == single).count();
        assert_eq!(count, 1, "`{single}`");
    }
    // rustls can be built with either; one is enough. `cargo metadata` lists what may be switched on, `cargo tree`
    // what is.
    let tree = Command::new(env!("CARGO"))
        .args("tree --workspace --edges normal,build --prefix none --locked --offline".split(' '))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.contains("\naws-lc-rs "));
    assert!(!tree.contains("\nring "));
}

#[test]
fn every_licence_is_one_that_lets_us_ship() {
    const ALLOWED: [&str; 14] = [
        "MIT",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "0BSD",
        "CC0-1.0",
        "Unlicense",
        "Unicode-3.0",
        "CDLA-Permissive-2.0",
        "MIT-0",
        "BSL-1.0",
    ];
    for package in &metadata().packages {
        let licence = package.license.as_deref().unwrap_or_default();
        let licence = licence.replace('/', " OR ");
        // An `OR` may be chosen from, an `AND` may not.
        let fits = licence.split(" AND ").all(|part| {
            let part = part.trim_matches(['(', ')', ' ']);
            part.split(" OR ")
                .any(|one| ALLOWED.contains(&one.trim_matches(['(', ')', ' '])))
        });
        assert!(fits, "`{}` is under `{licence}`", package.name);
    }
}

#[test]
fn everything_comes_from_the_one_registry_that_the_lock_file_names() {
    for package in metadata().packages {
        if let Some(source) = package.source {
            assert!(source.is_crates_io(), "{} is from {source}", package.name);
        }
    }
}

/// The oldest Rust itself is tried where it can be installed (`ci.yml`).
#[test]
fn no_dependency_needs_a_newer_rust_than_the_workspace_says() {
    let metadata = metadata();
    let ours = package(&metadata, "relay").rust_version.clone().unwrap();
    for package in &metadata.packages {
        if let Some(theirs) = &package.rust_version {
            assert!(*theirs <= ours, "{} needs Rust {theirs}", package.name);
        }
    }
}
