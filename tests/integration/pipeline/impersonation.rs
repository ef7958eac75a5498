//! Tests impersonation: rows are written as the application user, unless the policy says as their
//! owner. If impersonation fails, the message is written without it.

use emulators::{Privilege, Setting};
use mailverse::clients::dataverse::emails::WriteMode;
use serde_json::json;
use uuid::Uuid;

use crate::test_organisation::{
    ADA, BEN, CREATE, TestOrganisation, nylas_message, people, status, written,
};

in_both_write_modes!(
    rows_are_written_as_the_application_by_default,
    a_row_is_written_as_its_owner_if_the_policy_says_so,
    without_the_impersonation_privilege_rows_are_written_as_the_application_with_a_note,
    a_row_is_written_as_the_application_if_the_owner_lacks_a_privilege,
    a_row_that_the_owner_may_not_complete_is_completed_as_the_application,
    a_row_of_an_owner_without_an_entra_id_is_written_as_the_application,
    a_row_of_a_mailbox_without_a_user_is_written_as_the_application,
);

/// The reason that is stored if a message could not be written as its owner.
const NAME_LEFT_OUT: Option<&str> = Some("left out: owner's name");

/// Starts a pipeline that impersonates owners, with one message in each of the two mailboxes.
async fn organisation(mode: WriteMode) -> TestOrganisation {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"impersonate": "owner"}));
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let to_ben = json!({"to": people(&["ben@ours.example"])});
    organisation.put(BEN, nylas_message("m2", &to_ben));
    organisation
}

impl TestOrganisation {
    /// Returns `createdby`, `createdonbehalfby` and `ownerid` of a message's row.
    fn written_by(&self, id: &str) -> [Option<Uuid>; 3] {
        let message_id = json!(format!("<{id}@kites.example>"));
        let emails = self.emails();
        let row = emails.iter().find(|row| row["messageid"] == message_id);
        let row = row.unwrap_or_else(|| panic!("no row has the Message-ID of {id}"));
        assert_eq!(row["statecode"], 1, "{id}");
        let user = |column: &str| row[column]["id"].as_str().map(|id| id.parse().unwrap());
        ["createdby", "createdonbehalfby", "ownerid"].map(user)
    }

    fn application(&self) -> Uuid {
        let users = self.emulators.dataverse().rows("systemuser");
        let user = users.iter().find(|row| row["applicationid"].is_string());
        user.unwrap()["systemuserid"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    fn withhold(&self, withheld: Setting) {
        self.emulators.dataverse().set_setting(withheld);
    }
}

async fn rows_are_written_as_the_application_by_default(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    organisation.set(&json!({}));
    written(&organisation.deliver_one(ADA, "m1").await);
    let (application, ada) = (organisation.application(), organisation.people.ada);
    assert_eq!(
        organisation.written_by("m1"),
        [Some(application), None, Some(ada)]
    );
}

async fn a_row_is_written_as_its_owner_if_the_policy_says_so(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    organisation.put(ADA, nylas_message("m3", &json!({})));
    let before = organisation.emulators.dataverse().requests().total;
    let outcomes = organisation
        .deliver(&[(ADA, "m1"), (BEN, "m2"), (ADA, "m3")])
        .await;
    for outcome in &outcomes {
        assert_eq!(written(outcome).1, None);
    }
    if mode == WriteMode::ChangeSet {
        let requests = organisation.emulators.dataverse().requests().total - before;
        assert_eq!(requests, 3, "a lookup, and a batch for each user");
    }
    let application = Some(organisation.application());
    let (ada, ben) = (Some(organisation.people.ada), Some(organisation.people.ben));
    assert_eq!(organisation.written_by("m1"), [ada, application, ada]);
    assert_eq!(organisation.written_by("m2"), [ben, application, ben]);
    assert_eq!(organisation.written_by("m3"), [ada, application, ada]);
}

async fn without_the_impersonation_privilege_rows_are_written_as_the_application_with_a_note(
    mode: WriteMode,
) {
    let mut organisation = organisation(mode).await;
    let privilege = (Privilege::ActOnBehalf, "systemuser");
    organisation.withhold(Setting::Withheld(vec![privilege]));
    organisation.put(ADA, nylas_message("m3", &json!({})));
    let before = organisation.emulators.dataverse().requests().total;
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m3")]).await;
    for outcome in &outcomes {
        assert_eq!(written(outcome).1, NAME_LEFT_OUT);
    }
    if mode == WriteMode::ChangeSet {
        let requests = organisation.emulators.dataverse().requests().total - before;
        assert_eq!(requests, 3, "a lookup, a rejected batch, and another batch");
    }
    let (application, ada) = (organisation.application(), organisation.people.ada);
    for id in ["m1", "m3"] {
        assert_eq!(
            organisation.written_by(id),
            [Some(application), None, Some(ada)]
        );
    }
}

async fn a_row_is_written_as_the_application_if_the_owner_lacks_a_privilege(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    let create = (Privilege::Create, "activity");
    organisation.withhold(Setting::WithheldFromUsers(vec![create]));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, NAME_LEFT_OUT);
    let (application, ada) = (organisation.application(), organisation.people.ada);
    assert_eq!(
        organisation.written_by("m1"),
        [Some(application), None, Some(ada)]
    );
}

async fn a_row_that_the_owner_may_not_complete_is_completed_as_the_application(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    let write = (Privilege::Write, "activity");
    organisation.withhold(Setting::WithheldFromUsers(vec![write]));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, NAME_LEFT_OUT);
    assert_eq!(organisation.emails().len(), 1);
    let [_, _, owner] = organisation.written_by("m1");
    assert_eq!(owner, Some(organisation.people.ada));
}

async fn a_row_of_an_owner_without_an_entra_id_is_written_as_the_application(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    organisation.emulators.nylas().add_grant(emulators::Grant {
        id: "grant-eve".to_owned(),
        email: "eve@ours.example".to_owned(),
        provider: "imap".to_owned(),
        aliases: Vec::new(),
        status: "valid".to_owned(),
    });
    let row = json!({"lastname": "Eve", "internalemailaddress": "eve@ours.example"});
    let eve = organisation.insert("systemuser", row);
    let application = organisation.application();
    organisation.put("grant-eve", nylas_message("m4", &json!({})));
    let outcome = organisation.deliver_one("grant-eve", "m4").await;
    assert_eq!(written(&outcome).1, NAME_LEFT_OUT);
    assert_eq!(
        organisation.written_by("m4"),
        [Some(application), None, Some(eve)]
    );
}

async fn a_row_of_a_mailbox_without_a_user_is_written_as_the_application(mode: WriteMode) {
    let mut organisation = organisation(mode).await;
    organisation.emulators.nylas().add_grant(emulators::Grant {
        id: "office".to_owned(),
        email: "office@ours.example".to_owned(),
        provider: "imap".to_owned(),
        aliases: Vec::new(),
        status: "valid".to_owned(),
    });
    organisation.put("office", nylas_message("m5", &json!({})));
    let outcome = organisation.deliver_one("office", "m5").await;
    assert_eq!(written(&outcome).1, None);
    let application = Some(organisation.application());
    assert_eq!(
        organisation.written_by("m5"),
        [application, None, application]
    );
}

#[tokio::test]
async fn a_batch_rejected_for_its_size_is_repeated_as_the_owner() {
    let mut organisation = organisation(WriteMode::ChangeSet).await;
    organisation.put(ADA, nylas_message("m3", &json!({})));
    // Dataverse rejects the whole batch for its size. It is repeated message by message, still as
    // the owner.
    organisation.fail_dataverse_at(CREATE, status(413, "0x8004418A"));
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m3")]).await;
    for outcome in &outcomes {
        assert_eq!(written(outcome).1, None);
    }
    let ada = Some(organisation.people.ada);
    assert_eq!(
        [
            organisation.written_by("m1")[0],
            organisation.written_by("m3")[0]
        ],
        [ada; 2]
    );
}
