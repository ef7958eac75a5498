//! Imports the people of an address book as contacts. How a card becomes columns:
//! [`crate::resolve::contacts::card`].
//!
//! For several people at once: **look up** their addresses, as for email → **read** the contacts
//! that have them → find the **companies** → **create** what is missing, with the code that creates
//! contacts for messages → **fill** empty columns of existing contacts.
//!
//! | An address of the person belongs to | Then |
//! | --- | --- |
//! | one of our mailboxes, an internal domain, a user or a queue | the person is internal and does not become a contact |
//! | one active contact, or else one inactive contact | that contact is filled |
//! | several of these | nothing is changed, because the right one is unknown |
//! | no contact, but a lead or an account | nothing is created: the address is known |
//! | no row | a contact is created |
//!
//! Nothing is stored in the ledger. A second run is idempotent because of what the first one wrote:
//! the contacts are found, and columns that they have are not written again. A row is only updated
//! if it is still the version that was read, so what a user enters meanwhile is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::Pipeline;
use super::application_users::{BatchUsage, Probe};
use super::create_contacts::CreatedContact;
use super::failure::Failure;
use super::invocation::Invocation;
use super::run_context::RunContext;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::records::NewRow;
use crate::clients::dataverse::records::{PartyReference, Person, Table};
use crate::clients::dataverse::session::Session;
use crate::clients::retry::RetryAdvice;
use crate::lookup::companies::Companies;
use crate::lookup::contact_rows::{ContactRow, Fill};
use crate::lookup::request::LookupRequest;
use crate::model::contact_card::Card;
use crate::policy::InternalAddresses;
use crate::policy::document::Ambiguous;
use crate::resolve::contacts::card::{
    CardCompany, add_company, company, lacks_company, missing, new_contact,
};
use crate::resolve::contacts::{Plan, contact_id};

/// The result for a person. Holds ids and column names, and no content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardOutcome {
    /// A contact was created, or already existed under its key.
    Created {
        /// The row.
        contact: Uuid,
        /// Dataverse rejected the row of its company.
        without_company: bool,
    },
    /// A contact existed, and these columns of it were empty and are now filled.
    Filled {
        /// The row.
        contact: Uuid,
        /// The names of the columns.
        columns: Vec<String>,
    },
    /// A contact existed, and already had everything that the card has.
    Complete {
        /// The row.
        contact: Uuid,
    },
    /// Several contacts have its addresses.
    Ambiguous {
        /// The rows.
        contacts: Vec<Uuid>,
    },
    /// The person is internal.
    Internal,
    /// A lead or an account has its address.
    Known {
        /// The table.
        table: Table,
    },
    /// It could not be imported now.
    Failed {
        /// The failure.
        reason: String,
    },
}

/// The companies that this import has created, by name in lower case.
#[derive(Default)]
pub struct CompaniesMade(HashMap<String, BTreeSet<Uuid>>);

/// What to do for a person.
enum Step {
    Create,
    Fill(Uuid),
    Over(CardOutcome),
}

impl Step {
    /// Returns the existing contact to fill; `None` if there is none.
    fn contact(&self) -> Option<Uuid> {
        match self {
            Self::Fill(contact) => Some(*contact),
            Self::Create | Self::Over(_) => None,
        }
    }
}

impl Pipeline {
    /// Imports some people and returns the result for each, in order. No two of them share an
    /// address ([`crate::resolve::contacts::card::people`]).
    ///
    /// A person whose data Dataverse rejects does not stop the others. If the whole call fails,
    /// each person gets that failure; the same call later does the rest.
    pub async fn import_people(
        &self,
        people: &[Card],
        made: &mut CompaniesMade,
        invocation: &Invocation,
    ) -> Vec<CardOutcome> {
        let reservation = match self.reserve(people.len(), invocation, Probe::IsNone).await {
            Ok(reserved) => reserved.reservation,
            Err(failure) => return all_failed(people, &failure),
        };
        let (context, session) = match self.begin_import(invocation).await {
            Ok(begun) => begun,
            Err(failure) => {
                self.settle_reservation(&reservation, BatchUsage::default(), invocation);
                return all_failed(people, &failure);
            }
        };
        let mut outcomes = Vec::with_capacity(people.len());
        let together = self.together(&session, people, &context, made).await;
        match together {
            Ok(done) => outcomes.extend(done),
            // Nothing was written yet, and the rejection may be caused by one of them.
            Err(failure) if failure.advice == RetryAdvice::Never && people.len() > 1 => {
                for one in people.chunks(1) {
                    let alone = self.together(&session, one, &context, made).await;
                    outcomes.extend(alone.unwrap_or_else(|failure| all_failed(one, &failure)));
                }
            }
            Err(failure) => outcomes.extend(all_failed(people, &failure)),
        }
        self.settle_reservation(
            &reservation,
            BatchUsage::of(&session, people.len()),
            invocation,
        );
        self.publish_limits(&session, invocation).await;
        outcomes
    }

    async fn begin_import(
        &self,
        invocation: &Invocation,
    ) -> Result<(RunContext, Session), Failure> {
        // Boxed, because this deeply nested, the type of the future is too large for the compiler
        // to lay out.
        let context = Box::pin(self.context(&[], invocation.now)).await?;
        let token = self
            .application_users
            .of(invocation)
            .tokens
            .token(invocation.now)
            .await?;
        Ok((context, Session::timed_by(token, invocation.clock)))
    }

    /// Imports people together.
    ///
    /// # Errors
    /// [`Failure`]: nothing was written.
    async fn together(
        &self,
        session: &Session,
        people: &[Card],
        context: &RunContext,
        made: &mut CompaniesMade,
    ) -> Result<Vec<CardOutcome>, Failure> {
        let addresses = people
            .iter()
            .flat_map(|card| card.addresses.iter().cloned());
        let lookup_request = LookupRequest {
            addresses: addresses.collect(),
            ..LookupRequest::default()
        };
        let mut found = self.dataverse.look_up(session, &lookup_request).await?;
        let internal = context.internal(&found);
        let steps: Vec<Step> = people.iter().map(|card| step(card, &internal)).collect();
        let to_fill = steps.iter().filter_map(Step::contact).collect();
        let rows = self.dataverse.contact_rows(session, &to_fill).await?;
        let deliveries: Vec<(&Card, Step)> = people.iter().zip(steps).collect();
        let ambiguous = context.policy.document().defaults.ambiguous;
        let wanted = self.companies_of(session, &deliveries, &rows, ambiguous, made);
        let Wanted {
            mut companies,
            accounts,
        } = wanted.await?;

        let contacts = deliveries
            .iter()
            .zip(&companies)
            .filter_map(|((card, step), company)| {
                let contact = || new_contact(card, *company);
                matches!(step, Step::Create).then(contact).flatten()
            });
        let plan = Plan {
            contacts: contacts.collect(),
            accounts: accounts.values().map(|(_, row)| row.clone()).collect(),
        };
        let created = self.create(session, plan, &mut found).await;
        for (id, (name, account)) in accounts {
            if found.was_made(account.record) {
                made.0.entry(name).or_default().insert(id);
            } else {
                // An existing contact is filled without a company.
                for company in &mut companies {
                    company.take_if(|company| *company == id);
                }
            }
        }
        let mut outcomes = Vec::with_capacity(deliveries.len());
        let mut fills = Vec::new();
        for ((card, step), company) in deliveries.into_iter().zip(companies) {
            let outcome = match step {
                Step::Over(outcome) => outcome,
                Step::Create => of_created(card, &created),
                Step::Fill(contact) => match rows
                    .get(&contact)
                    .map(|row| fill(card, contact, row, company))
                {
                    None => failed(format!(
                        "contact {contact} was just deleted, or cannot be read"
                    )),
                    Some(fill) if fill.columns.is_empty() => CardOutcome::Complete { contact },
                    Some(fill) => {
                        let columns = fill.columns.keys().map(|name| column(name)).collect();
                        fills.push((outcomes.len(), fill));
                        CardOutcome::Filled { contact, columns }
                    }
                },
            };
            outcomes.push(outcome);
        }
        let (places, fills): (Vec<usize>, Vec<Fill>) = fills.into_iter().unzip();
        let results = self.dataverse.fill(session, &fills, self.write_mode).await;
        for (place, result) in places.into_iter().zip(results) {
            if let (Err(error), Some(outcome)) = (result, outcomes.get_mut(place)) {
                *outcome = failed(error.to_string());
            }
        }
        Ok(outcomes)
    }

    /// Returns which company each person gets, and which companies have to be created.
    async fn companies_of(
        &self,
        session: &Session,
        deliveries: &[(&Card, Step)],
        rows: &HashMap<Uuid, ContactRow>,
        ambiguous: Ambiguous,
        made: &CompaniesMade,
    ) -> Result<Wanted, DataverseError> {
        let lacks = |step: &Step| match step {
            Step::Create => true,
            Step::Fill(contact) => rows
                .get(contact)
                .is_some_and(|row| lacks_company(&row.columns)),
            Step::Over(_) => false,
        };
        let lacking = || {
            deliveries
                .iter()
                .filter(|(_, step)| lacks(step))
                .map(|(card, _)| *card)
                .filter(|card| card.company().is_some())
        };
        let asked: BTreeSet<String> = lacking().filter_map(Card::company).collect();
        let (mut named, companies) = match self.dataverse.accounts_named(session, &asked).await {
            Ok(named) => {
                let domains = lacking().filter_map(Card::domain).collect();
                (named, self.companies(session, &domains).await?)
            }
            Err(error @ (DataverseError::Rejected { .. } | DataverseError::TooLarge)) => {
                tracing::warn!(reason = %error, "dataverse rejected the company lookup by name; contacts get no company");
                (HashMap::new(), Companies::default())
            }
            Err(error) => return Err(error),
        };
        for (name, ids) in &made.0 {
            named.entry(name.clone()).or_default().extend(ids);
        }
        let mut wanted = Wanted {
            companies: Vec::with_capacity(deliveries.len()),
            accounts: BTreeMap::new(),
        };
        let nobody = BTreeSet::new();
        for (card, step) in deliveries {
            let name = card.company().unwrap_or_default().to_lowercase();
            let choice = if lacks(step) {
                let named = named.get(&name).unwrap_or(&nobody);
                company(card, named, &companies, ambiguous)
            } else {
                CardCompany::None
            };
            wanted.companies.push(match choice {
                CardCompany::There(id) => Some(id),
                CardCompany::New(account) => {
                    let id = account.record.id;
                    named.entry(name.clone()).or_default().insert(id);
                    wanted.accounts.entry(id).or_insert((name, account));
                    Some(id)
                }
                CardCompany::None => None,
            });
        }
        Ok(wanted)
    }
}

/// The companies of some people.
struct Wanted {
    /// For each person, in order; `None` for no company.
    companies: Vec<Option<Uuid>>,
    /// The accounts to create, by key, with their names in lower case.
    accounts: BTreeMap<Uuid, (String, NewRow)>,
}

fn step(card: &Card, internal: &InternalAddresses<'_>) -> Step {
    if card
        .addresses
        .iter()
        .any(|address| internal.contains(address))
    {
        return Step::Over(CardOutcome::Internal);
    }
    let people = card
        .addresses
        .iter()
        .flat_map(|address| internal.found.people(address));
    let is_contact = |person: &&Person| person.record.table == Table::Contact;
    let contacts = |active: bool| -> BTreeSet<Uuid> {
        let contacts = people.clone().filter(is_contact);
        contacts
            .filter(|person| person.active == active)
            .map(|person| person.record.id)
            .collect()
    };
    let mut of = contacts(true);
    if of.is_empty() {
        of = contacts(false);
    }
    match (of.first(), of.len()) {
        (Some(contact), 1) => Step::Fill(*contact),
        (Some(_), _) => Step::Over(CardOutcome::Ambiguous {
            contacts: of.into_iter().collect(),
        }),
        (None, _) => match people.clone().next() {
            Some(person) => Step::Over(CardOutcome::Known {
                table: person.record.table,
            }),
            None => Step::Create,
        },
    }
}

fn fill(card: &Card, contact: Uuid, row: &ContactRow, company: Option<Uuid>) -> Fill {
    let mut columns = missing(card, &row.columns);
    if let Some(company) = company {
        add_company(&mut columns, company);
    }
    Fill {
        record: PartyReference {
            table: Table::Contact,
            id: contact,
        },
        etag: row.etag.clone(),
        columns,
    }
}

/// Returns the column that a name in a request body writes. A lookup column is bound by a longer
/// name.
fn column(name: &str) -> String {
    let name = name.split('@').next().unwrap_or_default();
    name.trim_end_matches("_account").to_owned()
}

fn of_created(card: &Card, created: &HashMap<Uuid, CreatedContact>) -> CardOutcome {
    // A person that gets here has an address.
    let contact = card.addresses.first().map(contact_id).unwrap_or_default();
    match created.get(&contact) {
        Some(made @ (CreatedContact::There | CreatedContact::WithoutCompany)) => {
            CardOutcome::Created {
                contact,
                without_company: matches!(made, CreatedContact::WithoutCompany),
            }
        }
        Some(CreatedContact::Refused(error) | CreatedContact::Failed(error)) => {
            failed(error.to_string())
        }
        None => failed("the card has no email address".to_owned()),
    }
}

fn failed(reason: String) -> CardOutcome {
    CardOutcome::Failed { reason }
}

fn all_failed(people: &[Card], failure: &Failure) -> Vec<CardOutcome> {
    people
        .iter()
        .map(|_| failed(failure.reason.clone()))
        .collect()
}
