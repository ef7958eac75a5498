//! What one operation does: a single request, or a part of a batch.

use axum::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::csdl;
use super::options::{Options, Prefer};
use super::org::{Org, References, Work};
use super::path::{self, Resource};
use super::refusal::Refusal;
use super::rows::{Target, allow};

/// The longest address of a single request, and of a part of a batch, in characters (Dataverse
/// facts §9).
pub(crate) const LONGEST_URL: usize = 32_768;
/// See [`LONGEST_URL`].
pub(crate) const LONGEST_URL_IN_BATCH: usize = 65_536;

/// A requested operation.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// The part of the path after the root, still encoded.
    pub(crate) path: String,
    /// The text after the question mark, still encoded.
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

    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }
}

/// The answer to an operation.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<Body>,
    /// The row of the operation, for later operations that refer to it.
    pub(crate) row: Option<(String, Uuid)>,
}

/// The body of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Json(Value),
    Text(String),
    Xml(String),
}

impl Answer {
    pub(crate) fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: None,
            row: None,
        }
    }

    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self {
            body: Some(Body::Json(body)),
            ..Self::empty(status)
        }
    }

    /// Returns an error answer.
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

/// Runs an operation completely or not at all.
pub(crate) fn run(
    org: &mut Org,
    operation: &Operation,
    references: &References,
) -> Result<Answer, Refusal> {
    let fault = org.operation_faults.remove(&org.requests.operations);
    org.requests.operations += 1;
    if operation.is_write() {
        org.requests.writes += 1;
    } else {
        org.requests.reads += 1;
    }
    if let Some(refusal) = fault {
        return Err(refusal);
    }
    work_off(org)?;
    if org.faults.deadlock() {
        // Inferred: a deadlock shows in this way (Dataverse facts §12).
        return Err(Refusal::new(500, "0x80044150", "Generic SQL error."));
    }
    org.finish_key_indexes();
    let mark = org.mark();
    let result = org.work(references).answer(operation);
    if result.is_err() {
        org.roll_back(&mark);
    }
    result
}

/// Counts the execution time of one operation, or rejects it if service protection rejects the
/// parts of this batch.
fn work_off(org: &mut Org) -> Result<(), Refusal> {
    let (limits, now, cost) = (
        org.settings.limits.clone(),
        org.clock.now(),
        org.settings.operation_ms,
    );
    if let Some(refusal) = &org.caller.parts_refused {
        return Err(refusal.clone());
    }
    let client_id = org.caller.client_id.clone();
    if org.settings.throttle_parts {
        org.usage(&client_id).check_time(&limits, now)?;
    }
    org.usage(&client_id).work(now, cost);
    org.caller.spent_ms += cost;
    Ok(())
}

/// Returns whether an operation is `CreateMultiple` or similar on emails, parties or attachments,
/// which do not support it.
///
/// Dataverse facts §10: the name of the code is verified; that this code is the answer is inferred.
fn is_bulk_of_activities(path: &str, segment: &str) -> bool {
    let sets = ["emails/", "activitymimeattachments/", "activityparties/"];
    segment.starts_with("Microsoft.Dynamics.CRM.")
        && segment.ends_with("Multiple")
        && sets.iter().any(|set| path.starts_with(set))
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
            Resource::Definitions(segments) => self.definitions(&segments, operation, &options),
            Resource::Metadata => {
                allow(operation, &[Method::GET])?;
                Ok(Answer {
                    body: Some(Body::Xml(csdl::document(&schema))),
                    ..Answer::empty(200)
                })
            }
            Resource::Action(name) => self.action(&name, operation),
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
                let id = match self.find(table, &key) {
                    Err(missing) if missing.status == 404 && is_upsert(operation) => {
                        return self.create_by_key(table, &key, operation, &options);
                    }
                    found => found?,
                };
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
            Resource::Unknown { segment } if is_bulk_of_activities(&operation.path, &segment) => {
                let message = "The method being invoked does not support provided entity type.";
                Err(Refusal::new(400, "0x80040800", message))
            }
            Resource::Unknown { segment } if segment.starts_with("Microsoft.Dynamics.CRM.") => {
                Err(Refusal::not_imitated(format!("the operation {segment}")))
            }
            // A key that cannot be parsed is a query error, not an unknown segment.
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
            "BusinessUnitId": self.org.business_unit, "UserId": self.org.caller.user, "OrganizationId": self.org.organization,
        });
        Ok(Answer::json(200, body))
    }
}

/// Returns whether the operation is a PATCH that may create the row.
fn is_upsert(operation: &Operation) -> bool {
    operation.method == Method::PATCH && operation.header("if-match").is_none()
}
