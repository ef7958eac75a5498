//! What `mailverse doctor` asks of an organisation: who we are there, what it allows, and whether a write would pass.
//!
//! Whether a privilege is there is found out by using it, since no request that lists privileges is known (Dataverse facts §12, §16). A read is a query of
//! one row. A write stands in a change set whose last operation names a row that does not exist: that one fails, and with it the change set, whose
//! operations pass or fail together (§9). So nothing stays, and how far it came tells whether the rest was allowed: it fails with the last operation's
//! 404 / 0x80040217, or with the refusal that we want to know. That privileges are checked before the change set is taken back is inferred.

use chrono::{DateTime, Utc};
use reqwest::{Method, header};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::batch::{Change, Operation};
use super::error::{DataverseError, ErrorCode, error_code};
use super::query::row;
use super::rows::guid;
use super::session::Session;
use super::{DataverseClient, part_error, unreadable};
use crate::ids::ActivityId;

/// Who the token belongs to in the organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhoAmI {
    /// The application user.
    pub user: Uuid,
    /// The organisation.
    pub organization: Uuid,
}

/// A write that is taken back.
#[derive(Debug, Clone)]
pub enum Step {
    /// A new row in this entity set.
    Create(&'static str, Map<String, Value>),
    /// A change of this email.
    Update(ActivityId, Map<String, Value>),
    /// The end of this email.
    Delete(ActivityId),
}

impl Step {
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
    /// The cheapest check of the whole chain (Dataverse facts §16).
    ///
    /// # Errors
    /// [`DataverseError`]; 403 with 0x80072560 where the application has no user in the organisation.
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

    /// What time the service has: the `Date` header of any answer, also of the refusal of a request without a token. `None` where it has none or does not answer.
    pub async fn now(&self) -> Option<DateTime<Utc>> {
        let answer = self.http.get(format!("{}WhoAmI", self.api)).send().await;
        let answer = answer.ok()?;
        let date = answer.headers().get(header::DATE)?.to_str().ok()?;
        let date = DateTime::parse_from_rfc2822(date).ok()?;
        Some(date.to_utc())
    }

    /// Queries, each given by its path and query; the rows of the first page of each, or why there are none. One request.
    ///
    /// # Errors
    /// [`DataverseError`]: of the request as a whole.
    pub async fn query_each(
        &self,
        session: &Session,
        paths: &[String],
    ) -> Result<Vec<Result<Vec<Value>, DataverseError>>, DataverseError> {
        let queries: Vec<Operation> = paths.iter().cloned().map(Operation::Get).collect();
        let answers = self.batch(session, &queries).await?;
        let read = |parts: &Vec<super::batch::Answer>| {
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

    /// Takes writes as far as they are allowed, each list in a change set of its own, and leaves nothing of any. One request.
    ///
    /// # Errors
    /// [`DataverseError`]: of the request as a whole.
    pub async fn would_pass(
        &self,
        session: &Session,
        writes: &[Vec<Step>],
    ) -> Result<Vec<Result<(), DataverseError>>, DataverseError> {
        let operations: Vec<Operation> = writes
            .iter()
            .map(|steps| {
                let mut changes: Vec<Change> = steps.iter().map(Step::change).collect();
                changes.push(stumble());
                Operation::ChangeSet(changes)
            })
            .collect();
        let answers = self.batch(session, &operations).await?;
        let verdict = |parts: &Vec<super::batch::Answer>| {
            let failure = parts.iter().find(|part| !part.is_success());
            let failure = failure.ok_or_else(|| DataverseError::Unavailable {
                what: "a change set that had to fail passed".to_owned(),
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

    /// Removes an email, its parties and its attachments.
    ///
    /// # Errors
    /// [`DataverseError`]: it is still there; [`DataverseError::Stale`]: it was not.
    pub async fn remove(&self, session: &Session, id: ActivityId) -> Result<(), DataverseError> {
        let path = row("emails", id.uuid());
        let call = self.call(session, Method::DELETE, &path, None, None);
        call.await.map(drop)
    }
}

/// An operation that cannot succeed: a change of a row that was never made, and must not be made by it.
fn stumble() -> Change {
    Change {
        method: "PATCH",
        path: row("emails", Uuid::new_v4()),
        if_match: Some("*".to_owned()),
        body: json!({"subject": "mailverse doctor"}),
    }
}
