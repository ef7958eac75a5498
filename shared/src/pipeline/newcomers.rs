//! Making contacts and companies, before the mails that name them are mapped.
//!
//! A completed email takes no other parties, so its people have to be there first: three steps at most, none of them when nobody new is met.
//!
//! 1. one `$batch` of queries for the companies of the new people's domains;
//! 2. one `$batch` that makes what is not there, a change set for each row, accounts first; step by step, a call for each;
//! 3. what is made counts as found, so that parties and regarding know it.
//!
//! Not in the `$batch` of the mails, although its parts run in order: a mail whose contact was refused there would have named a row that is not, and would
//! have to be mapped and sent again.
//!
//! | A row | Then |
//! | --- | --- |
//! | was made, or was there (412) | it is bound |
//! | an account that is refused | its contacts are made without a company; noted with the mail |
//! | a contact that is refused | the party is its address alone; noted with the mail |
//! | failed for now | the mails that name it wait |
//!
//! Should the process die between a contact and its mail, the next look-up finds the contact.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::Pipeline;
use super::fate::{Failure, Run};
use super::ground::Ground;
use super::job::{Candidate, Ended};
use crate::contacts::company::Companies;
use crate::contacts::{self, NewContact, NewRow, Newcomer};
use crate::dataverse::error::DataverseError;
use crate::dataverse::look_up::Found;
use crate::dataverse::rows::{Record, Table};
use crate::dataverse::session::Session;
use crate::message::Omission;
use crate::policy::bulk::is_bulk;
use crate::policy::document::Ambiguous;

/// What became of one person.
#[derive(Clone)]
pub(super) enum Made {
    There,
    WithoutCompany,
    Refused(DataverseError),
    Failed(DataverseError),
}

impl Pipeline {
    /// Makes contacts of the newcomers on the mails that are tracked, and adds them to what was found. Whoever the policy takes out of a mail is none of
    /// them. A mail whose people cannot be made now has to wait: written now, it would lack them for good.
    pub(super) async fn make_contacts(
        &self,
        session: &Session,
        tracked: Vec<Candidate>,
        found: &mut Found,
        ground: &Ground,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<Candidate> {
        let newcomers: Vec<_> = tracked
            .iter()
            .map(|candidate| newcomers(candidate, found, ground))
            .collect();
        let ambiguous = ground.policy.document().defaults.ambiguous;
        let made = self
            .make_for_each(session, &newcomers, ambiguous, found)
            .await;
        let mut peopled = Vec::new();
        for ((mut candidate, newcomers), made) in tracked.into_iter().zip(&newcomers).zip(made) {
            match made {
                Ok(omissions) => {
                    candidate.message.omissions.extend(omissions);
                    candidate.job.made = rows_made(newcomers, found);
                    peopled.push(candidate);
                }
                Err(failure) => ended.push(candidate.job.failed(failure, run)),
            }
        }
        peopled
    }

    /// For each mail, in order: what had to be left out, or why it has to wait.
    async fn make_for_each(
        &self,
        session: &Session,
        mails: &[Vec<Newcomer>],
        ambiguous: Ambiguous,
        found: &mut Found,
    ) -> Vec<Result<Vec<Omission>, Failure>> {
        let newcomers = || mails.iter().flatten();
        if newcomers().next().is_none() {
            return mails.iter().map(|_| Ok(Vec::new())).collect();
        }
        let companies = match self
            .companies(session, &contacts::domains(newcomers()))
            .await
        {
            Ok(companies) => companies,
            Err(error) => {
                let outcome = |mail: &Vec<Newcomer>| match mail.as_slice() {
                    [] => Ok(Vec::new()),
                    _ => Err(error.clone().into()),
                };
                return mails.iter().map(outcome).collect();
            }
        };
        let plan = contacts::plan(newcomers(), &companies, ambiguous);
        let made = self.make(session, plan, found).await;
        mails.iter().map(|mail| omissions(mail, &made)).collect()
    }

    /// The companies of some domains. None are known where Dataverse refuses the question, which then costs the contacts their company and no mail.
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
                tracing::warn!(reason = %error, "companies cannot be looked up; contacts are made without");
                Ok(Companies::default())
            }
            answer => answer,
        }
    }

    pub(super) async fn make(
        &self,
        session: &Session,
        plan: contacts::Plan,
        found: &mut Found,
    ) -> HashMap<Uuid, Made> {
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
                let outcome = outcome(result, Made::There);
                settle(&contact, outcome, found, &mut made);
            }
        }
        let rows: Vec<NewRow> = again.iter().map(|contact| contact.row.clone()).collect();
        let results = self
            .dataverse
            .create_rows(session, &rows, self.write_mode)
            .await;
        for (contact, result) in again.into_iter().zip(results) {
            let outcome = outcome(result, Made::WithoutCompany);
            settle(&contact, outcome, found, &mut made);
        }
        made
    }
}

fn outcome<T>(result: Result<T, DataverseError>, success: Made) -> Made {
    match result {
        Ok(_) => success,
        Err(error @ (DataverseError::Rejected { .. } | DataverseError::TooLarge)) => {
            Made::Refused(error)
        }
        Err(error) => Made::Failed(error),
    }
}

/// Who becomes a contact because of this mail: nobody, when a row carries it already.
pub(super) fn newcomers(candidate: &Candidate, found: &Found, ground: &Ground) -> Vec<Newcomer> {
    let message = &candidate.message;
    if found.by_key(message.activity_id()).is_some() || found.by_mail(message).is_some() {
        return Vec::new();
    }
    let create = candidate.effective.create_contacts;
    let mut newcomers =
        contacts::newcomers(message, &ground.inside(found), create, is_bulk(message));
    // Who was not looked up may have a row.
    newcomers.retain(|newcomer| candidate.people.contains(&newcomer.address));
    newcomers
}

fn settle(contact: &NewContact, outcome: Made, found: &mut Found, made: &mut HashMap<Uuid, Made>) {
    if matches!(outcome, Made::There | Made::WithoutCompany) {
        found.add_made(contact.address.clone(), contact.person());
    }
    made.insert(contact.row.record.id, outcome);
}

/// The contacts of these people that were made, and their companies that were.
fn rows_made(newcomers: &[Newcomer], found: &Found) -> BTreeSet<Record> {
    let people = newcomers
        .iter()
        .flat_map(|newcomer| found.people(&newcomer.address));
    let rows = people.flat_map(|person| {
        let company = person.account.map(|id| Record {
            table: Table::Account,
            id,
        });
        std::iter::once(person.record).chain(company)
    });
    rows.filter(|record| found.was_made(*record)).collect()
}

/// What a mail has to go without; the failure, when one of its people may be there the next time.
fn omissions(mail: &[Newcomer], made: &HashMap<Uuid, Made>) -> Result<Vec<Omission>, Failure> {
    let mut omissions = Vec::new();
    for newcomer in mail {
        match made.get(&contacts::contact_id(&newcomer.address)) {
            Some(Made::There) | None => {}
            Some(Made::WithoutCompany) => omissions.push(Omission::Company),
            Some(Made::Refused(_)) => omissions.push(Omission::Contact),
            Some(Made::Failed(error)) => return Err(error.clone().into()),
        }
    }
    Ok(omissions)
}
