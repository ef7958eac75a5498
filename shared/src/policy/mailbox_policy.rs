//! The policy of one mailbox: the organisation's settings, restricted by the mailbox's override.
//!
//! The override never replaces a setting of the organisation. If both have a condition, both are
//! kept and a message has to pass both. So an override can only restrict: what the organisation
//! leaves out stays out, whatever the override contains.

use std::collections::BTreeSet;

use serde::Serialize;

use super::document::{
    Ambiguous, Block, BlockAction, Content, CreateContacts, FolderRegarding, Folders, Impersonate,
    Override, Regarding, Settings, TrackWhat,
};
use crate::model::address::EmailAddress;

/// The policy of one mailbox. Domains and addresses are in the normalised form in which they are
/// compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MailboxPolicy {
    /// Conditions that a message from an external sender has to pass, all of them. Empty: every
    /// message is tracked.
    pub received: BTreeSet<TrackWhat>,
    /// Conditions that a message from an internal sender has to pass, all of them. Empty: every
    /// message is tracked.
    pub sent: BTreeSet<TrackWhat>,
    /// Folder settings; the folders of a message have to pass all of them.
    pub folders: Vec<Folders>,
    /// The records that email in these folders regards; the first match wins.
    pub folder_regarding: Vec<FolderRegarding>,
    /// Whether email is left out if its sender and recipients are all internal.
    pub skip_internal: bool,
    /// Addresses and domains that are never tracked.
    pub block: Vec<Block>,
    /// Lists of allowed domains. An external participant counts only if each list has the
    /// participant's domain or a parent of it.
    pub allow: Vec<Vec<String>>,
    /// Whether bulk mail is left out.
    pub skip_bulk: bool,
    /// Whether only the first message of each thread is tracked.
    pub(crate) first_of_thread_only: bool,
    /// How much of an email is stored.
    pub content: Content,
    /// How to resolve an address that several rows have.
    pub ambiguous: Ambiguous,
    /// For which participants a contact is created.
    pub create_contacts: CreateContacts,
    /// How the record that an email regards is chosen.
    pub regarding: Regarding,
    /// The user as which the row of an email is written.
    pub impersonate: Impersonate,
}

impl MailboxPolicy {
    /// Returns the policy of a mailbox without an override.
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

    /// Returns the policy of a mailbox with this override.
    #[must_use]
    pub(crate) fn narrowed(&self, part: &Override) -> Self {
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

    /// Returns whether all headers of a message are needed, not only the three basic ones.
    #[must_use]
    pub(crate) fn needs_all_headers(&self) -> bool {
        self.skip_bulk
    }

    /// Returns whether it matters if the messages that a message replies to are in Dynamics 365.
    #[must_use]
    pub(crate) fn asks_for_ancestors(&self) -> bool {
        [&self.received, &self.sent]
            .iter()
            .any(|asked| asked.contains(&TrackWhat::Replies))
    }

    /// Returns whether a message with this participant is left out as a whole.
    #[must_use]
    pub fn drops(&self, address: &EmailAddress) -> bool {
        self.blocks(address, BlockAction::Drop)
    }

    /// Returns whether this participant is left out of every message.
    #[must_use]
    pub fn strips(&self, address: &EmailAddress) -> bool {
        self.blocks(address, BlockAction::Strip)
    }

    fn blocks(&self, address: &EmailAddress, action: BlockAction) -> bool {
        let names = |block: &Block| {
            // A tag does not unblock an address: `eve+news@…` is blocked if `eve@…` is.
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

    /// Returns whether an external participant counts as one: each list of allowed domains has the
    /// participant's domain or a parent of it.
    #[must_use]
    pub fn allows(&self, address: &EmailAddress) -> bool {
        self.allow.iter().all(|list| {
            list.iter()
                .any(|domain| is_within(address.domain(), domain))
        })
    }
}

/// Returns the condition that a message has to pass, if there is one.
fn condition(what: Option<TrackWhat>) -> impl Iterator<Item = TrackWhat> {
    what.filter(|what| *what != TrackWhat::All).into_iter()
}

/// Returns whether `domain` is `above` or a subdomain of it.
pub(super) fn is_within(domain: &str, above: &str) -> bool {
    domain
        .strip_suffix(above)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Returns a domain in the form in which the domains of addresses are compared. `None` if the text
/// is not a domain.
///
/// Texts such as `@example.com` and `*.example.com` are refused: they would never match, so email
/// that the author wanted to exclude would be tracked.
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
    fn an_override_adds_conditions_and_removes_none() {
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
        let narrow = MailboxPolicy::organisation(&settings).narrowed(&part);
        assert_eq!(
            narrow.received,
            BTreeSet::from([TrackWhat::Known, TrackWhat::Replies])
        );
        assert_eq!(narrow.sent, BTreeSet::new());
        assert_eq!(narrow.folders.len(), 2);
        assert!(narrow.skip_bulk && narrow.skip_internal && narrow.first_of_thread_only);
        assert_eq!(narrow.content, Content::Snippet);
        assert_eq!(narrow.create_contacts, CreateContacts::Sent);
        let nothing = MailboxPolicy::organisation(&settings).narrowed(&Override::default());
        assert_eq!(nothing, MailboxPolicy::organisation(&settings));
    }

    #[test]
    fn a_block_covers_the_tags_of_an_address_and_the_subdomains_of_a_domain() {
        let settings = Settings {
            block: vec![
                block(Some("Eve@Out.example"), None, BlockAction::Drop),
                block(None, Some("KITES.example"), BlockAction::Strip),
            ],
            ..Settings::default()
        };
        let mailbox_policy = MailboxPolicy::organisation(&settings);
        assert!(mailbox_policy.drops(&address("eve@out.example")));
        assert!(mailbox_policy.drops(&address("eve+news@out.example")));
        assert!(!mailbox_policy.drops(&address("steve@out.example")));
        assert!(!mailbox_policy.strips(&address("eve@out.example")));
        assert!(mailbox_policy.strips(&address("a@kites.example")));
        assert!(mailbox_policy.strips(&address("a@mail.kites.example")));
        assert!(!mailbox_policy.strips(&address("a@mykites.example")));
        assert!(!mailbox_policy.strips(&address("a@kites.example.net")));
    }

    #[test]
    fn a_domain_is_allowed_only_if_every_list_contains_it() {
        let settings = Settings {
            allow: vec!["kites.example".to_owned(), "out.example".to_owned()],
            ..Settings::default()
        };
        let part = Override {
            allow: vec!["eu.kites.example".to_owned()],
            ..Override::default()
        };
        let organisation = MailboxPolicy::organisation(&settings);
        assert!(organisation.allows(&address("a@kites.example")));
        assert!(organisation.allows(&address("a@eu.kites.example")));
        assert!(!organisation.allows(&address("a@else.example")));
        let narrow = organisation.narrowed(&part);
        assert!(narrow.allows(&address("a@eu.kites.example")));
        assert!(!narrow.allows(&address("a@kites.example")));
        let all = MailboxPolicy::organisation(&Settings::default());
        assert!(all.allows(&address("a@else.example")));
    }

    #[test]
    fn text_that_is_not_a_domain_is_rejected() {
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
