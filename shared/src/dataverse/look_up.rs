//! Everything that the writing of some messages has to know beforehand, in one `$batch` of queries.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::DataverseClient;
use super::batch::{Answer, MOST_OPERATIONS, Operation};
use super::error::DataverseError;
use super::query::{any_of, literal, rows};
use super::rows::{
    EMAIL_COLUMNS, ExistingEmail, Person, Record, RowState, Table, addresses, changed,
    existing_email, guid,
};
use super::session::Session;
use crate::ids::{ActivityId, EmailAddress, InternetMessageId};
use crate::message::Message;

/// Longest Message-ID that the column `messageid` holds, in UTF-16 code units (Dataverse facts §2.1). A longer one is not written, so it is not
/// searched for either: two different ids may agree in their first 320 characters.
pub const LONGEST_MESSAGE_ID: usize = 320;

/// What is asked.
#[derive(Default)]
pub struct Questions {
    /// Whose are these?
    pub addresses: BTreeSet<EmailAddress>,
    /// Are these mails there already?
    pub emails: Vec<(ActivityId, Option<InternetMessageId>)>,
    /// Are the mails there that these answer? Asked only where something depends on it.
    pub ancestors: BTreeSet<InternetMessageId>,
}

/// What was found.
#[derive(Default)]
pub struct Found {
    people: HashMap<EmailAddress, Vec<Person>>,
    made: HashSet<Record>,
    by_key: HashMap<ActivityId, ExistingEmail>,
    by_message_id: HashMap<String, Vec<ExistingEmail>>,
}

impl Found {
    /// The rows that have this address, in order of precedence: by table, active before inactive. Where none has an address with a tag, those that have
    /// it without the tag.
    #[must_use]
    pub fn people(&self, address: &EmailAddress) -> &[Person] {
        let exactly = self.people.get(address);
        exactly
            .or_else(|| self.people.get(&address.without_tag()?))
            .map_or(&[], Vec::as_slice)
    }

    /// Whether a row has the address as it is, tag included.
    #[must_use]
    pub fn knows_exactly(&self, address: &EmailAddress) -> bool {
        self.people.contains_key(address)
    }

    /// Whether the row was made for a mail of this run.
    #[must_use]
    pub fn was_made(&self, record: Record) -> bool {
        self.made.contains(&record)
    }

    /// Forgets which mails have a row, as if none had.
    pub fn forget_rows(&mut self) {
        self.by_key.clear();
        self.by_message_id.clear();
    }

    /// Notes that a row was made for a mail of this run.
    pub fn note_made(&mut self, record: Record) {
        self.made.insert(record);
    }

    /// Adds a contact that was made for a mail of this run.
    pub fn add_made(&mut self, address: EmailAddress, contact: Person) {
        self.made.insert(contact.record);
        self.add_person(address, contact);
    }

    /// The row of this key.
    #[must_use]
    pub fn by_key(&self, id: ActivityId) -> Option<&ExistingEmail> {
        self.by_key.get(&id)
    }

    /// A completed row of the same mail under another key: put there by server-side sync or by a person.
    ///
    /// Message-IDs are chosen by senders, so a row of another sender is another mail, whoever wrote it; one that names no sender, or a mail
    /// without one, is taken at its Message-ID.
    #[must_use]
    pub fn by_message_id(
        &self,
        id: &InternetMessageId,
        sender: Option<&EmailAddress>,
        ours: ActivityId,
    ) -> Option<&ExistingEmail> {
        let same_sender = |email: &ExistingEmail| match (&email.sender, sender) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => true,
        };
        self.by_message_id.get(id.as_str())?.iter().find(|email| {
            email.activity_id != ours && email.state == RowState::Completed && same_sender(email)
        })
    }

    /// [`Self::by_message_id`] of a message.
    #[must_use]
    pub fn by_mail(&self, message: &Message) -> Option<&ExistingEmail> {
        let id = message.internet_message_id.as_ref()?;
        self.by_message_id(id, message.author(), message.activity_id())
    }

    /// Whether a mail that this one answers is in Dataverse, completed. It has to have been asked for ([`Questions::ancestors`]).
    #[must_use]
    pub fn answers_tracked_mail(&self, message: &Message) -> bool {
        let rows = message
            .ancestors
            .iter()
            .filter_map(|id| self.by_message_id.get(id.as_str()));
        rows.flatten()
            .any(|email| email.state == RowState::Completed)
    }

    /// Adds a row that has an address; for tests of the pure steps and for this module.
    pub fn add_person(&mut self, address: EmailAddress, person: Person) {
        let people = self.people.entry(address).or_default();
        if !people.iter().any(|known| known.record == person.record) {
            people.push(person);
            people.sort_by_key(|person| (person.record.table, !person.active, person.record.id));
        }
    }

    /// Adds a row of `emails`; for tests of the pure steps.
    #[cfg(test)]
    pub(crate) fn add_email(&mut self, row: &Value) {
        self.read_emails(std::slice::from_ref(row));
    }

    fn read_people(&mut self, table: Table, rows: &[Value]) {
        for row in rows {
            let Some(id) = guid(row, table.key()) else {
                continue;
            };
            let active = match table {
                Table::SystemUser => row.get("isdisabled").and_then(Value::as_bool) != Some(true),
                Table::Queue | Table::Contact | Table::Account | Table::Lead => {
                    row.get("statecode").and_then(Value::as_i64) == Some(0)
                }
            };
            let parent = "_parentcustomerid_value";
            let of_company = row
                .get(format!("{parent}@Microsoft.Dynamics.CRM.lookuplogicalname"))
                .and_then(Value::as_str);
            let account = guid(row, parent).filter(|_| of_company == Some("account"));
            for address in addresses(row, table) {
                self.add_person(
                    address,
                    Person {
                        record: Record { table, id },
                        active,
                        account,
                        changed: changed(row),
                    },
                );
            }
        }
    }

    fn read_emails(&mut self, rows: &[Value]) {
        for row in rows {
            let Some(email) = existing_email(row) else {
                continue;
            };
            let id = email.activity_id;
            // Compared here with case once more: Dataverse compares without, and Message-IDs differ by case.
            if let Some(message_id) = row
                .get("messageid")
                .and_then(Value::as_str)
                .and_then(InternetMessageId::from_header)
            {
                let known = self
                    .by_message_id
                    .entry(message_id.as_str().to_owned())
                    .or_default();
                if !known.iter().any(|other| other.activity_id == id) {
                    known.push(email.clone());
                    known.sort_by_key(|email| email.activity_id);
                }
            }
            self.by_key.insert(id, email);
        }
    }
}

/// What a query is about, so that its rows are read as such.
#[derive(Clone, Copy)]
enum About {
    People(Table),
    Emails,
}

impl About {
    /// The table of a query that may go without an answer.
    ///
    /// Leads come with the sales app; an organisation without it answers 404 to the whole table (Dataverse facts §5, §12; the status is inferred). A query
    /// that finds nothing answers 200. Every organisation has queues, but a role that was made for an earlier version may not read them: 403.
    fn goes_without(self, status: u16) -> Option<Table> {
        match self {
            Self::People(table @ Table::Lead) if status == 404 => Some(table),
            Self::People(table @ Table::Queue) if matches!(status, 403 | 404) => Some(table),
            Self::People(_) | Self::Emails => None,
        }
    }
}

impl DataverseClient {
    /// Looks up whose the addresses are and which mails are there already.
    ///
    /// # Errors
    /// [`DataverseError`] of the first query that failed: without its answer nothing can be decided.
    pub async fn look_up(
        &self,
        session: &Session,
        questions: &Questions,
    ) -> Result<Found, DataverseError> {
        let mut found = Found::default();
        let queries = queries(questions);
        for some in queries.chunks(MOST_OPERATIONS) {
            let operations: Vec<Operation> = some
                .iter()
                .map(|(_, path)| Operation::Get(path.clone()))
                .collect();
            let answers = self.batch(session, &operations).await?;
            for ((about, _), parts) in some.iter().zip(answers) {
                for answer in &parts {
                    if let Some(table) = about.goes_without(answer.status) {
                        tracing::info!(
                            table = table.name(),
                            status = answer.status,
                            "this organisation has no such table, or the application may not read it"
                        );
                        continue;
                    }
                    let rows = self.all_rows(session, answer).await?;
                    match *about {
                        About::People(table) => found.read_people(table, &rows),
                        About::Emails => found.read_emails(&rows),
                    }
                }
            }
        }
        Ok(found)
    }

    /// The rows of a query's answer, and of the pages that follow it.
    pub(super) async fn all_rows(
        &self,
        session: &Session,
        answer: &Answer,
    ) -> Result<Vec<Value>, DataverseError> {
        if !answer.is_success() {
            return Err(super::part_error(answer));
        }
        let unreadable = || super::unreadable("a query's answer");
        let mut page: Value = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
        let mut all = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let rows = page.get_mut("value").and_then(Value::as_array_mut);
            all.append(rows.ok_or_else(unreadable)?);
            let Some(next) = page.get("@odata.nextLink").and_then(Value::as_str) else {
                return Ok(all);
            };
            if !seen.insert(next.to_owned()) {
                return Err(super::unreadable("a link to a page that was read before"));
            }
            page = self.next_page(session, next).await?;
        }
    }
}

fn queries(questions: &Questions) -> Vec<(About, String)> {
    let mut queries = Vec::new();
    let spellings: BTreeSet<String> = questions
        .addresses
        .iter()
        .flat_map(|address| [Some(address.clone()), address.without_tag()])
        .flatten()
        .flat_map(|address| address.spellings())
        .collect();
    for table in Table::ALL {
        let terms = spellings.iter().map(|spelling| {
            let columns = table.address_columns().iter();
            columns
                .map(|column| format!("{column} eq {}", literal(spelling)))
                .collect()
        });
        let state = match table {
            Table::SystemUser => "isdisabled",
            Table::Contact => "statecode,_parentcustomerid_value",
            Table::Queue | Table::Account | Table::Lead => "statecode",
        };
        let select = format!(
            "{},{},{state},modifiedon,createdon",
            table.key(),
            table.address_columns().join(",")
        );
        queries.extend(
            any_of(terms)
                .iter()
                .map(|filter| (About::People(table), rows(table.set(), &select, filter))),
        );
    }
    let terms = questions.emails.iter().map(|(activity_id, message_id)| {
        let mut terms = vec![format!("activityid eq {activity_id}")];
        terms.extend(message_id.iter().flat_map(with_message_id));
        terms
    });
    let ancestors = questions.ancestors.iter().map(with_message_id);
    let ancestors = ancestors.filter(|terms| !terms.is_empty());
    queries.extend(
        any_of(terms.chain(ancestors))
            .iter()
            .map(|filter| (About::Emails, rows("emails", EMAIL_COLUMNS, filter))),
    );
    queries
}

/// Comparisons with a Message-ID; none when it is longer than its column.
fn with_message_id(id: &InternetMessageId) -> Vec<String> {
    if !fits_its_column(id) {
        return Vec::new();
    }
    // Written with angle brackets by us and, it is inferred, by server-side sync; other importers leave them out.
    vec![
        format!("messageid eq {}", literal(&id.in_brackets())),
        format!("messageid eq {}", literal(id.as_str())),
    ]
}

/// Whether `messageid` can hold it, brackets included.
#[must_use]
pub fn fits_its_column(id: &InternetMessageId) -> bool {
    id.in_brackets().encode_utf16().count() <= LONGEST_MESSAGE_ID
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    #[test]
    fn a_hundred_mails_with_two_people_each_are_one_batch_of_few_queries() {
        let questions = Questions {
            addresses: (0..200)
                .map(|n| address(&format!("person{n}@example.com")))
                .collect(),
            emails: (0..100)
                .map(|n| {
                    (
                        ActivityId::new(Uuid::from_u128(n)),
                        InternetMessageId::from_header(&format!("<{n}@x>")),
                    )
                })
                .collect(),
            ..Questions::default()
        };
        assert_eq!(queries(&questions).len(), 5 * 14 + 7);
    }

    #[test]
    fn an_address_is_asked_for_in_every_spelling_and_without_its_tag() {
        let asked = |text: &str| {
            let questions = Questions {
                addresses: BTreeSet::from([address(text)]),
                ..Questions::default()
            };
            let queries = queries(&questions);
            assert_eq!(queries.len(), 5, "in the same queries");
            let (_, users) = &queries[0];
            let decoded = percent_encoding::percent_decode_str(users).decode_utf8();
            let decoded = decoded.unwrap().into_owned();
            decoded
                .split('\'')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(asked("ada@example.com"), ["ada@example.com"]);
        assert_eq!(
            asked("ada+x@bücher.example"),
            [
                "ada+x@bücher.example",
                "ada+x@xn--bcher-kva.example",
                "ada@bücher.example",
                "ada@xn--bcher-kva.example"
            ]
        );
    }

    #[test]
    fn a_tagged_address_is_the_plain_one_only_when_nothing_has_it_exactly() {
        let person = |id| Person {
            record: Record {
                table: Table::Contact,
                id: Uuid::from_u128(id),
            },
            active: id != 2,
            account: None,
            changed: None,
        };
        let mut found = Found::default();
        found.add_person(address("ada@example.com"), person(1));
        let id = |found: &Found, text: &str| {
            let people = found.people(&address(text)).iter();
            people
                .map(|person| person.record.id.as_u128())
                .collect::<Vec<_>>()
        };
        assert_eq!(id(&found, "ada+kites@example.com"), [1]);
        assert_eq!(id(&found, "adam+kites@example.com"), [0; 0]);
        found.add_person(address("ada+kites@example.com"), person(2));
        assert_eq!(id(&found, "ada+kites@example.com"), [2], "inactive or not");
        assert_eq!(id(&found, "ada@example.com"), [1]);
    }

    #[test]
    fn queues_that_cannot_be_read_and_leads_that_are_not_there_are_done_without() {
        let goes_without = |table, status| About::People(table).goes_without(status).is_some();
        assert!(goes_without(Table::Lead, 404) && !goes_without(Table::Lead, 403));
        assert!(goes_without(Table::Queue, 404) && goes_without(Table::Queue, 403));
        for table in [Table::SystemUser, Table::Contact, Table::Account] {
            assert!(!goes_without(table, 404) && !goes_without(table, 403));
        }
        assert!(About::Emails.goes_without(404).is_none());
        assert!(!goes_without(Table::Queue, 500) && !goes_without(Table::Queue, 429));
    }

    fn answer_to(message_id: &str) -> Message {
        let headers = serde_json::json!([{"name": "In-Reply-To", "value": message_id}]);
        let object = serde_json::json!({"id": "m", "headers": headers});
        crate::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap()
    }

    #[test]
    fn the_mail_that_is_answered_is_asked_for_and_found_when_it_is_completed() {
        let answer = answer_to("<a@x>");
        let questions = Questions {
            ancestors: answer.ancestors.iter().cloned().collect(),
            ..Questions::default()
        };
        let asked = queries(&questions);
        assert_eq!(asked.len(), 1);
        assert!(
            asked[0]
                .1
                .contains(&crate::http::encoded("messageid eq '<a@x>'"))
        );
        for (state, message_id, expected) in [
            (1, "<a@x>", true),
            (0, "<a@x>", false),
            (2, "a@x", false),
            (1, "<A@x>", false),
        ] {
            let mut found = Found::default();
            found.read_emails(&[row(9, message_id, "ada@example.com", state)]);
            assert_eq!(
                found.answers_tracked_mail(&answer),
                expected,
                "{state} {message_id}"
            );
        }
    }

    #[test]
    fn nothing_asked_is_no_query() {
        assert!(queries(&Questions::default()).is_empty());
    }

    #[test]
    fn a_long_message_id_is_looked_for_by_its_activity_id_only() {
        let id = InternetMessageId::from_header(&"x".repeat(400));
        let asked = queries(&Questions {
            emails: vec![(ActivityId::new(Uuid::nil()), id)],
            ..Questions::default()
        });
        assert_eq!(asked.len(), 1);
        assert!(!asked[0].1.contains("messageid%20eq"));
    }

    fn row(n: u128, message_id: &str, sender: &str, state: i64) -> Value {
        serde_json::json!({"activityid": Uuid::from_u128(n), "messageid": message_id, "sender": sender, "statecode": state})
    }

    fn found(rows: &[Value], message_id: &str, sender: &str, ours: u128) -> Option<u128> {
        let mut found = Found::default();
        found.read_emails(rows);
        let id = InternetMessageId::from_header(message_id).unwrap();
        let sender = EmailAddress::parse(sender);
        let ours = ActivityId::new(Uuid::from_u128(ours));
        found
            .by_message_id(&id, sender.as_ref(), ours)
            .map(|email| email.activity_id.uuid().as_u128())
    }

    #[test]
    fn a_row_of_the_same_id_in_another_case_is_another_mail() {
        let rows = [row(9, "<A@x>", "ada@example.com", 1)];
        assert_eq!(found(&rows, "<a@x>", "ada@example.com", 1), None);
        assert_eq!(found(&rows, "A@x", "ada@example.com", 1), Some(9));
        assert_eq!(
            found(&rows, "A@x", "ada@example.com", 9),
            None,
            "that is our own row"
        );
    }

    #[test]
    fn a_row_of_another_sender_is_another_mail() {
        let rows = [row(9, "<a@x>", "mallory@example.net", 1)];
        assert_eq!(found(&rows, "<a@x>", "ada@example.com", 1), None);
        assert_eq!(
            found(&rows, "<a@x>", "", 1),
            Some(9),
            "nobody knows who sent it"
        );
        let silent = [row(9, "<a@x>", "", 1)];
        assert_eq!(found(&silent, "<a@x>", "ada@example.com", 1), Some(9));
    }

    #[test]
    fn a_row_that_is_not_completed_carries_no_mail() {
        for state in [0, 2] {
            let rows = [row(9, "<a@x>", "ada@example.com", state)];
            assert_eq!(found(&rows, "<a@x>", "ada@example.com", 1), None);
        }
    }
}
