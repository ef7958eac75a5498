//! The query parameters of a call (Nylas facts §1 and §15).

use std::collections::HashMap;

use serde_json::{Map, Value};
use url::form_urlencoded;

use super::reply::Failure;

/// The parameters by name. If a parameter is repeated, its last value counts.
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn read(text: &str) -> Self {
        Self(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// Returns a parameter's value; `None` if it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Returns `limit`. Above the maximum it is rejected; what Nylas does then is *unknown*.
    pub(crate) fn limit(&self, default: usize, most: usize) -> Result<usize, Failure> {
        let Some(text) = self.get("limit") else {
            return Ok(default);
        };
        match text.parse() {
            Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
            _ => Err(Failure::invalid(format!(
                "limit must be a number from 1 to {most}"
            ))),
        }
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Failure> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| Failure::invalid(format!("{name} must be Unix seconds")))
        };
        self.get(name).map(parse).transpose()
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, Failure> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| Failure::invalid(format!("{name} must be true or false")))
        };
        self.get(name).map(parse).transpose()
    }

    /// Keeps only the top-level fields that `select` names: if it omits `id`, the answer has no id.
    pub(crate) fn select(&self, object: Map<String, Value>) -> Value {
        let Some(select) = self.get("select") else {
            return Value::Object(object);
        };
        let names: Vec<&str> = select.split(',').map(str::trim).collect();
        Value::Object(
            object
                .into_iter()
                .filter(|(name, _)| names.contains(&name.as_str()))
                .collect(),
        )
    }
}
