//! The step **write**: writes messages, falls back when Dataverse rejects something, and handles
//! rows that already exist. Attachments: `attachments`.
//!
//! Messages without attachments are written together. Messages with attachments are written one
//! after the other, because their files would not all fit in memory, and request by request if they
//! would not fit in one request. In the write mode `stepwise`, all messages are written request by
//! request.
//!
//! A row is written as the application user, or with the setting `impersonate` as the user who owns
//! the mailbox.
//!
//! A fallback omits what Dataverse rejects, one thing at a time, instead of failing the message:
//! the creation date, the impersonation, the owner, or an attachment. The last three are recorded
//! with the message. A rejected creation date is omitted from all later messages as well
//! ([`super::created_on`]).
//!
//! | Rejected because a privilege is missing, with | The next attempt is | If it succeeds |
//! | --- | --- | --- |
//! | date and owner | without the date | the date was the cause |
//! | owner; the date is already omitted | without the owner, with the date | the owner was the cause |
//! | date, no owner | without the date | the date was the cause |
//!
//! If the message is written as its owner (impersonation), that is dropped before the owner is, and
//! the date with which it was rejected is restored. A rejection of another kind starts at this
//! point.
//!
//! A text that is rejected for its length is not a case for a fallback: the column lengths of this
//! organisation are read, and the message is sent again with its texts cut to them
//! ([`crate::clients::dataverse::metadata::column_lengths`]). All later messages are cut to them in
//! advance.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::failure::Failure;
use super::shared_message_ids::KeyConflict;
use super::stages::{Finished, PendingMessage, summary};
use super::{Invocation, Outcome, Pipeline, refusals};
use crate::clients::dataverse::email_row::EmailWrite;
use crate::clients::dataverse::emails::{CreateOutcome, WriteMode};
use crate::clients::dataverse::error::{DataverseError, ErrorCode};
use crate::clients::dataverse::metadata::column_lengths::Lengths;
use crate::clients::dataverse::records::{ExistingEmail, RowState};
use crate::clients::dataverse::session::Session;
use crate::decision_record::DecisionRecord;
use crate::ledger::decisions::DecidedRow;
use crate::lookup::result::LookupResult;
use crate::mapping::{self, Findings};
use crate::model::ids::{ActivityId, InternetMessageId};
use crate::model::message::{IdUse, Message, Omission, omissions_note};
use crate::policy::document::Impersonate;

/// The largest message, in bytes of its rows, that is written as one change set.
const LARGEST_CHANGE_SET: usize = 8 * 1024 * 1024;

/// A message that is being written.
pub(super) struct EmailDraft {
    pub(super) pending: PendingMessage,
    /// The message without its body: bodies are large, so only the row keeps it.
    pub(super) message: Message,
    findings: Findings,
    pub(super) email: EmailWrite,
    pub(super) omissions: Vec<Omission>,
    /// The Entra object id of the user that is impersonated; `None` to write as the application
    /// user.
    acting_user: Option<Uuid>,
    /// The creation date that the row should get; `None` for the time of writing.
    created_on: Option<DateTime<Utc>>,
    /// The last attempt was rejected, and only the date has been dropped since.
    blames_date: bool,
    /// An Open row of this message exists: an earlier run died before it completed the row.
    pub(super) begun: bool,
    /// The key of its row if another message has its Message-ID.
    by_content: Option<ActivityId>,
}

impl EmailDraft {
    /// Maps a message to the rows to write, within what the policy allows to be stored.
    pub(super) fn new(
        pending: PendingMessage,
        mut message: Message,
        findings: Findings,
        acting_user: ActingUser,
        created_on: Option<DateTime<Utc>>,
        begun: bool,
    ) -> Self {
        let mut email = mapping::email(&message, &findings);
        message.body = String::new();
        if let Some(date) = created_on {
            mapping::set_created_on(&mut email, date);
        }
        let mut omissions = message.omissions.clone();
        let has_id = message.internet_message_id.is_some() && message.id_use == IdUse::Own;
        if has_id && !email.row.contains_key("messageid") {
            omissions.push(Omission::LongMessageId);
        }
        if omissions.contains(&Omission::Attachment) {
            mapping::note_missing_attachment(&mut email);
        }
        if acting_user == ActingUser::OwnerWithoutEntraId {
            omissions.push(Omission::Impersonation);
        }
        Self {
            pending,
            message,
            findings,
            email,
            omissions,
            acting_user: acting_user.id(),
            created_on,
            blames_date: false,
            begun,
            by_content: None,
        }
    }

    /// Sets the key to use if another message turns out to have its Message-ID.
    pub(super) fn set_key_by_content(&mut self, key: Option<ActivityId>) {
        self.by_content = key;
    }

    pub(super) fn activity_id(&self) -> ActivityId {
        self.email.activity_id
    }

    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn message(&self) -> &Message {
        &self.message
    }

    pub(super) fn body(&self) -> &str {
        mapping::body(&self.email)
    }

    /// Returns the Message-ID that its row will have; `None` if the row is written without one.
    pub(super) fn stored_id(&self) -> Option<InternetMessageId> {
        let id = self.message.internet_message_id.clone();
        id.filter(|_| self.email.row.contains_key("messageid"))
    }

    /// Removes the Message-ID, because another row has it.
    pub(super) fn drop_message_id(&mut self) {
        self.without_id(IdUse::Taken);
    }

    /// Moves the message to the key by its content, because the row of its key holds another
    /// message. Returns false if it has no such key.
    pub(super) fn use_key_by_content(&mut self) -> bool {
        let Some(key) = self.by_content else {
            return false;
        };
        self.without_id(IdUse::Reused(key));
        mapping::move_to(&mut self.email, &self.message, key);
        true
    }

    fn without_id(&mut self, id_use: IdUse) {
        self.message.drop_message_id(id_use);
        mapping::without_message_id(&mut self.email);
        if !self.omissions.contains(&Omission::MessageIdReused) {
            self.omissions.push(Omission::MessageIdReused);
        }
    }

    fn written(self) -> Finished {
        let outcome = Outcome::Written {
            activity_id: self.email.activity_id,
            note: omissions_note(&self.omissions),
        };
        Finished {
            record: self.record(DecidedRow::Ours),
            attempts: self.pending.attempts,
            refusal: None,
            wrote: true,
            key: self.pending.key,
            outcome,
            decision: self.pending.decision,
            summary: Some(summary(&self.message, self.findings)),
        }
    }

    fn record(&self, row: DecidedRow) -> Option<DecisionRecord> {
        let record = self.pending.record()?;
        Some(record.with_findings(&self.findings, row, &self.omissions))
    }

    fn already_existed(self) -> Finished {
        self.pending
            .already_existed(self.email.activity_id, &self.message, self.findings)
    }

    /// Ends the message before this run wrote anything of it.
    fn failed(self, failure: Failure, invocation: &Invocation) -> Finished {
        self.finished(DecidedRow::None, failure, invocation)
    }

    /// Ends the message after a Dataverse error, when parts of it may have been written.
    fn refused(self, error: DataverseError, invocation: &Invocation) -> Finished {
        self.finished(DecidedRow::Ours, error.into(), invocation)
    }

    fn finished(self, row: DecidedRow, failure: Failure, invocation: &Invocation) -> Finished {
        let record = self.record(row);
        let finished = self.pending.failed(failure, invocation);
        Finished {
            record,
            summary: Some(summary(&self.message, self.findings)),
            ..finished
        }
    }

    /// Cuts the texts to the column lengths of this organisation. Returns whether anything was cut.
    fn fit(&mut self, lengths: &Lengths) -> bool {
        let had_id = self.email.row.contains_key("messageid");
        let body = mapping::body(&self.email).len();
        let cut = mapping::fit(&mut self.email, lengths);
        if had_id && !self.email.row.contains_key("messageid") {
            self.omissions.push(Omission::LongMessageId);
        }
        if mapping::body(&self.email).len() < body && !self.omissions.contains(&Omission::Body) {
            self.omissions.push(Omission::Body);
        }
        cut
    }

    fn drop_impersonation(&mut self) -> bool {
        let had_name = self.acting_user.take().is_some();
        if had_name {
            self.omissions.push(Omission::Impersonation);
        }
        had_name
    }

    fn drop_owner(&mut self) -> bool {
        let had_owner = mapping::without_owner(&mut self.email);
        if had_owner {
            self.omissions.push(Omission::Owner);
        }
        had_owner
    }

    /// Omits what may be the cause of a rejection. Returns false if nothing is left to omit.
    fn apply_fallback(&mut self, code: Option<ErrorCode>) -> bool {
        let was_tried_without_date = std::mem::take(&mut self.blames_date);
        let is_privilege = code.is_some_and(ErrorCode::concerns_privilege);
        if is_privilege && mapping::without_created_on(&mut self.email) {
            self.blames_date = true;
            return true;
        }
        if self.drop_impersonation() || self.drop_owner() {
            // The date was not the cause, or not the only one.
            if let Some(date) = self.created_on.filter(|_| was_tried_without_date) {
                mapping::set_created_on(&mut self.email, date);
            }
            return true;
        }
        false
    }
}

/// The user that a message is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ActingUser {
    /// The application user.
    Application,
    /// The owner, by Entra object id (impersonation).
    Owner(Uuid),
    /// The application user, because the owner has no Entra object id.
    OwnerWithoutEntraId,
}

impl ActingUser {
    /// Falls back to the application user if the mailbox has no Dynamics user.
    pub(super) fn new(impersonate: Impersonate, owner: Option<Uuid>, found: &LookupResult) -> Self {
        match (impersonate, owner) {
            (Impersonate::Owner, Some(owner)) => found
                .entra_id(owner)
                .map_or(Self::OwnerWithoutEntraId, Self::Owner),
            (Impersonate::Owner, None) | (Impersonate::Nobody, _) => Self::Application,
        }
    }

    const fn id(self) -> Option<Uuid> {
        match self {
            Self::Owner(id) => Some(id),
            Self::Application | Self::OwnerWithoutEntraId => None,
        }
    }
}

impl Pipeline {
    /// Writes messages. Copies of one message in several mailboxes share a row: the first is
    /// written, and the others find the row.
    pub(super) async fn write(
        &self,
        session: &Session,
        mut drafts: Vec<EmailDraft>,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) {
        while !drafts.is_empty() {
            let mut seen = HashSet::new();
            let (firsts, copies): (Vec<_>, Vec<_>) = drafts
                .into_iter()
                .partition(|draft| seen.insert(draft.email.activity_id));
            self.write_distinct(session, firsts, invocation, finished)
                .await;
            let written: HashSet<ActivityId> = finished.iter().filter_map(Finished::row).collect();
            // A copy whose first could not be written is tried itself: it may not contain what was
            // rejected.
            let (already_written, others): (Vec<_>, Vec<_>) = copies
                .into_iter()
                .partition(|copy| written.contains(&copy.email.activity_id));
            finished.extend(already_written.into_iter().map(EmailDraft::already_existed));
            drafts = others;
        }
    }

    async fn write_distinct(
        &self,
        session: &Session,
        drafts: Vec<EmailDraft>,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) {
        let stepwise = self.write_mode == WriteMode::Stepwise;
        let (alone, together): (Vec<_>, Vec<_>) = drafts
            .into_iter()
            .partition(|draft| stepwise || draft.begun || !draft.message.attachments.is_empty());
        self.write_together(session, together, invocation, finished)
            .await;
        for mut draft in alone {
            if let Some(refused) = refusals::failure_of_rest(finished) {
                finished.push(draft.failed(refused, invocation));
            } else if let Some(error) = session.ended_by() {
                // Fetching its files would be wasted.
                finished.push(draft.failed(error.clone().into(), invocation));
            } else if invocation.is_nearly_over() {
                finished.push(draft.failed(Failure::no_time_left(), invocation));
            } else if let Err(failure) = self.add_attachments(session, &mut draft, invocation).await
            {
                finished.push(draft.failed(failure, invocation));
            } else if stepwise || draft.begun || draft.email.size() > LARGEST_CHANGE_SET {
                finished.push(self.write_stepwise(session, draft, invocation).await);
            } else {
                self.write_together(session, vec![draft], invocation, finished)
                    .await;
            }
        }
    }

    /// Sends one `$batch` for each impersonated user, and a further one for the messages that need
    /// a fallback or another key.
    async fn write_together(
        &self,
        session: &Session,
        mut drafts: Vec<EmailDraft>,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) {
        while !drafts.is_empty() {
            for draft in &mut drafts {
                self.apply_known_fallbacks(draft);
            }
            drafts.sort_by_key(|draft| draft.acting_user);
            let mut results = Vec::with_capacity(drafts.len());
            for some in drafts.chunk_by(|one, other| one.acting_user == other.acting_user) {
                let emails: Vec<&EmailWrite> = some.iter().map(|draft| &draft.email).collect();
                let acting_user = some.first().and_then(|draft| draft.acting_user);
                let dataverse = self.dataverse.impersonating(acting_user);
                results.extend(dataverse.write(session, &emails).await);
            }
            let mut again = Vec::new();
            for (mut draft, result) in drafts.into_iter().zip(results) {
                match result {
                    Ok(CreateOutcome::Created) => finished.push(self.written(draft)),
                    Ok(CreateOutcome::AlreadyExisted) => {
                        match self.find_blocking_row(session, &mut draft).await {
                            // Another worker wrote it, or this one before it died: add whatever is
                            // missing.
                            Ok(KeyConflict::Ours(row)) => {
                                let end = self.write_stepwise_from(
                                    session,
                                    draft,
                                    Some(row.state),
                                    invocation,
                                );
                                // Boxed, because it is rare and would make every write's future
                                // larger.
                                finished.push(Box::pin(end).await);
                            }
                            Ok(KeyConflict::Theirs(row)) => {
                                finished.push(
                                    self.adopt_blocking_row(session, draft, &row, invocation)
                                        .await,
                                );
                            }
                            Ok(KeyConflict::ByAnother) => again.push(draft),
                            Err(error) => finished.push(draft.refused(error, invocation)),
                        }
                    }
                    Err(DataverseError::Rejected {
                        code: Some(code), ..
                    }) if code.concerns_attachment() => {
                        finished.push(self.write_stepwise(session, draft, invocation).await);
                    }
                    // Too large for one request; each of its rows may still fit.
                    Err(DataverseError::TooLarge) if !draft.email.attachments.is_empty() => {
                        finished.push(self.write_stepwise(session, draft, invocation).await);
                    }
                    Err(refusal @ DataverseError::Rejected { .. }) => {
                        let code = refusal.code();
                        match self.cut(session, &mut draft, code).await {
                            Ok(cut) if cut || draft.apply_fallback(code) => again.push(draft),
                            Ok(_) => finished.push(draft.refused(refusal, invocation)),
                            // The error may be temporary, so nothing is omitted because of it.
                            Err(error) => finished.push(draft.refused(error, invocation)),
                        }
                    }
                    Err(error) => finished.push(draft.refused(error, invocation)),
                }
            }
            drafts = again;
        }
    }

    async fn write_stepwise(
        &self,
        session: &Session,
        draft: EmailDraft,
        invocation: &Invocation,
    ) -> Finished {
        self.write_stepwise_from(session, draft, None, invocation)
            .await
    }

    /// Writes a message request by request, from where an earlier run stopped. `existing_state` is
    /// the state of its row if the row was just read; `None` to create it.
    async fn write_stepwise_from(
        &self,
        session: &Session,
        mut draft: EmailDraft,
        mut existing_state: Option<RowState>,
        invocation: &Invocation,
    ) -> Finished {
        loop {
            self.apply_known_fallbacks(&mut draft);
            let dataverse = self.dataverse.impersonating(draft.acting_user);
            let mut begun = Ok(CreateOutcome::AlreadyExisted);
            if existing_state.is_none() {
                begun = dataverse.begin(session, &draft.email).await;
                if begun == Ok(CreateOutcome::AlreadyExisted) {
                    match self.find_blocking_row(session, &mut draft).await {
                        Ok(KeyConflict::Ours(row)) => existing_state = Some(row.state),
                        Ok(KeyConflict::Theirs(row)) => {
                            return self
                                .adopt_blocking_row(session, draft, &row, invocation)
                                .await;
                        }
                        Ok(KeyConflict::ByAnother) => continue,
                        Err(error) => return draft.refused(error, invocation),
                    }
                }
            }
            if existing_state
                .take()
                .is_some_and(|state| state != RowState::Open)
            {
                return draft.written();
            }
            let steps = match begun {
                Ok(_) => dataverse.finish(session, &draft.email).await,
                Err(error) => Err(error),
            };
            match steps {
                Ok(refused) => {
                    draft
                        .omissions
                        .extend(std::iter::repeat_n(Omission::Attachment, refused));
                    return self.written(draft);
                }
                Err(refusal @ DataverseError::Rejected { .. }) => {
                    let code = refusal.code();
                    let state = match self.state_of_row(session, &draft).await {
                        // A completed row takes no more changes: another worker was faster, with
                        // the copy of another mailbox.
                        Ok(Some(RowState::Completed)) => return draft.already_existed(),
                        Ok(state) => state,
                        // The cause of the rejection cannot be determined now.
                        Err(error) => return draft.refused(error, invocation),
                    };
                    match self.cut(session, &mut draft, code).await {
                        Ok(true) => {}
                        // A started row can be completed without impersonation.
                        Ok(false) if state.is_some() && draft.drop_impersonation() => {}
                        Ok(false) if state.is_none() && draft.apply_fallback(code) => {}
                        Ok(false) => return draft.refused(refusal, invocation),
                        Err(error) => return draft.refused(error, invocation),
                    }
                }
                Err(error) => return draft.refused(error, invocation),
            }
        }
    }

    /// Adopts another client's row that was created between lookup and write and blocks ours.
    async fn adopt_blocking_row(
        &self,
        session: &Session,
        draft: EmailDraft,
        external_row: &ExistingEmail,
        invocation: &Invocation,
    ) -> Finished {
        let EmailDraft {
            pending,
            message,
            findings,
            ..
        } = draft;
        // Boxed, because it is rare and would make every write's future larger.
        Box::pin(self.adopt(
            session,
            pending,
            &message,
            findings,
            external_row,
            invocation,
        ))
        .await
    }

    /// Applies what was learned from rejections since this message was mapped.
    fn apply_known_fallbacks(&self, draft: &mut EmailDraft) {
        if self.created_on.is_refused() {
            mapping::without_created_on(&mut draft.email);
        }
        if let Some(lengths) = self.dataverse.known_lengths() {
            draft.fit(&lengths);
        }
    }

    /// Cuts texts that were rejected for their length. Returns whether anything was cut; false if
    /// the lengths may not be read.
    ///
    /// # Errors
    /// [`DataverseError`]: the lengths cannot be read now; fail the message, so that it is retried.
    async fn cut(
        &self,
        session: &Session,
        draft: &mut EmailDraft,
        code: Option<ErrorCode>,
    ) -> Result<bool, DataverseError> {
        if !code.is_some_and(ErrorCode::concerns_length) {
            return Ok(false);
        }
        // Another message of the same batch may have loaded the lengths meanwhile.
        let known = self.dataverse.known_lengths();
        if known.is_some_and(|lengths| draft.fit(&lengths)) {
            return Ok(true);
        }
        match self.dataverse.read_lengths(session, &mapping::TABLES).await {
            Ok(lengths) => Ok(draft.fit(&lengths)),
            Err(error @ DataverseError::Rejected { .. }) => {
                tracing::warn!(reason = %error, "a text is too long, but the column lengths may not be read; grant the role of the application user Read on Entity and Attribute");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn written(&self, draft: EmailDraft) -> Finished {
        if draft.blames_date {
            self.created_on.refuse();
        }
        draft.written()
    }

    /// Returns the state of a message's row; `None` if it does not exist or may not be read.
    async fn state_of_row(
        &self,
        session: &Session,
        draft: &EmailDraft,
    ) -> Result<Option<RowState>, DataverseError> {
        let row = self.dataverse.existing(session, draft.email.activity_id);
        match row.await {
            Ok(row) => Ok(Some(row.state)),
            Err(DataverseError::Stale { .. } | DataverseError::Rejected { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
