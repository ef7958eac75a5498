//! The types that all layers share. They make no calls and know no service.
//!
//! | Type | Module |
//! | --- | --- |
//! | ids of grants, messages and activities | [`ids`] |
//! | email addresses and domains | [`address`], [`role_address`] |
//! | a message, with participants and attachments | [`message`] |
//! | keys of rows, computed from a message | [`keys`] |
//! | an entry of an address book | [`contact_card`] |
//! | the queue message | [`sync_request`] |

pub mod address;
pub mod contact_card;
pub mod ids;
pub mod keys;
pub mod message;
pub mod role_address;
pub mod sync_request;
pub(crate) mod text;
