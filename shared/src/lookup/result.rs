//! The results of the lookups.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value;
use uuid::Uuid;

use super::related_emails;
use super::related_emails::EarlierEmail;
use crate::clients::dataverse::metadata::table_names::TableNames;
use crate::clients::dataverse::records::{
    ExistingEmail, PartyReference, Person, RecordReference, Table, addresses, changed,
    existing_email, guid,
};
use crate::model::address::EmailAddress;
use crate::model::ids::{ActivityId, InternetMessageId, MessageKey};
use crate::model::message::Message;

/// The open rows that an app has for one customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OpenRows {
    /// The keys of these rows.
    Rows(BTreeSet<Uuid>),
    /// Dataverse rejected the query: the table or a column does not exist or may not be read.
    Refused,
}

impl Default for OpenRows {
    fn default() -> Self {
        Self::Rows(BTreeSet::new())
    }
}

/// The lookup result.
#[derive(Default)]
pub struct LookupResult {
    people: HashMap<EmailAddress, Vec<Person>>,
    made: HashSet<PartyReference>,
    by_key: HashMap<ActivityId, ExistingEmail>,
    by_message_id: HashMap<String, Vec<ExistingEmail>>,
    /// Rows that have the Message-ID of a message but hold another email.
    of_other_mails: HashSet<(MessageKey, ActivityId)>,
    earlier: HashMap<InternetMessageId, Vec<EarlierEmail>>,
    with_token: HashMap<String, Vec<EarlierEmail>>,
    open_rows: HashMap<PartyReference, OpenRows>,
    names: HashMap<String, Option<TableNames>>,
    there: HashMap<RecordReference, bool>,
    entra_ids: HashMap<Uuid, Uuid>,
}

impl LookupResult {
    /// Returns the rows with this address, in order of precedence: by table, then active before
    /// inactive.
    ///
    /// If no row has an address with a tag (`ada+tag@…`), returns the rows that have it without the
    /// tag.
    #[must_use]
    pub fn people(&self, address: &EmailAddress) -> &[Person] {
        let exactly = self.people.get(address);
        exactly
            .or_else(|| self.people.get(&address.without_tag()?))
            .map_or(&[], Vec::as_slice)
    }

    /// Returns whether a row has exactly this address, including its tag.
    #[must_use]
    pub(crate) fn knows_exactly(&self, address: &EmailAddress) -> bool {
        self.people.contains_key(address)
    }

    /// Returns whether the row was created for a message of this invocation.
    #[must_use]
    pub(crate) fn was_made(&self, record: PartyReference) -> bool {
        self.made.contains(&record)
    }

    /// Forgets which messages have a row, as if none had one.
    pub(crate) fn forget_rows(&mut self) {
        self.by_key.clear();
        self.by_message_id.clear();
    }

    /// Records that a row was created for a message of this invocation.
    pub(crate) fn note_made(&mut self, record: PartyReference) {
        self.made.insert(record);
    }

    /// Adds a contact that was created for a message of this invocation.
    pub fn add_made(&mut self, address: EmailAddress, contact: Person) {
        self.made.insert(contact.record);
        self.add_person(address, contact);
    }

    /// Returns the email row with this key.
    #[must_use]
    pub fn by_key(&self, id: ActivityId) -> Option<&ExistingEmail> {
        self.by_key.get(&id)
    }

    /// Returns the completed rows with the same Message-ID and sender but another key. Server-side
    /// synchronization or a person wrote them, or they hold another email.
    ///
    /// Senders choose Message-IDs, so a row with another sender is another email, whichever client
    /// wrote it. If the row or the message has no sender, the Message-ID alone decides.
    pub fn by_message_id(
        &self,
        id: &InternetMessageId,
        sender: Option<&EmailAddress>,
        own_row: ActivityId,
    ) -> impl Iterator<Item = &ExistingEmail> {
        let rows = self.by_message_id.get(id.as_str());
        rows.into_iter()
            .flatten()
            .filter(move |email| email.activity_id != own_row && email.may_be_email_of(sender))
    }

    /// Returns a completed row of the same message under another key ([`Self::by_message_id`]),
    /// leaving out rows that hold another email.
    #[must_use]
    pub(crate) fn by_mail(&self, message: &Message) -> Option<&ExistingEmail> {
        let id = message.internet_message_id.as_ref()?;
        let mut rows = self.by_message_id(id, message.author(), message.activity_id());
        rows.find(|email| {
            let row = (message.key.clone(), email.activity_id);
            !self.of_other_mails.contains(&row)
        })
    }

    /// Records that a row has the Message-ID of this message but holds another email.
    pub(crate) fn note_other_mail(&mut self, message: &MessageKey, row: ActivityId) {
        self.of_other_mails.insert((message.clone(), row));
    }

    /// Returns the earlier emails with this Message-ID, compared with case, without cancelled ones.
    #[must_use]
    pub fn earlier(&self, id: &InternetMessageId) -> &[EarlierEmail] {
        self.earlier.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns whether the message answers an email that is completed in Dataverse. Considers only
    /// the ancestors that were looked up ([`super::request::LookupRequest::ancestors`]).
    #[must_use]
    pub(crate) fn answers_tracked_mail(&self, message: &Message) -> bool {
        message
            .ancestors
            .iter()
            .flat_map(|id| self.earlier(id))
            .any(|email| email.completed)
    }

    /// Returns the earlier emails with this tracking token, compared without case.
    #[must_use]
    pub fn with_token(&self, token: &str) -> &[EarlierEmail] {
        let token = related_emails::normal(token);
        self.with_token.get(&token).map_or(&[], Vec::as_slice)
    }

    /// Returns the app's open rows of a customer; `None` if they were not looked up.
    #[must_use]
    pub(crate) fn open_rows(&self, customer: &PartyReference) -> Option<&OpenRows> {
        self.open_rows.get(customer)
    }

    /// Returns the names of a table: `None` if they were not looked up, `Some(None)` if no email
    /// can be bound to its rows.
    #[must_use]
    pub fn names(&self, table: &str) -> Option<Option<TableNames>> {
        let read = self.names.get(table).cloned();
        read.or_else(|| TableNames::documented(table).map(Some))
    }

    /// Returns whether a row exists; `None` if it was not looked up.
    #[must_use]
    pub fn is_there(&self, record: &RecordReference) -> Option<bool> {
        self.there.get(record).copied()
    }

    /// Returns the Entra object id of a user; `None` if the user has none.
    #[must_use]
    pub fn entra_id(&self, user: Uuid) -> Option<Uuid> {
        self.entra_ids.get(&user).copied()
    }

    /// Sets the app's open rows of a customer, replacing those known before.
    pub(crate) fn set_open_rows(&mut self, customer: PartyReference, rows: OpenRows) {
        self.open_rows.insert(customer, rows);
    }

    /// Adds one open row of a customer.
    pub(crate) fn add_open_row(&mut self, customer: PartyReference, id: Uuid) {
        if let OpenRows::Rows(rows) = self.open_rows.entry(customer).or_default() {
            rows.insert(id);
        }
    }

    /// Sets the names of a table; `None`: no email can be bound to its rows.
    pub(crate) fn set_names(&mut self, table: &str, names: Option<TableNames>) {
        self.names.insert(table.to_owned(), names);
    }

    /// Sets whether a row exists.
    pub(crate) fn set_there(&mut self, record: &RecordReference, there: bool) {
        self.there.insert(record.clone(), there);
    }

    /// Adds an earlier email under its Message-ID and its tracking token.
    pub(crate) fn add_earlier(
        &mut self,
        email: EarlierEmail,
        message_id: Option<InternetMessageId>,
        token: Option<&str>,
    ) {
        let add = |known: &mut Vec<EarlierEmail>, email: EarlierEmail| {
            if !known
                .iter()
                .any(|other| other.activity_id == email.activity_id)
            {
                known.push(email);
                known.sort_by_key(|email| email.activity_id);
            }
        };
        if let Some(token) = token {
            let known = self
                .with_token
                .entry(related_emails::normal(token))
                .or_default();
            add(known, email.clone());
        }
        if let Some(id) = message_id {
            add(self.earlier.entry(id).or_default(), email);
        }
    }

    pub(crate) fn read_records(&mut self, table: &str, names: &TableNames, rows: &[Value]) {
        for id in rows.iter().filter_map(|row| guid(row, &names.key)) {
            let table = table.to_owned();
            self.set_there(&RecordReference { table, id }, true);
        }
    }

    pub(crate) fn read_earlier(&mut self, rows: &[Value]) {
        for (email, names) in rows.iter().filter_map(related_emails::read) {
            self.add_earlier(email, names.message_id, names.token.as_deref());
        }
    }

    /// Adds a row with an address; for tests of the pure steps and for this module.
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
        self.read_earlier(std::slice::from_ref(row));
    }

    pub(crate) fn read_people(&mut self, table: Table, rows: &[Value]) {
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
            if let Some(entra_id) = guid(row, "azureactivedirectoryobjectid") {
                self.entra_ids.insert(id, entra_id);
            }
            let parent = "_parentcustomerid_value";
            let of_company = row
                .get(format!("{parent}@Microsoft.Dynamics.CRM.lookuplogicalname"))
                .and_then(Value::as_str);
            let account = guid(row, parent).filter(|_| of_company == Some("account"));
            for address in addresses(row, table) {
                self.add_person(
                    address,
                    Person {
                        record: PartyReference { table, id },
                        active,
                        account,
                        changed: changed(row),
                    },
                );
            }
        }
    }

    pub(crate) fn read_emails(&mut self, rows: &[Value]) {
        for row in rows {
            let Some(email) = existing_email(row) else {
                continue;
            };
            let id = email.activity_id;
            // Compared again with case: Dataverse compares without, but Message-IDs may differ only
            // in case.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    #[test]
    fn a_tagged_address_falls_back_to_the_plain_one_if_no_row_has_it_exactly() {
        let person = |id| Person {
            record: PartyReference {
                table: Table::Contact,
                id: Uuid::from_u128(id),
            },
            active: id != 2,
            account: None,
            changed: None,
        };
        let mut found = LookupResult::default();
        found.add_person(address("ada@example.com"), person(1));
        let id = |found: &LookupResult, text: &str| {
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

    fn answer_to(message_id: &str) -> Message {
        let headers = serde_json::json!([{"name": "In-Reply-To", "value": message_id}]);
        let object = serde_json::json!({"id": "m", "headers": headers});
        crate::clients::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap()
    }

    #[test]
    fn the_answered_email_is_found_only_if_it_is_completed() {
        let answer = answer_to("<a@x>");
        for (state, message_id, expected) in [
            (1, "<a@x>", true),
            (0, "<a@x>", false),
            (2, "a@x", false),
            (1, "<A@x>", false),
        ] {
            let mut found = LookupResult::default();
            found.add_email(&row(9, message_id, "ada@example.com", state));
            assert_eq!(
                found.answers_tracked_mail(&answer),
                expected,
                "{state} {message_id}"
            );
        }
    }

    fn row(n: u128, message_id: &str, sender: &str, state: i64) -> Value {
        serde_json::json!({"activityid": Uuid::from_u128(n), "messageid": message_id, "sender": sender, "statecode": state})
    }

    fn found(rows: &[Value], message_id: &str, sender: &str, own_row: u128) -> Option<u128> {
        let mut found = LookupResult::default();
        found.read_emails(rows);
        let id = InternetMessageId::from_header(message_id).unwrap();
        let sender = EmailAddress::parse(sender);
        let own_row = ActivityId::new(Uuid::from_u128(own_row));
        found
            .by_message_id(&id, sender.as_ref(), own_row)
            .next()
            .map(|email| email.activity_id.uuid().as_u128())
    }

    #[test]
    fn a_row_whose_message_id_differs_in_case_is_another_message() {
        let rows = [row(9, "<A@x>", "ada@example.com", 1)];
        assert_eq!(found(&rows, "<a@x>", "ada@example.com", 1), None);
        assert_eq!(found(&rows, "A@x", "ada@example.com", 1), Some(9));
        assert_eq!(
            found(&rows, "A@x", "ada@example.com", 9),
            None,
            "our own row is left out"
        );
    }

    #[test]
    fn a_row_of_another_sender_is_another_message() {
        let rows = [row(9, "<a@x>", "mallory@example.net", 1)];
        assert_eq!(found(&rows, "<a@x>", "ada@example.com", 1), None);
        assert_eq!(
            found(&rows, "<a@x>", "", 1),
            Some(9),
            "without a sender, the Message-ID decides"
        );
        let silent = [row(9, "<a@x>", "", 1)];
        assert_eq!(found(&silent, "<a@x>", "ada@example.com", 1), Some(9));
    }

    #[test]
    fn a_row_that_is_not_completed_is_ignored() {
        for state in [0, 2] {
            let rows = [row(9, "<a@x>", "ada@example.com", state)];
            assert_eq!(found(&rows, "<a@x>", "ada@example.com", 1), None);
        }
    }
}
