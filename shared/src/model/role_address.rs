//! Recognises role addresses, which do not belong to one person. Pure.
//!
//! | Kind | Why | Examples |
//! | --- | --- | --- |
//! | [`Role::Automatic`] | a program sends from it, and messages to it are not read | `no-reply`, `mailer-daemon`, `bounce`, `notifications`, `newsletter` |
//! | [`Role::Shared`] | several people use it: the names of RFC 2142 and those that companies commonly use | `info`, `sales`, `support`, `office`, `jobs` |
//!
//! The local part is compared without its tag, without dots, hyphens, underscores and blanks, and
//! without digits at the end: `No_Reply2` is `noreply`. The marks of a program match anywhere in
//! the name (`orders-noreply`), the other names only as a whole: `sales-jane` and `info.kites` may
//! be people.

use crate::model::address::EmailAddress;

/// The use of a role address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A program sends from it.
    Automatic,
    /// Several people use it.
    Shared,
}

/// Marks of a program, anywhere in the name.
const MARKS: [&str; 3] = ["noreply", "donotreply", "dontreply"];

/// Names of programs that report on mail and lists, or on events. `postmaster` is in RFC 2142, but
/// the messages from it are reports.
const AUTOMATIC: [&str; 25] = [
    "alert",
    "alerts",
    "autoreply",
    "autoresponder",
    "bounce",
    "bounces",
    "daemon",
    "digest",
    "listserv",
    "mailer",
    "mailerdaemon",
    "mailinglist",
    "majordomo",
    "news",
    "newsletter",
    "newsletters",
    "notification",
    "notifications",
    "notify",
    "notifier",
    "postmaster",
    "reminder",
    "robot",
    "system",
    "updates",
];

/// Names of addresses that several people use. From RFC 2142: abuse, ftp, hostmaster, info,
/// marketing, noc, sales, security, support, usenet, uucp, webmaster, www. The others are names
/// that companies commonly give to departments that write to customers, also in German, French,
/// Spanish and Italian.
const SHARED: [&str; 72] = [
    "abuse",
    "accounting",
    "accounts",
    "accountspayable",
    "accountsreceivable",
    "admin",
    "administration",
    "administrator",
    "amministrazione",
    "anfrage",
    "ap",
    "ar",
    "bewerbung",
    "billing",
    "booking",
    "bookings",
    "buchhaltung",
    "careers",
    "commercial",
    "compliance",
    "comptabilite",
    "contact",
    "contacto",
    "contatti",
    "customercare",
    "customerservice",
    "customersupport",
    "datenschutz",
    "dpo",
    "einkauf",
    "enquiries",
    "enquiry",
    "events",
    "feedback",
    "finance",
    "ftp",
    "gdpr",
    "hello",
    "help",
    "helpdesk",
    "hostmaster",
    "hr",
    "info",
    "inquiries",
    "invoice",
    "invoices",
    "invoicing",
    "it",
    "jobs",
    "kontakt",
    "kundenservice",
    "legal",
    "mail",
    "marketing",
    "noc",
    "office",
    "orders",
    "post",
    "press",
    "privacy",
    "rechnung",
    "recruiting",
    "sales",
    "security",
    "service",
    "shop",
    "support",
    "team",
    "usenet",
    "uucp",
    "vertrieb",
    "webmaster",
];

/// Returns the use of a role address; `None` for the address of a person.
#[must_use]
pub fn role(address: &EmailAddress) -> Option<Role> {
    let local = address.local_part().trim_matches('"');
    let untagged = local.split('+').next().unwrap_or_default();
    let plain = untagged.replace(['.', '-', '_', ' '], "");
    let name = plain.trim_end_matches(|c: char| c.is_ascii_digit());
    if AUTOMATIC.contains(&name) || MARKS.iter().any(|mark| name.contains(mark)) {
        Some(Role::Automatic)
    } else if SHARED.contains(&name) || name == "www" {
        Some(Role::Shared)
    } else {
        None
    }
}

/// Returns whether an address is a role address.
#[must_use]
pub(crate) fn is_role_address(address: &EmailAddress) -> bool {
    role(address).is_some()
}

/// Returns whether a program sends from an address.
#[must_use]
pub(crate) fn is_automatic(address: &EmailAddress) -> bool {
    role(address) == Some(Role::Automatic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(local: &str) -> Option<Role> {
        role(&EmailAddress::parse(&format!("{local}@kites.example")).unwrap())
    }

    #[test]
    fn an_automatic_address_is_recognised_in_every_spelling() {
        for program in [
            "no-reply",
            "NoReply",
            "do_not.reply",
            "dont-reply",
            "orders-noreply",
            "noreply-de",
            "no.reply2",
            "noreply+7f3a",
            "bounces+42",
            "MAILER-DAEMON",
            "postmaster",
            "newsletter",
            "notifications",
            "\"no reply\"",
        ] {
            assert_eq!(of(program), Some(Role::Automatic), "{program}");
        }
    }

    #[test]
    fn a_shared_address_is_recognised_by_its_whole_name() {
        for desk in [
            "info",
            "Sales",
            "support",
            "support2",
            "customer.service",
            "help-desk",
            "jobs",
            "www",
            "info+x",
            "buchhaltung",
        ] {
            assert_eq!(of(desk), Some(Role::Shared), "{desk}");
        }
    }

    #[test]
    fn a_personal_address_has_no_role() {
        for person in [
            "jane",
            "jane.doe",
            "sales-jane",
            "info.kites",
            "jane.sales",
            "nora.eply",
            "reply",
            "newson",
            "alerta",
            "teamer",
            "jane+newsletter",
            "jane+noreply",
            "hr.giger",
            "42",
            "itay",
        ] {
            assert_eq!(of(person), None, "{person}");
        }
        let domain = EmailAddress::parse("jane@noreply.example").unwrap();
        assert!(!is_role_address(&domain) && !is_automatic(&domain));
    }

    #[test]
    fn the_lists_contain_each_name_once_and_in_lower_case() {
        let all: Vec<&str> = [AUTOMATIC.as_slice(), SHARED.as_slice()].concat();
        let distinct: std::collections::HashSet<&str> = all.iter().copied().collect();
        assert_eq!(distinct.len(), all.len());
        for name in all {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{name}");
        }
    }
}
