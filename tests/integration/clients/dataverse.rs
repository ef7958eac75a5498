//! Tests of the Dataverse client.

use emulators::{Emulators, Fault};
use mailverse::clients::dataverse::email_row::EmailWrite;
use mailverse::clients::dataverse::emails::CreateOutcome;
use mailverse::clients::dataverse::error::DataverseError;
use mailverse::clients::dataverse::metadata::table_names::TableNames;
use mailverse::clients::dataverse::records::{PartyReference, RecordReference, RowState, Table};
use mailverse::clients::dataverse::session::Session;
use mailverse::clients::dataverse::{AccessToken, DataverseClient};
use mailverse::clients::retry::RetryAdvice;
use mailverse::lookup::request::LookupRequest;
use mailverse::lookup::result::LookupResult;
use mailverse::model::address::EmailAddress;
use mailverse::model::ids::ActivityId;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::after;
use crate::test_organisation::{status, throttled};

struct Bench {
    emulators: Emulators,
    client: DataverseClient,
    token: AccessToken,
}

type Written = Vec<Result<CreateOutcome, DataverseError>>;

impl Bench {
    async fn start() -> Self {
        let emulators = Emulators::start().await.unwrap();
        let http = mailverse::clients::http::client().unwrap();
        let client = DataverseClient::new(http, &emulators.dataverse().url().parse().unwrap());
        let token = emulators
            .entra()
            .issue_token(&emulators.dataverse().url(), 600)
            .into();
        Self {
            emulators,
            client,
            token,
        }
    }

    /// Returns a separate session for each call, so that a failure does not end the session of the
    /// next call.
    fn session(&self) -> Session {
        Session::new(self.token.clone())
    }

    async fn write(&self, emails: &[EmailWrite]) -> Written {
        self.client.write(&self.session(), emails).await
    }

    /// Returns the error of a write and of a lookup while Dataverse fails in this way.
    async fn failing(&self, fault: &Fault) -> DataverseError {
        self.emulators.dataverse().fail_next(fault.clone());
        let written = self
            .write(&[email(1)])
            .await
            .remove(0)
            .expect_err("the write should fail");
        self.emulators.dataverse().fail_next(fault.clone());
        let looked_up = self
            .look_up(&["x@kites.example"])
            .await
            .err()
            .expect("the lookup should fail");
        assert_eq!(
            written, looked_up,
            "write and lookup should return the same error"
        );
        written
    }

    async fn look_up(&self, addresses: &[&str]) -> Result<LookupResult, DataverseError> {
        let lookup_request = LookupRequest {
            addresses: addresses.iter().map(|text| address(text)).collect(),
            ..LookupRequest::default()
        };
        self.client.look_up(&self.session(), &lookup_request).await
    }

    fn emails(&self) -> usize {
        self.emulators.dataverse().rows("email").len()
    }
}

fn address(text: &str) -> EmailAddress {
    EmailAddress::parse(text).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

fn email(n: u128) -> EmailWrite {
    let id = Uuid::from_u128(n);
    EmailWrite {
        activity_id: ActivityId::new(id),
        row: object(json!({"activityid": id, "subject": "Kites", "directioncode": false})),
        attachments: Vec::new(),
        completion: object(json!({"statecode": 1, "statuscode": 4})),
    }
}

#[tokio::test]
async fn a_429_postpones_by_its_retry_after() {
    let bench = Bench::start().await;
    for code in ["0x80072322", "0x80072321", "0x80072326", ""] {
        let error = bench.failing(&throttled(code, 31)).await;
        assert_eq!(error.retry_advice(), after(31), "{code}");
    }
    assert_eq!(bench.emails(), 0);
}

#[tokio::test]
async fn reaching_the_rate_limit_of_dataverse_postpones_the_message() {
    let bench = Bench::start().await;
    bench
        .emulators
        .dataverse()
        .set_setting(emulators::Setting::RequestsPerFiveMinutes(1));
    assert_eq!(bench.write(&[email(1)]).await, [Ok(CreateOutcome::Created)]);
    let error = bench.write(&[email(2)]).await.remove(0).unwrap_err();
    let RetryAdvice::Postpone(wait) = error.retry_advice() else {
        panic!("{error}");
    };
    assert!((1..=301).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn a_5xx_a_deadlock_and_a_busy_server_are_outages() {
    let bench = Bench::start().await;
    for fault in [
        status(500, ""),
        status(502, ""),
        status(503, ""),
        status(504, ""),
        status(500, "0x80044150"),
        status(500, "0x80044151"),
        status(400, "0x80040216"),
        status(408, ""),
    ] {
        let error = bench.failing(&fault).await;
        assert!(
            matches!(error, DataverseError::Unavailable { .. }),
            "{fault:?}: {error}"
        );
        assert_eq!(error.retry_advice(), RetryAdvice::Soon, "{fault:?}");
    }
}

#[tokio::test]
async fn a_broken_connection_is_an_outage_and_its_error_contains_no_url() {
    let bench = Bench::start().await;
    let error = bench.failing(&Fault::ResetBefore).await;
    assert_eq!(error.retry_advice(), RetryAdvice::Soon);
    assert!(!error.to_string().contains("http://"), "{error}");
}

#[tokio::test]
async fn a_repeated_write_finds_the_row_whose_response_was_lost() {
    let bench = Bench::start().await;
    bench
        .emulators
        .dataverse()
        .fail_next(Fault::ResetAfterCommit);
    assert!(bench.write(&[email(1)]).await[0].is_err());
    assert_eq!(
        bench.write(&[email(1)]).await,
        [Ok(CreateOutcome::AlreadyExisted)]
    );
    assert_eq!(bench.emails(), 1);
}

#[tokio::test]
async fn a_401_rejects_the_token_and_a_403_names_the_missing_application_user() {
    let bench = Bench::start().await;
    bench.emulators.entra().revoke_all();
    assert_eq!(
        bench.write(&[email(1)]).await,
        [Err(DataverseError::TokenRejected)]
    );
    assert_eq!(
        bench.look_up(&["x@y.example"]).await.err(),
        Some(DataverseError::TokenRejected)
    );
    for expired in [0, -1] {
        let url = bench.emulators.dataverse().url();
        let token = bench.emulators.entra().issue_token(&url, expired).into();
        let written = bench.client.write(&Session::new(token), &[email(1)]).await;
        assert_eq!(written, [Err(DataverseError::TokenRejected)]);
    }
    let bench = Bench::start().await;
    bench.emulators.dataverse().remove_application_user();
    let error = bench.write(&[email(1)]).await.remove(0).unwrap_err();
    assert_eq!(error.retry_advice(), RetryAdvice::Never);
    assert!(
        error.to_string().contains("add it as an application user"),
        "{error}"
    );
}

#[tokio::test]
async fn a_write_that_refers_to_a_deleted_row_fails_as_stale_and_is_retried() {
    let bench = Bench::start().await;
    let mut stale = email(1);
    let gone = format!("/contacts({})", Uuid::from_u128(99));
    stale.row.insert(
        "regardingobjectid_contact_email@odata.bind".to_owned(),
        json!(gone),
    );
    let results = bench.write(&[stale, email(2)]).await;
    let error = results[0].as_ref().unwrap_err();
    assert!(matches!(error, DataverseError::Stale { .. }), "{error}");
    assert_eq!(error.retry_advice(), RetryAdvice::Soon);
    assert_eq!(
        results[1],
        Ok(CreateOutcome::Created),
        "the other message should be written"
    );
}

#[tokio::test]
async fn a_permanent_rejection_names_its_code_and_does_not_affect_other_messages() {
    for bare in [false, true] {
        let bench = Bench::start().await;
        bench
            .emulators
            .dataverse()
            .set_setting(emulators::Setting::BareChangeSetErrors(bare));
        let mut poison = email(2);
        poison
            .row
            .insert("subject".to_owned(), json!("x".repeat(801)));
        let results = bench.write(&[email(1), poison, email(3)]).await;
        assert_eq!(results[0], Ok(CreateOutcome::Created));
        let error = results[1].as_ref().unwrap_err();
        assert!(error.to_string().contains("400 0x80044331"), "{error}");
        assert_eq!(error.retry_advice(), RetryAdvice::Never);
        assert_eq!(results[2], Ok(CreateOutcome::Created));
        assert_eq!(
            bench.emails(),
            2,
            "nothing of the rejected message should be stored"
        );
    }
}

#[tokio::test]
async fn a_413_for_several_emails_splits_the_batch_and_a_413_for_one_is_final() {
    let bench = Bench::start().await;
    bench
        .emulators
        .dataverse()
        .fail_next(status(413, "0x8004418A"));
    assert_eq!(
        bench.write(&[email(1), email(2)]).await,
        [Ok(CreateOutcome::Created), Ok(CreateOutcome::Created)]
    );
    bench.emulators.dataverse().fail_next(status(413, ""));
    let error = bench.write(&[email(3)]).await.remove(0).unwrap_err();
    assert_eq!(
        (&error, error.retry_advice()),
        (&DataverseError::TooLarge, RetryAdvice::Never)
    );
}

#[tokio::test]
async fn a_response_that_is_not_a_batch_is_an_outage() {
    let bench = Bench::start().await;
    let error = bench.failing(&status(200, "")).await;
    assert!(
        matches!(error, DataverseError::Unavailable { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn each_part_of_a_batch_has_its_own_failure_and_retry_after() {
    let bench = Bench::start().await;
    // Each email has two operations, so the second email's POST is the third operation.
    bench
        .emulators
        .dataverse()
        .fail_operation(2, throttled("0x80072322", 44));
    let results = bench.write(&[email(1), email(2), email(3)]).await;
    assert_eq!(
        (&results[0], &results[2]),
        (&Ok(CreateOutcome::Created), &Ok(CreateOutcome::Created))
    );
    assert_eq!(results[1].as_ref().unwrap_err().retry_advice(), after(44));
}

#[tokio::test]
async fn a_failed_query_of_a_lookup_fails_the_whole_lookup() {
    let bench = Bench::start().await;
    bench
        .emulators
        .dataverse()
        .fail_operation(1, status(503, ""));
    let error = bench
        .look_up(&["x@kites.example"])
        .await
        .err()
        .expect("the lookup should fail as a whole");
    assert_eq!(error.retry_advice(), RetryAdvice::Soon);
}

#[tokio::test]
async fn a_lookup_reads_every_page() {
    let bench = Bench::start().await;
    for n in 0..5_003_u128 {
        let row = json!({"contactid": Uuid::from_u128(n + 1), "lastname": "x", "emailaddress1": "all@kites.example"});
        bench.emulators.dataverse().insert("contact", row).unwrap();
    }
    let found = bench.look_up(&["all@kites.example"]).await.unwrap();
    assert_eq!(found.people(&address("all@kites.example")).len(), 5_003);
}

#[tokio::test]
async fn a_regarding_is_filled_only_if_the_row_has_not_changed_since_it_was_read() {
    let bench = Bench::start().await;
    bench.write(&[email(1)]).await;
    let contact = bench
        .emulators
        .dataverse()
        .insert("contact", json!({"lastname": "x"}))
        .unwrap();
    let record = RecordReference::from(PartyReference {
        table: Table::Contact,
        id: contact,
    });
    let names = TableNames::documented("contact").unwrap();
    let seen = bench
        .client
        .existing(&bench.session(), email(1).activity_id)
        .await
        .unwrap();
    assert_eq!(seen.state, RowState::Completed);
    assert!(!seen.has_regarding);
    bench
        .client
        .fill_regarding(&bench.session(), &seen, &record, &names)
        .await
        .unwrap();
    let again = bench
        .client
        .fill_regarding(&bench.session(), &seen, &record, &names)
        .await;
    assert!(
        matches!(again, Err(DataverseError::Stale { .. })),
        "{again:?}"
    );
    let now = bench
        .client
        .existing(&bench.session(), email(1).activity_id)
        .await
        .unwrap();
    assert!(now.has_regarding);
}

#[tokio::test]
async fn an_empty_lookup_or_write_sends_no_request() {
    let bench = Bench::start().await;
    bench.look_up(&[]).await.unwrap();
    assert_eq!(bench.write(&[]).await, []);
    assert_eq!(bench.emulators.dataverse().requests().total, 0);
}

/// Serves pages of attachments: the page `n` of the query string has one row and the link
/// `links[n]`.
async fn pages_with_links(links: &'static [&'static str]) -> DataverseClient {
    use axum::extract::Query;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let base = url.clone();
    let page = move |query: Query<std::collections::HashMap<String, String>>| async move {
        let number: usize = query.get("page").map_or(0, |page| page.parse().unwrap());
        let mut body = json!({"value": [{
            "activitymimeattachmentid": Uuid::from_u128(number as u128),
            "filename": format!("{number}.pdf"), "filesize": number, "_objectid_value": Uuid::from_u128(7),
        }]});
        if let Some(link) = links.get(number).filter(|link| !link.is_empty()) {
            body["@odata.nextLink"] = json!(link.replace("HOST", &base));
        }
        axum::Json(body)
    };
    let router = axum::Router::new().fallback(page);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let http = mailverse::clients::http::client().unwrap();
    DataverseClient::new(http, &url.parse().unwrap())
}

const PAGE_1: &str = "HOST/api/data/v9.2/activitymimeattachments?page=1";
const PAGE_2: &str = "HOST/api/data/v9.2/activitymimeattachments?page=2";

#[tokio::test]
async fn the_files_and_attachment_keys_of_an_email_are_read_from_all_pages() {
    let client = pages_with_links(&[PAGE_1, PAGE_2, ""]).await;
    let session = Session::new(AccessToken::from("token"));
    let email = ActivityId::new(Uuid::from_u128(7));
    let files = client.files(&session, &[email]).await.unwrap();
    assert_eq!(files[&email].len(), 3);
    let keys = client.attachments(&session, email).await.unwrap();
    assert_eq!(keys, (0..3).map(Uuid::from_u128).collect());
}

#[tokio::test]
async fn a_list_whose_links_go_in_circles_or_elsewhere_is_an_error_and_not_a_part_of_the_rows() {
    let email = ActivityId::new(Uuid::from_u128(7));
    for links in [
        &[PAGE_1, PAGE_1] as &[&str],
        &[PAGE_1, PAGE_2, PAGE_1],
        &["HOST/elsewhere/activitymimeattachments?page=1"],
    ] {
        let client = pages_with_links(links).await;
        let session = Session::new(AccessToken::from("token"));
        let files = client.files(&session, &[email]).await;
        assert!(
            matches!(files, Err(DataverseError::Unavailable { .. })),
            "{links:?}: {files:?}"
        );
        let keys = client.attachments(&session, email).await;
        assert!(
            matches!(keys, Err(DataverseError::Unavailable { .. })),
            "{links:?}: {keys:?}"
        );
    }
}
