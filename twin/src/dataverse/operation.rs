//! What one operation does: a request of its own, or a part of a batch.

use axum::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::options::{Options, Prefer};
use super::org::{Org, References, Work};
use super::path::{self, Resource};
use super::payload;
use super::read;
use super::refusal::Refusal;
use super::schema::{Kind, Table};
use super::store::Values;

/// Longest address of a request of its own, and of one inside a batch (Dataverse facts §9).
pub(crate) const LONGEST_URL: usize = 32_768;
/// See [`LONGEST_URL`].
pub(crate) const LONGEST_URL_IN_BATCH: usize = 65_536;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// The part of the path behind the root, still encoded.
    pub(crate) path: String,
    /// The text behind the question mark, still encoded.
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Operation {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn prefer(&self) -> Prefer {
        let headers = self.headers.iter().filter(|(name, _)| name == "prefer");
        Prefer::read(headers.map(|(_, value)| value.as_str()))
    }

    fn is_write(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Body>,
    /// The row that the operation was about, for later operations that refer to it.
    pub(crate) row: Option<(String, Uuid)>,
}

/// The body of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Json(Value),
    Text(String),
}

impl Answer {
    fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: None,
            row: None,
        }
    }

    fn json(status: u16, body: Value) -> Self {
        Self {
            body: Some(Body::Json(body)),
            ..Self::empty(status)
        }
    }

    /// An error answer.
    pub(crate) fn refusal(refusal: &Refusal, prefer: &Prefer) -> Self {
        let annotated = prefer.wants("Microsoft.PowerApps.CDS.ErrorDetails.OperationStatus");
        let mut answer = Self::json(refusal.status, refusal.body(annotated));
        answer.headers.extend(
            refusal
                .retry_after
                .map(|seconds| ("Retry-After", seconds.to_string())),
        );
        answer
    }
}

/// Does an operation completely or not at all.
pub(crate) fn run(
    org: &mut Org,
    operation: &Operation,
    references: &References,
) -> Result<Answer, Refusal> {
    org.requests.operations += 1;
    if operation.is_write() {
        org.requests.writes += 1;
    } else {
        org.requests.reads += 1;
    }
    let mark = org.store.mark();
    let result = org.work(references).answer(operation);
    if result.is_err() {
        org.store.roll_back(&mark);
    }
    result
}

/// A row that an address named, with what follows it.
struct Target<'s> {
    table: &'s Table,
    id: Uuid,
}

impl Work<'_> {
    fn answer(&mut self, operation: &Operation) -> Result<Answer, Refusal> {
        let schema = self.schema.clone();
        let set_table = |set: &str| match set {
            "activitypointers" => Err(Refusal::not_imitated(
                "reading or writing activities by their common table",
            )),
            _ => schema.set(set).ok_or_else(|| Refusal::no_segment(set)),
        };
        let options = Options::read(&operation.query)?;
        match path::resource(&operation.path) {
            Resource::Batch => Err(Refusal::payload(
                "$batch",
                "a batch cannot stand inside a batch.",
            )),
            Resource::WhoAmI => self.who_am_i(operation),
            Resource::Metadata(_) => Err(Refusal::not_imitated("reading table definitions")),
            Resource::Set { set } => self.on_set(set_table(&set)?, operation, &options),
            Resource::Count { set } => {
                allow(operation, &[Method::GET])?;
                let count = self.count(set_table(&set)?, &options)?;
                Ok(Answer {
                    body: Some(Body::Text(count.to_string())),
                    ..Answer::empty(200)
                })
            }
            Resource::Row {
                set,
                key: path::Key::Id(id),
            } => self.on_row(
                &Target {
                    table: set_table(&set)?,
                    id,
                },
                operation,
                &options,
            ),
            Resource::Row { set, key } => {
                let table = set_table(&set)?;
                let id = self.find(table, &key)?;
                self.on_row(&Target { table, id }, operation, &options)
            }
            Resource::Below {
                set,
                key,
                segment,
                rest,
            } => {
                let table = set_table(&set)?;
                let id = self.find(table, &key)?;
                self.below(
                    &Target { table, id },
                    &segment,
                    rest.as_deref(),
                    operation,
                    &options,
                )
            }
            Resource::Reference {
                content_id,
                segment,
            } => {
                let (name, id) = self.reference(&content_id)?;
                let table = schema
                    .table(&name)
                    .ok_or_else(|| Refusal::no_segment(&name))?;
                match segment {
                    None => self.on_row(&Target { table, id }, operation, &options),
                    Some(segment) => {
                        self.below(&Target { table, id }, &segment, None, operation, &options)
                    }
                }
            }
            Resource::Unknown { segment } if segment.starts_with("Microsoft.Dynamics.CRM.") => {
                Err(Refusal::not_imitated(format!("the operation {segment}")))
            }
            // A set with a key that cannot be read is a broken query, not a missing segment.
            Resource::Unknown { segment } if segment.contains('(') => {
                Err(Refusal::query("Bad Request - Error in query syntax."))
            }
            Resource::Unknown { segment } => Err(Refusal::no_segment(&segment)),
        }
    }

    fn who_am_i(&self, operation: &Operation) -> Result<Answer, Refusal> {
        allow(operation, &[Method::GET])?;
        let body = json!({
            "@odata.context": format!("{}{}$metadata#Microsoft.Dynamics.CRM.WhoAmIResponse", self.org.url, path::ROOT),
            "BusinessUnitId": self.org.business_unit, "UserId": self.org.user, "OrganizationId": self.org.organization,
        });
        Ok(Answer::json(200, body))
    }

    fn on_set(
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
        let body = self.body(table, operation)?;
        let id = self.create(table, &body, None)?;
        self.written(&Target { table, id }, true, options, &prefer)
    }

    fn on_row(
        &mut self,
        target: &Target<'_>,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        let Target { table, id } = *target;
        refuse_party_writes(table, operation)?;
        // Only RetrieveMultiple is listed for parties (Dataverse facts §5); that one row is refused is inferred.
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
        let body = self.body(table, operation)?;
        match row {
            Some(_) if operation.header("if-none-match") == Some("*") => Err(Refusal::new(
                412,
                "0x80040237",
                "A record with matching key values already exists.",
            )),
            Some(row) => {
                self.update(table, id, &row, &body)?;
                // An expand in the answer to a PATCH is ignored (Dataverse facts §7.1).
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

    fn below(
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
            let lookup = row.lookup(&column.name).map(|(_, id)| json!(id));
            let value = if column.kind == Kind::Lookup {
                lookup.unwrap_or_default()
            } else {
                row.get(&column.name).clone()
            };
            return match (rest, &value) {
                (_, Value::Null) => Ok(Answer::empty(204)),
                (None, _) => Ok(Answer::json(200, json!({"value": value}))),
                (Some("$value"), Value::String(text)) => Ok(Answer {
                    body: Some(Body::Text(text.clone())),
                    ..Answer::empty(200)
                }),
                (Some("$value"), other) => Ok(Answer {
                    body: Some(Body::Text(other.to_string())),
                    ..Answer::empty(200)
                }),
                (Some(more), _) => Err(Refusal::no_segment(more)),
            };
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
                let expand = super::options::Expand {
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
                let body = self.body(table, operation)?;
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

    /// The body of a write, as JSON.
    fn body(&self, table: &Table, operation: &Operation) -> Result<Value, Refusal> {
        let kind = operation
            .header("content-type")
            .unwrap_or_default()
            .to_ascii_lowercase();
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            // The number is the usual one of HTTP (inferred).
            return Err(Refusal::new(
                415,
                "0x80048d19",
                format!("The media type '{kind}' cannot be read."),
            ));
        }
        payload::parse(&table.set, &operation.body)
    }

    /// The answer to a write that was done.
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

/// Parties cannot be written on their own (Dataverse facts §5).
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

fn allow(operation: &Operation, methods: &[Method]) -> Result<(), Refusal> {
    if methods.contains(&operation.method) {
        return Ok(());
    }
    Err(Refusal::verb(format!(
        "The requested resource does not support http method '{}'.",
        operation.method
    )))
}

/// `If-Match`: an asterisk wants the row to be there, anything else wants this version of it.
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

/// The values of a row as tests see them.
pub(crate) fn public(values: &Values) -> Value {
    Value::Object(values.clone())
}
