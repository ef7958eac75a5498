//! The setting `MAILBOXES`: which of the application's grants take part.
//!
//! One Nylas application may contain mailboxes of several companies. Only those that the setting
//! selects are read, and only their addresses are internal.
//!
//! | Entry | Matches |
//! | --- | --- |
//! | `ada@example.com` | the grant with this main address, as [`EmailAddress`] compares: in any case, an international domain in either form. Not an alias |
//! | `example.com` | the grants whose main address is in exactly this domain. A subdomain needs a separate entry |
//! | `workspace:ID` | the grants of this Nylas workspace; ids are compared exactly |
//! | `all` | every grant of the application. Must be the only entry |
//!
//! Entries are separated by commas. There is no default: `all` has to be written explicitly.
//!
//! That each entry of the list of grants always contains its `workspace_id` is *inferred* (Nylas
//! facts §11). A grant without it matches no workspace.

use std::str::FromStr;

use crate::clients::nylas::wire::Grant;
use crate::env::Settings;
use crate::model::address::{EmailAddress, normal_domain};

/// The name of the setting.
pub const SETTING: &str = "MAILBOXES";

/// The allowed entries, for error messages.
const ALLOWED: &str = "addresses, domains and workspace:ID, separated by commas, or all";

const WORKSPACE: &str = "workspace:";

/// Selects the mailboxes that take part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowList {
    /// Every grant of the application.
    All,
    /// The grants that an entry matches; with no entry, none.
    Entries(Vec<Entry>),
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// One mailbox.
    Address(EmailAddress),
    /// The mailboxes of a domain, in the form of [`EmailAddress::domain`].
    Domain(String),
    /// The mailboxes of a Nylas workspace.
    Workspace(String),
}

/// Why a mailbox takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// All mailboxes take part.
    All,
    /// The number of the first entry that matches it, from 1.
    Entry(usize),
}

/// Why the setting is invalid. Entries are named by their number, since an address must not be
/// logged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AllowListError {
    /// The setting has no entries.
    #[error("names no mailbox: it must be {ALLOWED}")]
    Empty,
    /// An entry has none of the allowed forms.
    #[error("must be {ALLOWED}; entry {place} is {problem}")]
    Entry {
        /// The number of the entry, from 1.
        place: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `all` is not the only entry.
    #[error("has entry {place} `all` together with others: `all` must be the only entry")]
    NotAlone {
        /// The number of the entry `all`, from 1.
        place: usize,
    },
}

impl AllowList {
    /// Reads the setting, which is required. If it is missing or malformed, returns an empty list,
    /// and [`Settings::finish`] reports the problem.
    pub fn read<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Self {
        let missing = format!("name the mailboxes that take part: {ALLOWED}");
        let read = settings.required_parsed(SETTING, &missing);
        read.unwrap_or(Self::Entries(Vec::new()))
    }

    /// Returns the entries in the order of the setting; empty for `all`.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        match self {
            Self::All => &[],
            Self::Entries(entries) => entries,
        }
    }

    /// Returns why the grant takes part; `None` if it does not.
    #[must_use]
    pub fn admission(&self, grant: &Grant) -> Option<Admission> {
        match self {
            Self::All => Some(Admission::All),
            Self::Entries(entries) => {
                let place = entries.iter().position(|entry| entry.matches(grant))?;
                Some(Admission::Entry(place + 1))
            }
        }
    }

    /// Returns whether the grant takes part.
    #[must_use]
    pub fn admits(&self, grant: &Grant) -> bool {
        self.admission(grant).is_some()
    }
}

impl Entry {
    /// Returns whether the entry matches this grant.
    #[must_use]
    pub fn matches(&self, grant: &Grant) -> bool {
        match self {
            Self::Address(address) => grant.address.as_ref() == Some(address),
            Self::Domain(domain) => match &grant.address {
                Some(address) => address.domain() == domain,
                None => false,
            },
            Self::Workspace(id) => grant.workspace_id.as_ref() == Some(id),
        }
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if let Some(id) = text.strip_prefix(WORKSPACE) {
            let id = id.trim();
            let is_id = !id.is_empty() && id.chars().all(|c| c.is_ascii_graphic());
            return if is_id {
                Ok(Self::Workspace(id.to_owned()))
            } else {
                Err("`workspace:` without an id")
            };
        }
        if let Some(address) = EmailAddress::parse(text) {
            return Ok(Self::Address(address));
        }
        if text.starts_with('@') {
            return Err("a domain with a leading `@`: remove the `@`");
        }
        if text.contains('*') {
            return Err("a pattern, and `*` is not supported: add an entry for each subdomain");
        }
        match plain_domain(text) {
            Some(domain) => Ok(Self::Domain(domain)),
            None => Err("none of these"),
        }
    }
}

impl FromStr for AllowList {
    type Err = AllowListError;

    /// Parses the setting. Blank entries are ignored, so that a trailing comma is harmless.
    fn from_str(text: &str) -> Result<Self, AllowListError> {
        let texts: Vec<&str> = text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .collect();
        if texts == ["all"] {
            return Ok(Self::All);
        }
        let read = |(index, text): (usize, &&str)| {
            let place = index + 1;
            if *text == "all" {
                return Err(AllowListError::NotAlone { place });
            }
            Entry::read(text).map_err(|problem| AllowListError::Entry { place, problem })
        };
        let entries: Vec<Entry> = texts
            .iter()
            .enumerate()
            .map(read)
            .collect::<Result<_, _>>()?;
        if entries.is_empty() {
            return Err(AllowListError::Empty);
        }
        Ok(Self::Entries(entries))
    }
}

/// Returns the domain in the form of [`EmailAddress::domain`]; `None` if the text is not a domain
/// of email addresses. A domain needs at least two labels, so that a word with another purpose is
/// not taken for one.
fn plain_domain(text: &str) -> Option<String> {
    let domain = normal_domain(text);
    let is_label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(plain)
    };
    let is_domain = domain.len() <= 253 && domain.contains('.') && domain.split('.').all(is_label);
    is_domain.then_some(domain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clients::nylas::wire;

    fn list(text: &str) -> AllowList {
        text.parse().unwrap()
    }

    fn error(text: &str) -> String {
        text.parse::<AllowList>().unwrap_err().to_string()
    }

    fn grant(email: &str, workspace: &str) -> Grant {
        let grant = json!({"id": "g", "email": email, "workspace_id": workspace,
                           "email_aliases": ["alias@kites.example"]});
        wire::grant(&grant).unwrap()
    }

    #[test]
    fn a_mailbox_is_admitted_by_its_address_its_domain_or_its_workspace() {
        let allowed = list(" Ada@Ours.example, KITES.example ,workspace:W-1,");
        let by = |email: &str, workspace: &str| allowed.admission(&grant(email, workspace));
        assert_eq!(by("ada@ours.EXAMPLE", "x"), Some(Admission::Entry(1)));
        assert_eq!(by("Ben@Kites.Example", "x"), Some(Admission::Entry(2)));
        assert_eq!(by("eve@else.example", "W-1"), Some(Admission::Entry(3)));
        assert_eq!(by("ben@ours.example", "x"), None);
        assert_eq!(allowed.entries().len(), 3, "a trailing comma is ignored");
    }

    #[test]
    fn a_subdomain_a_tag_and_another_case_of_a_workspace_do_not_match() {
        let allowed = list("kites.example,ada@ours.example,workspace:W-1");
        for (email, workspace) in [
            ("ben@mail.kites.example", "x"),
            ("ben@notkites.example", "x"),
            ("ada+x@ours.example", "x"),
            ("eve@else.example", "w-1"),
        ] {
            assert!(
                !allowed.admits(&grant(email, workspace)),
                "{email} {workspace}"
            );
        }
    }

    #[test]
    fn an_international_domain_is_matched_in_either_form() {
        for text in [
            "bücher.example",
            "xn--bcher-kva.example",
            "Ada@BÜCHER.example",
        ] {
            for email in ["ada@bücher.example", "ada@xn--bcher-kva.example"] {
                assert!(list(text).admits(&grant(email, "x")), "{text} {email}");
            }
        }
    }

    #[test]
    fn a_grant_without_address_or_workspace_is_admitted_only_by_all() {
        let bare = wire::grant(&json!({"id": "g"})).unwrap();
        assert!(!list("ours.example,a@ours.example,workspace:W-1").admits(&bare));
        assert_eq!(list(" all ,").admission(&bare), Some(Admission::All));
        assert_eq!(list("all").entries(), []);
        assert!(!AllowList::Entries(Vec::new()).admits(&grant("a@ours.example", "x")));
    }

    #[test]
    fn an_invalid_entry_is_rejected_by_its_position_and_never_quoted() {
        for (text, place, problem) in [
            ("everybody", 1, "none of these"),
            ("ours.example,a b@ours.example", 2, "none of these"),
            ("ours.example,,.example", 2, "none of these"),
            ("ours..example", 1, "none of these"),
            ("-ours.example", 1, "none of these"),
            ("https://ours.example", 1, "none of these"),
            ("Ada <ada@ours.example>", 1, "none of these"),
            ("workspace: ", 1, "`workspace:` without an id"),
            ("@ours.example", 1, "a leading `@`"),
            ("*.ours.example", 1, "a pattern"),
        ] {
            let error = error(text);
            assert!(error.contains(&format!("entry {place} is ")), "{error}");
            assert!(error.contains(problem), "{error}");
            assert!(!error.contains("ours"), "{error}");
        }
        assert!(error(" , ").starts_with("names no mailbox: it must be addresses, domains"));
    }

    #[test]
    fn the_entry_all_must_be_the_only_one() {
        for (text, place) in [
            ("all,ours.example", 1),
            ("ours.example,all", 2),
            ("all,all", 1),
        ] {
            assert_eq!(
                error(text),
                format!(
                    "has entry {place} `all` together with others: `all` must be the only entry"
                )
            );
        }
        assert!(error("ALL").contains("entry 1 is none of these"));
    }

    #[test]
    fn the_mailboxes_setting_is_required() {
        let mut missing = Settings::new(|_| None);
        assert_eq!(
            AllowList::read(&mut missing),
            AllowList::Entries(Vec::new())
        );
        let text = missing.finish().unwrap_err().to_string();
        assert!(
            text.contains("MAILBOXES is missing: name the mailboxes"),
            "{text}"
        );
        let mut wrong = Settings::new(|_| Some("all,ours.example".to_owned()));
        AllowList::read(&mut wrong);
        let text = wrong.finish().unwrap_err().to_string();
        assert!(
            text.contains("MAILBOXES has entry 1 `all` together with others"),
            "{text}"
        );
    }
}
