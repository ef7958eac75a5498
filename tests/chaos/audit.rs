//! Checks what must hold once the queues are empty, from the ledger and from Dataverse.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use uuid::Uuid;

use crate::corpus::{Copy, Email, Expected, Party, Reference};
use crate::incident::Incident;
use crate::race::Race;
use crate::run::Run;

/// The result of the audit.
#[derive(Default)]
pub(crate) struct Verdict {
    pub(crate) written: usize,
    pub(crate) skipped: usize,
    pub(crate) dead: usize,
    /// Messages without their row or their final state, and messages that an incident made dead,
    /// even temporarily.
    pub(crate) lost: usize,
    /// Rows of an email beyond the first.
    pub(crate) duplicated: usize,
    pub(crate) two_holders: usize,
    /// Settlements by a token that no longer held the claim.
    pub(crate) stale: usize,
    /// The findings as text; each names what it concerns.
    pub(crate) findings: Vec<String>,
}

/// The longest time for which a message may be hidden in total because a file cannot be downloaded.
const LONGEST_FOR_A_FILE: Duration = Duration::from_secs(24 * 60 * 60);

/// The key for rows that contain no marker of ours.
const NOBODYS: &str = "nobody's";

/// The ledger's state of a message.
pub(crate) struct Item {
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    activity: Option<String>,
    pub(crate) held: bool,
}

impl Run {
    /// Runs the audit.
    pub(crate) async fn audit(&mut self) -> Verdict {
        let mut verdict = Verdict {
            findings: std::mem::take(&mut self.findings),
            lost: self.died,
            ..Verdict::default()
        };
        let rows = self.rows_by_marker();
        let items = self.ledger_by_key().await;
        for email in &self.corpus.emails {
            let copies = self.corpus.messages.iter();
            let expected = copies.clone().any(|copy| {
                self.corpus.emails[copy.email].marker == email.marker
                    && copy.expected == Expected::Written
            });
            let found = rows
                .get(email.marker.as_str())
                .map_or(&[][..], Vec::as_slice);
            self.judge_rows(email, expected, found, &mut verdict);
        }
        for row in rows.get(NOBODYS).into_iter().flatten() {
            let finding = format!("row {} belongs to no email", row["activityid"]);
            verdict.findings.push(finding);
        }
        for copy in &self.corpus.messages {
            let email = &self.corpus.emails[copy.email];
            let found = rows
                .get(email.marker.as_str())
                .map_or(&[][..], Vec::as_slice);
            judge_message(copy, items.get(&copy.key()), found, &mut verdict);
            if email.incident == Some(Incident::BrokenFiles) {
                self.judge_omission(copy, items.get(&copy.key()), &mut verdict);
            }
        }
        let known: HashSet<String> = self.corpus.messages.iter().map(Copy::key).collect();
        for key in items.keys().filter(|key| !known.contains(*key)) {
            verdict
                .findings
                .push(format!("{key} is in the ledger, but in no mailbox"));
        }
        for dropped in self.cloud.emulators.dataverse().dropped() {
            verdict
                .findings
                .push(format!("sent but silently not stored: {dropped:?}"));
        }
        let history = self.cloud.shared.history.lock().await;
        verdict.two_holders = history.two_holders.len();
        verdict.stale = history.stale.len();
        let broken = history.two_holders.iter().chain(&history.stale);
        verdict.findings.extend(broken.cloned());
        if history.claims == 0 || history.settlements == 0 {
            verdict
                .findings
                .push("no claim or settlement was seen on the connections".to_owned());
        }
        drop(history);
        self.judge_privacy(&mut verdict).await;
        verdict
    }

    /// Returns the rows of Dataverse by the marker in their subject.
    fn rows_by_marker(&self) -> HashMap<&str, Vec<Value>> {
        let mut rows: HashMap<&str, Vec<Value>> = HashMap::new();
        let markers: HashMap<&str, &str> = self
            .corpus
            .emails
            .iter()
            .map(|email| (email.marker.as_str(), email.marker.as_str()))
            .collect();
        for row in self.cloud.emulators.dataverse().rows("email") {
            let subject = row["subject"].as_str().unwrap_or_default();
            let marker = subject.split(' ').find_map(|word| markers.get(word));
            rows.entry(marker.copied().unwrap_or(NOBODYS))
                .or_default()
                .push(row);
        }
        rows
    }

    /// Returns the items of the ledger by key.
    pub(crate) async fn ledger_by_key(&self) -> HashMap<String, Item> {
        let mut items = HashMap::new();
        for item in self.cloud.items().await {
            let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned();
            let (Some(pk), Some(sk)) = (text("pk"), text("sk")) else {
                continue;
            };
            let (Some(grant), Some(message)) =
                (pk.strip_prefix("mailbox#"), sk.strip_prefix("message#"))
            else {
                continue;
            };
            let found = Item {
                state: text("state").unwrap_or_default(),
                reason: text("reason").filter(|reason| !reason.is_empty()),
                activity: text("activity_id"),
                held: item.get("claim_token").is_some_and(AttributeValue::is_s),
            };
            items.insert(format!("{grant}/{message}"), found);
        }
        items
    }

    /// Checks that a message with a file that cannot be downloaded did not wait long for it, and
    /// that the ledger records the omission.
    fn judge_omission(&self, copy: &Copy, item: Option<&Item>, verdict: &mut Verdict) {
        let key = copy.key();
        if item.is_some_and(|item| item.reason.is_none()) {
            let finding = format!("{key}: the ledger has no record of the omitted file");
            verdict.findings.push(finding);
        }
        let asked = self
            .cloud
            .shared
            .reserve
            .lock()
            .unwrap()
            .asked
            .get(&key)
            .copied();
        let asked = Duration::from_secs(asked.unwrap_or_default());
        if asked > LONGEST_FOR_A_FILE {
            verdict.findings.push(format!(
                "{key}: waited {} hours for a file",
                asked.as_secs() / 3_600
            ));
        }
    }

    /// Checks the rows of one email: their number, that they are completed, and that all parties
    /// and attachments are there.
    fn judge_rows(&self, email: &Email, expected: bool, rows: &[Value], verdict: &mut Verdict) {
        let mut find = |text: String| verdict.findings.push(format!("{}: {text}", email.marker));
        if !expected {
            if !rows.is_empty() {
                find(format!(
                    "{} rows of an email that must not be in Dataverse",
                    rows.len()
                ));
            }
            return;
        }
        let races = self.cloud.shared.races.lock().unwrap();
        let left_to_us = races.was_left_to_us(&email.marker);
        drop(races);
        if let Some(race) = email.race.as_ref().filter(|_| !left_to_us) {
            return self.judge_race(email, race, rows, verdict);
        }
        if rows.len() > 1 {
            verdict.duplicated += rows.len() - 1;
            let ids: Vec<&Value> = rows.iter().map(|row| &row["activityid"]).collect();
            find(format!("{} rows: {ids:?}", rows.len()));
        }
        for row in rows {
            if row["statecode"] != 1 {
                find(format!(
                    "row {} is not completed: {}",
                    row["activityid"], row["statecode"]
                ));
            }
            if email.external_row.is_some() {
                continue;
            }
            self.row_differs(email, row).into_iter().for_each(&mut find);
        }
    }

    /// Returns how a row of ours differs from what it should be.
    fn row_differs(&self, email: &Email, row: &Value) -> Vec<String> {
        let id = id_of(row);
        let problems = [
            ("columns", self.columns_differ(email, row)),
            ("parties", self.parties_differ(email, id)),
            ("attachments", self.files_differ(email, id)),
        ];
        let found = problems
            .into_iter()
            .filter_map(|(what, problem)| Some(format!("{what} of {id}: {}", problem?)));
        found.collect()
    }

    /// Checks the rows of an email that another client writes too: the external row must remain.
    /// Ours may remain beside it only if the email has a file.
    fn judge_race(&self, email: &Email, race: &Race, rows: &[Value], verdict: &mut Verdict) {
        let mut find = |text: String| {
            let finding = format!("{} ({:?}): {text}", email.marker, race.moment);
            verdict.findings.push(finding);
        };
        let external_row = self.cloud.shared.races.lock().unwrap().row(&email.marker);
        let (external_row, ours): (Vec<&Value>, Vec<&Value>) = rows
            .iter()
            .partition(|row| Some(id_of(row)) == external_row);
        if let [external_row] = external_row[..] {
            let regarding = reference(&external_row["regardingobjectid"]);
            let is_right = match &race.own {
                Some(own) => regarding.as_ref() == Some(own),
                None => self.may_concern(email, regarding.as_ref()),
            };
            if external_row["statecode"] != 1 || !is_right {
                find(format!(
                    "the row of the other client has the wrong state or regarding: {external_row}"
                ));
            }
        } else {
            find("the row of the other client is missing".to_owned());
        }
        let may_stay = usize::from(!email.files.is_empty());
        for row in &ours {
            self.row_differs(email, row).into_iter().for_each(&mut find);
        }
        if ours.len() > may_stay {
            find(format!(
                "{} rows beside the row of the other client",
                ours.len()
            ));
            verdict.duplicated += ours.len() - may_stay;
        }
    }

    /// Returns whether a row may have this regarding: the record of its own parties, or that of an
    /// earlier email in the thread. Which one depends on the order of writing.
    fn may_concern(&self, email: &Email, regarding: Option<&Reference>) -> bool {
        let emails = &self.corpus.emails;
        let mut thread = std::iter::successors(Some(email), |email| emails.get(email.answers?));
        thread.any(|email| {
            let other = email.race.as_ref().and_then(|race| race.own.as_ref());
            email.regarding.as_ref() == regarding || (other.is_some() && other == regarding)
        })
    }

    fn columns_differ(&self, email: &Email, row: &Value) -> Option<String> {
        let regarding = reference(&row["regardingobjectid"]);
        let status = if email.outgoing { 3 } else { 4 };
        let same = row["description"] == email.body.as_str()
            && row["directioncode"] == email.outgoing
            && row["statuscode"] == status
            && self.may_concern(email, regarding.as_ref());
        (!same).then(|| {
            format!(
                "expected {:?}, found {row}",
                (
                    &email.body.get(..200).unwrap_or(&email.body),
                    email.outgoing,
                    &email.regarding
                )
            )
        })
    }

    fn parties_differ(&self, email: &Email, id: Uuid) -> Option<String> {
        let mut found: Vec<_> = self
            .cloud
            .emulators
            .dataverse()
            .parties(id)
            .iter()
            .filter_map(|party| {
                let mask = party["participationtypemask"].as_i64()?;
                let address = party["addressused"].as_str()?.to_owned();
                (mask <= 4).then(|| (mask, address, reference(&party["partyid"])))
            })
            .collect();
        let mut expected = email.parties.clone();
        found.sort();
        expected.sort();
        if email.incident == Some(Incident::Crowds) {
            // Only some of a crowd are on the row: the sender must be, and no one who is not on the
            // email.
            let is_on_it = |party: &Party| expected.contains(party) || is_unresolved(email, party);
            let stranger = found.iter().find(|party| !is_on_it(party));
            let from = found.iter().any(|(mask, _, _)| *mask == 1);
            return (!from || stranger.is_some())
                .then(|| format!("{} parties, with {stranger:?}", found.len()));
        }
        (found != expected).then(|| format!("expected {expected:?}, found {found:?}"))
    }

    fn files_differ(&self, email: &Email, id: Uuid) -> Option<String> {
        let text = |file: &Value, name: &str| file[name].as_str().unwrap_or_default().to_owned();
        let mut found: Vec<(String, String)> = self
            .cloud
            .emulators
            .dataverse()
            .attachments(id)
            .iter()
            .map(|file| (text(file, "filename"), text(file, "body")))
            .collect();
        let broken = usize::from(email.incident == Some(Incident::BrokenFiles));
        let mut expected: Vec<(String, String)> = email
            .files
            .iter()
            .skip(broken)
            .map(|(name, bytes)| (name.clone(), STANDARD.encode(bytes)))
            .collect();
        found.sort();
        expected.sort();
        let names = |files: &[(String, String)]| -> Vec<String> {
            files.iter().map(|(name, _)| name.clone()).collect()
        };
        (found != expected)
            .then(|| format!("expected {:?}, found {:?}", names(&expected), names(&found)))
    }

    /// Checks that nothing private is stored or printed, and that the search covered enough text.
    async fn judge_privacy(&self, verdict: &mut Verdict) {
        self.look_at_ledger().await;
        let bodies = self.cloud.shared.reserve.lock().unwrap().bodies.clone();
        self.private.search("the queue", &bodies.join("\n"));
        let seen = self.private.seen();
        verdict.findings.extend(seen.found.iter().cloned());
        if seen.settled_lines < verdict.written || seen.metric_lines == 0 || bodies.is_empty() {
            verdict.findings.push(format!(
                "the search for private texts covered too little: {} lines, {} of them from settlements, {} metrics, {} queue bodies",
                seen.log_lines, seen.settled_lines, seen.metric_lines, bodies.len()
            ));
        }
    }
}

/// Checks the final state of a message.
fn judge_message(copy: &Copy, item: Option<&Item>, rows: &[Value], verdict: &mut Verdict) {
    let key = copy.key();
    let Some(item) = item else {
        verdict.lost += 1;
        verdict.findings.push(format!(
            "{key}: the ledger has no item; expected {:?}",
            copy.expected
        ));
        return;
    };
    let said = format!(
        "the ledger has {}{} ({:?})",
        item.state,
        if item.held { " and claimed" } else { "" },
        item.reason
    );
    let mut find = |text: String| verdict.findings.push(format!("{key}: {text}, {said}"));
    match (item.state.as_str(), copy.expected) {
        ("written", Expected::Written) => {
            verdict.written += 1;
            let named = rows
                .iter()
                .any(|row| row["activityid"].as_str() == item.activity.as_deref());
            if rows.is_empty() {
                verdict.lost += 1;
                find("Dataverse has no row".to_owned());
            } else if !named {
                find(format!(
                    "its activity id {:?} is not one of its rows",
                    item.activity
                ));
            }
        }
        ("skipped", Expected::Skipped(rule)) if item.reason.as_deref() == Some(rule) => {
            verdict.skipped += 1;
        }
        ("dead", Expected::Dead) if item.reason.is_some() => verdict.dead += 1,
        (_, expected) => {
            verdict.lost += 1;
            find(format!("expected {expected:?}"));
        }
    }
    if item.held {
        find("the message is still claimed".to_owned());
    }
}

/// Returns whether a party has only an address, no row, and the email has that address.
fn is_unresolved(email: &Email, (mask, address, row): &Party) -> bool {
    let mut parties = email.parties.iter();
    row.is_none() && parties.any(|(m, a, _)| (m, a) == (mask, address))
}

fn id_of(row: &Value) -> Uuid {
    row["activityid"].as_str().unwrap().parse().unwrap()
}

/// Parses a lookup column as the emulator shows it.
fn reference(value: &Value) -> Option<(String, Uuid)> {
    let table = value["table"].as_str()?.to_owned();
    Some((table, value["id"].as_str()?.parse().ok()?))
}
