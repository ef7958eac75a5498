//! Applies query options to definitions: `$select`, one level of `$expand`, and a `$filter` of
//! comparisons.
//!
//! The service does not support `contains`, `startswith` and `endswith` here: 501 / 0x8006088A
//! (Dataverse facts §14, which leave open whether the code is 0x80060888).

use serde_json::{Map, Value, json};

use super::super::filter::{self, Filter, Literal, Operator};
use super::super::operation::Answer;
use super::super::options::Options;
use super::super::refusal::Refusal;
use super::properties::{self, Name, queried};

/// A rendered definition and the navigations that a query can expand.
pub(crate) struct Form {
    pub(crate) value: Value,
    /// Name, type and content of each navigation. If the content is an array, the navigation is a
    /// collection.
    pub(crate) expandable: Vec<(&'static str, &'static str, Value)>,
}

impl Form {
    pub(crate) fn plain(value: Value) -> Self {
        Self {
            value,
            expandable: Vec::new(),
        }
    }
}

/// Answers with one definition. `kind` is the type that its property names are checked against.
pub(crate) fn one(form: Form, kind: &str, options: &Options) -> Result<Answer, Refusal> {
    check(kind, options)?;
    Ok(Answer::json(200, shown(form, options)?))
}

/// Answers with a list of definitions. `kind` is the type that property names are checked against.
pub(crate) fn list(forms: Vec<Form>, kind: &str, options: &Options) -> Result<Answer, Refusal> {
    let mut forms = page(forms, kind, options)?;
    if let Some(top) = options.top {
        forms.truncate(top);
    }
    let mut body = Map::new();
    if options.count {
        body.insert("@odata.count".to_owned(), json!(forms.len()));
    }
    body.insert("value".to_owned(), Value::Array(forms));
    Ok(Answer::json(200, Value::Object(body)))
}

fn page(forms: Vec<Form>, kind: &str, options: &Options) -> Result<Vec<Value>, Refusal> {
    check(kind, options)?;
    if !options.order.is_empty() || options.skip_token.is_some() {
        return Err(Refusal::query("Definitions are neither sorted nor paged."));
    }
    // The name of the enumeration may precede its value.
    let text = options
        .filter
        .as_ref()
        .map(|text| text.replace("Microsoft.Dynamics.CRM.AttributeTypeCode'", "'"));
    let filter = text
        .map(|text| filter::parse(&text, &options.aliases))
        .transpose()?;
    if let Some(filter) = &filter {
        check_filter(kind, filter)?;
    }
    let wanted = |form: &Form| {
        filter
            .as_ref()
            .is_none_or(|filter| holds(filter, &form.value))
    };
    let forms = forms.into_iter().filter(wanted);
    forms.map(|form| shown(form, options)).collect()
}

fn check(kind: &str, options: &Options) -> Result<(), Refusal> {
    for name in options.select.iter().flatten() {
        queried(kind, name)?;
    }
    for expand in &options.expand {
        match properties::name(kind, &expand.name) {
            Name::Navigation => {}
            _ => queried(kind, &expand.name)?,
        }
    }
    Ok(())
}

fn check_filter(kind: &str, filter: &Filter) -> Result<(), Refusal> {
    match filter {
        Filter::Any(parts) | Filter::All(parts) => {
            parts.iter().try_for_each(|part| check_filter(kind, part))
        }
        Filter::Not(part) => check_filter(kind, part),
        Filter::Compare { property, .. } if property.contains('/') => {
            Err(Refusal::not_imitated("paths in a condition on definitions"))
        }
        Filter::Compare { property, .. } => queried(kind, property),
        Filter::Match { .. } | Filter::In { .. } => Err(Refusal::new(
            501,
            "0x8006088A",
            "The function is not supported on metadata entities.",
        )),
    }
}

fn holds(filter: &Filter, form: &Value) -> bool {
    match filter {
        Filter::Any(parts) => parts.iter().any(|part| holds(part, form)),
        Filter::All(parts) => parts.iter().all(|part| holds(part, form)),
        Filter::Not(part) => !holds(part, form),
        Filter::Compare {
            property,
            operator,
            value,
        } => {
            let stored = match form.get(property) {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => "null".to_owned(),
            };
            // Texts are compared with case (inferred).
            let (Literal::Text(wanted) | Literal::Bare(wanted)) = value;
            let order = match (stored.parse::<f64>(), wanted.parse::<f64>()) {
                (Ok(stored), Ok(wanted)) => stored.partial_cmp(&wanted),
                _ => Some(stored.as_str().cmp(wanted)),
            };
            match (operator, order) {
                (Operator::Eq, Some(order)) => order.is_eq(),
                (Operator::Ne, Some(order)) => order.is_ne(),
                (Operator::Gt, Some(order)) => order.is_gt(),
                (Operator::Ge, Some(order)) => order.is_ge(),
                (Operator::Lt, Some(order)) => order.is_lt(),
                (Operator::Le, Some(order)) => order.is_le(),
                (_, None) => false,
            }
        }
        Filter::Match { .. } | Filter::In { .. } => false,
    }
}

fn shown(form: Form, options: &Options) -> Result<Value, Refusal> {
    let Value::Object(fields) = form.value else {
        return Ok(form.value);
    };
    // The id is always returned, as the key of a row is.
    let kept = |name: &String| {
        let names = options.select.as_ref();
        names.is_none_or(|names| {
            names.contains(name) || name.starts_with('@') || name == "MetadataId"
        })
    };
    let mut fields: Map<String, Value> =
        fields.into_iter().filter(|(name, _)| kept(name)).collect();
    for expand in &options.expand {
        let found = form
            .expandable
            .iter()
            .find(|(name, ..)| *name == expand.name);
        let (name, kind, content) = found
            .ok_or_else(|| Refusal::not_imitated(format!("an expand of '{}' here", expand.name)))?;
        let value = match content {
            Value::Array(forms) => {
                let forms = forms.iter().cloned().map(Form::plain).collect();
                Value::Array(page(forms, kind, &expand.options)?)
            }
            single => {
                check(kind, &expand.options)?;
                shown(Form::plain(single.clone()), &expand.options)?
            }
        };
        fields.insert((*name).to_owned(), value);
    }
    Ok(Value::Object(fields))
}
