//! Tests the source that looks for the only open row of an app.

use super::*;
use crate::resolve::regarding::app::open_rows_query;

#[test]
fn the_only_open_row_of_the_contact_or_else_of_the_company_is_the_regarding() {
    assert_eq!(
        sales(&[5], &[5, 6]).target(),
        Some(target("opportunity", 5))
    );
    assert_eq!(sales(&[], &[6]).target(), Some(target("opportunity", 6)));
    assert_eq!(
        sales(&[], &[]).outcomes(),
        [(Contact, CandidateOutcome::Hit)]
    );
}

#[test]
fn several_open_rows_are_ambiguous_and_none_is_chosen() {
    for case in [sales(&[5, 6], &[7]), sales(&[], &[5, 6])] {
        assert_eq!(
            case.outcomes(),
            [
                (AppSource, CandidateOutcome::Ambiguous),
                (Contact, CandidateOutcome::Hit)
            ]
        );
        assert_eq!(case.decision().candidates[0].records.len(), 2);
    }
}

#[test]
fn open_rows_are_looked_up_only_if_an_app_is_set_and_no_earlier_source_decides() {
    let mut case = Case::from_eve();
    assert_eq!(case.target(), Some(target("contact", 1)), "no app is set");
    case.settings.app = App::Service;
    let customers = [record(Table::Contact, 1), record(Table::Account, 9)];
    assert_eq!(case.ask().customers, customers.into());
    case.earlier(7, &["eve@out.example"], Some(target("account", 3)));
    case.ancestors = vec!["7@x"];
    assert_eq!(
        case.target(),
        Some(target("account", 3)),
        "the thread comes first"
    );
    let mut stranger = Case::of("x@out.example", &["ada@ours.example"], &[]);
    stranger.settings.app = App::Service;
    assert_eq!(stranger.decision(), RegardingDecision::default());
}

#[test]
fn open_rows_of_inactive_contacts_and_accounts_are_not_looked_up() {
    for (customer, source) in [
        (inactive(Table::Contact, 1, Some(9)), Contact),
        (inactive(Table::Account, 9, None), Account),
    ] {
        let id = RecordReference::from(customer.record);
        let known = [("eve@out.example", customer)];
        let mut case = Case::of("eve@out.example", &["ada@ours.example"], &known);
        case.settings.app = App::Sales;
        // Their rows are known from another message of the batch.
        for with_rows in [false, true] {
            if with_rows {
                let customers = [record(Table::Contact, 1), record(Table::Account, 9)];
                for customer in customers {
                    case.found.set_open_rows(customer, rows(&[5]));
                }
            }
            assert_eq!(case.outcomes(), [(source, CandidateOutcome::Hit)]);
            assert_eq!(case.target(), Some(id.clone()));
        }
    }
}

#[test]
fn an_inactive_customer_does_not_affect_the_open_rows_of_an_active_one() {
    let mut case = sales(&[5], &[]);
    case.found.add_person(
        address("eva@out.example"),
        inactive(Table::Contact, 2, Some(8)),
    );
    case.to.push("eva@out.example");
    assert_eq!(case.target(), Some(target("opportunity", 5)));
    for customer in [record(Table::Contact, 2), record(Table::Account, 8)] {
        case.found.set_open_rows(customer, rows(&[6]));
    }
    assert_eq!(case.target(), Some(target("opportunity", 5)));
}

#[test]
fn an_app_query_that_dataverse_rejects_falls_back_to_the_next_source() {
    let mut case = Case::from_eve();
    case.settings.app = App::Custom(CustomTable {
        table: "new_project".to_owned(),
        set: "new_projects".to_owned(),
        key: "new_projectid".to_owned(),
        customer: "new_customerid".to_owned(),
    });
    assert_eq!(case.ask().tables, ["new_project".to_owned()].into());
    for customer in [record(Table::Contact, 1), record(Table::Account, 9)] {
        case.found.set_open_rows(customer, OpenRows::Refused);
    }
    assert_eq!(
        case.outcomes(),
        [
            (AppSource, CandidateOutcome::Refused),
            (Contact, CandidateOutcome::Hit)
        ]
    );
}

#[test]
fn a_custom_table_with_an_invalid_name_is_not_queried() {
    let custom = |set: &str| {
        App::Custom(CustomTable {
            table: "new_project".to_owned(),
            set: set.to_owned(),
            key: "new_projectid".to_owned(),
            customer: "new_customerid".to_owned(),
        })
    };
    assert!(open_rows_query(&custom("new_projects")).is_some());
    assert!(open_rows_query(&custom("new_projects?$top=1")).is_none());
}
