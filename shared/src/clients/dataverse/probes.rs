//! The checks of `mailverse doctor`: the own user, the settings of the organisation, and whether
//! writes would be allowed.
//!
//! No request that lists privileges is known (Dataverse facts §12, §16), so a privilege is tested
//! by using it. A read is tested with a query of one row. Writes are tested in a change set whose
//! last operation refers to a row that does not exist. That operation fails, and the whole change
//! set with it, since its operations succeed or fail together (§9). So nothing is stored. If the
//! change set fails with the 404 / 0x80040217 of the last operation, the writes before it are
//! allowed; otherwise it fails with the rejection that we want to know. That privileges are checked
//! before the change set is rolled back is inferred.

use chrono::{DateTime, Utc};
use reqwest::{Method, header};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::DataverseClient;
use super::batch::{Change, Operation};
use super::error::{DataverseError, ErrorCode, error_code};
use super::error::{part_error, unreadable};
use super::odata::row;
use super::records::guid;
use super::session::Session;
use crate::model::ids::ActivityId;

/// The user and the organisation of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhoAmI {
    /// The application user.
    pub user: Uuid,
    /// The organisation.
    pub organization: Uuid,
}

/// A write that is rolled back.
#[derive(Debug, Clone)]
pub enum ProbeStep {
    /// Creates a row in this entity set.
    Create(&'static str, Map<String, Value>),
    /// Changes this email.
    Update(ActivityId, Map<String, Value>),
    /// Deletes this email.
    Delete(ActivityId),
}

impl ProbeStep {
    fn change(&self) -> Change {
        let email = |id: &ActivityId| row("emails", id.uuid());
        let (method, path, body) = match self {
            Self::Create(set, row) => ("POST", (*set).to_owned(), Value::Object(row.clone())),
            Self::Update(id, row) => ("PATCH", email(id), Value::Object(row.clone())),
            Self::Delete(id) => ("DELETE", email(id), Value::Null),
        };
        Change {
            method,
            path,
            if_match: (method == "PATCH").then(|| "*".to_owned()),
            body,
        }
    }
}

impl DataverseClient {
    /// Calls `WhoAmI`, the cheapest check of the whole connection (Dataverse facts §16).
    ///
    /// # Errors
    /// [`DataverseError`]; 403 with 0x80072560 if the application has no user in the organisation.
    pub async fn who_am_i(&self, session: &Session) -> Result<WhoAmI, DataverseError> {
        let call = self.http.get(format!("{}WhoAmI", self.api));
        let answer = self.send(session, call).await?;
        let body: Value = answer.json().await?;
        let id = |name| guid(&body, name).ok_or_else(|| unreadable("the answer of WhoAmI"));
        Ok(WhoAmI {
            user: id("UserId")?,
            organization: id("OrganizationId")?,
        })
    }

    /// Returns the time of the service: the `Date` header of any answer, even of a request that was
    /// rejected without a token. `None` if there is no such header or no answer.
    pub async fn now(&self) -> Option<DateTime<Utc>> {
        let answer = self.http.get(format!("{}WhoAmI", self.api)).send().await;
        let answer = answer.ok()?;
        let date = answer.headers().get(header::DATE)?.to_str().ok()?;
        let date = DateTime::parse_from_rfc2822(date).ok()?;
        Some(date.to_utc())
    }

    /// Sends queries, given as path and query string, in one request. Returns the rows of the first
    /// page of each query, or its failure.
    ///
    /// # Errors
    /// [`DataverseError`]: the request as a whole failed.
    pub async fn query_each(
        &self,
        session: &Session,
        paths: &[String],
    ) -> Result<Vec<Result<Vec<Value>, DataverseError>>, DataverseError> {
        let queries: Vec<Operation> = paths.iter().cloned().map(Operation::Get).collect();
        let answers = self.batch(session, &queries).await?;
        let read = |parts: &Vec<super::batch::BatchPart>| {
            let part = parts.first().ok_or_else(|| unreadable("an answer"))?;
            if !part.is_success() {
                return Err(part_error(part));
            }
            let page: Value =
                serde_json::from_slice(&part.body).map_err(|_| unreadable("a page of rows"))?;
            let rows = page.get("value").and_then(Value::as_array);
            rows.cloned().ok_or_else(|| unreadable("a page of rows"))
        };
        Ok(answers.iter().map(read).collect())
    }

    /// Tests whether writes are allowed, each list in its own change set, in one request. Stores
    /// nothing.
    ///
    /// # Errors
    /// [`DataverseError`]: the request as a whole failed.
    pub async fn test_writes(
        &self,
        session: &Session,
        writes: &[Vec<ProbeStep>],
    ) -> Result<Vec<Result<(), DataverseError>>, DataverseError> {
        let operations: Vec<Operation> = writes
            .iter()
            .map(|steps| {
                let mut changes: Vec<Change> = steps.iter().map(ProbeStep::change).collect();
                changes.push(failing_operation());
                Operation::ChangeSet(changes)
            })
            .collect();
        let answers = self.batch(session, &operations).await?;
        let verdict = |parts: &Vec<super::batch::BatchPart>| {
            let failure = parts.iter().find(|part| !part.is_success());
            let failure = failure.ok_or_else(|| DataverseError::Unavailable {
                what: "a change set that must fail succeeded".to_owned(),
            })?;
            let is_ours =
                failure.status == 404 && error_code(&failure.body) == Some(ErrorCode::NO_ROW);
            if is_ours {
                Ok(())
            } else {
                Err(part_error(failure))
            }
        };
        Ok(answers.iter().map(verdict).collect())
    }

    /// Deletes an email with its parties and attachments.
    ///
    /// # Errors
    /// [`DataverseError`]: it still exists; [`DataverseError::Stale`]: it did not exist.
    pub async fn remove(&self, session: &Session, id: ActivityId) -> Result<(), DataverseError> {
        let path = row("emails", id.uuid());
        let call = self.call(session, Method::DELETE, &path, None, None);
        call.await.map(drop)
    }
}

/// Returns an operation that always fails: the update of a row that does not exist, with `If-Match`
/// so that it is not created.
fn failing_operation() -> Change {
    Change {
        method: "PATCH",
        path: row("emails", Uuid::new_v4()),
        if_match: Some("*".to_owned()),
        body: json!({"subject": "mailverse doctor"}),
    }
}
