//! Resolves addresses to rows: the parties of an email, the record that it concerns, and the
//! contacts to create. Pure: all queries are made by [`crate::lookup`].

pub mod contacts;
pub mod parties;
pub mod regarding;
