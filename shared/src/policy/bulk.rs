//! Bulk mail and automatic answers: by their headers, or by an address behind which nobody reads.

use crate::ids::EmailAddress;
use crate::message::Message;

/// Names that programs send under, without dots, hyphens and underscores.
const ROLES: [&str; 12] = [
    "autoreply",
    "autoresponder",
    "bounce",
    "bounces",
    "daemon",
    "listserv",
    "mailerdaemon",
    "majordomo",
    "newsletter",
    "newsletters",
    "notifications",
    "postmaster",
];

/// What marks a name wherever it stands in it: `support-no-reply`, `noreply-de`.
const MARKS: [&str; 3] = ["noreply", "donotreply", "dontreply"];

/// Whether a mail is bulk mail or an automatic answer, as far as its headers at hand and its sender say so.
#[must_use]
pub fn is_bulk(message: &Message) -> bool {
    message.bulk.is_some() || message.author().is_some_and(is_role_address)
}

/// Whether a program, and no person, writes from an address: `no-reply@…`, `mailer-daemon@…`, `newsletter@…`.
#[must_use]
pub fn is_role_address(address: &EmailAddress) -> bool {
    let local = address.as_str().split(['@', '+']).next();
    let name = local.unwrap_or_default().replace(['.', '-', '_'], "");
    ROLES.contains(&name.as_str()) || MARKS.iter().any(|mark| name.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_address_is_known_however_it_is_spelt_and_a_person_is_none() {
        let is_role = |text: &str| is_role_address(&EmailAddress::parse(text).unwrap());
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
