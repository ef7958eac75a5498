//! Looks up the accounts of mail domains.
//!
//! The lookup is a separate `$batch`, only for people whom the first lookup did not find: the
//! domain of a known person does not matter, and searching for the end of an address scans a whole
//! column. The only text of a message in these queries is a domain of letters, digits, hyphens and
//! full stops, so `startswith` and `endswith` never see their wildcards (Dataverse facts §14; that
//! `endswith` has the same wildcards is inferred).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::batch::{BatchPart, MOST_OPERATIONS, Operation};
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::odata::{literal, rows};
use crate::clients::dataverse::records::{PartyReference, Person, Table, changed, guid};
use crate::clients::dataverse::session::Session;
use crate::clients::http::encoded;
use crate::model::address::{EmailAddress, normal_domain, readable_domain};

/// How many contacts of one domain are read to find their companies, most recently changed first.
const MOST_CONTACTS: usize = 50;

/// The accounts of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Found by `websiteurl`.
    pub by_website: Vec<Person>,
    /// Found by `emailaddress1`.
    pub by_address: Vec<Person>,
    /// Found as companies of contacts.
    pub of_contacts: Vec<Person>,
}

/// The accounts that were found, by registrable domain. A domain that is not in the map could not
/// be looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Companies(pub BTreeMap<String, Accounts>);

impl DataverseClient {
    /// Looks up the accounts of these registrable domains.
    ///
    /// # Errors
    /// [`DataverseError`] of the first query that failed.
    pub async fn companies(
        &self,
        session: &Session,
        domains: &BTreeSet<String>,
    ) -> Result<Companies, DataverseError> {
        let mut companies = BTreeMap::new();
        let domains: Vec<&String> = domains.iter().collect();
        for some in domains.chunks(MOST_OPERATIONS / 2) {
            let queries = some
                .iter()
                .flat_map(|domain| [accounts_of(domain), contacts_of(domain)]);
            let operations: Vec<Operation> = queries.map(Operation::Get).collect();
            let answers = self.batch(session, &operations).await?;
            for (domain, answers) in some.iter().zip(answers.chunks(2)) {
                let pages: Vec<&BatchPart> = answers.iter().flatten().collect();
                let mut accounts = Accounts::default();
                if let [of_accounts, of_contacts] = pages.as_slice() {
                    let found = self.all_rows(session, of_accounts).await?;
                    read_accounts(&mut accounts, domain, &found);
                    let found = self.all_rows(session, of_contacts).await?;
                    read_contacts(&mut accounts, domain, &found);
                }
                companies.insert((*domain).clone(), accounts);
            }
        }
        Ok(Companies(companies))
    }
}

/// Returns the ASCII and the readable spelling of a domain, or one if they are equal.
fn spellings(domain: &str) -> Vec<String> {
    let mut spellings = vec![domain.to_owned(), readable_domain(domain)];
    spellings.dedup();
    spellings
}

fn accounts_of(domain: &str) -> String {
    let mut terms = Vec::new();
    for spelling in spellings(domain) {
        for scheme in ["", "http://", "https://"] {
            for host in ["", "www."] {
                let website = format!("{scheme}{host}{spelling}");
                terms.push(format!("websiteurl eq {}", literal(&website)));
                let page = literal(&format!("{website}/"));
                terms.push(format!("startswith(websiteurl,{page})"));
            }
        }
        terms.extend(address_lies_in(&spelling));
    }
    let select = "accountid,websiteurl,emailaddress1,statecode,modifiedon,createdon";
    rows("accounts", select, &terms.join(" or "))
}

fn contacts_of(domain: &str) -> String {
    let spellings = spellings(domain);
    let terms: Vec<String> = spellings
        .iter()
        .flat_map(|one| address_lies_in(one))
        .collect();
    let filter = format!(
        "_parentcustomerid_value ne null and statecode eq 0 and ({})",
        terms.join(" or ")
    );
    let select = "contactid,emailaddress1,_parentcustomerid_value,modifiedon,createdon";
    let order = encoded("modifiedon desc");
    format!(
        "{}&$orderby={order}&$top={MOST_CONTACTS}",
        rows("contacts", select, &filter)
    )
}

fn address_lies_in(domain: &str) -> [String; 2] {
    ["@", "."].map(|before| {
        format!(
            "endswith(emailaddress1,{})",
            literal(&format!("{before}{domain}"))
        )
    })
}

/// Reads the rows of accounts. The domain is compared again: a directory may have it in the path of
/// its own address.
fn read_accounts(accounts: &mut Accounts, domain: &str, rows: &[Value]) {
    for row in rows {
        let Some(id) = guid(row, "accountid") else {
            continue;
        };
        let account = Person {
            record: PartyReference {
                table: Table::Account,
                id,
            },
            active: row.get("statecode").and_then(Value::as_i64) == Some(0),
            account: None,
            changed: changed(row),
        };
        let text = |column| row.get(column).and_then(Value::as_str);
        if text("websiteurl").is_some_and(|url| lies_in(&host_of_website(url), domain)) {
            accounts.by_website.push(account.clone());
        }
        if address_in(row, domain) {
            accounts.by_address.push(account);
        }
    }
}

fn read_contacts(accounts: &mut Accounts, domain: &str, rows: &[Value]) {
    const PARENT: &str = "_parentcustomerid_value";
    let table = format!("{PARENT}@Microsoft.Dynamics.CRM.lookuplogicalname");
    for row in rows.iter().filter(|row| address_in(row, domain)) {
        let of_account = row.get(&table).and_then(Value::as_str) == Some("account");
        let Some(id) = guid(row, PARENT).filter(|_| of_account) else {
            continue;
        };
        // In the order of the query, so that the company of the most recently changed contact comes
        // first.
        if !accounts
            .of_contacts
            .iter()
            .any(|known| known.record.id == id)
        {
            accounts.of_contacts.push(Person {
                record: PartyReference {
                    table: Table::Account,
                    id,
                },
                // The row of the account was not read.
                active: true,
                account: None,
                changed: changed(row),
            });
        }
    }
}

fn address_in(row: &Value, domain: &str) -> bool {
    let address = row.get("emailaddress1").and_then(Value::as_str);
    let address = address.and_then(EmailAddress::parse);
    address.is_some_and(|address| lies_in(address.domain(), domain))
}

/// Returns the registrable domain of a host: the public suffix with the label before it. `None` for
/// an IP address, a public suffix itself, and whatever is no domain name.
pub(crate) fn registrable(host: &str) -> Option<&str> {
    let is_name = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        && host.split('.').all(|label| !label.is_empty())
        && host.parse::<IpAddr>().is_err();
    psl::domain_str(host).filter(|_| is_name)
}

/// Returns whether a host, or the domain of an address, belongs to a registrable domain.
fn lies_in(host: &str, domain: &str) -> bool {
    registrable(host) == Some(domain)
}

/// Returns the host of a website as people write it, in A-labels.
fn host_of_website(text: &str) -> String {
    let text = text.trim();
    let behind = text.split_once("://").map_or(text, |(_, behind)| behind);
    let host = behind
        .split(['/', '?', '#', ':'])
        .next()
        .unwrap_or_default();
    normal_domain(host)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn ids(accounts: &[Person]) -> Vec<u128> {
        accounts
            .iter()
            .map(|account| account.record.id.as_u128())
            .collect()
    }

    fn row(id: u128, website: &str, address: &str) -> Value {
        json!({"accountid": Uuid::from_u128(id), "websiteurl": website, "emailaddress1": address, "statecode": 0})
    }

    #[test]
    fn the_host_of_a_website_is_compared_however_the_website_is_written() {
        for text in [
            "kites.example",
            "https://Kites.example/",
            " http://kites.example:8080/a?b#c",
            "kites.example/de",
            "//kites.example",
        ] {
            let expected = if text.starts_with("//") {
                ""
            } else {
                "kites.example"
            };
            assert_eq!(host_of_website(text), expected, "{text}");
        }
        assert!(lies_in(
            &host_of_website("www.kites.example"),
            "kites.example"
        ));
        assert!(lies_in(
            &host_of_website("https://www.bücher.example"),
            "xn--bcher-kva.example"
        ));
        assert!(!lies_in(
            &host_of_website("https://mykites.example"),
            "kites.example"
        ));
        assert!(!lies_in(
            &host_of_website("https://directory.example/kites.example"),
            "kites.example"
        ));
    }

    #[test]
    fn query_results_are_checked_against_the_exact_domain() {
        let mut accounts = Accounts::default();
        let rows = [
            row(1, "https://www.kites.example/de/", ""),
            row(2, "kites.example", "info@mail.kites.example"),
            row(3, "https://kites.example.net/", "info@mykites.example"),
            row(4, "https://directory.example/kites.example", ""),
        ];
        read_accounts(&mut accounts, "kites.example", &rows);
        assert_eq!(ids(&accounts.by_website), [1, 2]);
        assert_eq!(ids(&accounts.by_address), [2]);
    }

    #[test]
    fn each_parent_account_of_the_contacts_is_listed_once_without_parent_contacts() {
        let contact = |parent: u128, table: &str, address: &str| {
            json!({
                "emailaddress1": address, "_parentcustomerid_value": Uuid::from_u128(parent),
                "_parentcustomerid_value@Microsoft.Dynamics.CRM.lookuplogicalname": table,
            })
        };
        let rows = [
            contact(1, "account", "a@kites.example"),
            contact(2, "contact", "b@kites.example"),
            contact(1, "account", "c@kites.example"),
            contact(3, "account", "d@mykites.example"),
        ];
        let mut accounts = Accounts::default();
        read_contacts(&mut accounts, "kites.example", &rows);
        assert_eq!(ids(&accounts.of_contacts), [1]);
    }

    #[test]
    fn the_queries_for_an_international_domain_contain_both_spellings() {
        assert!(accounts_of("xn--bcher-kva.example").contains(&encoded("@bücher.example")));
        assert!(contacts_of("xn--bcher-kva.example").contains(&encoded("@xn--bcher-kva.example")));
        assert_eq!(spellings("kites.example").len(), 1);
        let long = format!("{}.example", "x".repeat(250));
        assert!(accounts_of(&long).len() < 65_536);
    }
}
