//! Messages as Nylas returns them, and requests to process them.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::model::ids::MessageKey;
use mailverse::model::sync_request::{SyncRequest, Trigger};
use mailverse::pipeline::Delivery;
use serde_json::{Value, json};

use super::{ADA, TestOrganisation};

/// Returns a message from Carol to Ada with the Message-ID `<{id}@kites.example>`. `changes`
/// replaces or adds fields. A null value empties a field.
pub(crate) fn nylas_message(id: &str, changes: &Value) -> Value {
    let mut message = json!({
        "id": id, "subject": "Kites for spring", "body": "<p>Two red ones, please.</p>", "date": 1_795_150_000,
        "from": [{"name": "Carol", "email": "carol@kites.example"}],
        "to": [{"name": "Ada", "email": "ada@ours.example"}],
        "folders": [],
        "headers": [{"name": "Message-ID", "value": format!("<{id}@kites.example>")}],
    });
    let fields = message.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        fields.insert(name.clone(), value.clone());
    }
    message
}

/// Returns people as Nylas lists them.
pub(crate) fn people<S: AsRef<str>>(addresses: &[S]) -> Value {
    addresses
        .iter()
        .map(|address| json!({"email": address.as_ref()}))
        .collect()
}

/// Returns a request for a message that Nylas reported as new.
pub(crate) fn created(grant: &str, id: &str) -> Delivery {
    work(grant, id, Trigger::Created, 1)
}

pub(crate) fn work(grant: &str, id: &str, trigger: Trigger, receive_count: u32) -> Delivery {
    Delivery {
        request: SyncRequest {
            key: key(grant, id),
            trigger,
        },
        message: None,
        receive_count,
    }
}

pub(crate) fn key(grant: &str, id: &str) -> MessageKey {
    MessageKey {
        grant_id: grant.parse().unwrap(),
        message_id: id.parse().unwrap(),
    }
}

/// Starts a world with one message from Carol in Ada's mailbox.
pub(crate) async fn with_a_mail() -> TestOrganisation {
    with_a_mail_in(WriteMode::default()).await
}

/// Does the same with a pipeline that uses this write mode.
pub(crate) async fn with_a_mail_in(mode: WriteMode) -> TestOrganisation {
    let organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation
}
