//! Who is there.

use serde_json::{Value, json};
use twin::{Grant, Twin};
use uuid::Uuid;

use super::{ADA, BEN};

/// The rows of the organisation.
pub(crate) struct People {
    pub(crate) ada: Uuid,
    pub(crate) ben: Uuid,
    pub(crate) carol: Uuid,
    pub(crate) kites: Uuid,
    pub(crate) lea: Uuid,
}

pub(super) fn found(twin: &Twin) -> People {
    for (id, email, provider, aliases) in [
        (
            ADA,
            "ada@ours.example",
            "google",
            vec!["sales@ours.example"],
        ),
        (BEN, "ben@ours.example", "microsoft", vec![]),
    ] {
        twin.nylas().add_grant(Grant {
            id: id.to_owned(),
            email: email.to_owned(),
            provider: provider.to_owned(),
            aliases: aliases.into_iter().map(str::to_owned).collect(),
            status: "valid".to_owned(),
        });
    }
    let insert = |table: &str, row: Value| twin.dataverse().insert(table, row).unwrap();
    let user = |name: &str, email: &str| {
        insert(
            "systemuser",
            json!({"lastname": name, "internalemailaddress": email, "isdisabled": false}),
        )
    };
    let kites = insert(
        "account",
        json!({"name": "Kites", "emailaddress1": "info@kites.example"}),
    );
    People {
        ada: user("Ada", "ada@ours.example"),
        ben: user("Ben", "ben@ours.example"),
        carol: insert(
            "contact",
            json!({
                "lastname": "Carol", "emailaddress1": "carol@kites.example",
                "parentcustomerid": {"table": "account", "id": kites},
            }),
        ),
        kites,
        lea: insert(
            "lead",
            json!({"lastname": "Lea", "emailaddress1": "lea@prospects.example"}),
        ),
    }
}
