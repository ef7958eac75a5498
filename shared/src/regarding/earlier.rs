//! What earlier mails say: by their tracking token, or because this one answers them.

use std::collections::BTreeSet;

use super::{Candidate, Hit, Mail, Outcome, outside, row_of};
use crate::dataverse::earlier::EarlierEmail;
use crate::dataverse::rows::Target;
use crate::ids::ActivityId;
use crate::policy::document::RegardingSource;

/// The record of the earlier mails with a token of the subject; the first token that tells.
pub(super) fn by_token(mail: &Mail<'_>, candidates: &mut Vec<Candidate>) -> Option<Hit> {
    for token in mail.tokens {
        let earlier: Vec<&EarlierEmail> = others(mail, mail.found.with_token(token)).collect();
        if let Some((target, _)) = concerned(RegardingSource::TrackingToken, &earlier, candidates) {
            return Some((target, None));
        }
    }
    None
}

/// The record of the nearest mail that this one answers and that tells.
///
/// Ids of mails are the senders' to choose, and a forward names its origin too: so an earlier mail counts only when somebody outside was on it, or when nobody
/// outside is on this one.
pub(super) fn by_thread(mail: &Mail<'_>, candidates: &mut Vec<Candidate>) -> Option<Hit> {
    for id in &mail.message.ancestors {
        let earlier: Vec<&EarlierEmail> = others(mail, mail.found.earlier(id)).collect();
        let (known, strange): (Vec<_>, Vec<_>) = earlier
            .into_iter()
            .partition(|email| shares_people(mail, email));
        if known.is_empty() && !strange.is_empty() {
            let mut candidate = Candidate::of(RegardingSource::Thread, Outcome::OtherPeople);
            candidate.emails = strange.iter().map(|email| email.activity_id).collect();
            candidates.push(candidate);
            continue;
        }
        match concerned(RegardingSource::Thread, &known, candidates) {
            Some((target, email)) => return Some((target, Some(email))),
            // An older mail would be no better than a guess between the records of the nearer one.
            None if candidates.last().map(|c| c.outcome) == Some(Outcome::Ambiguous) => {
                return None;
            }
            None => {}
        }
    }
    None
}

/// Not the mail itself, whose own row may be there as a draft.
fn others<'a>(
    mail: &Mail<'_>,
    emails: &'a [EarlierEmail],
) -> impl Iterator<Item = &'a EarlierEmail> {
    let own = mail.message.activity_id();
    emails.iter().filter(move |email| email.activity_id != own)
}

fn shares_people(mail: &Mail<'_>, earlier: &EarlierEmail) -> bool {
    let mut outside = outside(mail).peekable();
    if outside.peek().is_none() {
        return true;
    }
    outside.any(|address| {
        let row = row_of(mail, address);
        let row = row.map(|person| Target::from(person.record));
        earlier.has(address, row.as_ref())
    })
}

/// The one record that all of these mails concern, and the first mail that does; what was found goes to the candidates.
fn concerned(
    source: RegardingSource,
    emails: &[&EarlierEmail],
    candidates: &mut Vec<Candidate>,
) -> Option<(Target, ActivityId)> {
    if emails.is_empty() {
        return None;
    }
    let records: BTreeSet<&Target> = emails
        .iter()
        .filter_map(|email| email.regarding.as_ref())
        .collect();
    let outcome = match records.len() {
        0 => Outcome::NoRegarding,
        1 => Outcome::Hit,
        _ => Outcome::Ambiguous,
    };
    let mut candidate = Candidate::of(source, outcome);
    candidate.emails = emails.iter().map(|email| email.activity_id).collect();
    candidate.records = records.into_iter().cloned().collect();
    let target = candidate.records.first().cloned();
    candidates.push(candidate);
    if outcome != Outcome::Hit {
        return None;
    }
    let email = emails.iter().find(|email| email.regarding.is_some())?;
    Some((target?, email.activity_id))
}
