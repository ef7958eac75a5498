//! Tests how files become attachments, and which files are left out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use emulators::{Fault, Setting};
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::pipeline::Outcome;
use serde_json::{Value, json};

use crate::test_organisation::{
    ADA, ATTACH, BEN, CREATE, TestOrganisation, UPDATE, id_of, nylas_message, people, status,
    throttled, waiting, written,
};

in_both_write_modes!(
    files_are_attached_to_the_email,
    a_file_of_the_largest_size_is_attached_and_a_larger_one_is_omitted,
    a_file_with_a_far_too_large_listed_size_is_not_downloaded,
    a_file_that_dataverse_rejects_is_omitted_and_the_others_are_attached,
    the_file_size_limit_of_the_organisation_is_applied,
    an_empty_file_and_a_missing_file_of_an_old_message_are_omitted,
    an_invalid_file_name_is_replaced_by_a_valid_one,
    an_email_that_is_too_large_for_one_request_is_written_in_steps,
    an_email_whose_write_was_interrupted_is_found_and_completed,
    a_completion_with_a_lost_response_is_found_on_the_retry,
    an_interrupted_email_is_completed_from_another_mailbox_without_duplicate_files,
    a_file_omitted_when_an_open_row_is_completed_is_recorded_on_the_row,
    a_throttled_download_delays_the_message_and_loses_no_file,
    a_recent_message_waits_for_a_missing_file,
    a_file_that_stays_missing_is_omitted_an_hour_after_the_first_claim,
    a_failing_file_is_omitted_twelve_hours_after_the_first_claim,
);

/// Size in bytes of the largest file that fits the organisation's limit once it is Base64.
const LARGEST: usize = 3_932_160;

/// The reason that is stored when one file is left out.
const ONE_LEFT_OUT: Option<&str> = Some("left out: attachment");

impl TestOrganisation {
    pub(super) fn attach(&self, grant: &str, message: &str, id: &str, name: &str, bytes: &[u8]) {
        let object = json!({"id": id, "filename": name, "content_type": "application/pdf"});
        self.emulators
            .nylas()
            .add_attachment(grant, message, object, bytes.to_vec());
    }

    fn file_names(&self) -> Vec<String> {
        let attachments = self.attachments();
        attachments
            .iter()
            .map(|file| file["filename"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn files_are_attached_to_the_email(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.attach(ADA, "m1", "a/1+=", "offer.pdf", b"%PDF-1.7 two red kites");
    let inline = json!({
        "id": "a2", "filename": "logo.png", "content_type": "image/png; name=\"logo.png\"", "content_id": "<logo@kites>", "is_inline": true,
    });
    organisation
        .emulators
        .nylas()
        .add_attachment(ADA, "m1", inline, b"\x89PNG".to_vec());
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    let files = organisation.attachments();
    let shown = |file: &Value| {
        let columns = ["filename", "mimetype", "body", "attachmentcontentid"];
        columns.map(|column| file[column].as_str().unwrap_or("none").to_owned())
    };
    assert_eq!(files.len(), 2);
    assert_eq!(
        shown(&files[0]),
        [
            "offer.pdf",
            "application/pdf",
            &STANDARD.encode("%PDF-1.7 two red kites"),
            "none"
        ]
    );
    assert_eq!(
        shown(&files[1]),
        [
            "logo.png",
            "image/png",
            &STANDARD.encode(b"\x89PNG"),
            "logo@kites"
        ]
    );
    let email = organisation.email();
    assert_eq!(
        (&email["statecode"], &email["attachmentcount"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(email["notifications"], Value::Null);
}

async fn a_file_of_the_largest_size_is_attached_and_a_larger_one_is_omitted(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.attach(ADA, "m1", "a1", "fits.bin", &vec![7; LARGEST]);
    organisation.attach(ADA, "m1", "a2", "too-large.bin", &vec![7; LARGEST + 1]);
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).1,
        ONE_LEFT_OUT
    );
    assert_eq!(organisation.file_names(), ["fits.bin"]);
    let email = organisation.email();
    assert_eq!(
        (&email["statecode"], &email["notifications"]),
        (&json!(1), &json!(1))
    );
}

async fn a_file_with_a_far_too_large_listed_size_is_not_downloaded(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m0", &json!({})));
    organisation.deliver_one(ADA, "m0").await;
    let large = json!({"id": "a1", "filename": "film.mov", "content_type": "video/mp4", "size": 2 * LARGEST + 1});
    organisation.put(ADA, nylas_message("m1", &json!({"attachments": [large]})));
    let before = organisation.emulators.nylas().requests();
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).1,
        ONE_LEFT_OUT
    );
    assert_eq!(
        organisation.emulators.nylas().requests(),
        before + 1,
        "only the message is fetched"
    );
}

async fn a_file_that_dataverse_rejects_is_omitted_and_the_others_are_attached(mode: WriteMode) {
    for bare in [false, true] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        organisation
            .emulators
            .dataverse()
            .set_setting(Setting::BareChangeSetErrors(bare));
        organisation.put(ADA, nylas_message("m1", &json!({})));
        organisation.attach(ADA, "m1", "a1", "first.pdf", b"one");
        organisation.attach(ADA, "m1", "a2", "setup.EXE", b"two");
        organisation.attach(ADA, "m1", "a3", "third.pdf", b"three");
        assert_eq!(
            written(&organisation.deliver_one(ADA, "m1").await).1,
            ONE_LEFT_OUT
        );
        assert_eq!(organisation.file_names(), ["first.pdf", "third.pdf"]);
        let email = organisation.email();
        assert_eq!(
            (&email["statecode"], &email["notifications"]),
            (&json!(1), &json!(1))
        );
    }
}

async fn the_file_size_limit_of_the_organisation_is_applied(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation
        .emulators
        .dataverse()
        .set_setting(Setting::MaxUploadFileSize(1_000));
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.attach(ADA, "m1", "a1", "fits.bin", &[7; 750]);
    organisation.attach(ADA, "m1", "a2", "too-large.bin", &[7; 751]);
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).1,
        ONE_LEFT_OUT
    );
    assert_eq!(organisation.file_names(), ["fits.bin"]);
}

async fn an_empty_file_and_a_missing_file_of_an_old_message_are_omitted(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    // The message is old, so the pipeline does not wait for its missing file.
    organisation.later(TimeDelta::days(1));
    let named =
        json!({"id": "a1", "filename": "gone.pdf", "content_type": "application/pdf", "size": 10});
    organisation.put(ADA, nylas_message("m1", &json!({"attachments": [named]})));
    organisation.attach(ADA, "m1", "a2", "empty.pdf", b"");
    organisation.attach(ADA, "m1", "a3", "here.pdf", b"here");
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, Some("left out: 2 × attachment"));
    assert_eq!(organisation.file_names(), ["here.pdf"]);
    assert_eq!(organisation.email()["notifications"], 1);
}

async fn an_invalid_file_name_is_replaced_by_a_valid_one(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let long = format!("{}.pdf", "x".repeat(300));
    for (id, name) in [
        ("a1", "../../a:b*?\"<c>|d.pdf"),
        ("a2", ""),
        ("a3", long.as_str()),
        ("a4", "\u{0}\u{fffe}.pdf"),
    ] {
        organisation.attach(ADA, "m1", id, name, b"x");
    }
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    let cut = format!("{}.pdf", "x".repeat(251));
    assert_eq!(
        organisation.file_names(),
        [
            ".._.._a_b____c__d.pdf",
            "attachment-2",
            cut.as_str(),
            "__.pdf"
        ]
    );
}

/// Puts a message with three files. Each fits into 8 MiB as Base64, but all three together do not.
async fn large_mail(mode: WriteMode, grant: &str) -> TestOrganisation {
    let organisation = TestOrganisation::start_in(mode).await;
    put_large(&organisation, grant, "m1");
    organisation
}

fn put_large(organisation: &TestOrganisation, grant: &str, id: &str) {
    let to = people(&["ada@ours.example", "ben@ours.example"]);
    let same_id = json!([{"name": "Message-ID", "value": "<large@kites.example>"}]);
    organisation.put(
        grant,
        nylas_message(id, &json!({"to": to, "headers": same_id})),
    );
    for n in 1..=3 {
        organisation.attach(
            grant,
            id,
            &format!("{grant}-{n}"),
            &format!("{n}.bin"),
            &vec![n; 2_200_000],
        );
    }
}

const ALL_THREE: [&str; 3] = ["1.bin", "2.bin", "3.bin"];

async fn an_email_that_is_too_large_for_one_request_is_written_in_steps(mode: WriteMode) {
    let mut organisation = large_mail(mode, ADA).await;
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(organisation.file_names(), ALL_THREE);
    assert_eq!(organisation.email()["statecode"], 1);
    assert_eq!(
        organisation.emulators.dataverse().requests().total,
        6,
        "a lookup, the email, three files, the completion"
    );
}

async fn an_email_whose_write_was_interrupted_is_found_and_completed(mode: WriteMode) {
    for (step, fault, missing) in [
        (CREATE, Fault::ResetAfterCommit, 3),
        (ATTACH, Fault::ResetBefore, 3),
        (ATTACH, Fault::ResetAfterCommit, 2),
        (UPDATE, Fault::ResetBefore, 0),
    ] {
        let at = format!("{fault:?} at {step}");
        let mut organisation = large_mail(mode, ADA).await;
        organisation.fail_dataverse_at(step, fault);
        waiting(&organisation.deliver_one(ADA, "m1").await);
        assert_eq!(
            organisation.email()["statecode"],
            0,
            "{at}: the row is left Open"
        );
        organisation.lose_ledger().await;
        let requests = |organisation: &TestOrganisation| {
            let dataverse = organisation.emulators.dataverse().requests().total;
            (dataverse, organisation.pipeline.nylas.requests())
        };
        let before = requests(&organisation);
        let outcome = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(
            written(&outcome),
            (id_of(&organisation.email()), None),
            "{at}"
        );
        let after = requests(&organisation);
        assert_eq!(
            (after.0 - before.0, after.1 - before.1),
            (5 + missing, 1 + missing),
            "{at}: a lookup, the stored files, the email, its state, the completion, and each missing file"
        );
        assert_eq!(organisation.file_names(), ALL_THREE, "{at}");
        assert_eq!(organisation.email()["statecode"], 1, "{at}");
    }
}

async fn a_completion_with_a_lost_response_is_found_on_the_retry(mode: WriteMode) {
    let mut organisation = large_mail(mode, ADA).await;
    organisation.fail_dataverse_at(UPDATE, Fault::ResetAfterCommit);
    waiting(&organisation.deliver_one(ADA, "m1").await);
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, Some("already existed"));
    assert_eq!(organisation.file_names(), ALL_THREE);
}

async fn an_interrupted_email_is_completed_from_another_mailbox_without_duplicate_files(
    mode: WriteMode,
) {
    let mut organisation = large_mail(mode, ADA).await;
    put_large(&organisation, BEN, "m2");
    organisation.fail_dataverse_at(UPDATE, Fault::ResetBefore);
    waiting(&organisation.deliver_one(ADA, "m1").await);
    written(&organisation.deliver_one(BEN, "m2").await);
    assert_eq!(organisation.file_names(), ALL_THREE);
    assert_eq!(organisation.email()["statecode"], 1);
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, Some("already existed"));
}

async fn a_file_omitted_when_an_open_row_is_completed_is_recorded_on_the_row(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    let message = organisation.emulators.nylas().message(ADA, "m1").unwrap();
    let message =
        mailverse::clients::nylas::wire::message(&ADA.parse().unwrap(), &message).unwrap();
    organisation.insert("email", json!({"activityid": message.activity_id(), "subject": "left by a crash", "messageid": "<m1@kites.example>"}));
    organisation.attach(ADA, "m1", "a1", "too-large.bin", &vec![7; LARGEST + 1]);
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).1,
        ONE_LEFT_OUT
    );
    let email = organisation.email();
    assert_eq!(
        (&email["statecode"], &email["notifications"]),
        (&json!(1), &json!(1))
    );
}

async fn a_throttled_download_delays_the_message_and_loses_no_file(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.attach(ADA, "m1", "a1", "offer.pdf", b"offer");
    organisation.fail_nylas_at(
        "/attachments/a1/download",
        throttled("rate_limit_error", 17),
    );
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(waiting(&outcome).0.as_secs(), 17);
    assert!(
        organisation.emails().is_empty(),
        "the email is not written without its file"
    );
    organisation.pause_over();
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(organisation.file_names(), ["offer.pdf"]);
}

/// Puts a message with a file that Nylas does not find.
async fn with_a_missing_file(mode: WriteMode) -> TestOrganisation {
    let organisation = TestOrganisation::start_in(mode).await;
    let named = json!({"id": "a1", "filename": "offer.pdf", "content_type": "application/pdf"});
    organisation.put(ADA, nylas_message("m1", &json!({"attachments": [named]})));
    organisation
}

/// Returns how many seconds a message waits, rounded up.
///
/// A wait that ends at a fixed time is shorter by the milliseconds that the run took.
fn seconds(outcome: &Outcome) -> u64 {
    waiting(outcome)
        .0
        .as_millis()
        .div_ceil(1_000)
        .try_into()
        .unwrap()
}

async fn a_recent_message_waits_for_a_missing_file(mode: WriteMode) {
    let mut organisation = with_a_missing_file(mode).await;
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(seconds(&outcome), 60);
    assert_eq!(
        waiting(&outcome).1,
        "nylas does not find an attachment of the message"
    );
    assert!(
        organisation.emails().is_empty(),
        "the email is not written without its file"
    );
    organisation.later(TimeDelta::minutes(1));
    organisation.attach(ADA, "m1", "a1", "offer.pdf", b"offer");
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(organisation.file_names(), ["offer.pdf"]);
}

async fn a_file_that_stays_missing_is_omitted_an_hour_after_the_first_claim(mode: WriteMode) {
    let mut organisation = with_a_missing_file(mode).await;
    waiting(&organisation.deliver_one(ADA, "m1").await);
    organisation.later(TimeDelta::minutes(59));
    assert_eq!(seconds(&organisation.deliver_one(ADA, "m1").await), 60);
    organisation.later(TimeDelta::minutes(1));
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).1,
        ONE_LEFT_OUT
    );
    assert_eq!(organisation.email()["notifications"], 1);
}

async fn a_failing_file_is_omitted_twelve_hours_after_the_first_claim(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    organisation.attach(ADA, "m1", "a1", "offer.pdf", b"offer");
    for (hours, wait) in [(0, 60), (6, 3_600), (5, 3_600)] {
        organisation.later(TimeDelta::hours(hours));
        organisation.fail_nylas_at("/attachments/a1/download", status(503, "provider_error"));
        let outcome = organisation.deliver_one(ADA, "m1").await;
        assert_eq!(seconds(&outcome), wait);
        let reason = waiting(&outcome).1;
        assert!(reason.starts_with("an attachment failed: nylas is unavailable"));
    }
    organisation.later(TimeDelta::hours(1));
    organisation.fail_nylas_at("/attachments/a1/download", Fault::ResetBefore);
    assert_eq!(
        written(&organisation.deliver_one(ADA, "m1").await).1,
        ONE_LEFT_OUT
    );
    assert_eq!(organisation.email()["notifications"], 1);
}
