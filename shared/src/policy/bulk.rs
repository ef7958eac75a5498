//! Detects bulk mail and automatic replies: by their headers, or by a sender address that belongs
//! to a program ([`crate::model::role_address`]).

use crate::model::message::Message;
use crate::model::role_address::is_automatic;

/// Returns whether a message is bulk mail or an automatic reply, judged by the headers that were
/// fetched and the sender.
#[must_use]
pub fn is_bulk(message: &Message) -> bool {
    message.bulk.is_some() || message.author().is_some_and(is_automatic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::EmailAddress;

    #[test]
    fn an_automatic_address_is_recognised_and_a_personal_or_shared_one_is_not() {
        let is_role = |text: &str| is_automatic(&EmailAddress::parse(text).unwrap());
        for role in [
            "no-reply@x.example",
            "NoReply@x.example",
            "do_not.reply@x.example",
            "orders-noreply@x.example",
            "bounces+42@x.example",
            "MAILER-DAEMON@x.example",
            "postmaster@x.example",
            "newsletter@x.example",
        ] {
            assert!(is_role(role), "{role}");
        }
        for person in [
            "reply@x.example",
            "ada@noreply.example",
            "nora.eply@x.example",
            "sales@x.example",
            "info@x.example",
            "ada+newsletter@x.example",
        ] {
            assert!(!is_role(person), "{person}");
        }
    }
}
