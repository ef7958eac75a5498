//! Tests the sources tracking token and thread.

use super::*;

impl Case {
    /// Adds an email with the token `CRM:7` and these participants, created at this second.
    fn with_token(
        &mut self,
        number: u128,
        second: i64,
        people: &[&str],
        record: Option<RecordReference>,
    ) {
        let email = EarlierEmail {
            completed: true,
            created: chrono::DateTime::from_timestamp(second, 0),
            activity_id: ActivityId::new(Uuid::from_u128(number)),
            regarding: record,
            people: people.iter().map(|it| (Some(address(it)), None)).collect(),
        };
        self.found.add_earlier(email, None, Some("CRM:7"));
    }
}

const EVE: &[&str] = &["eve@out.example"];

#[test]
fn a_token_inherits_the_record_of_the_email_that_has_it() {
    let mut case = Case::from_eve();
    case.with_token(7, 1, EVE, Some(target("opportunity", 3)));
    case.tokens = vec!["CRM:7".to_owned()];
    let decision = case.decision();
    let choice = decision.choice.unwrap();
    assert_eq!(
        (choice.target, choice.source, choice.parent),
        (target("opportunity", 3), TrackingToken, None)
    );
    assert_eq!(
        decision.candidates[0].emails,
        [ActivityId::new(Uuid::from_u128(7))]
    );
    case.tokens = vec!["crm:7".to_owned()];
    assert_eq!(
        case.target(),
        Some(target("opportunity", 3)),
        "case-insensitive, as in Dataverse"
    );
    case.tokens = vec!["CRM:8".to_owned()];
    assert_eq!(case.outcomes(), [(Contact, CandidateOutcome::Hit)]);
}

#[test]
fn a_stranger_with_a_guessed_token_inherits_nothing() {
    let mut case = Case::of("mallory@else.example", &["ada@ours.example"], &[]);
    case.with_token(
        7,
        1,
        &["eve@out.example", "ada@ours.example"],
        Some(target("contact", 1)),
    );
    case.tokens = vec!["CRM:7".to_owned()];
    assert_eq!(
        case.outcomes(),
        [(TrackingToken, CandidateOutcome::OtherPeople)]
    );
    assert_eq!(case.target(), None);
    case.to.push("eve@out.example");
    assert_eq!(case.target(), Some(target("contact", 1)));
}

#[test]
fn only_the_newest_email_with_a_token_counts_and_the_others_are_recorded() {
    let mut case = Case::from_eve();
    case.tokens = vec!["CRM:7".to_owned()];
    case.with_token(9, 1, EVE, Some(target("account", 3)));
    case.with_token(8, 3, EVE, Some(target("account", 4)));
    case.with_token(7, 2, EVE, Some(target("account", 4)));
    let hit = [
        (TrackingToken, CandidateOutcome::Repeated),
        (TrackingToken, CandidateOutcome::Hit),
    ];
    assert_eq!(case.target(), Some(target("account", 4)));
    assert_eq!(case.outcomes(), hit);
    let repeated = case.decision().candidates.swap_remove(0);
    assert_eq!(repeated.records, [target("account", 3)]);
    assert_eq!(repeated.emails, [ActivityId::new(Uuid::from_u128(9))]);
    // The newest email now belongs to another conversation, so an older one would only be a guess.
    case.with_token(6, 4, &["zoe@else.example"], Some(target("account", 5)));
    assert_eq!(
        case.outcomes(),
        [
            (TrackingToken, CandidateOutcome::Repeated),
            (TrackingToken, CandidateOutcome::OtherPeople),
            (Contact, CandidateOutcome::Hit)
        ]
    );
    case.with_token(5, 5, EVE, None);
    let outcomes = case.outcomes();
    assert_eq!(outcomes[1], (TrackingToken, CandidateOutcome::NoRegarding));
}

#[test]
fn equally_new_emails_with_different_records_are_ambiguous() {
    let mut case = Case::from_eve();
    case.tokens = vec!["CRM:7".to_owned()];
    case.with_token(7, 1, EVE, Some(target("account", 3)));
    case.with_token(8, 1, EVE, Some(target("account", 4)));
    assert_eq!(
        case.outcomes(),
        [
            (TrackingToken, CandidateOutcome::Ambiguous),
            (Contact, CandidateOutcome::Hit)
        ]
    );
    assert_eq!(case.decision().candidates[0].records.len(), 2);
}

#[test]
fn tokens_of_one_subject_with_different_records_are_ambiguous() {
    let mut case = Case::from_eve();
    case.tokens = vec!["CRM:7".to_owned(), "CRM:8".to_owned()];
    case.earlier(7, EVE, Some(target("account", 3)));
    case.earlier(8, EVE, Some(target("account", 3)));
    assert_eq!(case.target(), Some(target("account", 3)));
    case.earlier(9, EVE, Some(target("account", 4)));
    case.tokens.push("CRM:9".to_owned());
    let ambiguous = (TrackingToken, CandidateOutcome::Ambiguous);
    assert_eq!(
        case.outcomes(),
        [
            ambiguous,
            ambiguous,
            ambiguous,
            (Contact, CandidateOutcome::Hit)
        ]
    );
}

#[test]
fn the_thread_comes_before_a_token_and_is_tried_after_an_ambiguous_token() {
    let mut case = Case::from_eve();
    case.earlier(6, EVE, Some(target("account", 5)));
    case.with_token(7, 1, EVE, Some(target("account", 3)));
    case.with_token(8, 1, EVE, Some(target("account", 4)));
    case.tokens = vec!["CRM:7".to_owned()];
    case.ancestors = vec!["5@x", "6@x"];
    assert_eq!(case.outcomes(), [(Thread, CandidateOutcome::Hit)]);
    case.settings.order = vec![TrackingToken, Thread];
    assert_eq!(
        case.outcomes(),
        [
            (TrackingToken, CandidateOutcome::Ambiguous),
            (Thread, CandidateOutcome::Hit)
        ]
    );
}

#[test]
fn a_reply_inherits_from_the_nearest_email_that_has_a_regarding() {
    let mut case = Case::from_eve();
    case.earlier(6, &["eve@out.example"], Some(target("account", 4)));
    case.earlier(7, &["eve@out.example"], Some(target("incident", 3)));
    case.earlier(8, &["eve@out.example"], None);
    case.ancestors = vec!["9@x", "8@x", "7@x", "6@x"];
    let decision = case.decision();
    assert_eq!(
        case.outcomes(),
        [
            (Thread, CandidateOutcome::NoRegarding),
            (Thread, CandidateOutcome::Hit)
        ]
    );
    let choice = decision.choice.unwrap();
    assert_eq!(choice.target, target("incident", 3));
    assert_eq!(choice.parent, Some(ActivityId::new(Uuid::from_u128(7))));
    assert_eq!(choice.names.regarding, "regardingobjectid_incident_email");
}

#[test]
fn a_forward_inherits_only_if_an_earlier_external_participant_receives_it() {
    let mut case = Case::of("ada@ours.example", &["new@else.example"], &[]);
    case.earlier(
        7,
        &["eve@out.example", "ada@ours.example"],
        Some(target("account", 3)),
    );
    case.ancestors = vec!["7@x"];
    assert_eq!(case.outcomes(), [(Thread, CandidateOutcome::OtherPeople)]);
    case.to.push("EVE@out.example");
    assert_eq!(case.target(), Some(target("account", 3)));
}

#[test]
fn another_address_of_the_same_contact_counts_as_the_same_person() {
    let eve = person(Table::Contact, 1, None);
    let mut case = Case::of(
        "eve@private.example",
        &["ada@ours.example"],
        &[("eve@private.example", eve)],
    );
    let contact = Some(target("contact", 1));
    let email = |contact: Option<RecordReference>| EarlierEmail {
        completed: true,
        created: None,
        activity_id: ActivityId::new(Uuid::from_u128(7)),
        regarding: Some(target("account", 3)),
        people: vec![(Some(address("eve@out.example")), contact)],
    };
    case.ancestors = vec!["7@x"];
    case.found
        .add_earlier(email(contact), Some(id("7@x")), None);
    assert_eq!(case.target(), Some(target("account", 3)));
    let mut other = Case::of("eve@private.example", &["ada@ours.example"], &[]);
    other.ancestors = vec!["7@x"];
    other
        .found
        .add_earlier(email(Some(target("contact", 2))), Some(id("7@x")), None);
    assert_eq!(other.target(), None);
}

#[test]
fn an_internal_discussion_inherits_from_its_thread() {
    let mut case = Case::of("ada@ours.example", &["ben@ours.example"], &[]);
    case.earlier(7, &["eve@out.example"], Some(target("account", 3)));
    case.ancestors = vec!["7@x"];
    assert_eq!(case.target(), Some(target("account", 3)));
}

#[test]
fn two_rows_of_the_answered_email_with_different_records_are_ambiguous() {
    let mut case = Case::from_eve();
    case.earlier(7, &["eve@out.example"], Some(target("account", 3)));
    let other = EarlierEmail {
        completed: true,
        created: None,
        activity_id: ActivityId::new(Uuid::from_u128(70)),
        regarding: Some(target("account", 4)),
        people: vec![(Some(address("eve@out.example")), None)],
    };
    case.found.add_earlier(other, Some(id("7@x")), None);
    case.earlier(6, &["eve@out.example"], Some(target("account", 5)));
    case.ancestors = vec!["7@x", "6@x"];
    assert_eq!(
        case.outcomes(),
        [
            (Thread, CandidateOutcome::Ambiguous),
            (Contact, CandidateOutcome::Hit)
        ]
    );
}

#[test]
fn the_parent_of_a_reply_is_the_email_whose_record_was_inherited() {
    for with_record in [70, 71] {
        let mut case = Case::from_eve();
        for number in [70, 71] {
            let email = EarlierEmail {
                completed: true,
                created: None,
                activity_id: ActivityId::new(Uuid::from_u128(number)),
                regarding: (number == with_record).then(|| target("account", 3)),
                people: vec![(Some(address("eve@out.example")), None)],
            };
            case.found.add_earlier(email, Some(id("7@x")), None);
        }
        case.ancestors = vec!["7@x"];
        let choice = case.decision().choice.unwrap();
        assert_eq!(choice.target, target("account", 3));
        let parent = ActivityId::new(Uuid::from_u128(with_record));
        assert_eq!(choice.parent, Some(parent));
    }
}

#[test]
fn the_row_of_an_email_is_not_an_earlier_email_of_itself() {
    let mut case = Case::from_eve();
    case.ancestors = vec!["7@x"];
    case.tokens = vec!["CRM:7".to_owned()];
    let draft = |activity_id| EarlierEmail {
        completed: false,
        created: None,
        activity_id,
        regarding: Some(target("account", 3)),
        people: vec![(Some(address("eve@out.example")), None)],
    };
    let own = case.message().activity_id();
    for order in [vec![Thread, Contact], vec![TrackingToken, Contact]] {
        case.settings.order = order.clone();
        case.found
            .add_earlier(draft(own), Some(id("7@x")), Some("CRM:7"));
        assert_eq!(case.outcomes(), [(Contact, CandidateOutcome::Hit)]);
        // The draft of another email is one.
        let mut other = Case::from_eve();
        (other.ancestors, other.tokens) = (case.ancestors.clone(), case.tokens.clone());
        other.settings.order = order;
        let another = ActivityId::new(Uuid::from_u128(7));
        other
            .found
            .add_earlier(draft(another), Some(id("7@x")), Some("CRM:7"));
        assert_eq!(other.target(), Some(target("account", 3)));
    }
}

#[test]
fn a_reply_to_a_tracked_email_is_recognised_even_if_that_has_no_regarding() {
    let mut case = Case::from_eve();
    case.earlier(7, &[], None);
    let object = json!({"id": "m"});
    let mut message =
        wire::message(&"g".parse().unwrap(), &object).unwrap_or_else(|e| panic!("{e}"));
    assert!(!case.found.answers_tracked_mail(&message));
    message.ancestors = vec![id("6@x"), id("7@x")];
    assert!(case.found.answers_tracked_mail(&message));
}
