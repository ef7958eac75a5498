//! Finds settings that contradict each other or could never apply.

use std::collections::BTreeSet;

use super::{Problem, name};
use crate::model::address::EmailAddress;
use crate::policy::document::{
    App, Block, BlockAction, Content, CreateContacts, CustomTable, Document, FolderRegarding,
    Folders, Override, RegardingSource, Settings,
};
use crate::policy::mailbox_policy::{domain, is_within};
use crate::policy::token_pattern;

/// The tables that an email can regard, besides the custom table of the document itself: those
/// whose navigation properties are known (Dataverse facts §6).
const REGARDING_TABLES: [&str; 11] = [
    "account",
    "campaign",
    "contact",
    "contract",
    "entitlement",
    "incident",
    "invoice",
    "lead",
    "opportunity",
    "quote",
    "salesorder",
];

/// Returns every setting of a document that makes no sense, in the order of the document.
pub(in crate::policy) fn problems(document: &Document) -> Vec<Problem> {
    let mut checks = Checks::default();
    let custom = match &document.defaults.regarding.app {
        App::Custom(table) => Some(table),
        App::None | App::Sales | App::Service => None,
    };
    checks.settings(&document.defaults, custom);
    let mut seen = BTreeSet::new();
    for (mailbox, part) in &document.mailboxes {
        let place = format!("mailboxes.{}", name(mailbox));
        match EmailAddress::parse(mailbox) {
            Some(address) if !seen.insert(address.clone()) => {
                checks.found(&place, "is named twice");
            }
            Some(_) => {}
            None => checks.found(&place, "is not an email address"),
        }
        checks.part(&place, part, &document.defaults, custom);
    }
    checks.problems
}

#[derive(Default)]
struct Checks {
    problems: Vec<Problem>,
}

impl Checks {
    fn found(&mut self, place: &str, what: impl Into<String>) {
        self.problems.push(Problem {
            place: place.to_owned(),
            what: what.into(),
        });
    }

    fn settings(&mut self, settings: &Settings, custom: Option<&CustomTable>) {
        self.folders("defaults.folders", &settings.folders);
        let place = "defaults.folder_regarding";
        self.folder_regarding(place, &settings.folder_regarding, settings, custom);
        self.domains("defaults.internal_domains", &settings.internal_domains);
        self.blocks("defaults", &settings.block, &[], settings);
        self.domains("defaults.allow", &settings.allow);
        for (at, allowed) in domains(&settings.allow) {
            if domains(&settings.internal_domains).any(|(_, internal)| internal == allowed) {
                let place = format!("defaults.allow[{at}]");
                self.found(
                    &place,
                    "is an internal domain, so its addresses are never external",
                );
            }
        }
        self.regarding(settings, custom);
    }

    /// Checks the override of a mailbox. It must not be wider than the organisation's settings.
    fn part(
        &mut self,
        place: &str,
        part: &Override,
        defaults: &Settings,
        custom: Option<&CustomTable>,
    ) {
        for (direction, own, organisation) in [
            ("received", part.track.received, defaults.track.received),
            ("sent", part.track.sent, defaults.track.sent),
        ] {
            let setting = format!("{place}.track.{direction}");
            self.not_wider(&setting, own, &organisation, |own| *own < organisation);
        }
        if let Some(folders) = &part.folders {
            let setting = format!("{place}.folders");
            match (folders, &defaults.folders) {
                (Folders::All, Folders::Only(_) | Folders::Except(_)) => {
                    self.found(
                        &setting,
                        "must not be wider than defaults, which restrict the folders",
                    );
                }
                _ => self.folders(&setting, folders),
            }
        }
        let setting = format!("{place}.folder_regarding");
        self.folder_regarding(&setting, &part.folder_regarding, defaults, custom);
        for (setting, own, organisation) in [
            ("skip_internal", part.skip_internal, defaults.skip_internal),
            ("skip_bulk", part.skip_bulk, defaults.skip_bulk),
            (
                "first_of_thread_only",
                part.first_of_thread_only,
                defaults.first_of_thread_only,
            ),
        ] {
            let setting = format!("{place}.{setting}");
            self.not_wider(&setting, own, &organisation, |own| !own && organisation);
        }
        self.blocks(place, &part.block, &defaults.block, defaults);
        let setting = format!("{place}.allow");
        self.domains(&setting, &part.allow);
        for (at, own) in domains(&part.allow) {
            let mut lists = domains(&defaults.allow).peekable();
            if lists.peek().is_some() && !lists.any(|(_, above)| is_within(&own, &above)) {
                self.found(
                    &format!("{setting}[{at}]"),
                    "must not be wider than defaults (defaults.allow does not include it)",
                );
            }
        }
        let setting = format!("{place}.content");
        let organisation: Content = defaults.content;
        self.not_wider(&setting, part.content, &organisation, |own| {
            *own < organisation
        });
        let setting = format!("{place}.create_contacts");
        let organisation: CreateContacts = defaults.create_contacts;
        self.not_wider(&setting, part.create_contacts, &organisation, |own| {
            *own > organisation
        });
    }

    fn not_wider<T: serde::Serialize>(
        &mut self,
        place: &str,
        own: Option<T>,
        organisation: &T,
        is_wider: impl Fn(&T) -> bool,
    ) {
        if let Some(own) = own.filter(is_wider) {
            let (own, organisation) = (word(&own), word(organisation));
            self.found(
                place,
                format!("must not be wider than defaults (got {own}, defaults: {organisation})"),
            );
        }
    }

    fn folders(&mut self, place: &str, folders: &Folders) {
        let (kind, names) = match folders {
            Folders::All => return,
            Folders::Only(names) => ("only", names),
            Folders::Except(names) => ("except", names),
        };
        let place = format!("{place}.{kind}");
        if names.is_empty() {
            self.found(&place, "lists no folder");
        }
        let mut seen = BTreeSet::new();
        for (at, name) in names.iter().enumerate() {
            let place = format!("{place}[{at}]");
            self.folder(&place, name);
            if !seen.insert(name.trim().to_lowercase()) {
                self.found(&place, "is named twice");
            }
        }
    }

    fn folder(&mut self, place: &str, name: &str) {
        if matches!(name.trim(), "" | "\\") {
            self.found(place, "is not a folder name");
        }
    }

    fn folder_regarding(
        &mut self,
        place: &str,
        rules: &[FolderRegarding],
        defaults: &Settings,
        custom: Option<&CustomTable>,
    ) {
        let asked = defaults.regarding.order.contains(&RegardingSource::Folder);
        if !rules.is_empty() && !asked {
            self.found(
                place,
                "has no effect unless defaults.regarding.order lists folder",
            );
        }
        let mut seen = BTreeSet::new();
        for (at, rule) in rules.iter().enumerate() {
            let place = format!("{place}[{at}]");
            self.folder(&format!("{place}.folder"), &rule.folder);
            if !seen.insert(rule.folder.trim().to_lowercase()) {
                self.found(&format!("{place}.folder"), "is named twice");
            }
            let is_known = REGARDING_TABLES.contains(&rule.table.as_str())
                || custom.is_some_and(|custom| custom.table == rule.table)
                || is_custom(&rule.table);
            if !is_known {
                let known = REGARDING_TABLES.join(", ");
                let what = format!(
                    "is not a table that an email can regard; allowed are {known}, and custom tables such as new_project"
                );
                self.found(&format!("{place}.table"), what);
            }
        }
    }

    fn domains(&mut self, place: &str, texts: &[String]) {
        let mut seen = BTreeSet::new();
        for (at, text) in texts.iter().enumerate() {
            let place = format!("{place}[{at}]");
            match domain(text) {
                None => self.found(&place, "is not a domain such as example.com"),
                Some(domain) if !seen.insert(domain.clone()) => {
                    self.found(&place, "is named twice");
                }
                Some(_) => {}
            }
        }
    }

    /// Checks the blocks of the organisation, or of a mailbox. `above` are the organisation's
    /// blocks that a mailbox's blocks are added to; empty for the organisation itself.
    fn blocks(&mut self, place: &str, blocks: &[Block], above: &[Block], defaults: &Settings) {
        let mut seen: Vec<(String, BlockAction)> = above.iter().filter_map(blocked).collect();
        for (at, block) in blocks.iter().enumerate() {
            let place = format!("{place}.block[{at}]");
            match (&block.address, &block.domain) {
                (Some(_), Some(_)) => {
                    self.found(&place, "has both an address and a domain; give one of them");
                    continue;
                }
                (None, None) => {
                    self.found(
                        &place,
                        "has neither an address nor a domain; give one of them",
                    );
                    continue;
                }
                (Some(text), None) if EmailAddress::parse(text).is_none() => {
                    self.found(&format!("{place}.address"), "is not an email address");
                }
                (None, Some(text)) if domain(text).is_none() => {
                    let what = "is not a domain such as example.com";
                    self.found(&format!("{place}.domain"), what);
                }
                (Some(_), None) | (None, Some(_)) => {}
            }
            if let Some(own) = block.domain.as_deref().and_then(domain) {
                let covers = |texts: &[String]| domains(texts).any(|(_, d)| is_within(&d, &own));
                if covers(&defaults.internal_domains) {
                    self.found(&place, "blocks an internal domain");
                }
                if covers(&defaults.allow) {
                    self.found(&place, "blocks a domain that defaults.allow lists");
                }
            }
            let Some((who, action)) = blocked(block) else {
                continue;
            };
            // A mailbox may drop what the organisation strips.
            let same = seen.iter().find(|(known, _)| *known == who);
            match same {
                Some((_, known)) if *known == action => self.found(&place, "is blocked twice"),
                Some((_, BlockAction::Strip)) if !above.is_empty() => {}
                Some(_) => self.found(&place, "is both dropped and stripped"),
                None => {}
            }
            seen.push((who, action));
        }
    }

    fn regarding(&mut self, settings: &Settings, custom: Option<&CustomTable>) {
        let regarding = &settings.regarding;
        let place = "defaults.regarding";
        for (at, source) in regarding.order.iter().enumerate() {
            if regarding.order.iter().take(at).any(|other| other == source) {
                let what = format!("{} is named twice", word(source));
                self.found(&format!("{place}.order[{at}]"), what);
            }
        }
        let setting = format!("{place}.tracking_token");
        if let Err(what) = token_pattern::check(&regarding.tracking_token) {
            self.found(&setting, what);
        }
        if regarding.app != App::None && !regarding.order.contains(&RegardingSource::App) {
            let what = "has no effect unless defaults.regarding.order lists app";
            self.found(&format!("{place}.app"), what);
        }
        let Some(custom) = custom else {
            return;
        };
        for (column, name) in [
            ("table", &custom.table),
            ("set", &custom.set),
            ("key", &custom.key),
            ("customer", &custom.customer),
        ] {
            let mut characters = name.chars();
            let is_name = characters.next().is_some_and(|c| c.is_ascii_lowercase())
                && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !is_name {
                let what = "is not a logical name such as new_project";
                self.found(&format!("{place}.app.custom.{column}"), what);
            }
        }
    }
}

/// Returns whether a table's name is that of a custom table: it starts with a publisher prefix.
/// Whether an email can regard the table is determined from its definition, when it is needed.
fn is_custom(table: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let prefixed = table
        .split_once('_')
        .is_some_and(|(prefix, name)| !prefix.is_empty() && !name.is_empty());
    prefixed && table.starts_with(|c: char| c.is_ascii_lowercase()) && table.chars().all(is_part)
}

/// Returns the valid domains of a list, each with its index.
fn domains(texts: &[String]) -> impl Iterator<Item = (usize, String)> {
    texts
        .iter()
        .enumerate()
        .filter_map(|(at, text)| Some((at, domain(text)?)))
}

/// Returns the address or domain that a block names, in the form in which they are compared.
fn blocked(block: &Block) -> Option<(String, BlockAction)> {
    let who = match (&block.address, &block.domain) {
        (Some(text), None) => EmailAddress::parse(text)?.normal().to_owned(),
        (None, Some(text)) => domain(text)?,
        _ => return None,
    };
    Some((who, block.action))
}

/// Returns a value as the document spells it.
fn word<T: serde::Serialize>(value: &T) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str()
        .map_or_else(|| json.to_string(), str::to_owned)
}
