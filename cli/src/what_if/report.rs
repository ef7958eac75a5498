//! The report of `mailverse what-if`, as text or as JSON. It has rules, settings, ids and counts,
//! but no content.

use std::collections::BTreeMap;
use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use mailverse::clients::nylas::error::NylasError;
use mailverse::model::ids::{GrantId, MessageKey};
use mailverse::pipeline::preview::Preview;
use mailverse::policy::Policy;
use serde_json::{Value, json};

use super::difference::{self, Difference, What};
use crate::terminal::printable;

/// The differences between the stored policy and a new one.
pub(super) struct Report {
    before: String,
    after: String,
    pub(super) since: DateTime<Utc>,
    pub(super) mailboxes: usize,
    messages: usize,
    unchanged: usize,
    changes: Vec<(MessageKey, Difference)>,
    /// Messages that could not be compared, and why.
    unknown: Vec<(MessageKey, String)>,
    /// Mailboxes that could not be listed completely, and why.
    not_listed: Vec<(GrantId, String)>,
}

impl Report {
    pub(super) fn new(policies: &[Policy; 2], since: DateTime<Utc>) -> Self {
        let [before, after] = policies;
        Self {
            before: before.version().to_owned(),
            after: after.version().to_owned(),
            since,
            mailboxes: 0,
            messages: 0,
            unchanged: 0,
            changes: Vec::new(),
            unknown: Vec::new(),
            not_listed: Vec::new(),
        }
    }

    /// Returns whether every message and every mailbox could be compared.
    pub(super) fn is_complete(&self) -> bool {
        self.unknown.is_empty() && self.not_listed.is_empty()
    }

    /// Compares two previews of a message and records the result.
    pub(super) fn add(&mut self, before: &Preview, after: &Preview) {
        self.messages += 1;
        match difference::between(before, after) {
            Err(reason) => self.unknown.push((before.key.clone(), reason)),
            Ok(found) if found.is_empty() => self.unchanged += 1,
            Ok(found) => {
                let key = &before.key;
                self.changes
                    .extend(found.into_iter().map(|one| (key.clone(), one)));
            }
        }
    }

    /// Records a mailbox that could not be listed completely.
    pub(super) fn not_listed(&mut self, mailbox: &GrantId, error: &NylasError) {
        self.not_listed.push((mailbox.clone(), error.to_string()));
    }

    /// Counts the changes by kind, and by the values before and after. Changes of people and
    /// regarding are only counted as a whole, because there are too many different values.
    fn counts(&self) -> BTreeMap<What, BTreeMap<String, usize>> {
        let mut counts: BTreeMap<What, BTreeMap<String, usize>> = BTreeMap::new();
        for (_, difference) in &self.changes {
            let Difference {
                what,
                before,
                after,
            } = difference;
            let kind = match what {
                What::Tracked => before.clone(),
                What::LeftOut => after.clone(),
                What::Rule | What::Content | What::Contacts => format!("{before} → {after}"),
                What::People | What::Regarding => "changed".to_owned(),
            };
            *counts.entry(*what).or_default().entry(kind).or_default() += 1;
        }
        counts
    }

    pub(super) fn json(&self) -> Value {
        let counts: BTreeMap<&str, _> = self
            .counts()
            .into_iter()
            .map(|(what, kinds)| (what.name(), kinds))
            .collect();
        let change = |(key, difference): &(MessageKey, Difference)| {
            json!({
                "grant_id": key.grant_id, "message_id": key.message_id, "change": difference.what.name(),
                "before": difference.before, "after": difference.after,
            })
        };
        let unknown = |(key, reason): &(MessageKey, String)| json!({"grant_id": key.grant_id, "message_id": key.message_id, "reason": reason});
        let not_listed =
            |(mailbox, reason): &(GrantId, String)| json!({"grant_id": mailbox, "reason": reason});
        json!({
            "before": self.before,
            "after": self.after,
            "since": self.since.to_rfc3339_opts(SecondsFormat::Secs, true),
            "mailboxes": self.mailboxes,
            "messages": self.messages,
            "unchanged": self.unchanged,
            "counts": counts,
            "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
            "unknown": self.unknown.iter().map(unknown).collect::<Vec<_>>(),
            "not_listed": self.not_listed.iter().map(not_listed).collect::<Vec<_>>(),
        })
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "Policy {} instead of {}: {} messages of {} mailboxes since {}; {} unchanged.",
            self.after,
            self.before,
            self.messages,
            self.mailboxes,
            self.since.format("%F %T UTC"),
            self.unchanged
        )?;
        for (what, kinds) in self.counts() {
            for (kind, count) in kinds {
                writeln!(out, "{count:>6} {} ({})", label(what), printable(&kind))?;
            }
        }
        for (key, difference) in &self.changes {
            let Difference {
                what,
                before,
                after,
            } = difference;
            let [before, after] = [before, after].map(|text| printable(text));
            let key = printable(&key.to_string());
            writeln!(out, "{key}: {}: {before} → {after}", label(*what))?;
        }
        for (key, reason) in &self.unknown {
            let (key, reason) = (printable(&key.to_string()), printable(reason));
            writeln!(out, "{key}: could not be compared: {reason}")?;
        }
        for (mailbox, reason) in &self.not_listed {
            let (mailbox, reason) = (printable(mailbox.as_str()), printable(reason));
            writeln!(out, "{mailbox}: failed to list the mailbox: {reason}")?;
        }
        Ok(())
    }
}

const fn label(what: What) -> &'static str {
    match what {
        What::Tracked => "newly tracked",
        What::LeftOut => "no longer tracked",
        What::Rule => "skipped by another rule",
        What::Content => "different content",
        What::People => "different people",
        What::Regarding => "different regarding",
        What::Contacts => "different contacts",
    }
}
