//! The pages: templates in `bench/pages`, filled from what was measured.

use minijinja::{Environment, Value};

use crate::whole_way::System;

/// `tables.md` has the macros that two of the pages share.
const TEMPLATES: [(&str, &str); 4] = [
    (
        "compare",
        concat!(
            include_str!("../pages/tables.md"),
            include_str!("../pages/compare.md")
        ),
    ),
    ("figures", include_str!("../pages/figures.md")),
    (
        "results",
        concat!(
            include_str!("../pages/tables.md"),
            include_str!("../pages/results.md")
        ),
    ),
    ("scale", include_str!("../pages/scale.md")),
];

/// Milliseconds, to three digits.
fn ms(value: f64) -> String {
    let decimals = usize::from(value < 10.0) + usize::from(value < 100.0);
    format!("{value:.decimals$}")
}

/// A ratio, to at least two digits unless it is tiny.
fn times(ratio: f64) -> String {
    let decimals = match ratio {
        _ if ratio < 0.1 => 3,
        _ if ratio < 1.0 => 2,
        _ if ratio < 10.0 => 1,
        _ => 0,
    };
    format!("{ratio:.decimals$} times")
}

/// With commas between thousands.
pub(crate) fn grouped(number: usize) -> String {
    match number / 1_000 {
        0 => number.to_string(),
        thousands => format!("{},{:03}", grouped(thousands), number % 1_000),
    }
}

/// Fills a template.
pub(crate) fn render(template: &str, context: Value) -> anyhow::Result<String> {
    let mut pages = Environment::new();
    pages.set_trim_blocks(true);
    pages.set_lstrip_blocks(true);
    pages.set_keep_trailing_newline(true);
    pages.add_filter("grouped", |value: f64| grouped(value.round() as usize));
    pages.add_filter("ms", ms);
    pages.add_filter("kb", |bytes: u64| format!("{} KB", bytes / 1024));
    pages.add_filter("fixed", |value: f64, digits: usize| {
        format!("{value:.digits$}")
    });
    // Empty where a figure was not measured.
    pages.add_filter("times", |ratio: Option<f64>| {
        ratio.map(times).unwrap_or_default()
    });
    pages.add_filter("plain", |value: f64| value.to_string());
    pages.add_filter("system", |name: String| {
        System::of(&name).map_or(name, |system| system.name().to_owned())
    });
    for (name, text) in TEMPLATES {
        pages.add_template(name, text)?;
    }
    Ok(pages.get_template(template)?.render(context)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_shown_as_people_read_it() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!([ms(3.456), ms(34.56), ms(345.6)], ["3.46", "34.6", "346"]);
        let ratios = [0.0123, 0.456, 2.14, 34.4].map(times);
        assert_eq!(
            ratios,
            ["0.012 times", "0.46 times", "2.1 times", "34 times"]
        );
    }
}
