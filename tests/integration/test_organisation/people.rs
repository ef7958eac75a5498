//! The organisation of the tests: its mailboxes and the rows of its people.

use emulators::{Emulators, Grant};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{ADA, BEN};

/// The ids of the rows of the organisation.
pub(crate) struct People {
    pub(crate) ada: Uuid,
    pub(crate) ben: Uuid,
    pub(crate) carol: Uuid,
    pub(crate) kites: Uuid,
    pub(crate) lea: Uuid,
}

pub(super) fn found(emulators: &Emulators) -> People {
    for (id, email, provider, aliases) in [
        (
            ADA,
            "ada@ours.example",
            "google",
            vec!["sales@ours.example"],
        ),
        (BEN, "ben@ours.example", "microsoft", vec![]),
    ] {
        emulators.nylas().add_grant(Grant {
            id: id.to_owned(),
            email: email.to_owned(),
            provider: provider.to_owned(),
            aliases: aliases.into_iter().map(str::to_owned).collect(),
            status: "valid".to_owned(),
        });
    }
    let insert = |table: &str, row: Value| emulators.dataverse().insert(table, row).unwrap();
    // Fixed keys, so that the golden cases can name them.
    let user = |key: &str, name: &str, email: &str| {
        insert(
            "systemuser",
            json!({
                "systemuserid": key, "lastname": name, "internalemailaddress": email, "isdisabled": false,
                "azureactivedirectoryobjectid": key.replace("0000-4000", "eeee-4000"),
            }),
        )
    };
    let kites = insert(
        "account",
        json!({"accountid": "0000000d-0000-4000-8000-000000000003", "name": "Kites", "emailaddress1": "info@kites.example"}),
    );
    People {
        ada: user(
            "0000000a-0000-4000-8000-000000000001",
            "Ada",
            "ada@ours.example",
        ),
        ben: user(
            "0000000b-0000-4000-8000-000000000001",
            "Ben",
            "ben@ours.example",
        ),
        carol: insert(
            "contact",
            json!({
                "contactid": "0000000c-0000-4000-8000-000000000002", "lastname": "Carol", "emailaddress1": "carol@kites.example",
                "parentcustomerid": {"table": "account", "id": kites},
            }),
        ),
        kites,
        lea: insert(
            "lead",
            json!({"leadid": "0000000e-0000-4000-8000-000000000004", "lastname": "Lea", "emailaddress1": "lea@prospects.example"}),
        ),
    }
}
