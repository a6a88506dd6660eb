//! A page of the documentation: its blocks, and the commands in them.
//!
//! A block of commands is ```` ```sh test=NAME ```` if the test NAME runs it, and ```` ```sh not-tested=REASON ```` if none can.

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) language: String,
    /// What stands after the language.
    pub(crate) mark: String,
    pub(crate) text: String,
}

/// The text outside of blocks, line by line, and the blocks.
pub(crate) enum Part {
    Line(String),
    Block(Block),
}

/// A page's parts, in order.
pub(crate) fn parts(page: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = page.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            parts.push(Part::Line(line.to_owned()));
            continue;
        };
        let (language, mark) = info.split_once(' ').unwrap_or((info, ""));
        let text: Vec<_> = (lines.by_ref())
            .take_while(|line| !line.starts_with("```"))
            .collect();
        parts.push(Part::Block(Block {
            language: language.to_owned(),
            mark: mark.to_owned(),
            text: text.join("\n"),
        }));
    }
    parts
}

/// A page's blocks, in order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let parts = parts(page).into_iter().filter_map(|part| match part {
        Part::Block(block) => Some(block),
        Part::Line(_) => None,
    });
    parts.collect()
}

/// The commands that a page says this test runs, one for each line.
pub(crate) fn commands_for(page: &str, test: &str) -> Vec<String> {
    let found: Vec<_> = blocks(page)
        .iter()
        .filter(|block| block.mark == format!("test={test}"))
        .flat_map(commands)
        .collect();
    assert!(!found.is_empty(), "the page has no block for `{test}`");
    found
}

/// The commands in a page's blocks that a test runs and, of these programs, in its text, as a shell takes them, in the page's order.
pub(crate) fn commands_of(page: &str, programs: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for part in parts(page) {
        match part {
            Part::Block(block) if block.mark.starts_with("test=") => found.extend(commands(&block)),
            Part::Block(_) => {}
            Part::Line(line) => {
                let spans = line.split('`').skip(1).step_by(2);
                let is_command = |span: &&str| {
                    let program = span.split(' ').next().unwrap_or_default();
                    span.contains(' ') && programs.contains(&program)
                };
                found.extend(spans.filter(is_command).map(str::to_owned));
            }
        }
    }
    found
}

/// The commands of a block: lines, of which one that ends with a backslash goes on in the next.
pub(crate) fn commands(block: &Block) -> Vec<String> {
    let text = block.text.replace("\\\n", "");
    (text.lines())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn commands_are_found_in_blocks_and_in_the_text() {
    let page = "Do `aws a b` or `aws`.\n\n   ```sh test=t\n   # Why:\n   aws c \\\n     --d\n   sam e\n   ```\n```toml\nx = 1\n```\n";
    assert_eq!(
        commands_of(page, &["aws"]),
        ["aws a b", "aws c --d", "sam e"]
    );
    assert_eq!(commands_for(page, "t"), ["aws c --d", "sam e"]);
}
