//! Finds the company of an address: the domain that the company registered, and its account. Pure.
//!
//! The registrable domain is the public suffix (<https://publicsuffix.org>, whose list is in the
//! crate `psl`) with the label before it: `kites.example` for `jane@mail.kites.example`,
//! `kites.co.uk` for `jane@kites.co.uk`. There is no company for an address of a free or disposable
//! mail provider (`shared/data/free-mail.txt`, with its source and date), at a public suffix
//! itself, or at an IP address.
//!
//! The account of a domain is searched in this order; the first search that finds any account
//! decides:
//!
//! | Found by | How |
//! | --- | --- |
//! | `websiteurl` | its host is in the domain, alone or after `www.`, with or without `http://`, `https://` and a path |
//! | `emailaddress1` of the account | its domain is the domain or below it |
//! | its contacts | the companies of active contacts whose `emailaddress1` is in the domain or below it |
//!
//! Active accounts come before inactive ones. If there are several, `ambiguous` = `most_recent`
//! takes the one that was changed last. Otherwise none is taken, since a contact has one company,
//! and none is created, since accounts exist.

use std::collections::HashSet;
use std::sync::LazyLock;

use uuid::Uuid;

use crate::lookup::companies::{Companies, registrable};
use crate::model::address::EmailAddress;
use crate::policy::document::Ambiguous;
use crate::resolve::parties;
use crate::resolve::parties::Choice;

static FREE_MAIL: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    let lines = include_str!("../../../data/free-mail.txt").lines();
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
});

/// Returns the registrable domain of a company's address, in A-labels; `None` if the address does
/// not identify a company.
#[must_use]
pub fn domain(address: &EmailAddress) -> Option<String> {
    let host = address.domain();
    let registrable = registrable(host)?;
    let is_free = [host, registrable]
        .iter()
        .any(|domain| FREE_MAIL.contains(domain));
    (!is_free).then(|| registrable.to_owned())
}

/// The company of a new contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// The account exists.
    There(Uuid),
    /// Several accounts exist, and it is unknown which one is meant.
    Ambiguous,
    /// No account exists yet.
    New,
    /// The domain could not be looked up, so no account is created.
    Unknown,
}

/// Returns the company that has this domain.
#[must_use]
pub(crate) fn of_domain(companies: &Companies, domain: &str, ambiguous: Ambiguous) -> Company {
    let Some(accounts) = companies.0.get(domain) else {
        return Company::Unknown;
    };
    let found = [
        &accounts.by_website,
        &accounts.by_address,
        &accounts.of_contacts,
    ];
    let Some(first) = found.into_iter().find(|accounts| !accounts.is_empty()) else {
        return Company::New;
    };
    let ambiguous = match ambiguous {
        Ambiguous::MostRecent => Ambiguous::MostRecent,
        // A contact has one company.
        Ambiguous::Unresolved | Ambiguous::All => Ambiguous::Unresolved,
    };
    match parties::choose(first, ambiguous) {
        (Choice::Only | Choice::MostRecent, chosen) => {
            chosen.first().map_or(Company::Ambiguous, |account| {
                Company::There(account.record.id)
            })
        }
        (Choice::Unknown | Choice::Ambiguous | Choice::All, _) => Company::Ambiguous,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;

    use super::*;
    use crate::clients::dataverse::records::{PartyReference, Person, Table};
    use crate::lookup::companies::Accounts;
    use crate::model::address::normal_domain;

    fn of(address: &str) -> Option<String> {
        domain(&EmailAddress::parse(address).unwrap())
    }

    #[test]
    fn the_company_domain_is_one_label_longer_than_the_public_suffix() {
        for (address, domain) in [
            ("jane@kites.example", "kites.example"),
            ("jane@mail.eu.kites.example", "kites.example"),
            ("jane@example.co.uk", "example.co.uk"),
            ("jane@mail.example.co.uk", "example.co.uk"),
            ("jane@bücher.example", "xn--bcher-kva.example"),
            // A public suffix with non-ASCII letters.
            ("jane@mail.example.公司.cn", "example.xn--55qx5d.cn"),
            // Websites of different people below one company's domain.
            ("jane@one.github.io", "one.github.io"),
        ] {
            assert_eq!(of(address).as_deref(), Some(domain), "{address}");
        }
    }

    #[test]
    fn free_mail_and_invalid_domains_belong_to_no_company() {
        for none in [
            "jane@gmail.com",
            "jane@GoogleMail.com",
            "jane@yahoo.co.uk",
            "jane@t-online.de",
            "jane@proton.me",
            "jane@mailbox.org",
            "jane@mailinator.com",
            "x@privaterelay.appleid.com",
            "jane@co.uk",
            "jane@com",
            "jane@localhost",
            "jane@[192.0.2.1]",
            "jane@192.0.2.1",
            "jane@a..example",
            "jane@kites.example.",
            "jane@ki_tes%.example",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(of("jane@gmail.example").as_deref(), Some("gmail.example"));
        assert_eq!(of("jane@mygmail.com").as_deref(), Some("mygmail.com"));
    }

    #[test]
    fn the_free_mail_list_is_in_normal_form() {
        assert!(FREE_MAIL.len() > 10_000);
        for domain in FREE_MAIL.iter() {
            assert_eq!(normal_domain(domain), *domain);
            assert!(!domain.contains(char::is_whitespace), "{domain}");
        }
    }

    fn account(id: u128, active: bool, seconds: i64) -> Person {
        Person {
            record: PartyReference {
                table: Table::Account,
                id: Uuid::from_u128(id),
            },
            active,
            account: None,
            changed: DateTime::from_timestamp(seconds, 0),
        }
    }

    fn company(accounts: Accounts, ambiguous: Ambiguous) -> Company {
        let companies = Companies(BTreeMap::from([("kites.example".to_owned(), accounts)]));
        of_domain(&companies, "kites.example", ambiguous)
    }

    #[test]
    fn accounts_are_matched_by_website_then_by_address_then_by_contacts() {
        let mut accounts = Accounts {
            by_website: vec![account(1, true, 0)],
            by_address: vec![account(2, true, 0), account(3, true, 0)],
            of_contacts: vec![account(4, true, 0)],
        };
        let found = |accounts: &Accounts| company(accounts.clone(), Ambiguous::Unresolved);
        assert_eq!(found(&accounts), Company::There(Uuid::from_u128(1)));
        accounts.by_website.clear();
        assert_eq!(
            found(&accounts),
            Company::Ambiguous,
            "later searches must not decide"
        );
        accounts.by_address.clear();
        assert_eq!(found(&accounts), Company::There(Uuid::from_u128(4)));
        accounts.of_contacts.clear();
        assert_eq!(found(&accounts), Company::New);
    }

    #[test]
    fn several_accounts_are_ambiguous_unless_the_most_recent_is_wanted() {
        let accounts = Accounts {
            by_website: vec![
                account(1, true, 10),
                account(2, true, 20),
                account(3, false, 30),
            ],
            ..Accounts::default()
        };
        assert_eq!(
            company(accounts.clone(), Ambiguous::Unresolved),
            Company::Ambiguous
        );
        assert_eq!(
            company(accounts.clone(), Ambiguous::All),
            Company::Ambiguous
        );
        assert_eq!(
            company(accounts, Ambiguous::MostRecent),
            Company::There(Uuid::from_u128(2))
        );
    }

    #[test]
    fn an_inactive_account_is_used_if_there_is_no_other() {
        let inactive = Accounts {
            by_website: vec![account(3, false, 0)],
            ..Accounts::default()
        };
        assert_eq!(
            company(inactive, Ambiguous::Unresolved),
            Company::There(Uuid::from_u128(3))
        );
    }

    #[test]
    fn a_domain_that_was_not_looked_up_has_an_unknown_company() {
        assert_eq!(
            of_domain(
                &Companies::default(),
                "kites.example",
                Ambiguous::MostRecent
            ),
            Company::Unknown
        );
    }
}
