//! What Dataverse says when it refuses, with the code and status of Dataverse facts §12.
//!
//! Where the facts know a code's text it is used; the rest of each sentence is made to help who reads it.

use std::borrow::Cow;
use std::fmt::Display;

use serde_json::{Value, json};
use uuid::Uuid;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    /// Seconds for a `Retry-After` header.
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

    /// The body holds something that does not fit the table: 400 / 0x80048d19.
    pub(crate) fn payload(set: &str, detail: impl Display) -> Self {
        let message = format!(
            "Error identified in Payload provided by the user for Entity :'{set}', {detail}"
        );
        Self::new(400, "0x80048d19", message)
    }

    /// The address or a query option is wrong: 400 / 0x80060888.
    pub(crate) fn query(detail: impl Into<String>) -> Self {
        Self::new(400, "0x80060888", detail)
    }

    /// A column that the table does not have, in a query.
    pub(crate) fn unknown_column(table: &str, column: &str) -> Self {
        Self::query(format!(
            "Could not find a property named '{column}' on type 'Microsoft.Dynamics.CRM.{table}'."
        ))
    }

    /// Something the service can do and the twin cannot. It must never look like an answer of the service.
    pub(crate) fn not_imitated(what: impl Display) -> Self {
        Self::new(501, "twin", format!("the twin does not imitate {what}"))
    }

    /// No such row: 404 / 0x80040217.
    pub(crate) fn no_row(table: &str, id: Uuid) -> Self {
        Self::new(
            404,
            "0x80040217",
            format!("Entity '{table}' With Id = {id} Does Not Exist"),
        )
    }

    /// A path segment that names nothing.
    pub(crate) fn no_segment(segment: &str) -> Self {
        Self::new(
            404,
            "0x8006088A",
            format!("Resource not found for the segment '{segment}'."),
        )
    }

    /// The verb does not fit the address: 405 (the number is inferred, Dataverse facts §19 rule 7).
    pub(crate) fn verb(detail: impl Into<String>) -> Self {
        Self::new(405, "0x80060888", detail)
    }

    /// A status that does not belong to the state: 400 / 0x80048408.
    pub(crate) fn status(table: &str, status: i64, state: i64, id: Uuid) -> Self {
        let message = format!(
            "{status} is not a valid status code for state code {state} of {table} with Id {id}."
        );
        Self::new(400, "0x80048408", message)
    }

    /// A value that the platform cannot use: 400 / 0x80040203.
    pub(crate) fn argument(detail: impl Into<String>) -> Self {
        Self::new(400, "0x80040203", detail)
    }

    /// The error object. With annotations asked for, the details that support wants are added.
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
