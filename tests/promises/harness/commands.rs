//! The commands in a page of the documentation.

/// The commands in a page's blocks and, of these programs, in its text, as a shell takes them, in the page's order.
pub(crate) fn of(page: &str, programs: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            block = match block {
                // A block in another language has its name there.
                None if line == "```" => Some(String::new()),
                None => Some("\u{0}".to_owned()),
                Some(_) => None,
            };
            continue;
        }
        match &mut block {
            Some(skipped) if skipped == "\u{0}" => {}
            Some(command) => {
                command.push_str(line.trim_end_matches('\\'));
                if !line.ends_with('\\') && !command.is_empty() {
                    found.push(std::mem::take(command));
                }
            }
            None => {
                let spans = line.split('`').skip(1).step_by(2);
                let is_command = |span: &&str| {
                    let program = span.split(' ').next().unwrap_or_default();
                    span.contains(' ') && programs.contains(&program)
                };
                found.extend(spans.filter(is_command).map(str::to_owned));
            }
        }
    }
    found.retain(|command| !command.starts_with('#'));
    found
}

#[test]
fn commands_are_found_in_blocks_and_in_the_text() {
    let page = "Do `aws a b` or `aws`.\n\n   ```\n   # Why:\n   aws c \\\n     --d\n   sam e\n   ```\n```toml\nx = 1\n```\n";
    assert_eq!(of(page, &["aws"]), ["aws a b", "aws c --d", "sam e"]);
}
