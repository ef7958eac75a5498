//! Resolves the regarding of an email: the record that it concerns. Pure: values in, a decision out
//! that records what was checked and why.
//!
//! The sources are checked in the order of the policy ([`Regarding::order`]). The first match wins,
//! and later sources are not checked.
//!
//! | Source | Matches when | Never |
//! | --- | --- | --- |
//! | `thread` | the nearest email that this one replies to, and that has a regarding, shares an external participant with this one | for strangers to that email, as in a forward |
//! | `tracking_token` | the newest email with a token of the subject has a regarding, and shares an external participant with this one | for strangers to that email |
//! | `folder` | the email is in a folder that the policy maps to a record, and the record exists | |
//! | `app` | the external contacts have one open opportunity, case or custom row; else their companies and the external accounts have one | when they have several |
//! | `lead` | an open lead has an external address | |
//! | `contact` | a contact has an external address | |
//! | `account` | all contacts with an external address have the same company, or an account has an external address | |
//!
//! If no source matches, the regarding is empty; it is never guessed. If a source finds several
//! records and no rule chooses between them, it is recorded as ambiguous and the next source is
//! checked. A record of a table that no email can regard is skipped and recorded.
//!
//! External participants are taken in the order sender, To, Cc, Bcc, so the result is the same for
//! every mailbox's copy. Two things can differ. Only the sender's copy has the Bcc, so it is
//! checked last. Each copy is in its own folder; the copy that is written first decides.
//!
//! A participant is the same person as one on an earlier email if the address is the same, or the
//! row that it resolves to. An email without external participants has no strangers, and belongs to
//! its thread.

pub(crate) mod app;
mod decision;
mod related_emails;

use crate::clients::dataverse::metadata::table_names::TableNames;
use crate::clients::dataverse::records::{PartyReference, Person, RecordReference, Table};
use crate::lookup::follow_up::FollowUpRequest;
use crate::lookup::result::LookupResult;
use crate::model::address::EmailAddress;
use crate::model::ids::ActivityId;
use crate::model::message::Message;
use crate::policy::InternalAddresses;
use crate::policy::document::{Ambiguous, FolderRegarding, Regarding, RegardingSource};
use crate::resolve::parties;

pub use self::decision::RegardingDecision;
pub(crate) use self::decision::{CandidateOutcome, RegardingCandidate, RegardingChoice};

/// An email, and everything that its regarding may depend on.
pub struct RegardingInput<'a> {
    /// The message.
    pub message: &'a Message,
    /// The lookup result.
    pub found: &'a LookupResult,
    /// The internal addresses.
    pub internal: &'a InternalAddresses<'a>,
    /// The record of the matching folder rule ([`by_folder`]).
    pub folder: Option<&'a RecordReference>,
    /// The policy's settings.
    pub settings: &'a Regarding,
    /// How to resolve an address that several rows have.
    pub ambiguous: Ambiguous,
    /// The tracking tokens in its subject
    /// ([`in_subject`](crate::policy::token_pattern::TokenPattern::in_subject)).
    pub tokens: &'a [String],
}

/// The result of [`decide`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegardingStep {
    /// The regarding is resolved.
    Decided(RegardingDecision),
    /// The regarding cannot be resolved before these queries are answered.
    Ask(FollowUpRequest),
}

/// Returns the record of the first folder rule that matches. `lies_in` returns whether the email is
/// in the folder with this name, or in a subfolder of it.
pub(crate) fn by_folder(
    rules: &[FolderRegarding],
    lies_in: impl Fn(&str) -> bool,
) -> Option<RecordReference> {
    let rule = rules.iter().find(|rule| lies_in(&rule.folder))?;
    Some(RecordReference {
        table: rule.table.clone(),
        id: rule.id,
    })
}

/// Resolves the regarding of an email, or returns the queries that are needed first. All queries
/// that may be needed are returned at once.
#[must_use]
pub fn decide(input: &RegardingInput<'_>) -> RegardingStep {
    let mut candidates = Vec::new();
    let mut further = FollowUpRequest::default();
    for source in &input.settings.order {
        let from = candidates.len();
        let hit = match source {
            RegardingSource::TrackingToken => related_emails::by_token(input, &mut candidates),
            RegardingSource::Thread => related_emails::by_thread(input, &mut candidates),
            RegardingSource::Folder => input
                .folder
                .and_then(|target| folder(input, target, &mut candidates, &mut further)),
            RegardingSource::App => app::decide(input, &mut candidates, &mut further),
            RegardingSource::Lead => people(*source, lead(input), &mut candidates),
            RegardingSource::Contact => people(*source, contact(input), &mut candidates),
            RegardingSource::Account => people(*source, account(input), &mut candidates),
        };
        let Some((target, parent)) = hit else {
            continue;
        };
        match input.found.names(&target.table) {
            Some(Some(names)) if further.is_empty() => {
                return RegardingStep::Decided(chosen(candidates, *source, target, names, parent));
            }
            // This source matches, but an earlier source needs an answer first.
            Some(Some(_)) => return RegardingStep::Ask(further),
            Some(None) => {
                for candidate in candidates.iter_mut().skip(from) {
                    if candidate.outcome == CandidateOutcome::Hit {
                        candidate.outcome = CandidateOutcome::CannotBeBound;
                    }
                }
            }
            None => {
                further.tables.insert(target.table);
            }
        }
    }
    if further.is_empty() {
        RegardingStep::Decided(RegardingDecision {
            candidates,
            choice: None,
        })
    } else {
        RegardingStep::Ask(further)
    }
}

fn chosen(
    candidates: Vec<RegardingCandidate>,
    source: RegardingSource,
    target: RecordReference,
    names: TableNames,
    parent: Option<ActivityId>,
) -> RegardingDecision {
    let choice = RegardingChoice {
        source,
        target,
        names,
        parent,
    };
    RegardingDecision {
        candidates,
        choice: Some(choice),
    }
}

/// A match: the record, and for a thread the email that this one replies to.
type Hit = (RecordReference, Option<ActivityId>);

fn folder(
    input: &RegardingInput<'_>,
    target: &RecordReference,
    candidates: &mut Vec<RegardingCandidate>,
    further: &mut FollowUpRequest,
) -> Option<Hit> {
    let mut candidate = RegardingCandidate::of(RegardingSource::Folder, CandidateOutcome::Hit);
    candidate.records.push(target.clone());
    match (
        input.found.names(&target.table),
        input.found.is_there(target),
    ) {
        // The caller records a table that no email can regard.
        (Some(None), _) | (Some(Some(_)), Some(true)) => {
            candidates.push(candidate);
            Some((target.clone(), None))
        }
        (Some(Some(_)), Some(false)) => {
            candidate.outcome = CandidateOutcome::Missing;
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
    record: Option<PartyReference>,
    candidates: &mut Vec<RegardingCandidate>,
) -> Option<Hit> {
    let target = RecordReference::from(record?);
    let mut candidate = RegardingCandidate::of(source, CandidateOutcome::Hit);
    candidate.records.push(target.clone());
    candidates.push(candidate);
    Some((target, None))
}

/// Returns the external addresses, in the order of the message.
fn external<'a>(input: &RegardingInput<'a>) -> impl Iterator<Item = &'a EmailAddress> {
    let RegardingInput {
        message, internal, ..
    } = *input;
    message
        .participants()
        .filter(|address| !internal.contains(address))
}

/// Returns the rows that the external addresses resolve to, in the order of the message.
fn resolved<'a>(input: &RegardingInput<'a>) -> impl Iterator<Item = &'a Person> {
    external(input).filter_map(|address| row_of(input, address))
}

/// Returns the row that an address resolves to. With the setting `all`, an address is bound to
/// several rows as a party, but returns `None` here, since it is unknown which of them the email
/// regards.
fn row_of<'a>(input: &RegardingInput<'a>, address: &EmailAddress) -> Option<&'a Person> {
    let (_, people) = parties::people_of(address, input.internal);
    match parties::choose(people, input.ambiguous) {
        (parties::Choice::All, _) => None,
        (_, chosen) => chosen.first().copied(),
    }
}

/// Returns the first open lead. A qualified or disqualified lead is closed: after a qualification
/// the contact is the regarding, after a disqualification there is none.
fn lead(input: &RegardingInput<'_>) -> Option<PartyReference> {
    let mut leads = resolved(input).filter(|person| person.active);
    leads
        .find(|person| person.record.table == Table::Lead)
        .map(|person| person.record)
}

fn contact(input: &RegardingInput<'_>) -> Option<PartyReference> {
    resolved(input)
        .find(|person| person.record.table == Table::Contact)
        .map(|person| person.record)
}

fn account(input: &RegardingInput<'_>) -> Option<PartyReference> {
    let shared =
        external(input).find_map(|address| company_of_namesakes(input.found.people(address)));
    shared.or_else(|| {
        resolved(input)
            .find(|person| person.record.table == Table::Account)
            .map(|person| person.record)
    })
}

/// Returns the company that all active contacts with an address have in common.
fn company_of_namesakes(people: &[Person]) -> Option<PartyReference> {
    let mut companies = people
        .iter()
        .filter(|p| p.active && p.record.table == Table::Contact)
        .map(|contact| contact.account);
    let first = companies.next()??;
    companies
        .all(|company| company == Some(first))
        .then_some(PartyReference {
            table: Table::Account,
            id: first,
        })
}

#[cfg(test)]
mod tests;
