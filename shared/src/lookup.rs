//! Queries Dataverse for what a decision needs: the people, emails and companies of a batch of
//! messages.
//!
//! | Step | Module |
//! | --- | --- |
//! | the queries for a batch, in one `$batch` | [`request`] |
//! | their answers | [`result`] |
//! | queries that depend on an earlier answer | [`follow_up`] |
//! | accounts of mail domains | [`companies`] |
//! | the emails that a message replies to | [`related_emails`] |
//! | whether a row with the same Message-ID holds the same message | [`same_message`] |
//! | contacts with the columns that an address book fills | [`contact_rows`] |

mod by_message_id;
pub mod companies;
pub mod contact_rows;
pub mod follow_up;
pub mod related_emails;
pub mod request;
pub mod result;
pub mod same_message;
