//! Reads the body of a definition and checks property names and JSON types (Dataverse facts §17).
//!
//! Invalid bodies are payload errors, as with rows: 400 / 0x80048d19 (inferred).

use serde_json::{Map, Value};

use super::super::operation::Operation;
use super::super::refusal::Refusal;
use super::super::rows;
use super::super::schema::Labels;
use super::forms::NAMESPACE;
use super::properties::{self, Name};

const SET: &str = "EntityDefinitions";

/// The fields of one definition, with their names already checked against its type.
#[derive(Debug, Clone)]
pub(crate) struct Body(Map<String, Value>);

fn payload(detail: String) -> Refusal {
    Refusal::payload(SET, detail)
}

impl Body {
    /// Reads a definition of type `kind` from the body of a request.
    pub(crate) fn of(operation: &Operation, kind: &str) -> Result<Self, Refusal> {
        Self::read(rows::body(SET, operation)?, kind)
    }

    /// Reads a definition of type `kind` from JSON.
    ///
    /// Fails if `value` is not an object, names another type, or has a property that `kind` does
    /// not define.
    pub(crate) fn read(value: Value, kind: &str) -> Result<Self, Refusal> {
        let Value::Object(fields) = value else {
            return Err(payload("a definition is not a JSON object.".to_owned()));
        };
        if let Some(named) = type_of(&fields)
            && named != kind
        {
            return Err(payload(format!("the type '{named}' is not '{kind}'.")));
        }
        let unknown = |name: &&String| {
            !name.contains('@') && properties::name(kind, name.as_str()) == Name::Unknown
        };
        if let Some(name) = fields.keys().find(unknown) {
            return Err(payload(format!(
                "The property '{name}' does not exist on type '{NAMESPACE}{kind}'. Make sure to only use property \
                 names that are defined by the type."
            )));
        }
        Ok(Self(fields))
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn typed<'b, T>(
        &'b self,
        name: &str,
        read: impl Fn(&'b Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.field(name) else {
            return Ok(None);
        };
        let wrong = || {
            payload(format!(
                "'{name}' cannot be converted to the expected type."
            ))
        };
        read(value).map(Some).ok_or_else(wrong)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        self.typed(name, Value::as_str)
    }

    /// Returns a text that the definition must have. The code of the error (0x80040200) is
    /// inferred.
    pub(crate) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        self.typed(name, Value::as_bool)
    }

    pub(crate) fn size(&self, name: &str) -> Result<Option<usize>, Refusal> {
        self.typed(name, |value| usize::try_from(value.as_u64()?).ok())
    }

    /// Returns the text inside a `{"Value": …}` object.
    pub(crate) fn wrapped(&self, name: &str) -> Result<Option<&str>, Refusal> {
        self.typed(name, |value| value.get("Value")?.as_str())
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let texts = self.typed(name, |value| {
            let texts = value.as_array()?.iter();
            texts
                .map(|text| text.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        })?;
        texts.ok_or_else(|| missing(name))
    }

    pub(crate) fn list(&self, name: &str) -> Result<Vec<Value>, Refusal> {
        Ok(self
            .typed(name, |value| value.as_array().cloned())?
            .unwrap_or_default())
    }

    /// Returns the texts of a `Label` by language code.
    pub(crate) fn labels(&self, name: &str) -> Result<Option<Labels>, Refusal> {
        self.typed(name, |value| {
            let labels = value.get("LocalizedLabels")?.as_array()?.iter();
            let read = |label: &Value| {
                let language = label.get("LanguageCode")?.as_i64()?;
                Some((language, label.get("Label")?.as_str()?.to_owned()))
            };
            labels.map(read).collect::<Option<Labels>>()
        })
    }

    /// Returns the labels after a change: the ones in the body. With `MSCRM.MergeLabels: true`, the
    /// old labels of other languages are kept too.
    pub(crate) fn new_labels(
        &self,
        name: &str,
        old: &Labels,
        operation: &Operation,
    ) -> Result<Labels, Refusal> {
        let mut labels = self.labels(name)?.unwrap_or_default();
        let merge = operation.header("mscrm.mergelabels");
        if merge.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            let sent: Vec<i64> = labels.iter().map(|(language, _)| *language).collect();
            let kept = old.iter().filter(|(language, _)| !sent.contains(language));
            labels.extend(kept.cloned());
        }
        Ok(labels)
    }
}

/// Returns the type in `@odata.type`, without the namespace.
pub(crate) fn type_of(fields: &Map<String, Value>) -> Option<&str> {
    let named = fields.get("@odata.type")?.as_str()?;
    let named = named.trim_start_matches('#');
    Some(named.strip_prefix(NAMESPACE).unwrap_or(named))
}

pub(crate) fn missing(name: &str) -> Refusal {
    Refusal::new(
        400,
        "0x80040200",
        format!("Required field missing: {name}."),
    )
}
