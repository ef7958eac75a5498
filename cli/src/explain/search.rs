//! Finds the messages in the ledger that an operator's text refers to.
//!
//! | The text is | Looked up in |
//! | --- | --- |
//! | an activity id | the ledger's index by row |
//! | `mailbox/message` | the ledger |
//! | a provider's message id | the ledger, for every mailbox that Nylas lists |
//! | a Message-ID | the rows in Dataverse that have it, then as an activity id |
//!
//! A text may match several of these: IMAP mailboxes use Message-IDs as message ids, and message
//! ids may contain slashes. So each possible meaning is tried.

use std::collections::BTreeSet;

use chrono::Utc;
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::session::Session;
use mailverse::clients::entra::TokenSource;
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::nylas::{Fetched, Headers, NylasClient};
use mailverse::ledger::decisions::StoredMessage;
use mailverse::ledger::messages::{Ledger, LedgerError};
use mailverse::mailboxes::AllowList;
use mailverse::model::ids::{ActivityId, GrantId, InternetMessageId, MessageId, MessageKey};
use mailverse::policy::Rule;
use uuid::Uuid;

use super::ExplainError;

/// The services that are searched for a message.
pub(super) struct Finder {
    pub(super) table: String,
    pub(super) ledger: Ledger,
    pub(super) nylas: Option<NylasClient>,
    /// The mailboxes that take part; `None` if `MAILBOXES` is not set.
    pub(super) allowed: Option<AllowList>,
    pub(super) dataverse: Option<(DataverseClient, TokenSource)>,
}

/// The result of a search.
#[derive(Default)]
pub(super) struct Found {
    /// The messages, sorted by key.
    pub(super) messages: Vec<StoredMessage>,
    /// Lookups that were not made, each with the settings that it needs.
    unasked: Vec<&'static str>,
}

impl Found {
    /// Returns the lookups that were not made, as the end of a sentence.
    pub(super) fn unasked(&self) -> String {
        let mut text = String::new();
        for what in &self.unasked {
            text.push_str("; ");
            text.push_str(what);
        }
        text
    }
}

impl Finder {
    /// Finds every message that `text` may refer to, and its copies in other mailboxes.
    ///
    /// # Errors
    /// [`ExplainError`]: a configured service does not answer; try again.
    pub(super) async fn find(&self, text: &str) -> Result<Found, ExplainError> {
        let mut found = Found::default();
        let mut keys = BTreeSet::new();
        if let Some(row) = activity(text) {
            keys.extend(self.messages_of_row(row).await?);
        } else if let Some(key) = self.known_key(text).await? {
            keys.insert(key);
        } else {
            self.in_every_mailbox(text, &mut keys, &mut found).await?;
            self.by_message_id(text, &mut keys, &mut found).await?;
        }
        let mut rows = BTreeSet::new();
        for key in &keys {
            let stored_message = self.stored_message(key).await?;
            if let Some(stored_message) = &stored_message {
                rows.extend(self.row_of(stored_message).await);
            }
            found.messages.extend(stored_message);
        }
        for row in rows {
            for copy in self.messages_of_row(row).await? {
                if !found.messages.iter().any(|known| known.key == copy) {
                    found.messages.extend(self.stored_message(&copy).await?);
                }
            }
        }
        found.messages.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    async fn known_key(&self, text: &str) -> Result<Option<MessageKey>, ExplainError> {
        let Ok(key) = text.parse::<MessageKey>() else {
            return Ok(None);
        };
        Ok(self
            .stored_message(&key)
            .await?
            .map(|stored_message| stored_message.key))
    }

    /// Returns the id of the message's row, which its copies in other mailboxes share.
    ///
    /// If the ledger has no row for this copy, the id is derived from the message in the mailbox,
    /// because a copy in another mailbox may have a row. `None` if the message cannot be read.
    async fn row_of(&self, stored_message: &StoredMessage) -> Option<ActivityId> {
        if stored_message.entry.activity_id.is_some() {
            return stored_message.entry.activity_id;
        }
        // Messages of a mailbox that does not take part are not read, not even to explain that.
        let no_part = [Rule::MailboxExcluded, Rule::MailboxUnknown].map(Rule::name);
        if stored_message
            .entry
            .reason
            .as_deref()
            .is_some_and(|reason| no_part.contains(&reason))
        {
            return None;
        }
        let nylas = self.nylas.as_ref()?;
        // If this fails, this copy is still explained, but its other copies are not found.
        if !self
            .may_read(nylas, &stored_message.key.grant_id)
            .await
            .ok()?
        {
            return None;
        }
        match nylas.message(&stored_message.key, Headers::Basic).await {
            Ok(Fetched::Message(message)) => Some(message.activity_id()),
            // As above: this copy is still explained.
            Ok(Fetched::Gone) | Err(_) => None,
        }
    }

    /// Returns whether messages of this mailbox may be fetched: it takes part, or `MAILBOXES` is
    /// not set.
    ///
    /// # Errors
    /// [`NylasError`]: this could not be determined, so nothing may be fetched.
    pub(super) async fn may_read(
        &self,
        nylas: &NylasClient,
        grant_id: &GrantId,
    ) -> Result<bool, NylasError> {
        match &self.allowed {
            None | Some(AllowList::All) => Ok(true),
            Some(allowed) => {
                let grants = nylas.grants().await?;
                let found = grants.iter().find(|grant| grant.id == *grant_id);
                Ok(found.is_some_and(|grant| allowed.admits(grant)))
            }
        }
    }

    async fn in_every_mailbox(
        &self,
        text: &str,
        keys: &mut BTreeSet<MessageKey>,
        found: &mut Found,
    ) -> Result<(), ExplainError> {
        let Ok(message_id) = text.parse::<MessageId>() else {
            return Ok(());
        };
        let Some(nylas) = &self.nylas else {
            found
                .unasked
                .push("to look it up as a provider's message id, set NYLAS_API_KEY_SECRET_ID, or give it as mailbox/message");
            return Ok(());
        };
        let grants = nylas.grants().await.map_err(ExplainError::Grants)?;
        keys.extend(grants.into_iter().map(|grant| MessageKey {
            grant_id: grant.id,
            message_id: message_id.clone(),
        }));
        Ok(())
    }

    async fn by_message_id(
        &self,
        text: &str,
        keys: &mut BTreeSet<MessageKey>,
        found: &mut Found,
    ) -> Result<(), ExplainError> {
        // Every Message-ID has an @, and no other id of a message does.
        let Some(id) = InternetMessageId::from_header(text).filter(|_| text.contains('@')) else {
            return Ok(());
        };
        let Some((dataverse, tokens)) = &self.dataverse else {
            found
                .unasked
                .push("to look it up as a Message-ID, set DATAVERSE_URL and TOKEN_SECRET_ID");
            return Ok(());
        };
        let session = Session::new(tokens.token(Utc::now()).await?);
        for row in dataverse.activity_ids_by_message_id(&session, &id).await? {
            keys.extend(self.messages_of_row(row).await?);
        }
        Ok(())
    }

    async fn messages_of_row(&self, row: ActivityId) -> Result<Vec<MessageKey>, ExplainError> {
        let keys = self.ledger.messages_of_row(row).await;
        keys.map_err(|source| self.failed(source))
    }

    async fn stored_message(
        &self,
        key: &MessageKey,
    ) -> Result<Option<StoredMessage>, ExplainError> {
        let stored_message = self.ledger.stored_message(key).await;
        stored_message.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: LedgerError) -> ExplainError {
        ExplainError::Ledger {
            table: self.table.clone(),
            source,
        }
    }
}

/// Parses an activity id as Dynamics 365 prints it: with hyphens, and possibly in braces.
///
/// Returns `None` for an id without hyphens, because it may be a provider's message id.
fn activity(text: &str) -> Option<ActivityId> {
    let text = text.trim();
    let text = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or(text);
    let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    let id = Uuid::try_parse(text).ok().filter(|_| hyphenated)?;
    Some(ActivityId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_id_is_distinguished_from_a_message_id() {
        let id = "1a2265b9-1c53-5c96-b593-6ecd884c829f";
        for text in [
            id,
            "{1A2265B9-1C53-5C96-B593-6ECD884C829F}",
            &format!(" {id}\n"),
        ] {
            let read = activity(text).expect("the text is an activity id");
            assert_eq!(read.to_string(), id, "{text}");
        }
        for text in [
            "1a2265b91c535c96b5936ecd884c829f",
            "18c7d3f0a1b2c3d4",
            "<a@x>",
            "g/m",
            "",
        ] {
            assert_eq!(activity(text), None, "{text}");
        }
    }
}
