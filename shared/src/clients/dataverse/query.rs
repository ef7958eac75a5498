//! Reads rows: a query with all its pages, or one row.

use std::collections::HashSet;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::DataverseClient;
use super::batch::BatchPart;
use super::error::{DataverseError, part_error, unreadable};
use super::odata::{row, rows};
use super::session::Session;

impl DataverseClient {
    /// Returns the rows of the entity set `set` that match `filter`, from all pages of the answer.
    ///
    /// `Row` names the columns of `columns`. A column that Dataverse may omit is an `Option`.
    ///
    /// # Errors
    /// [`DataverseError`]: the rows are unknown. A row that is no `Row` is such an error too: it is
    /// not left out, because what is missing from the result may be deleted elsewhere.
    pub(crate) async fn query<Row: DeserializeOwned>(
        &self,
        session: &Session,
        set: &str,
        columns: &str,
        filter: &str,
    ) -> Result<Vec<Row>, DataverseError> {
        let first = self.get_json(session, &rows(set, columns, filter)).await?;
        let all = self.with_next_pages(session, first).await?;
        all.into_iter()
            .map(|row| serde_json::from_value(row).map_err(|_| unreadable("a row")))
            .collect()
    }

    /// Returns the rows of a query's part of a `$batch` answer, and of all pages after it.
    pub(crate) async fn all_rows(
        &self,
        session: &Session,
        answer: &BatchPart,
    ) -> Result<Vec<Value>, DataverseError> {
        if !answer.is_success() {
            return Err(part_error(answer));
        }
        let first = serde_json::from_slice(&answer.body);
        let first = first.map_err(|_| unreadable("a query's answer"))?;
        self.with_next_pages(session, first).await
    }

    /// Returns the rows of a page and of all pages after it.
    ///
    /// # Errors
    /// [`DataverseError`] also if a link leads to a page that was read already, or elsewhere: the
    /// rows that were read until then are not all.
    pub(crate) async fn with_next_pages(
        &self,
        session: &Session,
        first: Value,
    ) -> Result<Vec<Value>, DataverseError> {
        let mut page = first;
        let mut all = Vec::new();
        let mut links_read = HashSet::new();
        loop {
            let rows = page.get_mut("value").and_then(Value::as_array_mut);
            all.append(rows.ok_or_else(|| unreadable("a query's answer"))?);
            let Some(next) = page.get("@odata.nextLink").and_then(Value::as_str) else {
                return Ok(all);
            };
            if !links_read.insert(next.to_owned()) {
                return Err(unreadable("a link to a page that was already read"));
            }
            page = self.next_page(session, next).await?;
        }
    }

    /// Returns the JSON at `path`, which is relative to the API.
    pub(crate) async fn get_json(
        &self,
        session: &Session,
        path: &str,
    ) -> Result<Value, DataverseError> {
        let answer = self.call(session, Method::GET, path, None, None).await?;
        serde_json::from_slice(&answer).map_err(|_| unreadable("a query's answer"))
    }

    /// Returns whether a row exists. A row that may not be read counts as existing.
    ///
    /// # Errors
    /// [`DataverseError`]: cannot be determined now.
    pub(crate) async fn row_exists(
        &self,
        session: &Session,
        set: &str,
        key: &str,
        id: Uuid,
    ) -> Result<bool, DataverseError> {
        let path = format!("{}?$select={key}", row(set, id));
        match self.get_json(session, &path).await {
            Ok(_) | Err(DataverseError::Rejected { .. }) => Ok(true),
            Err(DataverseError::Stale { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
