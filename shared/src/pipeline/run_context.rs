//! The context of every decision in a run: the policy and the mailboxes.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::Pipeline;
use super::failure::Failure;
use super::invocation::Invocation;
use super::stages::{Finished, PendingMessage};
use crate::clients::nylas::Headers;
use crate::clients::nylas::error::NylasError;
use crate::lookup::result::LookupResult;
use crate::mailboxes::{Folders, Mailboxes, Participation};
use crate::model::ids::GrantId;
use crate::model::message::Message;
use crate::policy::cache::PolicyError;
use crate::policy::mailbox_policy::MailboxPolicy;
use crate::policy::{Case, InternalAddresses, Policy, PolicyDecision};

/// The context of every decision in a run.
pub(super) struct RunContext {
    pub(super) policy: Arc<Policy>,
    pub(super) mailboxes: Arc<Mailboxes>,
}

impl RunContext {
    /// Returns the policy of a mailbox.
    ///
    /// # Errors
    /// Nylas does not list the mailbox yet, so its address is unknown, and the policy differs by
    /// mailbox. The caller fails the message; it is retried.
    pub(super) fn mailbox_policy(&self, grant_id: &GrantId) -> Result<MailboxPolicy, Failure> {
        let address = self.mailboxes.address(grant_id);
        if address.is_none() && self.policy.differs_by_mailbox() {
            return Err(Failure::soon("nylas does not list the mailbox yet"));
        }
        Ok(self.policy.for_mailbox(address))
    }

    /// Returns the messages whose mailboxes take part. The others end here, before any request is
    /// made for them.
    pub(super) fn take_part(
        &self,
        pending_messages: Vec<PendingMessage>,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Vec<PendingMessage> {
        let mut taking_part = Vec::with_capacity(pending_messages.len());
        for pending in pending_messages {
            match self.mailboxes.participation(&pending.key.grant_id) {
                Participation::In => taking_part.push(pending),
                Participation::Excluded => finished.push(pending.excluded()),
                Participation::Unlisted => finished.push(pending.unlisted(invocation)),
            }
        }
        taking_part
    }

    /// Returns which headers of the mailbox's messages are needed, limited to what its provider
    /// offers.
    pub(super) fn headers(&self, grant_id: &GrantId) -> Headers {
        let needed = self
            .policy
            .for_mailbox(self.mailboxes.address(grant_id))
            .needs_all_headers();
        if needed && self.mailboxes.shows_all_headers(grant_id) {
            Headers::All
        } else {
            Headers::Basic
        }
    }

    /// Returns who is internal, according to mailboxes, domains and the lookup result.
    pub(super) fn internal<'a>(&'a self, found: &'a LookupResult) -> InternalAddresses<'a> {
        InternalAddresses {
            mailboxes: &self.mailboxes,
            found,
            domains: self.policy.internal_domains(),
        }
    }

    /// Returns the policy decision; `found` is `None` before the lookup.
    pub(super) fn decide(
        &self,
        message: &Message,
        mailbox_policy: &MailboxPolicy,
        folders: &Folders,
        found: Option<&LookupResult>,
    ) -> PolicyDecision {
        let nothing = LookupResult::default();
        let case = Case {
            message,
            mailbox_policy,
            folders,
            internal: &self.internal(found.unwrap_or(&nothing)),
            looked_up: found.is_some(),
        };
        self.policy.decide(&case)
    }
}

impl Pipeline {
    /// Reads policy and mailboxes, mostly from the caches of the process.
    pub(super) async fn context(
        &self,
        grants: &[&GrantId],
        now: DateTime<Utc>,
    ) -> Result<RunContext, Failure> {
        let policy = self.policy.policy(&self.ledger, now).await;
        if let Err(error @ PolicyError::Unusable { .. }) = &policy {
            tracing::error!(%error, "the stored policy is unusable; messages wait until a usable policy is pushed");
        }
        Ok(RunContext {
            policy: policy?,
            mailboxes: match self.mailboxes.mailboxes(grants, now).await {
                Ok(mailboxes) => mailboxes,
                Err(error) => {
                    let refusal = error.refusal();
                    return Err(Failure {
                        refusal,
                        ..Failure::from(error)
                    });
                }
            },
        })
    }

    /// Returns whether the mailbox takes part, according to the cached list of mailboxes.
    ///
    /// # Errors
    /// [`NylasError`]: the list cannot be read, so do not request anything of the mailbox now.
    pub async fn participation(
        &self,
        grant_id: &GrantId,
        now: DateTime<Utc>,
    ) -> Result<Participation, NylasError> {
        let mailboxes = self.mailboxes.mailboxes(&[grant_id], now).await?;
        Ok(mailboxes.participation(grant_id))
    }

    /// Returns which headers a list of this mailbox should include.
    ///
    /// Falls back to the basic headers if that cannot be determined; a message that lacks needed
    /// headers is fetched again.
    pub async fn headers(&self, grant_id: &GrantId, now: DateTime<Utc>) -> Headers {
        // Boxed, because this deeply nested, the type of the future is too large for the compiler
        // to lay out.
        match Box::pin(self.context(&[grant_id], now)).await {
            Ok(context) => context.headers(grant_id),
            Err(_) => Headers::Basic,
        }
    }
}
