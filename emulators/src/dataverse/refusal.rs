//! The errors that Dataverse answers with: status and code from Dataverse facts §12.
//!
//! If the facts give the text of a code, the message uses it. The rest of each message is ours and
//! meant to help the reader.

use std::borrow::Cow;
use std::fmt::Display;

use serde_json::{Value, json};
use uuid::Uuid;

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    /// Value of the `Retry-After` header, in seconds. `None` sends no header.
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: Cow::Borrowed(code),
            message: message.into(),
            retry_after: None,
        }
    }

    /// Builds the error for a body that does not fit the table: 400 / 0x80048d19.
    pub(crate) fn payload(set: &str, detail: impl Display) -> Self {
        let message = format!(
            "Error identified in Payload provided by the user for Entity :'{set}', {detail}"
        );
        Self::new(400, "0x80048d19", message)
    }

    /// Builds the error for an invalid URL or query option: 400 / 0x80060888.
    pub(crate) fn query(detail: impl Into<String>) -> Self {
        Self::new(400, "0x80060888", detail)
    }

    /// Builds the error for a query with a column that the table does not have: 400 / 0x80060888.
    pub(crate) fn unknown_column(table: &str, column: &str) -> Self {
        Self::query(format!(
            "Could not find a property named '{column}' on type 'Microsoft.Dynamics.CRM.{table}'."
        ))
    }

    /// Builds the error for something that Dataverse supports and the emulator does not. The status
    /// 501 and the code `emulators` distinguish it from every answer of Dataverse.
    pub(crate) fn not_imitated(what: impl Display) -> Self {
        Self::new(501, "twin", format!("the emulator does not support {what}"))
    }

    /// Builds the error for a row that does not exist: 404 / 0x80040217.
    pub(crate) fn no_row(table: &str, id: Uuid) -> Self {
        Self::new(
            404,
            "0x80040217",
            format!("Entity '{table}' With Id = {id} Does Not Exist"),
        )
    }

    /// Builds the error for an unknown path segment: 404 / 0x8006088A.
    pub(crate) fn no_segment(segment: &str) -> Self {
        Self::new(
            404,
            "0x8006088A",
            format!("Resource not found for the segment '{segment}'."),
        )
    }

    /// Builds the error for a method that the resource does not support: 405 / 0x80060888 (the
    /// status is inferred, Dataverse facts §19 rule 7).
    pub(crate) fn verb(detail: impl Into<String>) -> Self {
        Self::new(405, "0x80060888", detail)
    }

    /// Builds the error for a status that does not belong to the state: 400 / 0x80048408.
    pub(crate) fn status(table: &str, status: i64, state: i64, id: Uuid) -> Self {
        let message = format!(
            "{status} is not a valid status code for state code {state} of {table} with Id {id}."
        );
        Self::new(400, "0x80048408", message)
    }

    /// Builds the error for an invalid value: 400 / 0x80040203.
    pub(crate) fn argument(detail: impl Into<String>) -> Self {
        Self::new(400, "0x80040203", detail)
    }

    /// Returns the error as JSON. `annotated` adds the details that a client requests with
    /// `odata.include-annotations`.
    pub(crate) fn body(&self, annotated: bool) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if annotated && let Some(fields) = error.as_object_mut() {
            let help = format!(
                "http://go.microsoft.com/fwlink/?LinkID=398563&error=Microsoft.Crm.CrmException:{}",
                self.code
            );
            fields.insert(
                "@Microsoft.PowerApps.CDS.ErrorDetails.OperationStatus".to_owned(),
                json!("0"),
            );
            fields.insert(
                "@Microsoft.PowerApps.CDS.ErrorDetails.SubErrorCode".to_owned(),
                json!("0"),
            );
            fields.insert("@Microsoft.PowerApps.CDS.HelpLink".to_owned(), json!(help));
            fields.insert("@Microsoft.PowerApps.CDS.TraceText".to_owned(), json!(""));
            fields.insert(
                "@Microsoft.PowerApps.CDS.InnerError.Message".to_owned(),
                json!(self.message),
            );
        }
        json!({"error": error})
    }
}
