//! The rows of one email: the email with its parties, its attachments, and its completion.

use serde_json::{Map, Value};

use super::batch::{Change, Operation};
use super::odata::row;
use crate::model::ids::ActivityId;

/// The rows of one message.
#[derive(Debug, Clone)]
pub struct EmailWrite {
    /// The key of the email row, also contained in `row`.
    pub activity_id: ActivityId,
    /// The body of the POST of the email.
    pub row: Map<String, Value>,
    /// The bodies of the POSTs of the attachments.
    pub attachments: Vec<Map<String, Value>>,
    /// The body of the PATCH that completes the email.
    pub completion: Map<String, Value>,
}

impl EmailWrite {
    /// Returns about how many bytes the message adds to a request.
    #[must_use]
    pub fn size(&self) -> usize {
        let rows = std::iter::once(&self.row).chain(&self.attachments);
        rows.flat_map(Map::values)
            .map(|value| value.as_str().map_or(64, str::len))
            .sum::<usize>()
            + 2_048
    }

    pub(super) fn change_set(&self) -> Operation {
        let post = |path: &str, body: &Map<String, Value>| Change {
            method: "POST",
            path: path.to_owned(),
            if_match: None,
            body: Value::Object(body.clone()),
        };
        let mut changes = vec![post("emails", &self.row)];
        changes.extend(
            self.attachments
                .iter()
                .map(|attachment| post("activitymimeattachments", attachment)),
        );
        changes.push(Change {
            method: "PATCH",
            path: row("emails", self.activity_id.uuid()),
            if_match: Some("*".to_owned()),
            body: Value::Object(self.completion.clone()),
        });
        Operation::ChangeSet(changes)
    }
}
