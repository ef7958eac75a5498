//! The Dataverse Web API client.
//!
//! The state that the calls of one batch of messages share, above all the token, is passed to each
//! call as a [`session`].
//!
//! | Purpose | Module |
//! | --- | --- |
//! | names to bind a row by, lengths of text columns | [`metadata`] |
//! | types of rows and records | [`records`] |
//! | reading and writing emails | [`email_row`], [`emails`], [`duplicate_removal`] |
//! | contacts and accounts to create | `new_rows` |
//! | query strings, and reading all pages of an answer | [`odata`], `query` |
//! | how many queries one `$batch` holds | `lookup_size` |
//! | checks of `mailverse doctor` | [`probes`] |
//! | writes that are recorded instead of sent | [`dry_run`] |
//! | wire format of `$batch` | [`batch`] |
//! | failures | [`error`] |
//!
//! The queries before a decision are in [`crate::lookup`].

pub mod batch;
pub mod client;
pub mod dry_run;
pub mod duplicate_removal;
pub mod email_row;
pub mod emails;
pub mod error;
mod lookup_size;
pub mod metadata;
mod new_rows;
pub mod odata;
pub mod probes;
mod query;
pub mod records;
pub mod session;

pub use self::client::{AccessToken, DataverseClient};
