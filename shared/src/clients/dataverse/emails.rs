//! Writes an email: creates it Open with its parties, adds its attachments, then completes it.
//!
//! An email can only be created Open, and a completed one has to be treated as read-only (Dataverse
//! facts §1, §3). So there are three steps: POST the email, POST each attachment, PATCH `statecode`
//! and `statuscode`. They can be sent in two ways:
//!
//! - **As one change set** ([`DataverseClient::write`]): all or nothing, with many messages in one
//!   request. That a change set may contain these three steps together is inferred; that it may
//!   contain each of them is verified (§9).
//! - **Stepwise** ([`DataverseClient::write_stepwise`]): for a message whose attachments are too
//!   large for one request or were rejected, and for every message if the setting requires it
//!   ([`WriteMode`]). A crash between the steps leaves an Open row. The next attempt finds it by
//!   its key, adds what is missing and completes it.
//!
//! The key of every row is known in advance, so each step can be repeated: if the row exists, the
//! answer is 412. An attachment has no other unique key, so for an attachment 412 always means that
//! it exists.

use std::borrow::Borrow;
use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::DataverseClient;
use super::batch::{BatchPart, Operation};
use super::email_row::EmailWrite;
use super::error::{DataverseError, ErrorCode, part_error};
use super::metadata::table_names::TableNames;
use super::odata::row;
use super::records::{EMAIL_COLUMNS, ExistingEmail, RecordReference, RowState, existing_email};
use super::session::Session;
use crate::model::ids::ActivityId;

/// The most change sets in one request.
const CHANGE_SETS: usize = 100;

/// The most bytes of rows in one request. No limit of `$batch` is documented; the facts advise a
/// few tens of megabytes at most (§9).
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How a message is written: in one request or in several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteMode {
    /// `changeset`: each message as one change set, with many messages in one request.
    #[default]
    ChangeSet,
    /// `stepwise`: each step in its own call.
    ///
    /// For an organisation that rejects the three steps in one change set. It needs at least two
    /// calls per message, and a message whose completion is rejected leaves a draft behind.
    Stepwise,
}

impl WriteMode {
    /// The modes by name, as in the setting `WRITE_MODE`.
    pub const NAMED: [(&str, Self); 2] =
        [("changeset", Self::ChangeSet), ("stepwise", Self::Stepwise)];
}

/// The result of a create that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateOutcome {
    /// A new row was written.
    Created,
    /// A row with one of its keys already existed; nothing was written.
    ///
    /// Check whether that is the primary key ([`DataverseClient::existing`]): the code is the same
    /// for `messageid` (Dataverse facts §7.3).
    AlreadyExisted,
}

/// The result of adding one attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attached {
    There,
    Refused,
}

impl DataverseClient {
    /// Writes messages, each as one change set, with as many in one request as fit. Returns one
    /// result per message, in order.
    ///
    /// If Dataverse rejects a request as a whole or because of its size, its messages are sent
    /// again one by one, so that one message never makes others fail.
    pub async fn write<E: Borrow<EmailWrite>>(
        &self,
        session: &Session,
        emails: &[E],
    ) -> Vec<Result<CreateOutcome, DataverseError>> {
        let mut results = Vec::with_capacity(emails.len());
        let mut rest = emails;
        while !rest.is_empty() {
            let (some, later) = rest.split_at(how_many_fit(rest));
            rest = later;
            match self.write_together(session, some).await {
                Ok(outcomes) => results.extend(outcomes),
                Err(error @ (DataverseError::TooLarge | DataverseError::Rejected { .. }))
                    // If the rejection may concern the caller, sending them one by one would not
                    // help.
                    if some.len() > 1 && !error.may_concern_caller() =>
                {
                    for email in some {
                        results.push(
                            match self
                                .write_together(session, std::slice::from_ref(email))
                                .await
                            {
                                Ok(outcomes) => outcomes
                                    .into_iter()
                                    .next()
                                    .unwrap_or_else(|| Err(super::error::unreadable("an empty answer"))),
                                Err(error) => Err(error),
                            },
                        );
                    }
                }
                Err(error) => results.extend(some.iter().map(|_| Err(error.clone()))),
            }
        }
        results
    }

    async fn write_together<E: Borrow<EmailWrite>>(
        &self,
        session: &Session,
        emails: &[E],
    ) -> Result<Vec<Result<CreateOutcome, DataverseError>>, DataverseError> {
        let operations: Vec<Operation> = emails
            .iter()
            .map(|email| email.borrow().change_set())
            .collect();
        let answers = self.batch(session, &operations).await?;
        Ok(answers.iter().map(|parts| outcome(parts)).collect())
    }

    /// Writes one message step by step, or completes one that was started. Returns how many
    /// attachments Dataverse rejected.
    ///
    /// # Errors
    /// [`DataverseError`]: repeat the call; rows that exist already are kept.
    pub async fn write_stepwise(
        &self,
        session: &Session,
        email: &EmailWrite,
    ) -> Result<usize, DataverseError> {
        if self.begin(session, email).await? == CreateOutcome::AlreadyExisted
            && self.existing(session, email.activity_id).await?.state != RowState::Open
        {
            return Ok(0);
        }
        self.finish(session, email).await
    }

    /// Takes the first step: creates the email row, Open and without attachments.
    ///
    /// # Errors
    /// [`DataverseError`].
    pub async fn begin(
        &self,
        session: &Session,
        email: &EmailWrite,
    ) -> Result<CreateOutcome, DataverseError> {
        self.create(session, "emails", &email.row).await
    }

    /// Takes the remaining steps for a row that exists and is Open. Returns how many attachments
    /// Dataverse rejected.
    ///
    /// # Errors
    /// [`DataverseError`]: repeat the call; rows that exist already are kept.
    pub async fn finish(
        &self,
        session: &Session,
        email: &EmailWrite,
    ) -> Result<usize, DataverseError> {
        let mut refused = 0;
        for attachment in &email.attachments {
            if self.attach(session, attachment).await? == Attached::Refused {
                refused += 1;
            }
        }
        let mut completion = email.completion.clone();
        // The row may be from an earlier attempt, which still had all attachments to add.
        if refused > 0 || email.row.contains_key("notifications") {
            // That one PATCH may change the state and ordinary columns is inferred (Dataverse facts
            // §3).
            completion.insert(
                "notifications".to_owned(),
                Value::from(SOME_ATTACHMENTS_NOT_SAVED),
            );
        }
        let key = email.activity_id.uuid();
        self.update(session, key, "*", &completion).await?;
        Ok(refused)
    }

    async fn attach(
        &self,
        session: &Session,
        attachment: &Map<String, Value>,
    ) -> Result<Attached, DataverseError> {
        match self
            .create(session, "activitymimeattachments", attachment)
            .await
        {
            Ok(CreateOutcome::Created | CreateOutcome::AlreadyExisted) => Ok(Attached::There),
            Err(DataverseError::Rejected {
                code: Some(code), ..
            }) if code.concerns_attachment() => Ok(Attached::Refused),
            Err(DataverseError::TooLarge) => Ok(Attached::Refused),
            Err(error) => Err(error),
        }
    }

    /// Reads the row with this key, which must exist.
    ///
    /// # Errors
    /// [`DataverseError`].
    pub async fn existing(
        &self,
        session: &Session,
        id: ActivityId,
    ) -> Result<ExistingEmail, DataverseError> {
        let path = format!("{}?$select={EMAIL_COLUMNS}", row("emails", id.uuid()));
        let email = self.get_json(session, &path).await?;
        existing_email(&email).ok_or_else(|| super::error::unreadable("a row"))
    }

    /// Returns the keys of an email's attachments.
    ///
    /// # Errors
    /// [`DataverseError`].
    pub async fn attachments(
        &self,
        session: &Session,
        email: ActivityId,
    ) -> Result<HashSet<Uuid>, DataverseError> {
        #[derive(Deserialize)]
        struct AttachmentKey {
            #[serde(rename = "activitymimeattachmentid")]
            id: Uuid,
        }
        let keys: Vec<AttachmentKey> = self
            .query(
                session,
                "activitymimeattachments",
                "activitymimeattachmentid",
                &format!("_objectid_value eq {email}"),
            )
            .await?;
        Ok(keys.into_iter().map(|key| key.id).collect())
    }

    /// Sets the regarding record of a row that has none, if the row still has the version that was
    /// read. Works for completed rows too (verified, Dataverse facts §3.2).
    ///
    /// # Errors
    /// [`DataverseError::Stale`] if another user or client changed the row meanwhile: read it
    /// again.
    pub async fn fill_regarding(
        &self,
        session: &Session,
        email: &ExistingEmail,
        regarding: &RecordReference,
        names: &TableNames,
    ) -> Result<(), DataverseError> {
        let mut body = Map::new();
        names.bind(regarding, &mut body);
        self.update(
            session,
            email.activity_id.uuid(),
            email.etag.as_deref().unwrap_or("*"),
            &body,
        )
        .await
    }

    pub(crate) async fn create(
        &self,
        session: &Session,
        set: &str,
        body: &Map<String, Value>,
    ) -> Result<CreateOutcome, DataverseError> {
        match self
            .call(session, reqwest::Method::POST, set, None, Some(body))
            .await
        {
            Ok(_) => Ok(CreateOutcome::Created),
            Err(error) if is_duplicate(&error) => Ok(CreateOutcome::AlreadyExisted),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn update(
        &self,
        session: &Session,
        id: Uuid,
        if_match: &str,
        body: &Map<String, Value>,
    ) -> Result<(), DataverseError> {
        let path = row("emails", id);
        self.call(
            session,
            reqwest::Method::PATCH,
            &path,
            Some(if_match),
            Some(body),
        )
        .await
        .map(drop)
    }
}

/// The value of the column `notifications` for "some attachments were not saved" (Dataverse facts
/// §2.1).
pub(crate) const SOME_ATTACHMENTS_NOT_SAVED: i64 = 1;

/// Returns how many messages go into the next request: at least one.
fn how_many_fit<E: Borrow<EmailWrite>>(emails: &[E]) -> usize {
    let mut bytes = 0;
    let fitting = emails.iter().take(CHANGE_SETS).take_while(|email| {
        let email: &EmailWrite = (*email).borrow();
        bytes += email.size();
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}

pub(crate) fn outcome(parts: &[BatchPart]) -> Result<CreateOutcome, DataverseError> {
    let Some(failure) = parts.iter().find(|part| !part.is_success()) else {
        return Ok(CreateOutcome::Created);
    };
    let error = part_error(failure);
    if is_duplicate(&error) {
        Ok(CreateOutcome::AlreadyExisted)
    } else {
        Err(error)
    }
}

fn is_duplicate(error: &DataverseError) -> bool {
    matches!(
        error,
        DataverseError::Rejected {
            status: 412,
            code: Some(ErrorCode::DUPLICATE_KEY),
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body_bytes: usize) -> EmailWrite {
        let mut row = Map::new();
        row.insert(
            "description".to_owned(),
            Value::from("x".repeat(body_bytes)),
        );
        EmailWrite {
            activity_id: ActivityId::new(Uuid::nil()),
            row,
            attachments: Vec::new(),
            completion: Map::new(),
        }
    }

    #[test]
    fn a_request_holds_a_hundred_small_emails_or_a_few_large_ones() {
        assert_eq!(how_many_fit(&vec![message(10); 250]), 100);
        assert_eq!(how_many_fit(&vec![message(3 * 1024 * 1024); 5]), 2);
        assert_eq!(how_many_fit(&[message(20 * 1024 * 1024)]), 1);
    }

    #[test]
    fn an_existing_key_is_an_outcome_and_not_an_error() {
        let part = |status, body: &str| BatchPart {
            status,
            retry_after_seconds: None,
            body: body.as_bytes().to_vec(),
        };
        let duplicate = part(412, r#"{"error":{"code":"0x80040237","message":""}}"#);
        assert_eq!(outcome(&[duplicate]), Ok(CreateOutcome::AlreadyExisted));
        assert_eq!(
            outcome(&[part(204, ""), part(204, "")]),
            Ok(CreateOutcome::Created)
        );
        let refused = part(400, r#"{"error":{"code":"0x80044331","message":""}}"#);
        assert!(matches!(
            outcome(&[refused]),
            Err(DataverseError::Rejected { status: 400, .. })
        ));
    }
}
