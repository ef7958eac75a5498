//! Who is inside.

use std::collections::HashSet;

use crate::dataverse::look_up::Found;
use crate::dataverse::rows::Table;
use crate::ids::EmailAddress;
use crate::mailboxes::Mailboxes;

/// Who is inside: the addresses and aliases of every mailbox that takes part, of every enabled user
/// and every active queue, and of the internal domains.
///
/// It never depends on which mailbox's copy of a mail is looked at.
pub struct Inside<'a> {
    /// The mailboxes that take part.
    pub mailboxes: &'a Mailboxes,
    /// What the look-up found of users and queues.
    pub found: &'a Found,
    /// In the form of [`EmailAddress::domain`].
    pub domains: &'a HashSet<String>,
}

impl Inside<'_> {
    /// Whether this address is inside.
    #[must_use]
    pub fn contains(&self, address: &EmailAddress) -> bool {
        let is_user = || {
            self.found
                .people(address)
                .iter()
                .any(|p| p.active && matches!(p.record.table, Table::SystemUser | Table::Queue))
        };
        self.mailboxes.is_own(address) || self.domains.contains(address.domain()) || is_user()
    }
}
