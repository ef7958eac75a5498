//! Reconciles our rows with those of other clients, such as server-side synchronization: of two
//! rows of one message, one is kept.
//!
//! | Rows | Then |
//! | --- | --- |
//! | only their completed row | it holds the message; its empty regarding is filled with the one resolved for the message |
//! | theirs completed, ours a draft of an interrupted run | as below; if ours would add a file, it is completed and both stay |
//! | both completed | theirs stays, because users may have worked with it: its empty regarding is filled with that of ours, and ours is deleted |
//! | both completed, and ours adds something | both stay, and the ledger records why |
//!
//! Ours adds something if it has a file that theirs lacks (compared by name and size), if another
//! user changed it last, or if theirs could not be given its regarding. A regarding that theirs has
//! is never replaced. Our row is deleted; a draft that may not be deleted is cancelled. If the role
//! of the application user allows neither, both rows stay and the ledger records it.
//!
//! Their row may be created after ours. So for messages that a list shows and that we wrote in the
//! last hour, the backfill looks again, a page of them in one `$batch` ([`Pipeline::reconcile`]).
//! Server-side synchronization reads mailboxes within minutes. A client that writes later than that
//! is not looked for. Nor is one that writes after us a message that was old when we wrote it: the
//! schedule's list shows two hours and does not show that message again.
//!
//! A row of another message with the same Message-ID and sender is not their row of this message
//! (`shared_message_ids.rs`).
//!
//! If Dataverse allows only one email for each `messageid` (expected, Dataverse facts §7.3), their
//! row cannot be created after ours that has it, nor ours after theirs: ours is rejected, and
//! theirs adopted (`shared_message_ids.rs`). The cases with two rows above are for organisations
//! that allow both.
//!
//! A crash after our row was deleted does no harm: the next lookup finds only their row.

use chrono::{DateTime, TimeDelta, Utc};

use super::application_users::{BatchUsage, Probe};
use super::failure::Failure;
use super::invocation::Invocation;
use super::processed::Processed;
use super::stages::{Finished, PendingMessage};
use super::{Outcome, Pipeline};
use crate::clients::dataverse::duplicate_removal::{DuplicateRemoval, File};
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::metadata::table_names::TableNames;
use crate::clients::dataverse::records::{ExistingEmail, RecordReference, RowState};
use crate::clients::dataverse::session::Session;
use crate::lookup::request::LookupRequest;
use crate::lookup::result::LookupResult;
use crate::lookup::same_message;
use crate::lookup::same_message::{Comparison, Traits};
use crate::mapping::{self, Findings};
use crate::model::address::EmailAddress;
use crate::model::ids::{ActivityId, InternetMessageId, MessageKey};
use crate::model::message::Message;

/// How long after it was settled a message is checked for another client's row.
const RECENT: TimeDelta = TimeDelta::hours(1);

/// A listed message, with the data that is needed to find another client's row of it.
pub struct Listed {
    key: MessageKey,
    message_id: InternetMessageId,
    sender: Option<EmailAddress>,
    date: Option<DateTime<Utc>>,
    subject: String,
    own_row: ActivityId,
}

impl Listed {
    /// Returns `None` for a message without a Message-ID, because other clients' rows are only
    /// found by it.
    #[must_use]
    pub fn of(message: &Message) -> Option<Self> {
        Some(Self {
            key: message.key.clone(),
            message_id: message.internet_message_id.clone()?,
            sender: message.author().cloned(),
            date: message.date,
            subject: message.subject.clone(),
            own_row: message.activity_id(),
        })
    }

    /// Returns the message key.
    #[must_use]
    pub fn key(&self) -> &MessageKey {
        &self.key
    }

    /// Returns whether the row may hold this message, judged by date and subject.
    fn may_be_held_by(&self, row: &ExistingEmail) -> bool {
        let message = Traits {
            dates: self.date.into_iter().collect(),
            subject: &self.subject,
            body: Some(""),
            ..Traits::default()
        };
        same_message::compare(&message, &Traits::of_row(row, Some(""))) == Comparison::Same
    }

    /// Returns whether our row holds the message, and is so recent that another client may still
    /// write its own. `processed` is the result of the run for this message.
    #[must_use]
    pub fn is_due(&self, processed: &Processed, now: DateTime<Utc>) -> bool {
        let own_row = matches!(&processed.outcome, Outcome::Written { activity_id, .. } if *activity_id == self.own_row);
        let settled = processed
            .settled_before
            .then_some(processed.settled_at)
            .flatten();
        own_row && settled.is_some_and(|at| now - at < RECENT)
    }
}

/// The result of merging our row with another client's row of one message.
pub(super) enum MergeResult {
    /// Our row was deleted or cancelled, and theirs holds the message.
    Theirs(&'static str),
    /// Both rows stay.
    Both(&'static str),
}

const THEIRS: &str = "written by another client, found by its Message-ID";

impl Pipeline {
    /// Ends a message with the row of another client, and fills the row's regarding if it is empty.
    pub(super) async fn adopt(
        &self,
        session: &Session,
        pending: PendingMessage,
        message: &Message,
        findings: Findings,
        external_row: &ExistingEmail,
        invocation: &Invocation,
    ) -> Finished {
        let mut note = THEIRS;
        if let Some(choice) = findings
            .regarding
            .choice
            .as_ref()
            .filter(|_| !external_row.has_regarding)
        {
            match self
                .fill(session, external_row, &choice.target, &choice.names)
                .await
            {
                Ok(true) => {}
                Ok(false) => {
                    note = "written by another client; its empty regarding could not be filled";
                }
                Err(error) => return pending.failed(Failure::from(error), invocation),
            }
        }
        let files = i64::try_from(message.attachments.len()).unwrap_or(i64::MAX);
        if note == THEIRS && external_row.attachments < files {
            note = "written by another client, found by its Message-ID; it has fewer attachments than the message";
        }
        pending.found(external_row.activity_id, note, message, findings)
    }

    /// Merges our row with another client's row that was found before the write. `Err` returns the
    /// message, whose own draft has to be completed beside their row.
    pub(super) async fn merge_rows(
        &self,
        session: &Session,
        pending: PendingMessage,
        message: &Message,
        findings: Findings,
        rows: (&ExistingEmail, &ExistingEmail),
        invocation: &Invocation,
    ) -> Result<Finished, Box<(PendingMessage, Findings)>> {
        let (own_row, external_row) = rows;
        let decided = findings.regarding.choice.as_ref();
        let decided = decided.map(|choice| (&choice.target, &choice.names));
        let names = message.attachments.iter().enumerate();
        let names = names.map(|(at, file)| mapping::file_name(&file.file_name, at).to_lowercase());
        let expected: Vec<File> = names.map(|name| (name, None)).collect();
        match self
            .merge(session, own_row, external_row, decided, &expected)
            .await
        {
            Ok(MergeResult::Theirs(note)) => {
                Ok(pending.found(external_row.activity_id, note, message, findings))
            }
            Ok(MergeResult::Both(_)) if own_row.state == RowState::Open => {
                Err(Box::new((pending, findings)))
            }
            Ok(MergeResult::Both(note)) => {
                Ok(pending.found(own_row.activity_id, note, message, findings))
            }
            Err(error) => Ok(pending.failed(Failure::from(error), invocation)),
        }
    }

    /// Looks for rows that other clients created after ours, for the messages of a listed page that
    /// [`Listed::is_due`] chose.
    ///
    /// This takes one `$batch` of queries, and none if there are no messages. After a
    /// failure, messages are checked again when the next list shows them.
    pub async fn reconcile(&self, due: &[Listed], invocation: &Invocation) {
        if due.is_empty() {
            return;
        }
        let Ok(reserved) = self.reserve(1, invocation, Probe::IsNone).await else {
            return;
        };
        let Ok(token) = self
            .application_users
            .of(invocation)
            .tokens
            .token(invocation.now)
            .await
        else {
            return self.settle_reservation(
                &reserved.reservation,
                BatchUsage::default(),
                invocation,
            );
        };
        let session = Session::timed_by(token, invocation.clock);
        let emails = due
            .iter()
            .map(|it| (vec![it.own_row], Some(it.message_id.clone())));
        let lookup_request = LookupRequest {
            emails: emails.collect(),
            ..LookupRequest::default()
        };
        match self.dataverse.look_up(&session, &lookup_request).await {
            Ok(found) => {
                for listed in due {
                    self.reconcile_one(&session, listed, &found).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to look for rows of other clients; the next reconciliation will retry");
            }
        }
        let usage = BatchUsage::of(&session, 0);
        self.settle_reservation(&reserved.reservation, usage, invocation);
        self.publish_limits(&session, invocation).await;
    }

    async fn reconcile_one(&self, session: &Session, listed: &Listed, found: &LookupResult) {
        let Listed {
            key,
            message_id,
            sender,
            own_row,
            ..
        } = listed;
        let mut external_row = None;
        let own = found.by_key(*own_row);
        for row in found.by_message_id(message_id, sender.as_ref(), *own_row) {
            let same = match own {
                Some(own) => self.hold_the_same(session, own, row).await,
                // Our row was already deleted in favour of theirs, so there is no body to compare.
                None => Ok(listed.may_be_held_by(row)),
            };
            match same {
                Ok(true) => {
                    external_row = Some(row);
                    break;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("sync.key" = %key, %error, "failed to compare two rows with the same Message-ID; the next reconciliation will retry");
                    return;
                }
            }
        }
        let Some(external_row) = external_row else {
            return;
        };
        let (carrier, note) = match own {
            // The copy of another mailbox was reconciled first.
            None => (external_row.activity_id, THEIRS),
            Some(row) => match self.merge(session, row, external_row, None, &[]).await {
                Ok(MergeResult::Theirs(note)) => (external_row.activity_id, note),
                Ok(MergeResult::Both(note)) => (*own_row, note),
                Err(error) => {
                    tracing::warn!("sync.key" = %key, %error, "failed to merge duplicate rows; the next reconciliation will retry");
                    return;
                }
            },
        };
        let sort_results = self.ledger.replace_row(key, *own_row, carrier, note);
        match sort_results.await {
            Ok(_) => {
                tracing::info!("sync.key" = %key, reason = note, "another client wrote the message too");
            }
            Err(error) => {
                tracing::warn!("sync.key" = %key, %error, "failed to record in the ledger which row was kept; the next reconciliation will retry");
            }
        }
    }

    /// Merges two rows of one message by the rule of this module. `decided` is the regarding for a
    /// draft of ours that has none yet; `expected` are the files that the draft would get.
    async fn merge(
        &self,
        session: &Session,
        own_row: &ExistingEmail,
        external_row: &ExistingEmail,
        decided: Option<(&RecordReference, &TableNames)>,
        expected: &[File],
    ) -> Result<MergeResult, DataverseError> {
        if !external_row.has_regarding {
            let own = match &own_row.regarding {
                Some(target) => Some((target.clone(), self.names_of(session, target).await?)),
                None => decided.map(|(target, names)| (target.clone(), Some(names.clone()))),
            };
            let filled = match &own {
                Some((target, Some(names))) => {
                    self.fill(session, external_row, target, names).await?
                }
                Some((_, None)) => false,
                None => true,
            };
            if !filled && own_row.has_regarding {
                return Ok(MergeResult::Both(
                    "another client wrote a row for it too; that row's empty regarding could not be filled, so both stay",
                ));
            }
        }
        if own_row.changed_by_another {
            return Ok(MergeResult::Both(
                "another client wrote a row for it too; a user has changed ours, so both stay",
            ));
        }
        if self
            .adds_a_file(session, own_row, external_row, expected)
            .await?
        {
            return Ok(MergeResult::Both(
                "another client wrote a row for it too; ours has an attachment that it lacks, so both stay",
            ));
        }
        match self.dataverse.remove_duplicate(session, own_row).await {
            Ok(DuplicateRemoval::Deleted) => Ok(MergeResult::Theirs(
                "another client wrote a row for it; ours was deleted",
            )),
            Ok(DuplicateRemoval::Canceled) => Ok(MergeResult::Theirs(
                "another client wrote a row for it; our draft was cancelled",
            )),
            Err(DataverseError::Rejected { .. }) => Ok(MergeResult::Both(
                "another client wrote a row for it too; ours could not be deleted, so both stay",
            )),
            Err(error) => Err(error),
        }
    }

    /// Returns whether our row has a file that theirs lacks, or would get one if it is a draft.
    async fn adds_a_file(
        &self,
        session: &Session,
        own_row: &ExistingEmail,
        external_row: &ExistingEmail,
        expected: &[File],
    ) -> Result<bool, DataverseError> {
        let draft = own_row.state == RowState::Open;
        let to_come = draft && !expected.is_empty();
        if own_row.attachments == 0 && !to_come {
            return Ok(false);
        }
        let both = [own_row.activity_id, external_row.activity_id];
        match self.dataverse.files(session, &both).await {
            Ok(mut files) => {
                let mut own = files.remove(&own_row.activity_id).unwrap_or_default();
                if draft {
                    own.extend(expected.iter().cloned());
                }
                let there = files.remove(&external_row.activity_id).unwrap_or_default();
                Ok(lacks_file(&there, &own, draft))
            }
            // If the files cannot be compared, ours may have one that theirs lacks.
            Err(DataverseError::Rejected { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Sets the regarding. Returns `false` if Dataverse rejects it, so that a retry would not help.
    async fn fill(
        &self,
        session: &Session,
        external_row: &ExistingEmail,
        target: &RecordReference,
        names: &TableNames,
    ) -> Result<bool, DataverseError> {
        let filled = self
            .dataverse
            .fill_regarding(session, external_row, target, names);
        match filled.await {
            Ok(()) => Ok(true),
            Err(DataverseError::Rejected { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn names_of(
        &self,
        session: &Session,
        target: &RecordReference,
    ) -> Result<Option<TableNames>, DataverseError> {
        if let Some(names) = self.dataverse.known_names(&target.table) {
            return Ok(Some(names));
        }
        let further = crate::lookup::follow_up::FollowUpRequest {
            tables: [target.table.clone()].into(),
            ..Default::default()
        };
        let mut found = LookupResult::default();
        self.dataverse
            .look_up_further(session, &further, None, &mut found)
            .await?;
        Ok(found.names(&target.table).flatten())
    }
}

/// Returns whether `there` lacks one of the files of `own`.
///
/// Two files match if they have the same name and, if both sizes are known, the same size. Each
/// file matches only once, unless `twice`: then `own` may list a file twice.
fn lacks_file(there: &[File], own: &[File], twice: bool) -> bool {
    let mut left = there.to_vec();
    own.iter().any(|(name, size)| {
        let same = |file: &File| {
            file.0 == *name && (file.1.is_none() || size.is_none() || file.1 == *size)
        };
        let Some(at) = left.iter().position(same) else {
            return true;
        };
        if !twice {
            left.remove(at);
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: Option<i64>) -> File {
        (name.to_owned(), size)
    }

    #[test]
    fn a_file_with_another_name_or_size_counts_as_missing() {
        let there = [file("a.pdf", Some(3)), file("b.pdf", None)];
        assert!(!lacks_file(&there, &[], false));
        assert!(!lacks_file(
            &there,
            &[file("a.pdf", Some(3)), file("b.pdf", Some(9))],
            false
        ));
        assert!(!lacks_file(&there, &[file("a.pdf", None)], false));
        assert!(lacks_file(&there, &[file("a.pdf", Some(4))], false));
        assert!(lacks_file(&there, &[file("c.pdf", None)], false));
    }

    #[test]
    fn two_files_with_the_same_name_count_as_two() {
        let there = [file("a.pdf", Some(3))];
        let twice = [file("a.pdf", Some(3)), file("a.pdf", Some(3))];
        assert!(lacks_file(&there, &twice, false));
        assert!(
            !lacks_file(&there, &twice, true),
            "listed once as a row, once by the message"
        );
    }
}
