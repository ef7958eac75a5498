//! The settings that hold for one mailbox: the organisation's, narrowed by the mailbox's own part.
//!
//! Nothing here chooses between the two parts. Where both say something about a mail, both are kept and the mail has to pass both, so that a mailbox's
//! part can take away and never give: what the organisation leaves out stays out, whatever a mailbox's part says.

use std::collections::BTreeSet;

use serde::Serialize;

use super::document::{
    Ambiguous, Block, BlockAction, Content, CreateContacts, FolderRegarding, Folders, Impersonate,
    Override, Regarding, Settings, TrackWhat,
};
use crate::ids::EmailAddress;

/// The settings that hold for one mailbox. Domains and addresses are in the form in which addresses are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// A mail from outside has to pass each of these; none of them: all is tracked.
    pub received: BTreeSet<TrackWhat>,
    /// A mail that somebody inside sent has to pass each of these; none of them: all is tracked.
    pub sent: BTreeSet<TrackWhat>,
    /// Each of these has to let a mail's folders through.
    pub folders: Vec<Folders>,
    /// Mail in these folders concerns these records; the first that fits.
    pub folder_regarding: Vec<FolderRegarding>,
    /// Mail whose sender and recipients are all inside is left out.
    pub skip_internal: bool,
    /// Who is never tracked.
    pub block: Vec<Block>,
    /// Each of these lists has to have the domain of an outside participant, or one above it.
    pub allow: Vec<Vec<String>>,
    /// Bulk mail is left out.
    pub skip_bulk: bool,
    /// Of each thread only its first mail is tracked.
    pub first_of_thread_only: bool,
    /// What of a mail is stored.
    pub content: Content,
    /// What an address is that several rows have.
    pub ambiguous: Ambiguous,
    /// For whom a contact is created.
    pub create_contacts: CreateContacts,
    /// Which record a mail concerns.
    pub regarding: Regarding,
    /// In whose name the row of a mail is written.
    pub impersonate: Impersonate,
}

impl Effective {
    /// What holds for a mailbox without a part of its own.
    #[must_use]
    pub fn organisation(settings: &Settings) -> Self {
        Self {
            received: condition(Some(settings.track.received)).collect(),
            sent: condition(Some(settings.track.sent)).collect(),
            folders: Some(settings.folders.clone())
                .filter(|folders| *folders != Folders::All)
                .into_iter()
                .collect(),
            folder_regarding: settings.folder_regarding.clone(),
            skip_internal: settings.skip_internal,
            block: settings.block.iter().map(normal_block).collect(),
            allow: normal_list(&settings.allow).into_iter().collect(),
            skip_bulk: settings.skip_bulk,
            first_of_thread_only: settings.first_of_thread_only,
            content: settings.content,
            ambiguous: settings.ambiguous,
            create_contacts: settings.create_contacts,
            regarding: settings.regarding.clone(),
            impersonate: settings.impersonate,
        }
    }

    /// What holds for a mailbox with this part of its own.
    #[must_use]
    pub fn narrowed(&self, part: &Override) -> Self {
        let mut narrow = self.clone();
        narrow.received.extend(condition(part.track.received));
        narrow.sent.extend(condition(part.track.sent));
        let folders = part.folders.clone();
        narrow
            .folders
            .extend(folders.filter(|folders| *folders != Folders::All));
        narrow.folder_regarding = part
            .folder_regarding
            .iter()
            .chain(&self.folder_regarding)
            .cloned()
            .collect();
        narrow.skip_internal |= part.skip_internal.unwrap_or_default();
        narrow.block.extend(part.block.iter().map(normal_block));
        narrow.allow.extend(normal_list(&part.allow));
        narrow.skip_bulk |= part.skip_bulk.unwrap_or_default();
        narrow.first_of_thread_only |= part.first_of_thread_only.unwrap_or_default();
        narrow.content = self.content.max(part.content.unwrap_or_default());
        narrow.create_contacts = self
            .create_contacts
            .min(part.create_contacts.unwrap_or(CreateContacts::All));
        narrow
    }

    /// Whether all headers of a message are needed, and not the three basic ones alone.
    #[must_use]
    pub fn needs_all_headers(&self) -> bool {
        self.skip_bulk
    }

    /// Whether it has to be known if the mails that a mail answers are in Dynamics 365.
    #[must_use]
    pub fn asks_for_ancestors(&self) -> bool {
        [&self.received, &self.sent]
            .iter()
            .any(|asked| asked.contains(&TrackWhat::Replies))
    }

    /// Whether a mail that names this address is left out as a whole.
    #[must_use]
    pub fn drops(&self, address: &EmailAddress) -> bool {
        self.blocks(address, BlockAction::Drop)
    }

    /// Whether this address is left out of whatever mail names it.
    #[must_use]
    pub fn strips(&self, address: &EmailAddress) -> bool {
        self.blocks(address, BlockAction::Strip)
    }

    fn blocks(&self, address: &EmailAddress, action: BlockAction) -> bool {
        let names = |block: &Block| {
            // Whoever is blocked stays so under a tag: `eve+news@…` is `eve@…`.
            block.address.as_deref().is_some_and(|blocked| {
                let plain = address.without_tag();
                blocked == address.normal() || plain.is_some_and(|plain| blocked == plain.normal())
            }) || block
                .domain
                .as_deref()
                .is_some_and(|domain| is_within(address.domain(), domain))
        };
        self.block
            .iter()
            .any(|block| block.action == action && names(block))
    }

    /// Whether a participant outside counts as such.
    #[must_use]
    pub fn allows(&self, address: &EmailAddress) -> bool {
        self.allow.iter().all(|list| {
            list.iter()
                .any(|domain| is_within(address.domain(), domain))
        })
    }
}

/// What a mail has to pass, if anything.
fn condition(what: Option<TrackWhat>) -> impl Iterator<Item = TrackWhat> {
    what.filter(|what| *what != TrackWhat::All).into_iter()
}

/// Whether `domain` is `above` or one below it.
pub(super) fn is_within(domain: &str, above: &str) -> bool {
    domain
        .strip_suffix(above)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A domain in the form in which the domains of addresses are compared; `None` when the text is none.
///
/// `@example.com` and `*.example.com` would never match, and mail that was meant would be tracked.
#[must_use]
pub fn domain(text: &str) -> Option<String> {
    let is_odd = |c: char| c.is_whitespace() || "@*/:,;".contains(c);
    let is_none = text.contains(is_odd)
        || text.starts_with('.')
        || text.ends_with('.')
        || text.contains("..");
    let address = EmailAddress::parse(&format!("x@{text}")).filter(|_| !is_none)?;
    Some(address.domain().to_owned())
}

fn normal_list(domains: &[String]) -> Option<Vec<String>> {
    (!domains.is_empty()).then(|| domains.iter().filter_map(|text| domain(text)).collect())
}

fn normal_block(block: &Block) -> Block {
    let address = block.address.as_deref().and_then(EmailAddress::parse);
    Block {
        address: address.map(|address| address.normal().to_owned()),
        domain: block.domain.as_deref().and_then(domain),
        action: block.action,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::document::Track;

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    fn block(address: Option<&str>, domain: Option<&str>, action: BlockAction) -> Block {
        Block {
            address: address.map(str::to_owned),
            domain: domain.map(str::to_owned),
            action,
        }
    }

    #[test]
    fn a_mailbox_adds_conditions_and_takes_none_away() {
        let settings = Settings {
            track: Track {
                received: TrackWhat::Known,
                sent: TrackWhat::All,
            },
            folders: Folders::Except(vec!["Private".to_owned()]),
            skip_bulk: true,
            content: Content::Snippet,
            create_contacts: CreateContacts::Sent,
            ..Settings::default()
        };
        let part: Override = serde_json::from_value(serde_json::json!({
            "track": {"received": "replies"}, "folders": {"only": ["CRM"]}, "skip_bulk": false,
            "skip_internal": false, "content": "full", "create_contacts": "all", "first_of_thread_only": true,
        }))
        .unwrap();
        let narrow = Effective::organisation(&settings).narrowed(&part);
        assert_eq!(
            narrow.received,
            BTreeSet::from([TrackWhat::Known, TrackWhat::Replies])
        );
        assert_eq!(narrow.sent, BTreeSet::new());
        assert_eq!(narrow.folders.len(), 2);
        assert!(narrow.skip_bulk && narrow.skip_internal && narrow.first_of_thread_only);
        assert_eq!(narrow.content, Content::Snippet);
        assert_eq!(narrow.create_contacts, CreateContacts::Sent);
        let nothing = Effective::organisation(&settings).narrowed(&Override::default());
        assert_eq!(nothing, Effective::organisation(&settings));
    }

    #[test]
    fn an_address_is_blocked_with_its_tags_and_a_domain_with_what_is_below_it() {
        let settings = Settings {
            block: vec![
                block(Some("Eve@Out.example"), None, BlockAction::Drop),
                block(None, Some("KITES.example"), BlockAction::Strip),
            ],
            ..Settings::default()
        };
        let effective = Effective::organisation(&settings);
        assert!(effective.drops(&address("eve@out.example")));
        assert!(effective.drops(&address("eve+news@out.example")));
        assert!(!effective.drops(&address("steve@out.example")));
        assert!(!effective.strips(&address("eve@out.example")));
        assert!(effective.strips(&address("a@kites.example")));
        assert!(effective.strips(&address("a@mail.kites.example")));
        assert!(!effective.strips(&address("a@mykites.example")));
        assert!(!effective.strips(&address("a@kites.example.net")));
    }

    #[test]
    fn a_domain_is_allowed_when_every_list_has_it() {
        let settings = Settings {
            allow: vec!["kites.example".to_owned(), "out.example".to_owned()],
            ..Settings::default()
        };
        let part = Override {
            allow: vec!["eu.kites.example".to_owned()],
            ..Override::default()
        };
        let organisation = Effective::organisation(&settings);
        assert!(organisation.allows(&address("a@kites.example")));
        assert!(organisation.allows(&address("a@eu.kites.example")));
        assert!(!organisation.allows(&address("a@else.example")));
        let narrow = organisation.narrowed(&part);
        assert!(narrow.allows(&address("a@eu.kites.example")));
        assert!(!narrow.allows(&address("a@kites.example")));
        let all = Effective::organisation(&Settings::default());
        assert!(all.allows(&address("a@else.example")));
    }

    #[test]
    fn what_is_no_domain_is_none() {
        assert_eq!(domain("Kites.Example").as_deref(), Some("kites.example"));
        for none in [
            "",
            "@kites.example",
            "*.kites.example",
            ".kites.example",
            "kites.example.",
            "a..b",
            "a b.example",
            "https://kites.example",
            "a.example,b.example",
        ] {
            assert_eq!(domain(none), None, "{none}");
        }
    }
}
