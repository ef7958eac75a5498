//! Creates contacts and companies before the messages that name them are mapped.
//!
//! A completed email takes no other parties, so its contacts have to exist first. This takes at
//! most three steps, and none if there are no new people.
//!
//! 1. One `$batch` of queries looks up the companies of the new people's domains.
//! 2. One `$batch` creates the missing rows, a change set for each row, accounts first. In the
//!    write mode `stepwise`, one call for each row.
//! 3. The created rows are added to the lookup result, so that parties and regarding can use them.
//!
//! They are not created in the `$batch` of the emails, although its parts run in order: if a
//! contact were rejected there, its email would reference a row that does not exist, and would have
//! to be mapped and sent again.
//!
//! | A row | Then |
//! | --- | --- |
//! | was created, or already existed (412) | it is bound |
//! | an account that is rejected | its contacts are created without a company; recorded with the message |
//! | a contact that is rejected | the party is only its address; recorded with the message |
//! | failed for now | the messages that name it wait |
//!
//! If the process dies between a contact and its email, the next lookup finds the contact.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::Pipeline;
use super::failure::Failure;
use super::invocation::Invocation;
use super::run_context::RunContext;
use super::stages::{CandidateMessage, Finished};
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::records::NewRow;
use crate::clients::dataverse::records::{PartyReference, Table};
use crate::clients::dataverse::session::Session;
use crate::lookup::companies::Companies;
use crate::lookup::result::LookupResult;
use crate::model::message::Omission;
use crate::policy::bulk::is_bulk;
use crate::policy::document::Ambiguous;
use crate::resolve::contacts;
use crate::resolve::contacts::{NewContact, NewPerson};

/// The result of creating the contact of one person.
#[derive(Clone)]
pub(super) enum CreatedContact {
    There,
    WithoutCompany,
    Refused(DataverseError),
    Failed(DataverseError),
}

impl Pipeline {
    /// Creates contacts for new people on tracked messages, and adds them to the lookup result.
    ///
    /// People whom the policy removes from a message get no contact. A message whose contacts
    /// cannot be created now has to wait: if it were written now, it would never get them as
    /// parties.
    pub(super) async fn create_contacts(
        &self,
        session: &Session,
        tracked: Vec<CandidateMessage>,
        found: &mut LookupResult,
        context: &RunContext,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Vec<CandidateMessage> {
        let new_people: Vec<_> = tracked
            .iter()
            .map(|candidate| new_people(candidate, found, context))
            .collect();
        let ambiguous = context.policy.document().defaults.ambiguous;
        let made = self
            .create_for_each(session, &new_people, ambiguous, found)
            .await;
        let mut peopled = Vec::new();
        for ((mut candidate, new_people), made) in tracked.into_iter().zip(&new_people).zip(made) {
            match made {
                Ok(omissions) => {
                    candidate.message.omissions.extend(omissions);
                    candidate.pending.made = created_rows(new_people, found);
                    peopled.push(candidate);
                }
                Err(failure) => finished.push(candidate.pending.failed(failure, invocation)),
            }
        }
        peopled
    }

    /// Returns for each message, in order, what has to be omitted, or why the message has to wait.
    async fn create_for_each(
        &self,
        session: &Session,
        people_by_message: &[Vec<NewPerson>],
        ambiguous: Ambiguous,
        found: &mut LookupResult,
    ) -> Vec<Result<Vec<Omission>, Failure>> {
        let new_people = || people_by_message.iter().flatten();
        if new_people().next().is_none() {
            return people_by_message.iter().map(|_| Ok(Vec::new())).collect();
        }
        let companies = match self
            .companies(session, &contacts::domains(new_people()))
            .await
        {
            Ok(companies) => companies,
            Err(error) => {
                let outcome =
                    |people_of_message: &Vec<NewPerson>| match people_of_message.as_slice() {
                        [] => Ok(Vec::new()),
                        _ => Err(error.clone().into()),
                    };
                return people_by_message.iter().map(outcome).collect();
            }
        };
        let plan = contacts::plan(new_people(), &companies, ambiguous);
        let made = self.create(session, plan, found).await;
        people_by_message
            .iter()
            .map(|people_of_message| omissions(people_of_message, &made))
            .collect()
    }

    /// Looks up the companies of some domains. If Dataverse rejects the query, returns none: the
    /// contacts then lack a company, but no message fails.
    pub(super) async fn companies(
        &self,
        session: &Session,
        domains: &BTreeSet<String>,
    ) -> Result<Companies, DataverseError> {
        if domains.is_empty() {
            return Ok(Companies::default());
        }
        match self.dataverse.companies(session, domains).await {
            Err(error @ (DataverseError::Rejected { .. } | DataverseError::TooLarge)) => {
                tracing::warn!(reason = %error, "dataverse rejected the company lookup; contacts are created without a company");
                Ok(Companies::default())
            }
            answer => answer,
        }
    }

    pub(super) async fn create(
        &self,
        session: &Session,
        plan: contacts::Plan,
        found: &mut LookupResult,
    ) -> HashMap<Uuid, CreatedContact> {
        let contacts::Plan { accounts, contacts } = plan;
        let mut made = HashMap::new();
        let mut rows = accounts.clone();
        rows.extend(contacts.iter().map(|contact| contact.row.clone()));
        let mut results = self
            .dataverse
            .create_rows(session, &rows, self.write_mode)
            .await;
        let of_contacts = results.split_off(accounts.len().min(results.len()));
        let refused = |account: &NewRow, result: &Result<_, DataverseError>| {
            matches!(result, Err(DataverseError::Rejected { .. })).then_some(account.record.id)
        };
        let refused: Vec<Uuid> = accounts
            .iter()
            .zip(&results)
            .filter_map(|(account, result)| refused(account, result))
            .collect();
        for (account, _) in accounts
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.is_ok())
        {
            found.note_made(account.record);
        }
        let mut again = Vec::new();
        for (mut contact, result) in contacts.into_iter().zip(of_contacts) {
            let lacks_company = contact.company.is_some_and(|id| refused.contains(&id));
            if result.is_err() && lacks_company && contact.without_company() {
                again.push(contact);
            } else {
                let outcome = outcome(result, CreatedContact::There);
                settle(&contact, outcome, found, &mut made);
            }
        }
        let rows: Vec<NewRow> = again.iter().map(|contact| contact.row.clone()).collect();
        let results = self
            .dataverse
            .create_rows(session, &rows, self.write_mode)
            .await;
        for (contact, result) in again.into_iter().zip(results) {
            let outcome = outcome(result, CreatedContact::WithoutCompany);
            settle(&contact, outcome, found, &mut made);
        }
        made
    }
}

fn outcome<T>(result: Result<T, DataverseError>, success: CreatedContact) -> CreatedContact {
    match result {
        Ok(_) => success,
        Err(error @ (DataverseError::Rejected { .. } | DataverseError::TooLarge)) => {
            CreatedContact::Refused(error)
        }
        Err(error) => CreatedContact::Failed(error),
    }
}

/// Returns the people who become contacts because of this message; empty if a row already holds the
/// message.
pub(super) fn new_people(
    candidate: &CandidateMessage,
    found: &LookupResult,
    context: &RunContext,
) -> Vec<NewPerson> {
    let message = &candidate.message;
    if found.by_key(message.activity_id()).is_some() || found.by_mail(message).is_some() {
        return Vec::new();
    }
    let create = candidate.mailbox_policy.create_contacts;
    let mut new_people =
        contacts::new_people(message, &context.internal(found), create, is_bulk(message));
    // A person who was not looked up may already have a row.
    new_people.retain(|new_person| candidate.people.contains(&new_person.address));
    new_people
}

fn settle(
    contact: &NewContact,
    outcome: CreatedContact,
    found: &mut LookupResult,
    made: &mut HashMap<Uuid, CreatedContact>,
) {
    if matches!(
        outcome,
        CreatedContact::There | CreatedContact::WithoutCompany
    ) {
        found.add_made(contact.address.clone(), contact.person());
    }
    made.insert(contact.row.record.id, outcome);
}

/// Returns the created contacts of these people, and their created companies.
fn created_rows(new_people: &[NewPerson], found: &LookupResult) -> BTreeSet<PartyReference> {
    let people = new_people
        .iter()
        .flat_map(|new_person| found.people(&new_person.address));
    let rows = people.flat_map(|person| {
        let company = person.account.map(|id| PartyReference {
            table: Table::Account,
            id,
        });
        std::iter::once(person.record).chain(company)
    });
    rows.filter(|record| found.was_made(*record)).collect()
}

/// Returns what a message has to omit.
///
/// # Errors
/// [`Failure`]: the contact of one of its people failed for now; retry the message.
fn omissions(
    people_of_message: &[NewPerson],
    made: &HashMap<Uuid, CreatedContact>,
) -> Result<Vec<Omission>, Failure> {
    let mut omissions = Vec::new();
    for new_person in people_of_message {
        match made.get(&contacts::contact_id(&new_person.address)) {
            Some(CreatedContact::There) | None => {}
            Some(CreatedContact::WithoutCompany) => omissions.push(Omission::Company),
            Some(CreatedContact::Refused(_)) => omissions.push(Omission::Contact),
            Some(CreatedContact::Failed(error)) => return Err(error.clone().into()),
        }
    }
    Ok(omissions)
}
