//! Who is inside.

use std::collections::HashSet;

use crate::dataverse::look_up::Found;
use crate::dataverse::rows::Table;
use crate::ids::EmailAddress;
use crate::mailboxes::Mailboxes;

/// Who is inside: the addresses and aliases of every connected mailbox, of every enabled user, and of the internal domains.
///
/// It never depends on which mailbox's copy of a mail is looked at.
pub struct Inside<'a> {
    /// The connected mailboxes.
    pub mailboxes: &'a Mailboxes,
    /// What the look-up found of users.
    pub found: &'a Found,
    /// Lower case.
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
                .any(|p| p.active && p.record.table == Table::SystemUser)
        };
        self.mailboxes.is_own(address) || self.domains.contains(address.domain()) || is_user()
    }
}
