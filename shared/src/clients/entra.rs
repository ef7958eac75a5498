//! Access tokens from Microsoft Entra ID: requesting them ([`client`], [`certificate`]), storing
//! them ([`token_store`]) and reading them ([`token_source`]).
//!
//! token-refresher is the only function that may read the Entra credential and the only writer of
//! the stored token. All other functions read the stored token.

pub mod certificate;
pub mod client;
pub mod token_source;
pub mod token_store;

pub use self::token_source::{Origin, TokenError, TokenSource};
