//! Which addresses are internal.

use std::collections::HashSet;

use crate::clients::dataverse::records::Table;
use crate::lookup::result::LookupResult;
use crate::mailboxes::Mailboxes;
use crate::model::address::EmailAddress;

/// The internal addresses: the addresses and aliases of every mailbox that takes part, of every
/// enabled user and every active queue, and all addresses in the internal domains.
///
/// The result is the same for every mailbox's copy of a message.
pub struct InternalAddresses<'a> {
    /// The mailboxes that take part.
    pub mailboxes: &'a Mailboxes,
    /// The lookup result, for users and queues.
    pub found: &'a LookupResult,
    /// The internal domains, in the form of [`EmailAddress::domain`].
    pub domains: &'a HashSet<String>,
}

impl InternalAddresses<'_> {
    /// Returns whether this address is internal.
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
