//! What an API server does with an object and a structural schema: it reports what is wrong, and drops the fields that it does not know.
//!
//! Only what our schemas use is here; anything else in a schema is a panic, so that nothing goes unchecked.

use k8s_openapi::jiff::Timestamp;
use regex::Regex;
use serde_json::{Map, Value};

/// What became of an object.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What is wrong, each with its path.
    pub(crate) errors: Vec<String>,
    /// Paths of unknown fields.
    pub(crate) dropped: Vec<String>,
}

/// Checks `object` as a whole, and as the successor of `old` if there is one.
pub(crate) fn check(schema: &Value, object: &Value, old: Option<&Value>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut object = object.clone();
    // The server knows these without being told.
    for known in ["apiVersion", "kind", "metadata"] {
        object.as_object_mut().expect("an object must be a map").remove(known);
    }
    outcome.value("", schema.as_object().unwrap(), &object, old);
    outcome
}

impl Outcome {
    fn value(&mut self, path: &str, schema: &Map<String, Value>, value: &Value, old: Option<&Value>) {
        if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
            return;
        }
        let kind = schema["type"].as_str().unwrap();
        let fits = match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            _ => panic!("{path}: unknown type {kind}"),
        };
        if !fits {
            // A server drops a null where none may be.
            return if value.is_null() { self.dropped.push(path.to_owned()) } else { self.errors.push(format!("{path}: is no {kind}")) };
        }
        for (keyword, limit) in schema {
            self.keyword(path, schema, (keyword, limit), value, old);
        }
    }

    fn keyword(&mut self, path: &str, schema: &Map<String, Value>, (keyword, limit): (&str, &Value), value: &Value, old: Option<&Value>) {
        let chars = || value.as_str().unwrap().chars().count() as u64;
        let number = || (value.as_f64().unwrap(), limit.as_f64().unwrap());
        let ok = match keyword {
            "type" | "description" | "title" | "default" | "nullable" | "x-kubernetes-list-type" => true,
            "properties" => return self.properties(path, limit.as_object().unwrap(), value.as_object().unwrap(), old),
            "items" => {
                for (i, item) in value.as_array().unwrap().iter().enumerate() {
                    self.value(&format!("{path}[{i}]"), limit.as_object().unwrap(), item, None);
                }
                true
            }
            "required" => limit.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "enum" => limit.as_array().unwrap().contains(value),
            "minLength" => chars() >= limit.as_u64().unwrap(),
            "maxLength" => chars() <= limit.as_u64().unwrap(),
            "minimum" => number().0 >= number().1,
            "maximum" => number().0 <= number().1,
            "format" => match limit.as_str().unwrap() {
                "date-time" => value.as_str().unwrap().parse::<Timestamp>().is_ok(),
                "int32" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
                "int64" => value.is_i64(),
                format => panic!("{path}: unknown format {format}"),
            },
            "x-kubernetes-list-map-keys" => {
                let keys =
                    |item: &Value| limit.as_array().unwrap().iter().map(|key| item[key.as_str().unwrap()].clone()).collect::<Vec<_>>();
                let all: Vec<_> = value.as_array().unwrap().iter().map(keys).collect();
                all.iter().enumerate().all(|(i, key)| !all[..i].contains(key))
            }
            "x-kubernetes-validations" => return self.rules(path, limit, value, old),
            _ => panic!("{path}: unknown keyword {keyword} in {schema:?}"),
        };
        if !ok {
            self.errors.push(format!("{path}: {keyword} {limit}"));
        }
    }

    fn properties(&mut self, path: &str, known: &Map<String, Value>, fields: &Map<String, Value>, old: Option<&Value>) {
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            match known.get(name) {
                Some(schema) => self.value(&path, schema.as_object().unwrap(), value, old.and_then(|old| old.get(name))),
                None => self.dropped.push(path),
            }
        }
    }

    /// The two forms of rules that our schemas have.
    fn rules(&mut self, path: &str, rules: &Value, value: &Value, old: Option<&Value>) {
        for rule in rules.as_array().unwrap() {
            let text = rule["rule"].as_str().unwrap();
            let ok = match text.strip_prefix("self.matches(r'").and_then(|rest| rest.strip_suffix("')")) {
                Some(pattern) => Regex::new(pattern).unwrap().is_match(value.as_str().unwrap()),
                None if text == "self == oldSelf" => old.is_none_or(|old| old == value),
                None => panic!("{path}: unknown rule {text}"),
            };
            if !ok {
                self.errors.push(format!("{path}: {}", rule["message"].as_str().unwrap()));
            }
        }
    }
}
