//! Which record a mail concerns. Pure: values in, a decision out that says what was looked at and why.
//!
//! Sources are asked in the order of the policy ([`Regarding::order`]); the first hit wins, and what comes after it is not looked at.
//!
//! | Source | Hits when | Never |
//! | --- | --- | --- |
//! | `thread` | the nearest mail that this one answers, and that concerns a record, has one of the people outside on it | for strangers to that mail, as in a forward |
//! | `tracking_token` | the newest email with a token of the subject concerns a record, and has one of the people outside on it | for strangers to that mail |
//! | `folder` | the mail lies in a folder that the policy ties to a record, and the record is there | |
//! | `app` | the contacts outside have one open opportunity, case or custom row; else their companies and the accounts outside have one | when they have several |
//! | `lead` | an open lead has an address outside | |
//! | `contact` | a contact has an address outside | |
//! | `account` | all contacts of an address outside have the same company, or an account has an address outside | |
//!
//! Nothing of these: empty, never a guess. Where several records are found and no rule tells them apart, the source is recorded as ambiguous and the next one
//! is asked. A record of a table that no email can concern is passed over and recorded.
//!
//! People outside are taken in the order sender, To, Cc, Bcc, so the answer is the same for every mailbox's copy. Two things can differ: Bcc stands in the
//! sender's copy only, so it is asked last, and each copy lies in a folder of its own; the copy that is written first decides.
//!
//! Somebody is the same person as on an earlier mail by address, or by the row that the address belongs to. A mail that nobody outside takes part in has no
//! strangers on it, and belongs to its thread.

mod app;
mod decision;
mod earlier;
pub mod token;

use crate::dataverse::further::Further;
use crate::dataverse::look_up::Found;
use crate::dataverse::names::TableNames;
use crate::dataverse::rows::{Person, Record, Table, Target};
use crate::ids::{ActivityId, EmailAddress};
use crate::message::Message;
use crate::parties;
use crate::policy::Inside;
use crate::policy::document::{Ambiguous, FolderRegarding, Regarding, RegardingSource};

pub use self::decision::{Candidate, Choice, Decision, Outcome};

/// A mail, and all that the decision about it may depend on.
pub struct Mail<'a> {
    /// The mail.
    pub message: &'a Message,
    /// What was looked up.
    pub found: &'a Found,
    /// Who is inside.
    pub inside: &'a Inside<'a>,
    /// The record that the folder rule names ([`by_folder`]).
    pub folder: Option<&'a Target>,
    /// The policy.
    pub settings: &'a Regarding,
    /// What an address is that several rows have.
    pub ambiguous: Ambiguous,
    /// The tracking tokens of its subject ([`token::TokenPattern::in_subject`]).
    pub tokens: &'a [String],
}

/// What deciding came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is decided.
    Decided(Decision),
    /// It cannot be decided before this is answered.
    Ask(Further),
}

/// The record of the first folder rule that holds. `lies_in` says whether the mail lies in a folder, or below it, that is named so.
pub fn by_folder(rules: &[FolderRegarding], lies_in: impl Fn(&str) -> bool) -> Option<Target> {
    let rule = rules.iter().find(|rule| lies_in(&rule.folder))?;
    Some(Target {
        table: rule.table.clone(),
        id: rule.id,
    })
}

/// Which record the mail concerns, or what has to be asked first. Everything that may be needed is asked for at once.
#[must_use]
pub fn decide(mail: &Mail<'_>) -> Step {
    let mut candidates = Vec::new();
    let mut further = Further::default();
    for source in &mail.settings.order {
        let from = candidates.len();
        let hit = match source {
            RegardingSource::TrackingToken => earlier::by_token(mail, &mut candidates),
            RegardingSource::Thread => earlier::by_thread(mail, &mut candidates),
            RegardingSource::Folder => mail
                .folder
                .and_then(|target| folder(mail, target, &mut candidates, &mut further)),
            RegardingSource::App => app::decide(mail, &mut candidates, &mut further),
            RegardingSource::Lead => people(*source, lead(mail), &mut candidates),
            RegardingSource::Contact => people(*source, contact(mail), &mut candidates),
            RegardingSource::Account => people(*source, account(mail), &mut candidates),
        };
        let Some((target, parent)) = hit else {
            continue;
        };
        match mail.found.names(&target.table) {
            Some(Some(names)) if further.is_empty() => {
                return Step::Decided(chosen(candidates, *source, target, names, parent));
            }
            // A sure hit, but an earlier source has not answered yet.
            Some(Some(_)) => return Step::Ask(further),
            Some(None) => {
                for candidate in candidates.iter_mut().skip(from) {
                    if candidate.outcome == Outcome::Hit {
                        candidate.outcome = Outcome::CannotBeBound;
                    }
                }
            }
            None => {
                further.tables.insert(target.table);
            }
        }
    }
    if further.is_empty() {
        Step::Decided(Decision {
            candidates,
            choice: None,
        })
    } else {
        Step::Ask(further)
    }
}

fn chosen(
    candidates: Vec<Candidate>,
    source: RegardingSource,
    target: Target,
    names: TableNames,
    parent: Option<ActivityId>,
) -> Decision {
    let choice = Choice {
        source,
        target,
        names,
        parent,
    };
    Decision {
        candidates,
        choice: Some(choice),
    }
}

/// A hit: the record, and for a thread the mail that is answered.
type Hit = (Target, Option<ActivityId>);

fn folder(
    mail: &Mail<'_>,
    target: &Target,
    candidates: &mut Vec<Candidate>,
    further: &mut Further,
) -> Option<Hit> {
    let mut candidate = Candidate::of(RegardingSource::Folder, Outcome::Hit);
    candidate.records.push(target.clone());
    match (mail.found.names(&target.table), mail.found.is_there(target)) {
        // What cannot be bound is noted by the caller.
        (Some(None), _) | (Some(Some(_)), Some(true)) => {
            candidates.push(candidate);
            Some((target.clone(), None))
        }
        (Some(Some(_)), Some(false)) => {
            candidate.outcome = Outcome::Missing;
            candidates.push(candidate);
            None
        }
        (Some(Some(_)), None) => {
            further.records.insert(target.clone());
            None
        }
        (None, _) => {
            further.tables.insert(target.table.clone());
            None
        }
    }
}

fn people(
    source: RegardingSource,
    record: Option<Record>,
    candidates: &mut Vec<Candidate>,
) -> Option<Hit> {
    let target = Target::from(record?);
    let mut candidate = Candidate::of(source, Outcome::Hit);
    candidate.records.push(target.clone());
    candidates.push(candidate);
    Some((target, None))
}

/// The addresses outside, in the order of the mail.
fn outside<'a>(mail: &Mail<'a>) -> impl Iterator<Item = &'a EmailAddress> {
    let Mail {
        message, inside, ..
    } = *mail;
    message
        .participants()
        .filter(|address| !inside.contains(address))
}

/// What the addresses outside are resolved to, in the order of the mail.
fn resolved<'a>(mail: &Mail<'a>) -> impl Iterator<Item = &'a Person> {
    outside(mail).filter_map(|address| row_of(mail, address))
}

/// The row that an address is. With the setting `all` an address is each of several rows as a party, and none of them here: nobody can tell which one
/// the mail concerns.
fn row_of<'a>(mail: &Mail<'a>, address: &EmailAddress) -> Option<&'a Person> {
    let (_, people) = parties::people_of(address, mail.inside);
    match parties::choose(people, mail.ambiguous) {
        (parties::Choice::All, _) => None,
        (_, chosen) => chosen.first().copied(),
    }
}

/// A qualified or disqualified lead is history: what became of it is the contact's, or nobody's.
fn lead(mail: &Mail<'_>) -> Option<Record> {
    let mut leads = resolved(mail).filter(|person| person.active);
    leads
        .find(|person| person.record.table == Table::Lead)
        .map(|person| person.record)
}

fn contact(mail: &Mail<'_>) -> Option<Record> {
    resolved(mail)
        .find(|person| person.record.table == Table::Contact)
        .map(|person| person.record)
}

fn account(mail: &Mail<'_>) -> Option<Record> {
    let shared = outside(mail).find_map(|address| company_of_namesakes(mail.found.people(address)));
    shared.or_else(|| {
        resolved(mail)
            .find(|person| person.record.table == Table::Account)
            .map(|person| person.record)
    })
}

/// The one company of the active contacts that have an address, be it one or several.
fn company_of_namesakes(people: &[Person]) -> Option<Record> {
    let mut companies = people
        .iter()
        .filter(|p| p.active && p.record.table == Table::Contact)
        .map(|contact| contact.account);
    let first = companies.next()??;
    companies
        .all(|company| company == Some(first))
        .then_some(Record {
            table: Table::Account,
            id: first,
        })
}

#[cfg(test)]
mod tests;
