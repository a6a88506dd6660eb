//! Whom each of Linear's payloads concerns: its teams, its people, and the application that it is meant for.

use std::fs;
use std::path::Path;

use protocol::envelope::parse;

/// Every payload type of Linear's public GraphQL schema, and the samples. The identifiers are shortened.
#[test]
fn teams_people_and_applications_are_found_in_every_payload_type() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["cases/payloads", "../samples"] {
        for file in fs::read_dir(root.join(directory)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let body = fs::read_to_string(&path).unwrap();
            let audience = parse(&body).unwrap().audience;
            let short = |ids: &[std::borrow::Cow<'_, str>]| {
                let ids: Vec<_> = ids.iter().map(|id| id.get(..8).unwrap_or(id)).collect();
                ids.join(" ")
            };
            found.push(format!(
                "{} | {} | {} | {}",
                path.file_stem().unwrap().to_string_lossy(),
                short(&audience.teams),
                short(&audience.people),
                short(audience.application.as_slice()),
            ));
        }
    }
    found.sort();
    insta::assert_snapshot!(found.join("\n"));
}
