//! Handles GET, POST, PATCH, PUT and DELETE of an entity set, of a row, and of a resource below a
//! row.

use axum::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::operation::{Answer, Body, Operation};
use super::options::{Expand, Options, Prefer};
use super::org::Work;
use super::path::Key;
use super::payload;
use super::read;
use super::refusal::Refusal;
use super::schema::{Column, Kind, Table};
use super::store::Row;

/// The row that a URL names. It need not exist.
pub(crate) struct Target<'s> {
    pub(crate) table: &'s Table,
    pub(crate) id: Uuid,
}

impl Work<'_> {
    /// Handles a request for an entity set: GET lists rows, POST creates one.
    pub(crate) fn on_set(
        &mut self,
        table: &Table,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        refuse_party_writes(table, operation)?;
        allow(operation, &[Method::GET, Method::POST])?;
        let prefer = operation.prefer();
        if operation.method == Method::GET {
            let mut answer =
                Answer::json(200, self.page(table, &operation.query, options, &prefer)?);
            if let Some(size) = prefer.max_page_size {
                answer
                    .headers
                    .push(("Preference-Applied", format!("odata.maxpagesize={size}")));
            }
            return Ok(answer);
        }
        let body = body(&table.set, operation)?;
        let id = self.create(table, &body, None)?;
        self.written(&Target { table, id }, true, options, &prefer)
    }

    /// Handles a request for one row: GET, PATCH (which creates a missing row) or DELETE.
    pub(crate) fn on_row(
        &mut self,
        target: &Target<'_>,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        let Target { table, id } = *target;
        refuse_party_writes(table, operation)?;
        // The facts list only RetrieveMultiple for parties (Dataverse facts §5). That reading one
        // row is rejected is inferred.
        if table.name == "activityparty" {
            return Err(Refusal::verb(
                "The Retrieve message is not available for activityparty.",
            ));
        }
        allow(operation, &[Method::GET, Method::PATCH, Method::DELETE])?;
        let row = self.org.store.get(&table.name, id);
        let etag = row.as_ref().map(|row| row.etag());
        if operation.method == Method::GET {
            let body = self.entity(table, id, options, &operation.prefer())?;
            if etag.is_some() && operation.header("if-none-match") == etag.as_deref() {
                return Ok(Answer::empty(304));
            }
            let mut answer = Answer::json(200, body);
            answer.headers.extend(etag.map(|etag| ("ETag", etag)));
            return Ok(answer);
        }
        check_version(table, id, etag.as_deref(), operation.header("if-match"))?;
        if operation.method == Method::DELETE {
            self.delete(table, id)?;
            return Ok(Answer::empty(204));
        }
        let body = body(&table.set, operation)?;
        match row {
            Some(_) if operation.header("if-none-match") == Some("*") => Err(Refusal::new(
                412,
                "0x80040237",
                "A record with matching key values already exists.",
            )),
            Some(row) => {
                self.update(table, id, &row, &body)?;
                // `$expand` in a PATCH is ignored (Dataverse facts §7.1).
                let options = Options {
                    expand: Vec::new(),
                    ..options.clone()
                };
                self.written(target, false, &options, &operation.prefer())
            }
            None => {
                self.create_by_patch(table, id, &body)?;
                let options = Options {
                    expand: Vec::new(),
                    ..options.clone()
                };
                self.written(target, true, &options, &operation.prefer())
            }
        }
    }

    /// Handles a PATCH by an alternate key that no row has: creates a row with that key.
    pub(crate) fn create_by_key(
        &mut self,
        table: &Table,
        key: &Key,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        refuse_party_writes(table, operation)?;
        let mut body = body(&table.set, operation)?;
        if let (Some(fields), Key::Alternate(pairs)) = (body.as_object_mut(), key) {
            for (name, value) in pairs {
                if table
                    .property(name)
                    .is_some_and(|it| it.kind == Kind::Lookup)
                {
                    return Err(Refusal::not_imitated("an upsert by a lookup in a key"));
                }
                let column = table.columns.get(name);
                let value = match serde_json::from_str(value) {
                    Ok(number) if column.is_some_and(|it| it.kind != Kind::Text) => number,
                    _ => json!(value),
                };
                fields.insert(name.clone(), value);
            }
        }
        let id = Uuid::new_v4();
        self.create_by_patch(table, id, &body)?;
        let options = Options {
            expand: Vec::new(),
            ..options.clone()
        };
        self.written(&Target { table, id }, true, &options, &operation.prefer())
    }

    /// Handles a request for a resource below a row: a child collection, a property or a
    /// navigation. `rest` is the path segment after `segment`, if there is one.
    pub(crate) fn below(
        &mut self,
        target: &Target<'_>,
        segment: &str,
        rest: Option<&str>,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        let Target { table, id } = *target;
        let row = self
            .org
            .store
            .get(&table.name, id)
            .ok_or_else(|| Refusal::no_row(&table.name, id))?;
        if let (Some(child), None) = (read::child_table(table, segment), rest) {
            return self.on_children(target, child, segment, operation, options);
        }
        if let (Some(column), true) = (table.property(segment), operation.method == Method::GET) {
            return property(&row, column, rest);
        }
        let navigation = table
            .navigations
            .get(segment)
            .ok_or_else(|| Refusal::no_segment(segment))?;
        match (&operation.method, rest) {
            (&Method::DELETE, Some("$ref")) => {
                let body = json!({ format!("{}@odata.bind", navigation.name): null });
                self.update(table, id, &row, &body)?;
                Ok(Answer::empty(204))
            }
            (&Method::GET, None) => match row.lookup(&navigation.column) {
                Some((name, id)) => {
                    let target = self.schema.clone();
                    let target = target
                        .table(&name)
                        .ok_or_else(|| Refusal::no_segment(segment))?;
                    Ok(Answer::json(
                        200,
                        self.entity(target, id, options, &operation.prefer())?,
                    ))
                }
                None => Ok(Answer::empty(204)),
            },
            _ => Err(Refusal::not_imitated(format!(
                "{} of {segment}",
                operation.method
            ))),
        }
    }

    fn on_children(
        &mut self,
        target: &Target<'_>,
        child: &str,
        segment: &str,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        let Target { table, id } = *target;
        match operation.method {
            Method::GET => {
                let expand = Expand {
                    name: segment.to_owned(),
                    options: options.clone(),
                };
                let owner = Options {
                    select: Some(vec![table.key.clone()]),
                    expand: vec![expand],
                    ..Options::default()
                };
                let mut owner = self.entity(table, id, &owner, &operation.prefer())?;
                let rows = owner.get_mut(segment).map(Value::take).unwrap_or_default();
                Ok(Answer::json(
                    200,
                    json!({"@odata.context": owner.get("@odata.context"), "value": rows}),
                ))
            }
            Method::PUT if child == "activityparty" => {
                let body = body(&table.set, operation)?;
                self.replace_parties(table, id, &body)?;
                Ok(Answer::empty(204))
            }
            _ if child == "activityparty" => Err(Refusal::verb(
                "Parties are written with their activity, or by PUT.",
            )),
            _ => Err(Refusal::not_imitated(format!(
                "{} of {segment}",
                operation.method
            ))),
        }
    }

    /// Builds the answer to a successful create or update.
    fn written(
        &self,
        target: &Target<'_>,
        created: bool,
        options: &Options,
        prefer: &Prefer,
    ) -> Result<Answer, Refusal> {
        let Target { table, id } = *target;
        let url = self.entity_url(&table.set, id);
        let mut answer = if prefer.representation {
            let mut answer = Answer::json(
                if created { 201 } else { 200 },
                self.entity(table, id, options, prefer)?,
            );
            answer
                .headers
                .push(("Preference-Applied", "return=representation".to_owned()));
            answer
        } else {
            Answer::empty(204)
        };
        if created {
            answer.headers.push(("Location", url.clone()));
        }
        answer.headers.push(("OData-EntityId", url));
        answer.row = Some((table.name.clone(), id));
        Ok(answer)
    }
}

/// Rejects a direct write to `activityparty`: parties are written with their activity (Dataverse
/// facts §5).
fn refuse_party_writes(table: &Table, operation: &Operation) -> Result<(), Refusal> {
    if table.name == "activityparty" && operation.is_write() {
        let detail = format!(
            "The {} method is not available for activityparty.",
            operation.method
        );
        return Err(Refusal::verb(detail));
    }
    Ok(())
}

/// Rejects a method that is not in `methods` with 405.
pub(crate) fn allow(operation: &Operation, methods: &[Method]) -> Result<(), Refusal> {
    if methods.contains(&operation.method) {
        return Ok(());
    }
    Err(Refusal::verb(format!(
        "The requested resource does not support http method '{}'.",
        operation.method
    )))
}

/// Checks `If-Match`: `*` requires that the row exists, any other value requires that version.
fn check_version(
    table: &Table,
    id: Uuid,
    etag: Option<&str>,
    wanted: Option<&str>,
) -> Result<(), Refusal> {
    match (wanted, etag) {
        (None, _) | (Some("*"), Some(_)) => Ok(()),
        (Some(_), None) => Err(Refusal::no_row(&table.name, id)),
        (Some(wanted), Some(etag)) if wanted == etag => Ok(()),
        (Some(_), Some(_)) => {
            let message = "The version of the existing record doesn't match the RowVersion property provided.";
            Err(Refusal::new(412, "0x80060882", message))
        }
    }
}

/// Parses the body of a write as JSON.
pub(crate) fn body(set: &str, operation: &Operation) -> Result<Value, Refusal> {
    let kind = operation
        .header("content-type")
        .unwrap_or_default()
        .to_ascii_lowercase();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        // 415 is the standard HTTP status (inferred).
        return Err(Refusal::new(
            415,
            "0x80048d19",
            format!("The media type '{kind}' cannot be read."),
        ));
    }
    payload::parse(set, &operation.body)
}

/// Answers with one property: as JSON, or as plain text with `/$value`.
fn property(row: &Row, column: &Column, rest: Option<&str>) -> Result<Answer, Refusal> {
    let value = match column.kind {
        Kind::Lookup => row
            .lookup(&column.name)
            .map(|(_, id)| json!(id))
            .unwrap_or_default(),
        _ => row.get(&column.name).clone(),
    };
    match (rest, value) {
        (_, Value::Null) => Ok(Answer::empty(204)),
        (None, value) => Ok(Answer::json(200, json!({"value": value}))),
        (Some("$value"), value) => {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            Ok(Answer {
                body: Some(Body::Text(text)),
                ..Answer::empty(200)
            })
        }
        (Some(more), _) => Err(Refusal::no_segment(more)),
    }
}
