//! The organisation: mailboxes, colleagues, and external people, known and unknown.

use std::collections::HashMap;

use emulators::{Emulators, Grant};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ADDRESS, NAME};

/// The people of the organisation and their correspondents.
pub(crate) struct People {
    /// The grant and address of each mailbox.
    pub(crate) mailboxes: Vec<(String, String)>,
    /// The address of an enabled user without a mailbox.
    pub(crate) colleague: String,
    pub(crate) outside: Vec<String>,
    /// The rows of addresses.
    known: HashMap<String, (String, Uuid)>,
}

impl People {
    /// Creates the organisation and connects the mailboxes.
    pub(crate) fn found(emulators: &Emulators) -> Self {
        let mut known = HashMap::new();
        let mut insert = |table: &str, address: &str, row: Value| {
            let id = emulators.dataverse().insert(table, row).unwrap();
            known.insert(address.to_owned(), (table.to_owned(), id));
        };
        let mut user = |address: &str| {
            let row =
                json!({"lastname": NAME, "internalemailaddress": address, "isdisabled": false});
            insert("systemuser", address, row);
        };
        let mut mailboxes = Vec::new();
        for (n, provider) in ["google", "microsoft", "google", "imap", "microsoft"]
            .into_iter()
            .enumerate()
        {
            let (grant, address) = (
                format!("grant-{n}"),
                format!("{ADDRESS}-mailbox{n}@ours.example"),
            );
            emulators.nylas().add_grant(Grant {
                id: grant.clone(),
                email: address.clone(),
                provider: provider.to_owned(),
                aliases: Vec::new(),
                status: "valid".to_owned(),
            });
            // One mailbox has no user, so its emails have no owner.
            if provider != "imap" {
                user(&address);
            }
            mailboxes.push((grant, address));
        }
        let colleague = format!("{ADDRESS}-colleague@ours.example");
        user(&colleague);
        let mut outside = Vec::new();
        for n in 0..90 {
            let address = format!("{ADDRESS}-{n}@kites.example");
            let name = format!("{NAME} {n}");
            match n % 6 {
                0 | 1 => insert(
                    "contact",
                    &address,
                    json!({"lastname": name, "emailaddress1": address}),
                ),
                2 => insert(
                    "account",
                    &address,
                    json!({"name": name, "emailaddress1": address}),
                ),
                3 => insert(
                    "lead",
                    &address,
                    json!({"lastname": name, "emailaddress1": address}),
                ),
                _ => {}
            }
            outside.push(address);
        }
        Self {
            mailboxes,
            colleague,
            outside,
            known,
        }
    }

    /// Returns the row of an address; `None` if it is unknown.
    pub(super) fn row(&self, address: &str) -> Option<(String, Uuid)> {
        self.known.get(address).cloned()
    }

    /// Returns whether an address is internal: of a mailbox or a user.
    pub(super) fn is_internal(address: &str) -> bool {
        address.ends_with("@ours.example")
    }
}
