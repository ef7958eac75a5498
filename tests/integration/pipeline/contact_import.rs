//! Tests the import of contact cards from an address book, also while other clients change the same
//! rows.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::clients::dataverse::records::Table;
use mailverse::clients::nylas::wire;
use mailverse::model::contact_card::Card;
use mailverse::pipeline::contact_import::{CardOutcome, CompaniesMade};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_organisation::{TestOrganisation, status, to_row};

in_both_write_modes!(
    a_value_that_a_user_enters_during_the_import_is_not_overwritten,
    a_rejected_contact_does_not_affect_the_others,
    a_contact_is_imported_without_its_company_if_the_company_is_rejected,
    the_only_active_contact_of_several_is_filled,
    internal_people_and_known_leads_are_not_imported_as_contacts,
    one_account_is_created_for_all_contacts_that_name_the_company,
);

fn cards(cards: &Value) -> Vec<Card> {
    let read = |object: &Value| {
        let mut card = wire::contact(object);
        assert_eq!(card.keep_usable(), Ok(()));
        card
    };
    cards.as_array().unwrap().iter().map(read).collect()
}

fn jane(address: &str) -> Value {
    json!({"given_name": "Jane", "surname": "Doe", "job_title": "Buyer", "emails": [{"email": address}]})
}

async fn bring_in(organisation: &mut TestOrganisation, people: &Value) -> Vec<CardOutcome> {
    bring_in_with(organisation, people, &mut CompaniesMade::default()).await
}

async fn bring_in_with(
    organisation: &mut TestOrganisation,
    people: &Value,
    made: &mut CompaniesMade,
) -> Vec<CardOutcome> {
    let run = organisation.begin();
    let people = cards(people);
    let outcomes = organisation
        .pipeline
        .import_people(&people, made, &run)
        .await;
    assert_eq!(outcomes.len(), people.len());
    outcomes
}

fn contact(organisation: &TestOrganisation, id: Uuid) -> Value {
    organisation
        .emulators
        .dataverse()
        .row("contact", id)
        .unwrap()
}

#[track_caller]
fn created(outcome: &CardOutcome) -> (Uuid, bool) {
    match outcome {
        CardOutcome::Created {
            contact,
            without_company,
        } => (*contact, *without_company),
        other => panic!("the contact was not created: {other:?}"),
    }
}

async fn a_value_that_a_user_enters_during_the_import_is_not_overwritten(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let people = json!([jane("carol@kites.example"), jane("new@lanterns.example")]);
    let carol = organisation.people.carol;
    let url = format!(
        "{}/api/data/v9.2/contacts({carol})",
        organisation.emulators.dataverse().url()
    );
    let token = organisation
        .emulators
        .entra()
        .issue_token(&organisation.emulators.dataverse().url(), 600);
    organisation.before_dataverse_gets(
        &format!("PATCH /api/data/v9.2/contacts({carol})"),
        async move {
            let call = reqwest::Client::new().patch(url).bearer_auth(token);
            let call = call
                .header("OData-Version", "4.0")
                .header("OData-MaxVersion", "4.0");
            let answer = call
                .json(&json!({"jobtitle": "Owner"}))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 204);
        },
    );
    let outcomes = bring_in(&mut organisation, &people).await;
    let CardOutcome::Failed { reason } = &outcomes[0] else {
        panic!("the import of Carol's card did not fail: {outcomes:?}")
    };
    assert!(
        reason.contains("a dataverse row changed in the meantime"),
        "{reason}"
    );
    assert_eq!(contact(&organisation, carol)["jobtitle"], "Owner");
    created(&outcomes[1]);
    let again = bring_in(&mut organisation, &people).await;
    // The import does not fill in her first name either, because the card's surname (Doe) is not
    // hers.
    assert_eq!(again[0], CardOutcome::Complete { contact: carol });
}

async fn a_rejected_contact_does_not_affect_the_others(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let dataverse = organisation.emulators.dataverse().clone();
    dataverse.set_max_length("contact", "jobtitle", 10).unwrap();
    let mut long = jane("long@lanterns.example");
    long["job_title"] = json!("Chief buyer of lanterns");
    let mut carol = jane("carol@kites.example");
    carol["job_title"] = long["job_title"].clone();
    let people = json!([long, jane("good@lanterns.example"), carol]);
    let outcomes = bring_in(&mut organisation, &people).await;
    for refused in [&outcomes[0], &outcomes[2]] {
        let CardOutcome::Failed { reason } = refused else {
            panic!("Dataverse accepted a text that is too long: {outcomes:?}")
        };
        assert!(reason.contains("0x80044331"), "{reason}");
    }
    created(&outcomes[1]);

    // If Dataverse rejects the lookup because of one card, it is repeated card by card.
    if mode == WriteMode::ChangeSet {
        for _ in 0..2 {
            organisation.fail_dataverse_at("odd%40lanterns.example", status(400, "0x80060888"));
        }
        let people = json!([
            jane("odd@lanterns.example"),
            jane("better@lanterns.example")
        ]);
        let outcomes = bring_in(&mut organisation, &people).await;
        assert!(
            matches!(outcomes[0], CardOutcome::Failed { .. }),
            "{outcomes:?}"
        );
        created(&outcomes[1]);
    }
}

async fn a_contact_is_imported_without_its_company_if_the_company_is_rejected(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let dataverse = organisation.emulators.dataverse().clone();
    dataverse.set_max_length("account", "name", 5).unwrap();
    let known = organisation.insert(
        "contact",
        json!({"lastname": "Roe", "emailaddress1": "roe@lanterns.example"}),
    );
    let mut new = jane("jane@lanterns.example");
    new["company_name"] = json!("Lanterns Ltd");
    let mut roe = json!({"job_title": "Seller", "emails": [{"email": "roe@lanterns.example"}]});
    roe["company_name"] = json!("Lanterns Ltd");
    let outcomes = bring_in(&mut organisation, &json!([new, roe])).await;
    let (jane, without_company) = created(&outcomes[0]);
    assert!(without_company);
    assert_eq!(contact(&organisation, jane).get("parentcustomerid"), None);
    let filled = CardOutcome::Filled {
        contact: known,
        columns: vec!["jobtitle".to_owned()],
    };
    assert_eq!(outcomes[1], filled);
    assert_eq!(dataverse.rows("account").len(), 1);
}

async fn the_only_active_contact_of_several_is_filled(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let row = |state: u8| json!({"lastname": "Doe", "emailaddress2": "jane@lanterns.example", "statecode": state, "statuscode": state + 1});
    let old = organisation.insert("contact", row(1));
    let people = json!([jane("jane@lanterns.example")]);
    let outcomes = bring_in(&mut organisation, &people).await;
    let columns = vec!["firstname".to_owned(), "jobtitle".to_owned()];
    let filled = |contact| CardOutcome::Filled {
        contact,
        columns: columns.clone(),
    };
    assert_eq!(outcomes, [filled(old)]);
    let one = organisation.insert("contact", row(0));
    assert_eq!(bring_in(&mut organisation, &people).await, [filled(one)]);
    let other = organisation.insert("contact", row(0));
    let mut contacts = vec![one, other];
    contacts.sort_unstable();
    let outcomes = bring_in(&mut organisation, &people).await;
    assert_eq!(outcomes, [CardOutcome::Ambiguous { contacts }]);
    assert_eq!(contact(&organisation, other).get("firstname"), None);
}

async fn internal_people_and_known_leads_are_not_imported_as_contacts(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let people = json!([
        jane("lea@prospects.example"),
        jane("sales+x@ours.example"),
        jane("eve@partner.example"),
    ]);
    // sales@ is an alias of Ada's and the name of a role, so this card has no usable address.
    let mut first = wire::contact(&people[1]);
    assert!(first.keep_usable().is_err());
    let people = json!([people[0], jane("ada@ours.example"), people[2]]);
    let writes = organisation.emulators.dataverse().requests().writes;
    let outcomes = bring_in(&mut organisation, &people).await;
    let known = CardOutcome::Known { table: Table::Lead };
    assert_eq!(
        outcomes,
        [known, CardOutcome::Internal, CardOutcome::Internal]
    );
    assert_eq!(organisation.emulators.dataverse().requests().writes, writes);
}

async fn one_account_is_created_for_all_contacts_that_name_the_company(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let of = |address: &str, company: &str| {
        let mut card = jane(address);
        card["company_name"] = json!(company);
        card
    };
    let mut companies = CompaniesMade::default();
    let people = json!([
        of("a@lanterns.example", "Lanterns Ltd"),
        of("b@gmail.com", "LANTERNS LTD"),
        of("c@gmail.com", "Freelance"),
        of("d@gmail.com", "kites"),
    ]);
    let mut outcomes = bring_in_with(&mut organisation, &people, &mut companies).await;
    let later = json!([of("e@gmail.com", "Lanterns Ltd")]);
    outcomes.extend(bring_in_with(&mut organisation, &later, &mut companies).await);
    let accounts = organisation.emulators.dataverse().rows("account");
    assert_eq!(accounts.len(), 2, "{accounts:#?}");
    let lanterns = accounts
        .iter()
        .find(|row| row["name"] == "Lanterns Ltd")
        .unwrap();
    let lanterns: Uuid = serde_json::from_value(lanterns["accountid"].clone()).unwrap();
    let kites = organisation.people.kites;
    let expected = [
        Some(lanterns),
        Some(lanterns),
        None,
        Some(kites),
        Some(lanterns),
    ];
    for (outcome, company) in outcomes.iter().zip(expected) {
        let row = contact(&organisation, created(outcome).0);
        let company = company.map(|id| to_row("account", id));
        assert_eq!(row.get("parentcustomerid").cloned(), company, "{row:#}");
    }
}
