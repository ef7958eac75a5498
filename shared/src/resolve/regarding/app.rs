//! Finds the only open row of an app for the external participants: an opportunity, a case, or a
//! row of a custom table.

use std::collections::BTreeSet;

use super::{
    CandidateOutcome, Hit, RegardingCandidate, RegardingInput, company_of_namesakes, external,
    resolved,
};
use crate::clients::dataverse::metadata::table_names::is_name;
use crate::clients::dataverse::records::{PartyReference, RecordReference, Table};
use crate::lookup::follow_up::{FollowUpRequest, OpenRowsQuery};
use crate::lookup::result::OpenRows;
use crate::policy::document::{App, CustomTable, RegardingSource};

/// Returns where to find the open rows of an app; `None` if the policy has no app.
///
/// The columns of opportunity and incident are *inferred*: Dataverse facts do not list them.
#[must_use]
pub(crate) fn open_rows_query(app: &App) -> Option<OpenRowsQuery> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Some(match app {
        App::None => return None,
        App::Sales => OpenRowsQuery {
            set: "opportunities".to_owned(),
            key: "opportunityid".to_owned(),
            contact: names(&["customerid", "parentcontactid"]),
            account: names(&["customerid", "parentaccountid"]),
        },
        App::Service => OpenRowsQuery {
            set: "incidents".to_owned(),
            key: "incidentid".to_owned(),
            contact: names(&["customerid", "primarycontactid"]),
            account: names(&["customerid"]),
        },
        App::Custom(CustomTable {
            set, key, customer, ..
        }) => {
            // An invalid name cannot be used in a query; the check of the policy reports it when
            // the policy is written.
            if ![set, key, customer].into_iter().all(|name| is_name(name)) {
                return None;
            }
            OpenRowsQuery {
                set: set.clone(),
                key: key.clone(),
                contact: vec![customer.clone()],
                account: vec![customer.clone()],
            }
        }
    })
}

/// Finds the open row. Checks the contacts first, since their rows are more specific than those of
/// their companies, and then the companies and accounts.
pub(super) fn decide(
    input: &RegardingInput<'_>,
    candidates: &mut Vec<RegardingCandidate>,
    further: &mut FollowUpRequest,
) -> Option<Hit> {
    let table = match &input.settings.app {
        App::None => return None,
        App::Sales => "opportunity",
        App::Service => "incident",
        App::Custom(custom) => &custom.table,
    };
    let customers = customers(input);
    let unanswered: Vec<PartyReference> = customers
        .iter()
        .flatten()
        .filter(|customer| input.found.open_rows(customer).is_none())
        .copied()
        .collect();
    if !unanswered.is_empty() {
        further.customers.extend(unanswered);
        // A match will need the names of the table, so they are read together with the rows.
        if input.found.names(table).is_none() {
            further.tables.insert(table.to_owned());
        }
        return None;
    }
    for group in customers {
        let answers: Vec<&OpenRows> = group
            .iter()
            .filter_map(|customer| input.found.open_rows(customer))
            .collect();
        if answers.contains(&&OpenRows::Refused) {
            candidates.push(RegardingCandidate::of(
                RegardingSource::App,
                CandidateOutcome::Refused,
            ));
            return None;
        }
        let rows: BTreeSet<_> = answers
            .into_iter()
            .flat_map(|answer| match answer {
                OpenRows::Rows(rows) => rows.iter().copied().collect(),
                OpenRows::Refused => Vec::new(),
            })
            .collect();
        let outcome = match rows.len() {
            0 => continue,
            1 => CandidateOutcome::Hit,
            _ => CandidateOutcome::Ambiguous,
        };
        let mut candidate = RegardingCandidate::of(RegardingSource::App, outcome);
        let target = |id| RecordReference {
            table: table.to_owned(),
            id,
        };
        candidate.records = rows.into_iter().map(target).collect();
        let first = candidate.records.first().cloned();
        candidates.push(candidate);
        return first
            .filter(|_| outcome == CandidateOutcome::Hit)
            .map(|target| (target, None));
    }
    None
}

/// Returns the external contacts; and the external accounts with the companies of the contacts.
fn customers(input: &RegardingInput<'_>) -> [BTreeSet<PartyReference>; 2] {
    let account = |id| PartyReference {
        table: Table::Account,
        id,
    };
    let (mut contacts, mut accounts) = (BTreeSet::new(), BTreeSet::new());
    for person in resolved(input).filter(|person| person.active) {
        match person.record.table {
            Table::Contact => {
                contacts.insert(person.record);
                accounts.extend(person.account.map(account));
            }
            Table::Account => {
                accounts.insert(person.record);
            }
            Table::SystemUser | Table::Queue | Table::Lead => {}
        }
    }
    let shared = external(input).filter_map(|it| company_of_namesakes(input.found.people(it)));
    accounts.extend(shared);
    [contacts, accounts]
}
