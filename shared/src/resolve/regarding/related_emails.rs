//! Finds the regarding of earlier emails: those with the same tracking token, and those that this
//! email replies to.

use std::collections::BTreeSet;

use super::{CandidateOutcome, Hit, RegardingCandidate, RegardingInput, external, row_of};
use crate::clients::dataverse::records::RecordReference;
use crate::lookup::related_emails::EarlierEmail;
use crate::model::ids::ActivityId;
use crate::policy::document::RegardingSource;

/// Returns the record of the newest email that has a token of the subject.
///
/// Tokens repeat, because their counter restarts after 999 emails of a user, and anyone can guess
/// one (Dataverse facts §18; that they need a second condition is *inferred*). So a token counts
/// only under the same condition as a thread: both emails share an external participant. It counts
/// only for the newest email that has it. Other records of older emails are recorded as
/// [`CandidateOutcome::Repeated`]. If the tokens of one subject lead to different records, none of
/// them is chosen.
pub(super) fn by_token(
    input: &RegardingInput<'_>,
    candidates: &mut Vec<RegardingCandidate>,
) -> Option<Hit> {
    let first = candidates.len();
    for token in input.tokens {
        let emails: Vec<&EarlierEmail> = others(input, input.found.with_token(token)).collect();
        let Some(newest) = emails.iter().map(|email| email.created).max() else {
            continue;
        };
        let (newest, older): (Vec<_>, Vec<_>) = emails
            .into_iter()
            .partition(|email| email.created == newest);
        candidates.extend(repeated(&newest, &older));
        of_acquaintances(input, RegardingSource::TrackingToken, newest, candidates);
    }
    let hits = candidates.iter_mut().skip(first);
    let mut hits: Vec<&mut RegardingCandidate> = hits
        .filter(|one| one.outcome == CandidateOutcome::Hit)
        .collect();
    let target = hits.first()?.records.first()?.clone();
    if hits.iter().all(|one| one.records.first() == Some(&target)) {
        return Some((target, None));
    }
    for candidate in &mut hits {
        candidate.outcome = CandidateOutcome::Ambiguous;
    }
    None
}

/// Returns the records that only older emails with the token regard; `None` if there are none.
fn repeated(newest: &[&EarlierEmail], older: &[&EarlierEmail]) -> Option<RegardingCandidate> {
    let current = records_of(newest);
    let mut candidate =
        RegardingCandidate::of(RegardingSource::TrackingToken, CandidateOutcome::Repeated);
    for email in older {
        match &email.regarding {
            Some(record) if !current.contains(record) => candidate.emails.push(email.activity_id),
            _ => {}
        }
    }
    let before = records_of(older);
    candidate.records = before.difference(&current).copied().cloned().collect();
    (!candidate.records.is_empty()).then_some(candidate)
}

/// Returns the record of the nearest email that this one replies to and that has a regarding.
///
/// Senders choose Message-IDs, and a forward refers to its original too. So an earlier email counts
/// only if it shares an external participant with this one, or if this one has no external
/// participants.
pub(super) fn by_thread(
    input: &RegardingInput<'_>,
    candidates: &mut Vec<RegardingCandidate>,
) -> Option<Hit> {
    for id in &input.message.ancestors {
        let earlier: Vec<&EarlierEmail> = others(input, input.found.earlier(id)).collect();
        match of_acquaintances(input, RegardingSource::Thread, earlier, candidates) {
            Some((target, email)) => return Some((target, Some(email))),
            // An older email would only be a guess between the records of the nearer one.
            None => match candidates.last() {
                Some(last)
                    if last.source == RegardingSource::Thread
                        && last.outcome == CandidateOutcome::Ambiguous =>
                {
                    return None;
                }
                _ => {}
            },
        }
    }
    None
}

/// Returns the common record of those earlier emails that share an external participant with this
/// one. If none of them shares one, they are recorded as such.
fn of_acquaintances(
    input: &RegardingInput<'_>,
    source: RegardingSource,
    emails: Vec<&EarlierEmail>,
    candidates: &mut Vec<RegardingCandidate>,
) -> Option<(RecordReference, ActivityId)> {
    let (known, strange): (Vec<_>, Vec<_>) = emails
        .into_iter()
        .partition(|email| shares_people(input, email));
    if known.is_empty() && !strange.is_empty() {
        let mut candidate = RegardingCandidate::of(source, CandidateOutcome::OtherPeople);
        candidate.emails = strange.iter().map(|email| email.activity_id).collect();
        candidates.push(candidate);
        return None;
    }
    concerned(source, &known, candidates)
}

/// Returns all emails except this one, whose own row may already exist as a draft.
fn others<'a>(
    input: &RegardingInput<'_>,
    emails: &'a [EarlierEmail],
) -> impl Iterator<Item = &'a EarlierEmail> {
    let own = input.message.activity_id();
    emails.iter().filter(move |email| email.activity_id != own)
}

fn shares_people(input: &RegardingInput<'_>, earlier: &EarlierEmail) -> bool {
    let mut external = external(input).peekable();
    if external.peek().is_none() {
        return true;
    }
    external.any(|address| {
        let row = row_of(input, address);
        let row = row.map(|person| RecordReference::from(person.record));
        earlier.has(address, row.as_ref())
    })
}

fn records_of<'a>(emails: &[&'a EarlierEmail]) -> BTreeSet<&'a RecordReference> {
    let records = emails.iter().filter_map(|email| email.regarding.as_ref());
    records.collect()
}

/// Returns the only record that these emails regard, and the first email that regards it; adds what
/// was found to the candidates.
fn concerned(
    source: RegardingSource,
    emails: &[&EarlierEmail],
    candidates: &mut Vec<RegardingCandidate>,
) -> Option<(RecordReference, ActivityId)> {
    if emails.is_empty() {
        return None;
    }
    let records = records_of(emails);
    let outcome = match records.len() {
        0 => CandidateOutcome::NoRegarding,
        1 => CandidateOutcome::Hit,
        _ => CandidateOutcome::Ambiguous,
    };
    let mut candidate = RegardingCandidate::of(source, outcome);
    candidate.emails = emails.iter().map(|email| email.activity_id).collect();
    candidate.records = records.into_iter().cloned().collect();
    let target = candidate.records.first().cloned();
    candidates.push(candidate);
    if outcome != CandidateOutcome::Hit {
        return None;
    }
    let email = emails.iter().find(|email| email.regarding.is_some())?;
    Some((target?, email.activity_id))
}
