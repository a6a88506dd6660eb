//! The translated template, with its parameters put in: what AWS would create.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// Where `.ci/run` puts the translation.
pub(crate) fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/deployed/translated.json")
}

/// The template, and what its references stand for.
pub(crate) struct Template {
    whole: Value,
    parameters: HashMap<String, Value>,
    /// What `Ref` of a resource answers, where it is not its logical id.
    physical: HashMap<String, String>,
    /// What `Fn::GetAtt` answers, by `<resource>.<attribute>`, where it is not that text.
    attributes: HashMap<String, String>,
}

impl Template {
    /// As `.ci/run` has translated it, with the parameters' defaults.
    pub(crate) fn read() -> Self {
        let path = path();
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{path:?}: {error}: `.ci/run` translates the template"));
        let whole: Value = serde_json::from_str(&text).unwrap();
        let mut parameters: HashMap<_, _> = [
            ("AWS::StackName", "edge-relay"),
            ("AWS::Region", "us-east-1"),
            ("AWS::AccountId", "000000000000"),
            ("AWS::Partition", "aws"),
            ("AWS::URLSuffix", "amazonaws.com"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
        for (name, parameter) in whole["Parameters"].as_object().unwrap() {
            parameters.insert(name.clone(), parameter["Default"].clone());
        }
        Self {
            whole,
            parameters,
            physical: HashMap::new(),
            attributes: HashMap::new(),
        }
    }

    /// Gives a parameter another value.
    pub(crate) fn set(&mut self, parameter: &str, value: impl Into<Value>) {
        let had = self.parameters.insert(parameter.to_owned(), value.into());
        assert!(had.is_some(), "there is no parameter `{parameter}`");
    }

    /// Gives a function's setting another value.
    pub(crate) fn set_variable(&mut self, function: &str, name: &str, value: impl Into<Value>) {
        let properties = &mut self.whole["Resources"][resource(function)]["Properties"];
        let variable = &mut properties["Environment"]["Variables"][name];
        assert!(!variable.is_null(), "`{function}` has no `{name}`");
        *variable = value.into();
    }

    /// The names of all parameters.
    pub(crate) fn parameters(&self) -> Vec<String> {
        let parameters = self.whole["Parameters"].as_object().unwrap();
        parameters.keys().cloned().collect()
    }

    /// Says what `Ref` of a resource answers.
    pub(crate) fn refer(&mut self, resource: &str, physical: &str) {
        assert!(!self.raw(resource).is_null(), "{resource}");
        let (resource, physical) = (resource.to_owned(), physical.to_owned());
        self.physical.insert(resource, physical);
    }

    /// Says what an attribute of a resource, as `Table.Arn`, is.
    pub(crate) fn attribute(&mut self, name: &str, value: &str) {
        self.attributes.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn parameter(&self, name: &str) -> &Value {
        &self.whole["Parameters"][name]
    }

    /// The names of all resources of a type.
    pub(crate) fn named(&self, kind: &str) -> Vec<&str> {
        (self.whole["Resources"].as_object().unwrap().iter())
            .filter(|(_, resource)| resource["Type"] == kind)
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Whether a resource is made, with the parameters as they are set.
    pub(crate) fn is_there(&self, resource: &str) -> bool {
        let condition = self.raw(resource)["Condition"].as_str();
        condition.is_none_or(|name| self.holds(&self.whole["Conditions"][name]))
    }

    /// A resource as it stands, its references not followed.
    pub(crate) fn raw(&self, resource: &str) -> &Value {
        &self.whole["Resources"][resource]
    }

    /// A resource's properties, with every reference followed.
    pub(crate) fn properties(&self, resource: &str) -> Value {
        let raw = &self.raw(resource)["Properties"];
        assert!(raw.is_object(), "there is no `{resource}`");
        self.follow(raw).unwrap()
    }

    pub(crate) fn outputs(&self) -> Value {
        self.follow(&self.whole["Outputs"]).unwrap()
    }

    /// None where the template says `AWS::NoValue`.
    fn follow(&self, value: &Value) -> Option<Value> {
        Some(match value {
            Value::Array(all) => all.iter().filter_map(|one| self.follow(one)).collect(),
            Value::Object(fields) => match fields.iter().next() {
                Some((name, argument)) if fields.len() == 1 && is_function(name) => {
                    return self.call(name, argument);
                }
                _ => {
                    let followed: Map<_, _> = (fields.iter())
                        .filter_map(|(name, value)| Some((name.clone(), self.follow(value)?)))
                        .collect();
                    Value::Object(followed)
                }
            },
            plain => plain.clone(),
        })
    }

    fn call(&self, name: &str, argument: &Value) -> Option<Value> {
        match name {
            "Ref" if argument == "AWS::NoValue" => None,
            "Ref" => Some(self.reference(argument.as_str().unwrap())),
            "Fn::GetAtt" => {
                let parts: Vec<_> = match argument {
                    Value::Array(parts) => parts.iter().map(|p| p.as_str().unwrap()).collect(),
                    text => vec![text.as_str().unwrap()],
                };
                Some(self.get_attribute(&parts.join(".")).into())
            }
            "Fn::Sub" => {
                let (text, more) = match argument {
                    Value::Array(both) => (&both[0], self.follow(&both[1])?),
                    text => (text, json!({})),
                };
                Some(self.substitute(text.as_str().unwrap(), &more).into())
            }
            "Fn::If" => {
                let holds = self.holds(&self.whole["Conditions"][argument[0].as_str().unwrap()]);
                self.follow(&argument[if holds { 1 } else { 2 }])
            }
            other => panic!("`{other}` is not followed here"),
        }
    }

    fn reference(&self, name: &str) -> Value {
        if let Some(value) = self.parameters.get(name) {
            return value.clone();
        }
        assert!(!self.raw(name).is_null(), "`Ref` of `{name}`");
        self.physical.get(name).map_or(name, String::as_str).into()
    }

    fn get_attribute(&self, name: &str) -> String {
        let found = self.attributes.get(name).cloned();
        found.unwrap_or_else(|| name.to_owned())
    }

    fn substitute(&self, text: &str, more: &Value) -> String {
        let mut parts = text.split("${");
        let mut done = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (name, rest) = part.split_once('}').unwrap();
            let value = match &more[name] {
                Value::Null if name.contains('.') => self.get_attribute(name).into(),
                Value::Null => self.reference(name),
                value => value.clone(),
            };
            done.push_str(&as_text(&value));
            done.push_str(rest);
        }
        done
    }

    fn holds(&self, condition: &Value) -> bool {
        let (name, argument) = condition.as_object().unwrap().iter().next().unwrap();
        match name.as_str() {
            "Fn::Equals" => {
                // A number's text and the number are the same to CloudFormation.
                let text = |value: &Value| as_text(&self.follow(value).unwrap_or_default());
                text(&argument[0]) == text(&argument[1])
            }
            "Fn::Not" => !self.holds(&argument[0]),
            "Fn::And" => argument.as_array().unwrap().iter().all(|c| self.holds(c)),
            "Condition" => self.holds(&self.whole["Conditions"][argument.as_str().unwrap()]),
            other => panic!("`{other}` is not followed here"),
        }
    }
}

/// A value as the text that an environment or an attribute has.
pub(crate) fn as_text(value: &Value) -> String {
    (value.as_str()).map_or_else(|| value.to_string(), str::to_owned)
}

/// The address of a queue.
pub(crate) fn arn(queue: &str) -> String {
    format!("arn:aws:sqs:us-east-1:000000000000:{queue}")
}

/// The name of a function's resource.
pub(crate) fn resource(function: &str) -> String {
    let (first, rest) = function.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

/// A route of the API, by method and path as they stand in its body.
pub(crate) fn route_key(method: &str, path: &str) -> String {
    match method {
        "x-amazon-apigateway-any-method" => format!("ANY {path}"),
        method => format!("{} {path}", method.to_uppercase()),
    }
}

fn is_function(name: &str) -> bool {
    name == "Ref" || name.starts_with("Fn::")
}
