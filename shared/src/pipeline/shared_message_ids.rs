//! Handles Message-IDs that several messages share: which row holds which message
//! ([`crate::lookup::same_message`]).
//!
//! | Case | Then |
//! | --- | --- |
//! | our row with the message's key holds another message | the message gets its own row, under the key by its content |
//! | another message of the same batch has this key, and nothing of that message is written yet | the same |
//! | another client's row with the Message-ID holds another message | it is not adopted |
//! | the row with the key by content exists | it is the row of this message, whatever the other rows hold |
//!
//! This is decided after the lookup ([`Pipeline::separate_shared_ids`]), without a request if date
//! and subject settle it. A row that is created between lookup and write makes Dataverse answer 412
//! / 0x80040237, which does not say which key is taken (Dataverse facts §7.3, §12). Then the row is
//! read ([`Pipeline::find_blocking_row`]):
//!
//! | The row of the message's key | Then |
//! | --- | --- |
//! | holds this message | it is the message's row, completed or to be completed |
//! | holds another message | the message is written under the key by its content, without `messageid` |
//! | does not exist, and a completed row with the Message-ID holds this message | that row is adopted |
//! | does not exist, and there is no such row | the message is written again without `messageid`, because a row that we cannot see has it |
//!
//! A message that is written without `messageid` is recorded as
//! [`Omission::MessageIdReused`](crate::model::message::Omission).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::Pipeline;
use super::failure::Failure;
use super::invocation::Invocation;
use super::stages::{CandidateMessage, Finished};
use super::write::EmailDraft;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::records::ExistingEmail;
use crate::clients::dataverse::session::Session;
use crate::lookup::result::LookupResult;
use crate::lookup::same_message;
use crate::lookup::same_message::{Comparison, Traits};
use crate::mapping;
use crate::model::ids::ActivityId;
use crate::model::message::{IdUse, Message};

/// A cache of row bodies, so that each is read once.
#[derive(Default)]
pub(super) struct Bodies(HashMap<ActivityId, String>);

/// Why Dataverse rejected a key.
pub(super) enum KeyConflict {
    /// The row of the message's key holds the message.
    Ours(ExistingEmail),
    /// Another client's row holds the message.
    Theirs(ExistingEmail),
    /// A row of another message has the key. This message, now changed, has to be written again.
    ByAnother,
}

impl Pipeline {
    /// Detects rows, and messages of the same group, that have the Message-ID and sender of a
    /// message but are other messages.
    ///
    /// Messages of an earlier group are written by now, so the lookup finds their rows.
    pub(super) async fn separate_shared_ids(
        &self,
        session: &Session,
        group: &mut Vec<CandidateMessage>,
        found: &mut LookupResult,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) {
        let mut bodies = Bodies::default();
        let mut kept: Vec<CandidateMessage> = Vec::with_capacity(group.len());
        for mut candidate in group.drain(..) {
            let is_second = found.by_key(candidate.message.activity_id()).is_none()
                && is_second(&candidate.message, kept.iter());
            let rows = self.look_at_rows(session, &mut candidate, found, &mut bodies);
            match rows.await {
                Ok(()) => {
                    if is_second {
                        candidate.use_key_by_content();
                    }
                    kept.push(candidate);
                }
                Err(error) => {
                    finished.push(candidate.pending.failed(Failure::from(error), invocation));
                }
            }
        }
        *group = kept;
    }

    async fn look_at_rows(
        &self,
        session: &Session,
        candidate: &mut CandidateMessage,
        found: &mut LookupResult,
        bodies: &mut Bodies,
    ) -> Result<(), DataverseError> {
        let message = &candidate.message;
        let Some(id) = message.internet_message_id.clone() else {
            return Ok(());
        };
        let by_id = message.activity_id();
        let by_content = candidate
            .by_content
            .filter(|key| found.by_key(*key).is_some());
        let mut holds_another = by_content.is_some();
        if let Some(row) = found.by_key(by_id).filter(|_| !holds_another) {
            holds_another = !self.holds(session, row, message, bodies).await?;
        }
        let mut others = Vec::new();
        let external_row = found.by_message_id(&id, message.author(), by_id);
        for row in external_row.filter(|row| Some(row.activity_id) != by_content) {
            if !self.holds(session, row, message, bodies).await? {
                others.push(row.activity_id);
            }
        }
        for row in others {
            found.note_other_mail(&message.key, row);
        }
        if holds_another {
            // Otherwise it would be mistaken for another client's row of the message.
            found.note_other_mail(&message.key, by_id);
            candidate.use_key_by_content();
        }
        Ok(())
    }

    /// Returns whether a row holds the message. Reads the body only if date and subject do not
    /// settle it.
    async fn holds(
        &self,
        session: &Session,
        row: &ExistingEmail,
        message: &Message,
        bodies: &mut Bodies,
    ) -> Result<bool, DataverseError> {
        self.holds_what(session, row, &traits(message), bodies)
            .await
    }

    /// Returns whether a row holds a mapped message, whose body is only in its own row data.
    async fn holds_draft(
        &self,
        session: &Session,
        row: &ExistingEmail,
        draft: &EmailDraft,
    ) -> Result<bool, DataverseError> {
        let draft = Traits {
            body: Some(draft.body()),
            ..traits(draft.message())
        };
        self.holds_what(session, row, &draft, &mut Bodies::default())
            .await
    }

    /// Returns whether two rows hold the same message.
    pub(super) async fn hold_the_same(
        &self,
        session: &Session,
        one: &ExistingEmail,
        other: &ExistingEmail,
    ) -> Result<bool, DataverseError> {
        if same_message::compare(&Traits::of_row(one, None), &Traits::of_row(other, None))
            == Comparison::Same
        {
            return Ok(true);
        }
        let body = self.dataverse.body(session, one.activity_id).await?;
        let one = Traits::of_row(one, Some(&body));
        self.holds_what(session, other, &one, &mut Bodies::default())
            .await
    }

    async fn holds_what(
        &self,
        session: &Session,
        row: &ExistingEmail,
        draft: &Traits<'_>,
        bodies: &mut Bodies,
    ) -> Result<bool, DataverseError> {
        let id = row.activity_id;
        let mut of_row = Traits::of_row(row, None);
        let mut verdict = same_message::compare(draft, &of_row);
        if verdict == Comparison::ReadBody {
            let body = match bodies.0.entry(id) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(unread) => unread.insert(self.dataverse.body(session, id).await?),
            };
            of_row.body = Some(body);
            verdict = same_message::compare(draft, &of_row);
        }
        if verdict == Comparison::ReadNames {
            of_row.names = Some(self.names_of_files(session, id).await?);
            verdict = same_message::compare(draft, &of_row);
        }
        Ok(verdict != Comparison::Other)
    }

    /// Returns the names in lower case; none if they may not be read.
    async fn names_of_files(
        &self,
        session: &Session,
        row: ActivityId,
    ) -> Result<HashSet<String>, DataverseError> {
        match self.dataverse.files(session, &[row]).await {
            Ok(mut files) => {
                let files = files.remove(&row).unwrap_or_default();
                Ok(files
                    .into_iter()
                    .map(|(name, _)| name.to_lowercase())
                    .collect())
            }
            Err(DataverseError::Rejected { .. }) => Ok(HashSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Determines what blocks a message whose row was rejected with 412 / 0x80040237. See the
    /// second table above.
    ///
    /// # Errors
    /// [`DataverseError`]: it cannot be determined now, or nothing was found that could block it;
    /// fail the message, so that it is retried.
    pub(super) async fn find_blocking_row(
        &self,
        session: &Session,
        draft: &mut EmailDraft,
    ) -> Result<KeyConflict, DataverseError> {
        match self.dataverse.existing(session, draft.activity_id()).await {
            Ok(row) => {
                // The key by content is derived from the message, so the row must hold it.
                let is_ours = matches!(draft.message().id_use, IdUse::Reused(_))
                    || self.holds_draft(session, &row, draft).await?;
                if is_ours {
                    return Ok(KeyConflict::Ours(row));
                }
                // The message had started a draft of its own, whose files were not fetched again,
                // or it has no other key.
                if draft.is_begun() || !draft.use_key_by_content() {
                    let what = "412 0x80040237, and the row now holds another message".to_owned();
                    return Err(DataverseError::Stale { what });
                }
                return Ok(KeyConflict::ByAnother);
            }
            Err(DataverseError::Stale { .. }) => {}
            Err(error) => return Err(error),
        }
        let Some(id) = draft.stored_id() else {
            let what = "412 0x80040237, and no row has the key".to_owned();
            return Err(DataverseError::Stale { what });
        };
        for row in self.dataverse.rows_with_message_id(session, &id).await? {
            if row.may_be_email_of(draft.message().author())
                && self.holds_draft(session, &row, draft).await?
            {
                return Ok(KeyConflict::Theirs(row));
            }
        }
        draft.drop_message_id();
        Ok(KeyConflict::ByAnother)
    }
}

impl CandidateMessage {
    /// Moves the message to the key by its content, because another message has the row of its
    /// Message-ID.
    fn use_key_by_content(&mut self) {
        if let Some(key) = self.by_content {
            self.message.drop_message_id(IdUse::Reused(key));
        }
    }
}

/// Returns whether an earlier message of the batch has the same key but is another message.
fn is_second<'a>(
    message: &Message,
    mut earlier: impl Iterator<Item = &'a CandidateMessage>,
) -> bool {
    message.internet_message_id.is_some()
        && earlier.any(|first| {
            let first = &first.message;
            first.activity_id() == message.activity_id()
                && same_message::compare_mails(&traits(message), &traits(first))
                    == Comparison::Other
        })
}

/// Returns what is compared of a message, with the names that its files have in a row.
fn traits(message: &Message) -> Traits<'_> {
    let files = message.attachments.iter().enumerate();
    let names = files.map(|(at, file)| {
        let named = !file.file_name.trim().is_empty();
        named.then(|| mapping::file_name(&file.file_name, at).to_lowercase())
    });
    Traits {
        names: names.collect(),
        ..Traits::from(message)
    }
}
