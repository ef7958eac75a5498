//! Reads a contact of an address book. Its arrays may be null, and empty fields may be missing
//! (Nylas facts §12, §17).

use serde_json::Value;

use super::{array, text};
use crate::model::address::EmailAddress;
use crate::model::contact_card::{Card, Number};

/// Reads a contact object. A field of the wrong type counts as missing, so any object gives a
/// contact, even if an empty one.
#[must_use]
pub fn contact(object: &Value) -> Card {
    let own = |key: &str| text(object, key).unwrap_or_default().trim().to_owned();
    let mut addresses: Vec<EmailAddress> = Vec::new();
    for address in array(object, "emails")
        .iter()
        .filter_map(|email| EmailAddress::parse(text(email, "email")?))
    {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let numbers = array(object, "phone_numbers").iter().filter_map(|number| {
        Some(Number {
            number: text(number, "number")?.to_owned(),
            kind: text(number, "type").unwrap_or_default().to_owned(),
        })
    });
    Card {
        given_name: own("given_name"),
        surname: own("surname"),
        addresses,
        numbers: numbers.collect(),
        job_title: own("job_title"),
        company_name: own("company_name"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_used_field_of_a_contact_card_is_read() {
        let card = contact(&json!({
            "given_name": " Jane ", "surname": "Doe", "job_title": "Buyer", "company_name": "Kites",
            "emails": [{"type": "work", "email": "Jane@kites.example"}, {"email": "JANE@kites.example"}, {"type": "home"}, {"email": "none"}],
            "phone_numbers": [{"type": "mobile", "number": "+1 555"}, {"number": 7}],
        }));
        assert_eq!(
            (card.given_name.as_str(), card.surname.as_str()),
            ("Jane", "Doe")
        );
        assert_eq!(
            (card.job_title.as_str(), card.company_name.as_str()),
            ("Buyer", "Kites")
        );
        let addresses: Vec<&str> = card.addresses.iter().map(EmailAddress::as_str).collect();
        assert_eq!(addresses, ["jane@kites.example"]);
        assert_eq!(card.numbers.len(), 1);
    }

    #[test]
    fn nulls_and_wrong_types_lose_the_field_but_not_the_card() {
        let card = contact(
            &json!({"given_name": 7, "surname": "Doe", "emails": null, "phone_numbers": {"a": 1}}),
        );
        assert_eq!(
            (card.given_name.as_str(), card.surname.as_str()),
            ("", "Doe")
        );
        assert!(card.addresses.is_empty() && card.numbers.is_empty());
        assert!(contact(&json!(null)).addresses.is_empty());
    }
}
