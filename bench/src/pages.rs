//! The pages: templates in `bench/pages`, filled from what was measured.

use minijinja::value::ValueKind;
use minijinja::{Environment, Value};

use crate::format::{grouped, ms};
use crate::whole_way::System;

const TEMPLATES: [(&str, &str); 2] = [
    ("results", include_str!("../pages/results.md")),
    ("scale", include_str!("../pages/scale.md")),
];

fn whole(value: f64) -> String {
    grouped(value.round() as usize)
}

/// To three digits where it is small.
fn number(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else {
        whole(value)
    }
}

fn percent(part: f64) -> String {
    let percent = part * 100.0;
    if percent < 10.0 {
        format!("{percent:.1} %")
    } else {
        format!("{} %", whole(percent))
    }
}

/// To the cent, and smaller sums to two digits.
fn dollars(sum: f64) -> String {
    if sum < 0.1 {
        format!("${sum:.3}")
    } else {
        format!("${sum:.2}")
    }
}

/// The sum of a map's values.
fn total(values: &Value) -> Result<f64, minijinja::Error> {
    let mut sum = 0.0;
    if values.kind() == ValueKind::Map {
        for key in values.try_iter()? {
            sum += f64::try_from(values.get_item(&key)?)?;
        }
    }
    Ok(sum)
}

fn system(name: &str) -> &'static str {
    let system = serde_json::from_value(name.into());
    system.map_or("unknown", |system: System| system.name())
}

/// Fills a template.
pub(crate) fn render(template: &str, context: Value) -> anyhow::Result<String> {
    let mut pages = Environment::new();
    pages.set_trim_blocks(true);
    pages.set_lstrip_blocks(true);
    pages.set_keep_trailing_newline(true);
    pages.add_filter("grouped", whole);
    pages.add_filter("ms", ms);
    pages.add_filter("kb", |bytes: u64| format!("{} KB", bytes / 1024));
    pages.add_filter("fixed", |value: f64, digits: usize| {
        format!("{value:.digits$}")
    });
    pages.add_filter("plain", |value: f64| value.to_string());
    pages.add_filter("number", number);
    pages.add_filter("percent", percent);
    pages.add_filter("dollars", dollars);
    pages.add_filter("total", |values: Value| total(&values));
    pages.add_filter("system", |name: String| system(&name));
    for (name, text) in TEMPLATES {
        pages.add_template(name, text)?;
    }
    Ok(pages.get_template(template)?.render(context)?)
}
