//! A person in an address book, as the clients read it.

use crate::model::address::EmailAddress;

/// A telephone number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    /// The number as people wrote it.
    pub number: String,
    /// The type, such as `work` or `mobile`; may be empty.
    pub kind: String,
}

/// A person in an address book. Every text may be empty.
#[derive(Clone, Default)]
pub struct Card {
    /// The field `given_name`.
    pub given_name: String,
    /// The field `surname`.
    pub surname: String,
    /// The email addresses, in the card's order, each once.
    pub addresses: Vec<EmailAddress>,
    /// The telephone numbers, in the card's order.
    pub numbers: Vec<Number>,
    /// The field `job_title`.
    pub job_title: String,
    /// The field `company_name`.
    pub company_name: String,
}
