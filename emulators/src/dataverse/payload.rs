//! Which properties a body may have (Dataverse facts §19 rule 1).

use serde_json::{Map, Value};

use super::read;
use super::refusal::Refusal;
use super::schema::{Column, Kind, Navigation, Table};
use super::values;

/// A parsed body: its names are known and its types are valid. What may be written is decided
/// later.
pub(crate) struct Payload<'s> {
    pub(crate) values: Vec<(&'s Column, Value)>,
    pub(crate) binds: Vec<(&'s Navigation, Value)>,
    /// The entries of the collection of parties, if the body has it.
    pub(crate) parties: Option<Vec<Value>>,
}

impl Payload<'_> {
    /// Returns the number in a choice column; `None` if it is absent or null.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.values
            .iter()
            .find(|(column, _)| column.name == name)
            .and_then(|(_, value)| value.as_i64())
    }

    /// Returns the value of a column; `None` if it is absent or null.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.values
            .iter()
            .find(|(column, _)| column.name == name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_null())
    }
}

/// Parses a body as JSON.
pub(crate) fn parse(set: &str, body: &[u8]) -> Result<Value, Refusal> {
    let unreadable =
        |detail: String| Refusal::payload(set, format!("the stream is not readable: {detail}"));
    if body.is_empty() {
        return Err(unreadable("the body is empty".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| unreadable(error.to_string()))
}

/// Reads a body, or one entry of a deep insert, for `table`.
pub(crate) fn read<'s>(table: &'s Table, body: &Value) -> Result<Payload<'s>, Refusal> {
    let object = body
        .as_object()
        .ok_or_else(|| Refusal::payload(&table.set, "the body is not a JSON object."))?;
    let mut payload = Payload {
        values: Vec::new(),
        binds: Vec::new(),
        parties: None,
    };
    for (name, value) in object {
        match name.split_once('@') {
            Some((property, annotation)) => {
                read_annotation(table, &mut payload, property, annotation, value)?;
            }
            None => read_property(table, &mut payload, object, name, value)?,
        }
    }
    Ok(payload)
}

fn read_annotation<'s>(
    table: &'s Table,
    payload: &mut Payload<'s>,
    property: &str,
    annotation: &str,
    value: &Value,
) -> Result<(), Refusal> {
    let undeclared = || {
        let detail = format!(
            "An undeclared property '{property}' which only has property annotations in the payload but no property \
             value was found in the payload. In OData, only declared navigation properties and declared named streams \
             can be represented as properties without values."
        );
        Refusal::payload(&table.set, detail)
    };
    match (property, annotation) {
        ("", "odata.type") => {
            let named = value.as_str().map(|text| text.trim_start_matches('#'));
            if named == Some(format!("Microsoft.Dynamics.CRM.{}", table.name).as_str()) {
                return Ok(());
            }
            Err(Refusal::payload(
                &table.set,
                format!("the type {value} is not that of the table."),
            ))
        }
        // Other annotations of the whole body contain nothing that is written (inferred).
        ("", _) => Ok(()),
        (_, "odata.bind") => {
            let navigation = table.navigations.get(property).ok_or_else(undeclared)?;
            if !value.is_string() && !value.is_null() {
                return Err(Refusal::payload(
                    &table.set,
                    format!("'{property}@odata.bind' must be one address."),
                ));
            }
            payload.binds.push((navigation, value.clone()));
            Ok(())
        }
        _ if table.column(property).is_some() || table.property(property).is_some() => Ok(()),
        _ => Err(undeclared()),
    }
}

fn read_property<'s>(
    table: &'s Table,
    payload: &mut Payload<'s>,
    object: &Map<String, Value>,
    name: &str,
    value: &Value,
) -> Result<(), Refusal> {
    if let Some(column) = table
        .column(name)
        .filter(|column| column.kind != Kind::Lookup)
    {
        payload
            .values
            .push((column, values::accept(table, column, value)?));
        return Ok(());
    }
    if table.parties().as_deref() == Some(name) {
        let entries = value
            .as_array()
            .ok_or_else(|| Refusal::payload(&table.set, format!("'{name}' is not an array.")))?;
        payload.parties = Some(entries.clone());
        return Ok(());
    }
    // It should work according to OData, but no published use of it was found (Dataverse facts
    // §4.2).
    if read::child_table(table, name).is_some() {
        return Err(Refusal::not_imitated(format!(
            "a deep insert through '{name}'"
        )));
    }
    if table.property(name).is_some() {
        let detail = "CRM do not support direct update of Entity Reference properties, Use Navigation properties instead.";
        return Err(Refusal::payload(&table.set, detail));
    }
    if table.navigations.contains_key(name)
        && value.is_object()
        && !object.contains_key(&format!("{name}@odata.bind"))
    {
        return Err(Refusal::not_imitated(format!(
            "a deep insert through '{name}'"
        )));
    }
    let detail = format!(
        "For more information on this error please follow this help link \
         https://go.microsoft.com/fwlink/?linkid=2195293 ----> InnerException : Microsoft.OData.ODataException: The \
         property '{name}' does not exist on type 'Microsoft.Dynamics.CRM.{}'. Make sure to only use property names \
         that are defined by the type.",
        table.name
    );
    Err(Refusal::payload(&table.set, detail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::Schema;
    use super::*;

    fn refusal(body: &Value) -> (u16, String) {
        let schema = Schema::load().unwrap();
        match read(schema.table("email").unwrap(), body) {
            Ok(_) => (0, String::new()),
            Err(refusal) => (refusal.status, refusal.code.into_owned()),
        }
    }

    #[test]
    fn undeclared_names_are_payload_errors() {
        for body in [
            json!({"Subject": "case matters"}),
            json!({"nosuch": 1}),
            json!({"from": []}),
            json!({"regardingobjectid": "x"}),
            json!({"_regardingobjectid_value": "3f0f1c4e-0000-4000-8000-000000000001"}),
            json!({"regardingobjectid_Contact_email@odata.bind": "/contacts(x)"}),
            json!({"nosuch@odata.bind": null}),
            json!({"email_activity_parties": {}}),
            json!({"regardingobjectid_contact_email@odata.bind": ["/contacts(x)"]}),
            json!({"@odata.type": "Microsoft.Dynamics.CRM.task"}),
            json!([]),
        ] {
            assert_eq!(refusal(&body), (400, "0x80048d19".to_owned()), "{body}");
        }
    }

    #[test]
    fn declared_names_and_known_annotations_are_accepted() {
        let body = json!({
            "@odata.type": "#Microsoft.Dynamics.CRM.email", "@odata.etag": "W/\"1\"", "subject": "a",
            "subject@odata.type": "Edm.String", "regardingobjectid_contact_email@odata.bind": null,
            "regardingobjectid_contact@odata.bind": "/contacts(x)", "email_activity_parties": [],
        });
        assert_eq!(refusal(&body), (0, String::new()));
    }

    #[test]
    fn a_body_that_is_not_json_is_rejected() {
        for body in ["", "{", "{\"subject\": \"\\ud800\"}", "nonsense"] {
            assert_eq!(
                parse("emails", body.as_bytes()).unwrap_err().code,
                "0x80048d19",
                "{body}"
            );
        }
    }
}
