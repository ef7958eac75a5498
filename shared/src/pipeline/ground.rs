//! What every decision of a run stands on: the policy, and whose mailboxes these are.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::Pipeline;
use super::fate::Failure;
use crate::dataverse::look_up::Found;
use crate::ids::GrantId;
use crate::mailboxes::{Folders, Mailboxes};
use crate::message::Message;
use crate::nylas::Headers;
use crate::policy::effective::Effective;
use crate::policy::source::PolicyError;
use crate::policy::{Case, Decision, Inside, Policy};

/// What every decision of a run stands on.
pub(super) struct Ground {
    pub(super) policy: Arc<Policy>,
    pub(super) mailboxes: Arc<Mailboxes>,
}

impl Ground {
    /// What holds for a mailbox.
    ///
    /// # Errors
    /// Nobody knows yet whose mailbox it is, and the policy is not the same for all.
    pub(super) fn effective(&self, grant_id: &GrantId) -> Result<Effective, Failure> {
        let address = self.mailboxes.address(grant_id);
        if address.is_none() && self.policy.differs_by_mailbox() {
            return Err(Failure::soon("nylas does not list the mailbox yet"));
        }
        Ok(self.policy.for_mailbox(address))
    }

    /// Which headers of a mailbox's messages are needed, of those that can be had.
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

    /// Who is inside, as far as the look-up told.
    pub(super) fn inside<'a>(&'a self, found: &'a Found) -> Inside<'a> {
        Inside {
            mailboxes: &self.mailboxes,
            found,
            domains: self.policy.internal_domains(),
        }
    }

    /// What the policy says; `found` is `None` before the look-up.
    pub(super) fn decide(
        &self,
        message: &Message,
        effective: &Effective,
        folders: &Folders,
        found: Option<&Found>,
    ) -> Decision {
        let nothing = Found::default();
        let case = Case {
            message,
            effective,
            folders,
            inside: &self.inside(found.unwrap_or(&nothing)),
            looked_up: found.is_some(),
        };
        self.policy.decide(&case)
    }
}

impl Pipeline {
    /// Reads what every decision stands on, mostly from what the process has kept.
    pub(super) async fn ground(
        &self,
        grants: &[&GrantId],
        now: DateTime<Utc>,
    ) -> Result<Ground, Failure> {
        let policy = self.policy.policy(&self.ledger, now).await;
        if let Err(error @ PolicyError::Unusable { .. }) = &policy {
            tracing::error!(%error, "messages wait until a policy that can be used is pushed");
        }
        Ok(Ground {
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

    /// Which headers a list of this mailbox should bring along. The basic ones where that cannot be told now: what lacks some is fetched once more.
    pub async fn headers(&self, grant_id: &GrantId, now: DateTime<Utc>) -> Headers {
        // Boxed, because nested this deep the future's type is more than the compiler lays out.
        match Box::pin(self.ground(&[grant_id], now)).await {
            Ok(ground) => ground.headers(grant_id),
            Err(_) => Headers::Basic,
        }
    }
}
