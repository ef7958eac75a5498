//! The Nylas v3 API: messages, attachments, grants and folders ([`client`]), webhook destinations
//! ([`webhooks`]), and the JSON that Nylas sends ([`wire`]).

pub mod client;
pub mod error;
pub mod webhooks;
pub mod wire;

pub use self::client::{
    Fetched, FetchedFile, Filter, Headers, LARGEST_MESSAGE, LARGEST_PAGE, NylasClient, Page,
};
