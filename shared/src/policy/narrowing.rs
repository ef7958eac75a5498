//! Tests the law of overrides: whatever an override contains, even what the check would refuse, the
//! mailbox tracks nothing that the organisation leaves out, and stores no more of what is tracked.

use proptest::option::of as option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use uuid::Uuid;

use super::document::{
    Block, BlockAction, Content, CreateContacts, Folders, Override, Settings, Track, TrackOverride,
    TrackWhat,
};
use super::*;
use crate::clients::dataverse::records::{PartyReference, Person, Table};
use crate::clients::nylas::wire;
use crate::lookup::result::LookupResult;
use crate::mailboxes::{self, Mailboxes};

const PEOPLE: [&str; 9] = [
    "ada@ours.example",
    "user@crm.example",
    "x@domain.example",
    "carol@kites.example",
    "dan@eu.kites.example",
    "eve@outside.example",
    "eve+tag@outside.example",
    "no-reply@outside.example",
    "the whole team",
];
const DOMAINS: [&str; 5] = [
    "kites.example",
    "eu.kites.example",
    "outside.example",
    "domain.example",
    "example",
];
const FOLDERS: [&str; 6] = ["CRM", "CRM/Kites", "Kites", "Private", "\\Inbox", "in"];

fn track() -> impl Strategy<Value = TrackWhat> {
    select(vec![
        TrackWhat::All,
        TrackWhat::Known,
        TrackWhat::Replies,
        TrackWhat::None,
    ])
}

fn folders() -> impl Strategy<Value = Folders> {
    let names = || subsequence(FOLDERS.map(str::to_owned).to_vec(), 1..3);
    prop_oneof![
        Just(Folders::All),
        names().prop_map(Folders::Only),
        names().prop_map(Folders::Except),
    ]
}

fn blocks() -> impl Strategy<Value = Vec<Block>> {
    let who = prop_oneof![
        select(PEOPLE[..8].to_vec()).prop_map(|text| (Some(text.to_owned()), None)),
        select(DOMAINS.to_vec()).prop_map(|text| (None, Some(text.to_owned()))),
    ];
    let action = select(vec![BlockAction::Drop, BlockAction::Strip]);
    let block = (who, action).prop_map(|((address, domain), action)| Block {
        address,
        domain,
        action,
    });
    proptest::collection::vec(block, 0..3)
}

fn allow() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        2 => Just(Vec::new()),
        1 => subsequence(DOMAINS.map(str::to_owned).to_vec(), 1..3),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    select(vec![
        Content::Full,
        Content::Snippet,
        Content::Subject,
        Content::Participants,
    ])
}

fn contacts() -> impl Strategy<Value = CreateContacts> {
    select(vec![
        CreateContacts::Never,
        CreateContacts::Sent,
        CreateContacts::All,
    ])
}

fn settings() -> impl Strategy<Value = Settings> {
    let switches = (any::<bool>(), any::<bool>(), any::<bool>());
    let parts = (track(), track(), folders(), blocks(), allow(), switches);
    (parts, content(), contacts()).prop_map(|(parts, content, create_contacts)| {
        let (received, sent, folders, block, allow, switches) = parts;
        let (skip_internal, skip_bulk, first_of_thread_only) = switches;
        Settings {
            track: Track { received, sent },
            folders,
            internal_domains: vec!["domain.example".to_owned()],
            skip_internal,
            block,
            allow,
            skip_bulk,
            first_of_thread_only,
            content,
            create_contacts,
            ..Settings::default()
        }
    })
}

fn part() -> impl Strategy<Value = Override> {
    let switch = || option(any::<bool>());
    (
        (option(track()), option(track()), option(folders())),
        (blocks(), allow()),
        (switch(), switch(), switch()),
        (option(content()), option(contacts())),
    )
        .prop_map(|(what, who, switches, how)| Override {
            track: TrackOverride {
                received: what.0,
                sent: what.1,
            },
            folders: what.2,
            block: who.0,
            allow: who.1,
            skip_internal: switches.0,
            skip_bulk: switches.1,
            first_of_thread_only: switches.2,
            content: how.0,
            create_contacts: how.1,
            ..Override::default()
        })
}

fn message() -> impl Strategy<Value = serde_json::Value> {
    let people = |count| subsequence(PEOPLE.to_vec(), count);
    let folders = subsequence(vec!["in", "crm", "kites", "private"], 0..3);
    let headers = subsequence(
        vec![
            ("In-Reply-To", "<tracked@x>"),
            ("References", "<other@x>"),
            ("List-Id", "<list>"),
        ],
        0..3,
    );
    (people(0..2), people(0..4), people(0..2), folders, headers).prop_map(
        |(from, to, bcc, folders, headers)| {
            let list = |people: Vec<&str>| {
                let people = people
                    .iter()
                    .map(|email| serde_json::json!({"email": email}));
                people.collect::<serde_json::Value>()
            };
            let headers: Vec<serde_json::Value> = headers
                .iter()
                .map(|(name, value)| serde_json::json!({"name": name, "value": value}))
                .collect();
            serde_json::json!({"id": "m", "from": list(from), "to": list(to), "bcc": list(bcc), "folders": folders, "headers": headers})
        },
    )
}

fn found() -> LookupResult {
    let mut found = LookupResult::default();
    for (email, table) in [
        ("user@crm.example", Table::SystemUser),
        ("carol@kites.example", Table::Contact),
        ("eve@outside.example", Table::Lead),
    ] {
        let id = Uuid::from_u128(1);
        let person = Person {
            record: PartyReference { table, id },
            active: true,
            account: None,
            changed: None,
        };
        found.add_person(EmailAddress::parse(email).unwrap(), person);
    }
    found.add_email(&serde_json::json!({"activityid": Uuid::from_u128(90), "messageid": "<tracked@x>", "statecode": 1}));
    found
}

fn folders_of_the_mailbox() -> mailboxes::Folders {
    let listed = [
        serde_json::json!({"id": "in", "name": "Inbox", "attributes": ["\\Inbox"]}),
        serde_json::json!({"id": "crm", "name": "CRM"}),
        serde_json::json!({"id": "kites", "name": "Kites", "parent_id": "crm"}),
        serde_json::json!({"id": "private", "name": "Private"}),
    ];
    mailboxes::Folders::new(listed.iter().filter_map(wire::folder).collect())
}

/// Returns the policy's verdicts on a message before and after the lookup.
fn verdicts(policy: &Policy, mailbox: &str, object: &serde_json::Value) -> [PolicyVerdict; 2] {
    let grant = serde_json::json!({"id": "g", "email": "ada@ours.example", "provider": "google"});
    let mailboxes = Mailboxes::new(&[wire::grant(&grant).unwrap()]);
    let message = wire::message(&"g".parse().unwrap(), object).unwrap();
    let mailbox_policy = policy.for_mailbox(EmailAddress::parse(mailbox).as_ref());
    let folders = folders_of_the_mailbox();
    [(LookupResult::default(), false), (found(), true)].map(|(found, looked_up)| {
        let internal = InternalAddresses {
            mailboxes: &mailboxes,
            found: &found,
            domains: policy.internal_domains(),
        };
        let case = Case {
            message: &message,
            mailbox_policy: &mailbox_policy,
            folders: &folders,
            internal: &internal,
            looked_up,
        };
        policy.decide(&case).verdict
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_override_never_tracks_a_message_that_the_organisation_skips(settings in settings(), part in part(), message in message()) {
        let mailboxes = [("ada@ours.example".to_owned(), part)].into();
        let document = Document { defaults: settings, mailboxes, ..Document::default() };
        let policy = Policy::of(document, String::new());
        let [before, after] = verdicts(&policy, "ada@ours.example", &message);
        let [organisation_before, organisation] = verdicts(&policy, "ben@ours.example", &message);
        if after == PolicyVerdict::Track {
            prop_assert_eq!(organisation, PolicyVerdict::Track);
        }
        for (before, after) in [(before, after), (organisation_before, organisation)] {
            prop_assert_ne!(after, PolicyVerdict::Open);
            // The lookup does not change a verdict that was not open.
            if before != PolicyVerdict::Open {
                prop_assert_eq!(before == PolicyVerdict::Track, after == PolicyVerdict::Track);
            }
        }
        let of = |mailbox: &str| policy.for_mailbox(EmailAddress::parse(mailbox).as_ref());
        let (narrow, wide) = (of("ada@ours.example"), of("ben@ours.example"));
        prop_assert!(narrow.content >= wide.content);
        prop_assert!(narrow.create_contacts <= wide.create_contacts);
        for person in PEOPLE.iter().filter_map(|text| EmailAddress::parse(text)) {
            prop_assert!(narrow.strips(&person) || !wide.strips(&person));
        }
    }
}

#[test]
fn the_property_is_tested_on_tracked_and_on_skipped_messages() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::HashMap::new();
    for _ in 0..3_000 {
        let settings = settings().new_tree(&mut runner).unwrap().current();
        let message = message().new_tree(&mut runner).unwrap().current();
        let document = Document {
            defaults: settings,
            ..Document::default()
        };
        let policy = Policy::of(document, String::new());
        let [_, verdict] = verdicts(&policy, "ada@ours.example", &message);
        *seen.entry(format!("{verdict:?}")).or_insert(0) += 1;
    }
    // Tracked, and skipped by each rule that these messages can meet: they contain no draft, spam
    // or trash.
    assert_eq!(seen.len(), 1 + RULES.len() - 3, "{seen:?}");
    assert!(seen["Track"] > 100, "{seen:?}");
}
