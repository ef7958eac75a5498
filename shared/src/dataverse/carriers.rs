//! Which rows carry a mail of this Message-ID: for people who ask about one.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::DataverseClient;
use super::error::DataverseError;
use super::look_up::fits_its_column;
use super::query::{literal, rows};
use super::rows::guid;
use super::session::Session;
use crate::ids::{ActivityId, InternetMessageId};

impl DataverseClient {
    /// The rows of this Message-ID, whoever wrote them and whatever became of them. None where it is longer than its column: it was not stored, then.
    ///
    /// # Errors
    /// [`DataverseError`]: it is not known which.
    pub async fn carriers(
        &self,
        session: &Session,
        id: &InternetMessageId,
    ) -> Result<BTreeSet<ActivityId>, DataverseError> {
        let mut found = BTreeSet::new();
        if !fits_its_column(id) {
            return Ok(found);
        }
        // With angle brackets by us and, it is inferred, by server-side sync; other importers leave them out.
        let names = [id.in_brackets(), id.as_str().to_owned()];
        let terms = names.map(|name| format!("messageid eq {}", literal(&name)));
        let path = rows("emails", "activityid,messageid", &terms.join(" or "));
        let answer = self
            .call(session, reqwest::Method::GET, &path, None, None)
            .await?;
        let mut page: Value =
            serde_json::from_slice(&answer).map_err(|_| super::unreadable("a query's answer"))?;
        let mut seen = HashSet::new();
        loop {
            let listed = page.get("value").and_then(Value::as_array);
            let listed = listed.ok_or_else(|| super::unreadable("a query's answer"))?;
            // Dataverse compares without case, and Message-IDs differ by case.
            let same = |row: &&Value| {
                let stored = row.get("messageid").and_then(Value::as_str);
                stored.and_then(InternetMessageId::from_header).as_ref() == Some(id)
            };
            let ids = listed.iter().filter(same);
            found.extend(
                ids.filter_map(|row| guid(row, "activityid"))
                    .map(ActivityId::new),
            );
            match page.get("@odata.nextLink").and_then(Value::as_str) {
                Some(next) if seen.insert(next.to_owned()) => {
                    page = self.next_page(session, next).await?;
                }
                _ => return Ok(found),
            }
        }
    }
}
