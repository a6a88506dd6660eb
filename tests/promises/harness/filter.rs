//! The metric filters of the template, evaluated against log lines as CloudWatch does it.
//!
//! Source: the CloudWatch Logs User Guide, "Filter pattern syntax for metric filters". Only what the template uses is known here;
//! anything else panics.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::template::Template;

/// A metric filter of the log of one function.
pub(crate) struct Filter {
    pub(crate) function: String,
    pub(crate) pattern: String,
    pub(crate) namespace: String,
    pub(crate) metric: String,
    /// A number, or the field that has it, as `$.field`.
    pub(crate) value: String,
    pub(crate) unit: String,
    /// The field of each dimension, as `$.field`.
    pub(crate) dimensions: BTreeMap<String, String>,
    pub(crate) has_default: bool,
}

/// A value of a metric.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sample {
    pub(crate) metric: String,
    pub(crate) dimensions: BTreeMap<String, String>,
    pub(crate) value: i64,
}

impl Filter {
    /// All filters of a template.
    pub(crate) fn all(template: &Template) -> Vec<Self> {
        let names = template.named("AWS::Logs::MetricFilter");
        (names.into_iter())
            .map(|name| Self::read(&template.properties(name)))
            .collect()
    }

    fn read(properties: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        // CloudWatch allows one.
        let [metric] = properties["MetricTransformations"]
            .as_array()
            .unwrap()
            .as_slice()
        else {
            panic!("{properties}");
        };
        let group = text(&properties["LogGroupName"]);
        let dimensions = metric["Dimensions"].as_array().into_iter().flatten();
        Self {
            function: group.strip_suffix("Logs").unwrap().to_lowercase(),
            pattern: text(&properties["FilterPattern"]),
            namespace: text(&metric["MetricNamespace"]),
            metric: text(&metric["MetricName"]),
            value: text(&metric["MetricValue"]),
            unit: text(&metric["Unit"]),
            dimensions: dimensions
                .map(|dimension| (text(&dimension["Key"]), text(&dimension["Value"])))
                .collect(),
            has_default: !metric["DefaultValue"].is_null(),
        }
    }

    /// What the filter takes from a line.
    pub(crate) fn sample(&self, line: &Value) -> Option<Sample> {
        if !matches(&self.pattern, line) {
            return None;
        }
        let value = match self.value.starts_with('$') {
            true => field(&self.value, line).as_i64()?,
            false => self.value.parse().unwrap(),
        };
        // A dimension is left out if the line does not have its field.
        let dimensions = self.dimensions.iter().filter_map(|(name, selector)| {
            let value = field(selector, line).as_str()?;
            Some((name.clone(), value.to_owned()))
        });
        Some(Sample {
            metric: self.metric.clone(),
            dimensions: dimensions.collect(),
            value,
        })
    }
}

/// Whether a line matches a pattern: conditions in braces, of which `&&` binds before `||`.
fn matches(pattern: &str, line: &Value) -> bool {
    let conditions = pattern
        .strip_prefix("{ ")
        .and_then(|rest| rest.strip_suffix(" }"));
    let conditions = conditions.unwrap_or_else(|| panic!("{pattern}"));
    (conditions.split(" || ")).any(|all| all.split(" && ").all(|one| holds(one, line)))
}

/// Whether a line meets a condition: `$.field >= 0`, or `$.field = "text"`, where `"*"` is any text.
fn holds(condition: &str, line: &Value) -> bool {
    let parts: Vec<&str> = condition.splitn(3, ' ').collect();
    let [selector, operator, operand] = parts[..] else {
        panic!("{condition}");
    };
    let value = field(selector, line);
    match operator {
        ">=" => {
            let least: i64 = operand.parse().unwrap();
            value.as_i64().is_some_and(|value| value >= least)
        }
        "=" => {
            let text = operand.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
            let text = text.unwrap_or_else(|| panic!("{condition}"));
            value
                .as_str()
                .is_some_and(|value| text == "*" || value == text)
        }
        _ => panic!("{condition}"),
    }
}

fn field<'a>(selector: &str, line: &'a Value) -> &'a Value {
    &line[selector.strip_prefix("$.").unwrap()]
}

#[test]
fn a_pattern_matches_what_its_conditions_say() {
    let line = json!({"latency": 0, "outcome": "gone", "reason": null});
    for pattern in [
        r#"{ $.latency >= 0 }"#,
        r#"{ $.outcome = "*" }"#,
        r#"{ $.outcome = "gone" && $.latency >= 0 }"#,
        r#"{ $.latency >= 1 && $.outcome = "gone" || $.outcome = "gone" }"#,
    ] {
        assert!(matches(pattern, &line), "{pattern}");
    }
    for pattern in [
        r#"{ $.latency >= 1 }"#,
        r#"{ $.attempt >= 0 }"#,
        r#"{ $.latency = "*" }"#,
        r#"{ $.reason = "*" }"#,
        r#"{ $.outcome >= 0 }"#,
        r#"{ $.outcome = "delivered" || $.outcome = "gone" && $.latency >= 1 }"#,
    ] {
        assert!(!matches(pattern, &line), "{pattern}");
    }
}
