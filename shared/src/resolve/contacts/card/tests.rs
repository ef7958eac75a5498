use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::clients::nylas::wire;
use crate::lookup::companies::Accounts;
use crate::resolve::contacts::{account_id, contact_id};

fn card(object: &Value) -> Card {
    let mut card = wire::contact(object);
    // A card without a usable address has no addresses afterwards.
    let _ = card.keep_usable();
    card
}

fn jane() -> Card {
    card(&json!({
        "given_name": "Jane", "surname": "Doe", "job_title": "Buyer", "company_name": "Kites Ltd",
        "emails": [{"email": "jane@kites.example"}, {"email": "jane.doe+x@home.example"}],
        "phone_numbers": [{"type": "work", "number": "+1 (555) 1"}, {"type": "mobile", "number": "+1 555 2"}, {"type": "home", "number": "+1 555 3"}],
    }))
}

fn row(object: &Value) -> Map<String, Value> {
    object.as_object().unwrap().clone()
}

fn numbers(numbers: &[(&str, &str)], there: &Value) -> Value {
    let numbers: Vec<Value> = numbers
        .iter()
        .map(|(kind, number)| json!({"type": kind, "number": number}))
        .collect();
    Value::Object(missing(
        &card(&json!({"phone_numbers": numbers})),
        &row(there),
    ))
}

#[test]
fn a_new_contact_has_every_field_of_the_card() {
    let company = Uuid::from_u128(7);
    let made = new_contact(&jane(), Some(company)).unwrap();
    let expected = json!({
        "contactid": contact_id(&EmailAddress::parse("jane@kites.example").unwrap()),
        "firstname": "Jane", "lastname": "Doe", "jobtitle": "Buyer",
        "emailaddress1": "jane@kites.example", "emailaddress2": "jane.doe@home.example",
        "telephone1": "+1 (555) 1", "mobilephone": "+1 555 2", "telephone2": "+1 555 3",
        "parentcustomerid_account@odata.bind": format!("/accounts({company})"),
    });
    assert_eq!(Value::Object(made.row.row), expected);
    assert_eq!(new_contact(&Card::default(), None), None);
}

#[test]
fn an_existing_contact_keeps_all_its_values() {
    let there = json!({
        "firstname": "J.", "lastname": "Doe-Smith", "jobtitle": "Chief buyer", "emailaddress1": "jane@kites.example", "emailaddress2": " ",
        "emailaddress3": "jd@old.example", "telephone1": "555-9", "telephone2": null, "mobilephone": "555-1",
    });
    let added = missing(&jane(), &row(&there));
    // The columns for the work number and the mobile number are in use.
    let expected = json!({
        "emailaddress2": "jane.doe@home.example", "telephone2": "+1 (555) 1", "telephone3": "+1 555 2",
    });
    assert_eq!(Value::Object(added), expected);
    let full = new_contact(&jane(), None).unwrap().row.row;
    assert_eq!(
        missing(&jane(), &full),
        Map::new(),
        "a second time nothing is added"
    );
}

#[test]
fn an_incomplete_name_is_completed_only_by_a_matching_name() {
    let added = |first: &str, last: &str| {
        let there = json!({"firstname": first, "lastname": last});
        let added = missing(&jane(), &row(&there));
        let names = ["firstname", "lastname"].map(|column| value(&added, column).to_owned());
        names.join("|")
    };
    assert_eq!(added("", ""), "Jane|Doe");
    assert_eq!(added("", "DOE"), "Jane|");
    assert_eq!(added("jane", ""), "|Doe");
    assert_eq!(added("", "Smith"), "|");
    assert_eq!(added("John", ""), "|");
    assert_eq!(added("", "Unknown"), "|");
    let nameless = card(&json!({"given_name": "Jane", "emails": [{"email": "j@x.example"}]}));
    assert_eq!(
        new_contact(&nameless, None).unwrap().row.row["lastname"],
        "Unknown"
    );
    assert!(!missing(&nameless, &Map::new()).contains_key("lastname"));
}

#[test]
fn phone_numbers_are_assigned_to_columns_by_type_and_written_once() {
    let none = json!({});
    assert_eq!(
        numbers(
            &[("", "1"), ("other", "2"), ("pager", "3"), ("", "4")],
            &none
        ),
        json!({"telephone1": "1", "mobilephone": "2", "telephone2": "3"}),
        "only the first three numbers are taken"
    );
    assert_eq!(
        numbers(&[("Mobile", "1"), ("cell", "2"), ("work_fax", "3")], &none),
        json!({"mobilephone": "1", "telephone1": "2", "fax": "3"})
    );
    assert_eq!(
        numbers(
            &[
                ("work", "555 1"),
                ("main", "(555)-1"),
                ("fax", "9"),
                ("fax", "8")
            ],
            &none
        ),
        json!({"telephone1": "555 1", "fax": "9"})
    );
    assert_eq!(
        numbers(&[("home_fax", "1")], &json!({"fax": "2"})),
        json!({}),
        "a fax number is not stored as a telephone number"
    );
    assert_eq!(
        numbers(
            &[("work", &"1".repeat(51)), ("work", "none"), ("work", "5")],
            &none
        ),
        json!({"telephone1": "5"})
    );
}

#[test]
fn texts_are_one_line_and_fit_their_columns() {
    let odd = card(&json!({
        "given_name": "Ja\u{0}ne\n", "surname": "D".repeat(60), "job_title": "😀".repeat(60), "emails": [{"email": "j@x.example"}],
    }));
    let row = new_contact(&odd, None).unwrap().row.row;
    assert_eq!(row["firstname"], "Jane");
    assert_eq!(row["lastname"], "D".repeat(50));
    assert_eq!(row["jobtitle"], "😀".repeat(50));
}

#[test]
fn an_address_that_is_unsuitable_for_a_contact_is_left_out() {
    let kept = |addresses: &[&str]| {
        let emails: Vec<Value> = addresses
            .iter()
            .map(|email| json!({"email": email}))
            .collect();
        let mut card = wire::contact(&json!({"emails": emails}));
        let result = card.keep_usable();
        let kept: Vec<String> = card
            .addresses
            .iter()
            .map(|one| one.as_str().to_owned())
            .collect();
        result.map(|()| kept)
    };
    assert_eq!(kept(&[]), Err(NoAddress::None));
    assert_eq!(
        kept(&["info@x.example", "no-reply@x.example"]),
        Err(NoAddress::Role)
    );
    let long = format!("{}@x.example", "j".repeat(100));
    assert_eq!(kept(&[&long]), Err(NoAddress::TooLong));
    assert_eq!(
        kept(&["info@x.example", "j+a@x.example", "j@x.example", &long]),
        Ok(vec!["j@x.example".to_owned()])
    );
}

#[test]
fn cards_that_share_an_address_are_one_person() {
    let of = |name: &str, addresses: &[&str]| {
        let emails: Vec<Value> = addresses
            .iter()
            .map(|email| json!({"email": email}))
            .collect();
        card(&json!({"given_name": name, "emails": emails, "company_name": name}))
    };
    let (people, places) = people(vec![
        of("A", &["a@x.example"]),
        of("B", &["b@x.example"]),
        of("C", &["c@x.example", "A+tag@x.example"]),
        of("D", &["c@x.example", "d@x.example"]),
        of("E", &["a@x.example", "b@x.example"]),
    ]);
    let place = Place::Person;
    assert_eq!(
        places,
        [place(0), place(1), place(0), place(0), Place::Several]
    );
    assert_eq!(people.len(), 2);
    assert_eq!(
        (
            people[0].given_name.as_str(),
            people[0].company_name.as_str()
        ),
        ("A", "A")
    );
    let addresses: Vec<&str> = people[0]
        .addresses
        .iter()
        .map(EmailAddress::as_str)
        .collect();
    assert_eq!(addresses, ["a@x.example", "c@x.example", "d@x.example"]);
}

fn accounts(found: bool) -> Companies {
    let mut accounts = Accounts::default();
    if found {
        accounts
            .by_website
            .push(crate::clients::dataverse::records::Person {
                record: crate::clients::dataverse::records::PartyReference {
                    table: crate::clients::dataverse::records::Table::Account,
                    id: Uuid::from_u128(1),
                },
                active: true,
                account: None,
                changed: None,
            });
    }
    Companies(BTreeMap::from([("kites.example".to_owned(), accounts)]))
}

fn of(card: &Card, named: &[u128], found: bool) -> CardCompany {
    let named = named.iter().copied().map(Uuid::from_u128).collect();
    company(card, &named, &accounts(found), Ambiguous::Unresolved)
}

#[test]
fn a_company_is_found_by_its_name_then_by_its_domain_and_else_created() {
    assert_eq!(
        of(&jane(), &[5], true),
        CardCompany::There(Uuid::from_u128(5))
    );
    assert_eq!(
        of(&jane(), &[5, 6], true),
        CardCompany::None,
        "several accounts have the name, so it is unknown which one is meant"
    );
    assert_eq!(
        of(&jane(), &[], true),
        CardCompany::There(Uuid::from_u128(1))
    );
    let CardCompany::New(made) = of(&jane(), &[], false) else {
        panic!("expected a new account")
    };
    let id = account_id("kites.example");
    let expected =
        json!({"accountid": id, "name": "Kites Ltd", "websiteurl": "https://kites.example"});
    assert_eq!(Value::Object(made.row), expected);
}

#[test]
fn free_mail_addresses_and_cards_without_a_company_create_no_account() {
    let with = |email: &str, company: &str| {
        card(&json!({"emails": [{"email": email}], "company_name": company}))
    };
    assert_eq!(
        of(&with("jane@gmail.com", "Kites"), &[], false),
        CardCompany::None
    );
    assert_eq!(
        of(&with("jane@kites.example", " "), &[], false),
        CardCompany::None
    );
    assert_eq!(
        of(&with("jane@kites.example", ""), &[], true),
        CardCompany::None
    );
    let nobody_could_ask = with("jane@other.example", "Other");
    assert_eq!(of(&nobody_could_ask, &[], true), CardCompany::None);
}
