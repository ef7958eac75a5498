//! Tests what happens if server-side synchronization, or another client, writes the same message.

use chrono::TimeDelta;
use emulators::Setting;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::model::ids::ActivityId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_organisation::{
    ADA, BEN, CREATE, TestOrganisation, id_of, key, nylas_message, status, to_row, waiting,
    with_a_mail_in, written,
};

in_both_write_modes!(
    an_earlier_external_row_is_adopted,
    an_external_row_written_between_lookup_and_write_replaces_the_own_row,
    a_later_external_row_replaces_the_own_row_and_gets_its_regarding,
    an_external_row_replaces_an_own_draft,
    an_own_draft_with_an_additional_file_is_completed_beside_the_external_row,
    an_own_draft_that_may_not_be_deleted_is_cancelled,
    the_regarding_of_an_external_row_is_kept_when_the_own_row_is_deleted,
    the_own_row_stays_until_it_may_be_deleted,
    the_own_row_stays_if_the_external_row_lacks_one_of_its_files,
    the_own_row_is_deleted_if_the_external_row_has_all_its_files,
    the_own_row_stays_if_a_user_changed_it,
    the_own_row_stays_if_the_external_row_cannot_get_its_regarding,
    the_ledger_items_of_all_copies_name_the_remaining_row,
    a_later_copy_reconciles_the_rows_without_a_backfill,
    a_row_that_changes_during_reconciliation_is_left_for_the_next_attempt,
    the_own_row_stays_if_a_user_changes_it_just_before_it_is_deleted,
    an_own_draft_stays_if_a_user_changes_it_just_before_it_is_deleted,
    an_own_draft_stays_open_if_a_user_changes_it_just_before_it_is_cancelled,
    an_external_draft_or_row_of_another_sender_is_not_reconciled,
);

const DELETE: &str = "DELETE /api/data/v9.2/emails(";
const FILL: &str = "PATCH /api/data/v9.2/emails(";

impl TestOrganisation {
    /// Like [`TestOrganisation::external_row`], but also if we already have a row. This needs an
    /// organisation that lets two emails have the same Message-ID.
    fn theirs_too(&self, changes: &Value) -> Uuid {
        self.let_two_rows_be();
        self.external_row(changes)
    }

    fn let_two_rows_be(&self) {
        let dataverse = self.emulators.dataverse();
        dataverse.set_setting(Setting::UniqueMessageIds(false));
    }

    /// Inserts the row of `m1` as server-side synchronization writes it, and returns its id.
    fn external_row(&self, changes: &Value) -> Uuid {
        let dataverse = self.emulators.dataverse();
        dataverse
            .track_by_server_side_sync("<m1@kites.example>", "carol@kites.example", changes)
            .unwrap()
    }

    /// Like [`TestOrganisation::theirs_too`], without a sender: tests fail if two rows have the
    /// same Message-ID and sender.
    fn theirs_beside(&self, changes: &Value) -> Uuid {
        let mut changes = changes.clone();
        changes["sender"] = Value::Null;
        self.theirs_too(&changes)
    }

    /// Lets 15 minutes pass and runs the scheduled backfill.
    async fn next_list(&mut self) {
        self.later(TimeDelta::minutes(15));
        self.list_mailboxes().await;
    }

    async fn carrier(&self, grant: &str, id: &str) -> (Uuid, String) {
        let entry = self.entry(grant, id).await.unwrap();
        let carrier = entry.activity_id.map(ActivityId::uuid);
        (carrier.unwrap(), entry.reason.unwrap_or_default())
    }

    /// Returns our former row of the message, which the row of another client replaced.
    async fn replaced_row(&self, grant: &str, id: &str) -> Option<Uuid> {
        let stored_message = self
            .pipeline
            .ledger
            .stored_message(&key(grant, id))
            .await
            .unwrap();
        stored_message.unwrap().replaced_row.map(ActivityId::uuid)
    }

    fn attach_to(&self, email: Uuid, name: &str) {
        let file = json!({
            "objectid": to_row("email", email), "objecttypecode": "email", "filename": name, "body": "JVBERg==", "filesize": 4,
        });
        self.insert("activitymimeattachment", file);
    }

    fn mail_with_a_file(&self) {
        self.put(ADA, nylas_message("m1", &json!({})));
        let file = json!({"id": "a1", "filename": "Offer.pdf", "content_type": "application/pdf"});
        let nylas = self.emulators.nylas();
        nylas.add_attachment(ADA, "m1", file, b"%PDF".to_vec());
    }

    fn is_there(&self, id: Uuid) -> bool {
        self.emulators.dataverse().row("email", id).is_some()
    }

    fn regarding(&self, id: Uuid) -> Value {
        let row = self.emulators.dataverse().row("email", id);
        row.expect("the row should still exist")["regardingobjectid"].clone()
    }

    /// Inserts our draft of `m1`, as an interrupted run leaves it, and returns its id.
    fn draft(&self) -> Uuid {
        let message = self.emulators.nylas().message(ADA, "m1").unwrap();
        let message =
            mailverse::clients::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
        let draft = json!({
            "activityid": message.activity_id(), "subject": "x", "messageid": "<m1@kites.example>", "sender": "carol@kites.example",
        });
        self.insert("email", draft)
    }
}

const WITHDRAWN: &str = "another client wrote a row for it; ours was deleted";

async fn an_earlier_external_row_is_adopted(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.mail_with_a_file();
    let external_row = organisation.external_row(&json!({}));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let (row, note) = written(&outcome);
    assert_eq!(row, external_row);
    assert!(
        note.unwrap()
            .ends_with("it has fewer attachments than the message"),
        "{note:?}"
    );
    assert_eq!(
        organisation.email()["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
    organisation.next_list().await;
    assert_eq!(id_of(&organisation.email()), external_row);
}

async fn an_external_row_written_between_lookup_and_write_replaces_the_own_row(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    organisation.let_two_rows_be();
    let dataverse = organisation.emulators.dataverse().clone();
    organisation.before_dataverse_gets(CREATE, async move {
        dataverse
            .track_by_server_side_sync("<m1@kites.example>", "carol@kites.example", &json!({}))
            .unwrap();
    });
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    assert_eq!(organisation.emails().len(), 2);
    organisation.next_list().await;
    let external_row = id_of(&organisation.email());
    assert_ne!(external_row, ours);
    assert_eq!(
        organisation.carrier(ADA, "m1").await,
        (external_row, WITHDRAWN.to_owned())
    );
}

async fn a_later_external_row_replaces_the_own_row_and_gets_its_regarding(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    organisation.later(TimeDelta::minutes(5));
    let external_row = organisation.theirs_too(&json!({}));
    organisation.next_list().await;
    let email = organisation.email();
    assert_eq!(id_of(&email), external_row);
    assert_eq!(
        email["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
    assert_eq!(
        organisation.carrier(ADA, "m1").await,
        (external_row, WITHDRAWN.to_owned())
    );
    assert_eq!(organisation.replaced_row(ADA, "m1").await, Some(ours));
    let before = organisation.emulators.dataverse().requests();
    organisation.next_list().await;
    assert_eq!(
        organisation.emulators.dataverse().requests(),
        before,
        "the row is another client's now, so nothing is requested"
    );
}

async fn an_external_row_replaces_an_own_draft(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = organisation.draft();
    let external_row = organisation.theirs_too(&json!({}));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome), (external_row, Some(WITHDRAWN)));
    assert!(!organisation.is_there(ours));
    assert_eq!(
        organisation.email()["regardingobjectid"],
        to_row("contact", organisation.people.carol),
        "the regarding is the one that was resolved for the message"
    );
}

async fn an_own_draft_with_an_additional_file_is_completed_beside_the_external_row(
    mode: WriteMode,
) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.mail_with_a_file();
    let ours = organisation.draft();
    let external_row = organisation.theirs_beside(&json!({}));
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).0, ours);
    let row = organisation
        .emulators
        .dataverse()
        .row("email", ours)
        .unwrap();
    assert_eq!(
        (&row["statecode"], &row["attachmentcount"]),
        (&json!(1), &json!(1))
    );
    assert!(organisation.is_there(external_row));
}

async fn an_own_draft_that_may_not_be_deleted_is_cancelled(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = organisation.draft();
    let external_row = organisation.theirs_beside(&json!({}));
    organisation.fail_dataverse_at(DELETE, status(403, "0x80040220"));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    let note = "another client wrote a row for it; our draft was cancelled";
    assert_eq!(written(&outcome), (external_row, Some(note)));
    let row = organisation
        .emulators
        .dataverse()
        .row("email", ours)
        .unwrap();
    assert_eq!(
        (&row["statecode"], &row["statuscode"]),
        (&json!(2), &json!(5))
    );
}

async fn the_regarding_of_an_external_row_is_kept_when_the_own_row_is_deleted(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    written(&organisation.deliver_one(ADA, "m1").await);
    let kites = to_row("account", organisation.people.kites);
    let external_row = organisation.theirs_too(&json!({"regardingobjectid": kites}));
    organisation.next_list().await;
    let email = organisation.email();
    assert_eq!(
        (id_of(&email), &email["regardingobjectid"]),
        (external_row, &kites)
    );
}

async fn the_own_row_stays_until_it_may_be_deleted(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    let external_row = organisation.theirs_beside(&json!({}));
    organisation.fail_dataverse_at(DELETE, status(403, "0x80040220"));
    organisation.next_list().await;
    assert!(organisation.is_there(ours) && organisation.is_there(external_row));
    let (carrier, note) = organisation.carrier(ADA, "m1").await;
    assert_eq!(carrier, ours);
    assert!(note.contains("ours could not be deleted"), "{note}");
    let row = organisation
        .emulators
        .dataverse()
        .row("email", external_row)
        .unwrap();
    assert_eq!(
        row["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
    // The role may delete rows now.
    organisation.next_list().await;
    assert_eq!(id_of(&organisation.email()), external_row);
}

async fn the_own_row_stays_if_the_external_row_lacks_one_of_its_files(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.mail_with_a_file();
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    let external_row = organisation.theirs_beside(&json!({}));
    organisation.attach_to(external_row, "another.pdf");
    organisation.next_list().await;
    assert!(organisation.is_there(ours) && organisation.is_there(external_row));
    let (carrier, note) = organisation.carrier(ADA, "m1").await;
    assert_eq!(carrier, ours);
    assert!(
        note.contains("ours has an attachment that it lacks"),
        "{note}"
    );
}

async fn the_own_row_is_deleted_if_the_external_row_has_all_its_files(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.mail_with_a_file();
    written(&organisation.deliver_one(ADA, "m1").await);
    let external_row = organisation.theirs_too(&json!({"statecode": null, "statuscode": null}));
    organisation.attach_to(external_row, "offer.PDF");
    organisation.complete(external_row).await;
    organisation.next_list().await;
    assert_eq!(id_of(&organisation.email()), external_row);
    assert_eq!(organisation.attachments().len(), 1);
}

async fn the_own_row_stays_if_a_user_changed_it(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    organisation.somebody_changes(ours).await;
    let external_row = organisation.theirs_beside(&json!({}));
    organisation.next_list().await;
    assert!(organisation.is_there(ours) && organisation.is_there(external_row));
    let (_, note) = organisation.carrier(ADA, "m1").await;
    assert!(note.contains("a user has changed ours"), "{note}");
    let kites = to_row("account", organisation.people.kites);
    for id in [ours, external_row] {
        let row = organisation.emulators.dataverse().row("email", id).unwrap();
        assert_eq!(
            row["regardingobjectid"], kites,
            "both rows have the user's choice"
        );
    }
}

async fn the_own_row_stays_if_the_external_row_cannot_get_its_regarding(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    let external_row = organisation.theirs_beside(&json!({}));
    organisation.fail_dataverse_at(FILL, status(400, "0x80040265"));
    organisation.next_list().await;
    assert!(organisation.is_there(ours) && organisation.is_there(external_row));
    let (_, note) = organisation.carrier(ADA, "m1").await;
    assert!(
        note.contains("empty regarding could not be filled"),
        "{note}"
    );
}

/// Puts copies of one message into the mailboxes of Ada and Ben.
fn two_copies(organisation: &TestOrganisation) {
    let headers = json!([{"name": "Message-ID", "value": "<m1@kites.example>"}]);
    organisation.put(ADA, nylas_message("m1", &json!({"headers": headers})));
    organisation.put(BEN, nylas_message("m2", &json!({"headers": headers})));
}

async fn the_ledger_items_of_all_copies_name_the_remaining_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    two_copies(&organisation);
    organisation.deliver(&[(ADA, "m1"), (BEN, "m2")]).await;
    let external_row = organisation.theirs_too(&json!({}));
    organisation.next_list().await;
    for (grant, id) in [(ADA, "m1"), (BEN, "m2")] {
        assert_eq!(
            organisation.carrier(grant, id).await.0,
            external_row,
            "{grant}"
        );
    }
    assert_eq!(id_of(&organisation.email()), external_row);
}

async fn a_later_copy_reconciles_the_rows_without_a_backfill(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    two_copies(&organisation);
    written(&organisation.deliver_one(ADA, "m1").await);
    let external_row = organisation.theirs_too(&json!({}));
    let outcome = organisation.deliver_one(BEN, "m2").await;
    assert_eq!(written(&outcome), (external_row, Some(WITHDRAWN)));
    assert_eq!(
        organisation.email()["regardingobjectid"],
        to_row("contact", organisation.people.carol)
    );
}

async fn a_row_that_changes_during_reconciliation_is_left_for_the_next_attempt(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    let external_row = organisation.theirs_beside(&json!({}));
    organisation.fail_dataverse_at(DELETE, status(412, "0x80060882"));
    // After a second, the capacity that the delivery reserved is free again.
    organisation.later(TimeDelta::seconds(1));
    organisation.list_mailboxes().await;
    assert!(organisation.is_there(ours));
    assert_eq!(organisation.carrier(ADA, "m1").await.0, ours);
    two_copies(&organisation);
    organisation.fail_dataverse_at(DELETE, status(503, ""));
    waiting(&organisation.deliver_one(BEN, "m2").await);
    assert_eq!(
        written(&organisation.deliver_one(BEN, "m2").await).0,
        external_row
    );
    organisation.next_list().await;
    assert_eq!(organisation.carrier(ADA, "m1").await.0, external_row);
}

async fn the_own_row_stays_if_a_user_changes_it_just_before_it_is_deleted(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    let external_row = organisation.theirs_beside(&json!({}));
    let change = organisation.somebody_changes(ours);
    organisation.before_dataverse_gets(DELETE, change);
    organisation.next_list().await;
    let kites = to_row("account", organisation.people.kites);
    assert_eq!(organisation.regarding(ours), kites);
    assert!(organisation.is_there(external_row));
    assert_eq!(organisation.carrier(ADA, "m1").await.0, ours);
    // Now the change is seen before the attempt.
    organisation.next_list().await;
    assert!(organisation.is_there(ours) && organisation.is_there(external_row));
    let (carrier, note) = organisation.carrier(ADA, "m1").await;
    assert_eq!(carrier, ours);
    assert!(note.contains("a user has changed ours"), "{note}");
}

async fn an_own_draft_stays_if_a_user_changes_it_just_before_it_is_deleted(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = organisation.draft();
    let external_row = organisation.theirs_beside(&json!({}));
    let change = organisation.somebody_changes(ours);
    organisation.before_dataverse_gets(DELETE, change);
    waiting(&organisation.deliver_one(ADA, "m1").await);
    let kites = to_row("account", organisation.people.kites);
    assert_eq!(organisation.regarding(ours), kites);
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).0, ours);
    assert_eq!(organisation.regarding(ours), kites);
    assert!(organisation.is_there(external_row));
}

async fn an_own_draft_stays_open_if_a_user_changes_it_just_before_it_is_cancelled(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = organisation.draft();
    organisation.theirs_beside(&json!({}));
    organisation.fail_dataverse_at(DELETE, status(403, "0x80040220"));
    let cancel = format!("PATCH /api/data/v9.2/emails({ours})");
    let change = organisation.somebody_changes(ours);
    organisation.before_dataverse_gets(&cancel, change);
    waiting(&organisation.deliver_one(ADA, "m1").await);
    let dataverse = organisation.emulators.dataverse();
    let row = dataverse.row("email", ours).unwrap();
    assert_eq!(row["statecode"], 0);
    let kites = to_row("account", organisation.people.kites);
    assert_eq!(row["regardingobjectid"], kites);
}

async fn an_external_draft_or_row_of_another_sender_is_not_reconciled(mode: WriteMode) {
    let mut organisation = with_a_mail_in(mode).await;
    let ours = written(&organisation.deliver_one(ADA, "m1").await).0;
    organisation.theirs_too(&json!({"sender": "mallory@outside.example"}));
    organisation.theirs_beside(&json!({"statecode": 0, "statuscode": 1}));
    organisation.next_list().await;
    assert_eq!(organisation.emails().len(), 3);
    assert_eq!(organisation.carrier(ADA, "m1").await.0, ours);
}

#[tokio::test]
async fn backfill_checks_for_external_rows_once_per_page_and_only_for_recent_messages() {
    let mut organisation = TestOrganisation::start().await;
    for n in 0..25 {
        organisation.put(ADA, nylas_message(&format!("m{n}"), &json!({})));
    }
    organisation.list_mailboxes().await;
    assert_eq!(organisation.emails().len(), 25);
    for (minutes, expected) in [(15, 1), (15, 1), (29, 1), (1, 0), (60, 0)] {
        organisation.later(TimeDelta::minutes(minutes));
        let before = organisation.emulators.dataverse().requests().total;
        organisation.list_mailboxes().await;
        let asked = organisation.emulators.dataverse().requests().total - before;
        assert_eq!(asked, expected, "{minutes} minutes later");
    }
}
