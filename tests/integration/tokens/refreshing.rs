//! Tests what token-refresher does with each answer of Entra.

use std::time::Duration;

use emulators::{Emulators, Fault};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, date_time_ymd};
use serde_json::{Value, json};
use token_refresher::config::Config;

use super::{CREDENTIAL, Office, after, now};
use crate::test_organisation::{status, throttled};
use crate::tripwire::Tripwire;

/// Opens an office, and returns it with the emulator whose services it needs.
async fn office() -> (Office, Emulators) {
    let emulators = Emulators::start().await.unwrap();
    (Office::open(&emulators).await, emulators)
}

/// Creates a certificate that is valid until the end of `last_year`. Returns the credential with
/// its PEM and its key's, and its DER.
fn certificate(last_year: i32) -> (Value, Vec<u8>) {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_after = date_time_ymd(last_year + 1, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let pem = json!({"certificate_pem": certificate.pem(), "private_key_pem": key.serialize_pem()});
    (pem, certificate.der().to_vec())
}

/// Returns the error text of a run that must fail, and asserts that it contains no client secret.
async fn failure(office: &Office, minutes: i64) -> String {
    let error = office.refresh_at(after(minutes)).await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains(&office.entra.client_secret()), "{text}");
    text
}

/// The cause of a rejection by Entra.
enum Wrong {
    /// A wrong credential.
    Credential(Value),
    /// A credential that is right but expired.
    Expired,
    /// A wrong setting.
    Setting(fn(&mut Config)),
    /// An error code that no setting can cause: either the code builds the scope, or the table does
    /// not have the error code.
    Answer(&'static str),
}

/// The rejections of the error table, row by row (Dataverse facts §16), and one that is not in it.
/// The next test has the outages of the table.
fn refusals() -> [(&'static str, &'static str, Wrong); 8] {
    [
        (
            "invalid_client AADSTS7000215",
            "put the secret's value, not its id",
            Wrong::Credential(json!({"client_secret": "wrong"})),
        ),
        (
            "invalid_client AADSTS7000222",
            "the client secret has expired: make a new one",
            Wrong::Expired,
        ),
        (
            "unauthorized_client AADSTS700016",
            "check ENTRA_CLIENT_ID",
            Wrong::Setting(|config| config.entra_client_id = String::from("nobody")),
        ),
        (
            "invalid_client AADSTS700027",
            "upload the public part",
            Wrong::Credential(certificate(4000).0),
        ),
        (
            "invalid_request AADSTS90002",
            "check ENTRA_TENANT_ID",
            Wrong::Setting(|config| config.entra_tenant_id = String::from("nowhere")),
        ),
        (
            "invalid_scope AADSTS70011",
            "the scope is wrong: check DATAVERSE_URL",
            Wrong::Answer("AADSTS70011"),
        ),
        (
            "invalid_resource AADSTS500011",
            "no organisation at this address: check DATAVERSE_URL",
            Wrong::Setting(|config| {
                config.dataverse_url = "https://other.crm.dynamics.com".parse().unwrap();
            }),
        ),
        (
            "invalid_request AADSTS53003",
            "Microsoft's list",
            Wrong::Answer("AADSTS53003"),
        ),
    ]
}

#[tokio::test]
async fn a_rejected_refresh_fails_at_once_with_a_remedy_and_keeps_the_stored_token() {
    for (code, remedy, wrong) in refusals() {
        let (mut office, _twin) = office().await;
        office.refresh_at(now()).await.unwrap();
        let before = office.tokens().await;
        match wrong {
            Wrong::Credential(credential) => office.put(CREDENTIAL, &credential).await,
            Wrong::Expired => office.entra.expire_secret(&office.entra.client_id()),
            Wrong::Setting(change) => change(&mut office.config),
            Wrong::Answer(code) => office.entra.fail_next(status(400, code)),
        }
        let asked = office.entra.requests();
        let text = failure(&office, 1).await;
        let told = format!("primary: entra rejected the credential: {code}, ");
        assert!(text.starts_with(&told), "{code}: {text}");
        assert!(text.contains(remedy), "{code}: {text}");
        assert_eq!(office.entra.requests(), asked + 1, "Entra was asked once");
        assert_eq!(office.tokens().await, before, "{code}");
    }
}

#[tokio::test]
async fn a_refresh_fails_in_an_outage_only_if_no_stored_token_outlives_it() {
    let (office, _twin) = office().await;
    let outages = || {
        [
            throttled("temporarily_unavailable", 9),
            status(503, ""),
            status(400, "AADSTS50196"),
            Fault::ResetBefore,
        ]
    };
    for fault in outages() {
        let what = format!("{fault:?}");
        office.entra.fail_next(fault);
        let text = failure(&office, 0).await;
        assert!(
            text.contains("entra is unavailable"),
            "{what}, no token yet: {text}"
        );
    }
    office.refresh_at(now()).await.unwrap();
    let before = office.tokens().await;
    for fault in outages() {
        let what = format!("{fault:?}");
        office.entra.fail_next(fault.clone());
        let kept = office.refresh_at(after(20)).await.unwrap();
        assert!(!kept.tokens[0].renewed, "{what}");
        office.entra.fail_next(fault);
        failure(&office, 40).await;
        assert_eq!(office.tokens().await, before, "{what}");
    }
    assert!(office.refresh_at(after(60)).await.unwrap().tokens[0].renewed);
    assert_ne!(office.tokens().await, before);
}

#[tokio::test]
async fn a_certificate_gets_a_token_like_a_secret() {
    let (office, _twin) = office().await;
    let (pem, der) = certificate(4000);
    let entra = &office.entra;
    entra.upload_certificate(&entra.client_id(), &der);
    office.put(CREDENTIAL, &pem).await;
    for minutes in [0, 20] {
        // The emulator's clock is that of the machine.
        let now = office.clock.now() + chrono::TimeDelta::minutes(minutes);
        office
            .clock
            .advance(Duration::from_secs(60 * minutes.unsigned_abs()));
        let refreshed = office.refresh_at(now).await.unwrap();
        assert!(refreshed.tokens[0].renewed);
    }
    assert_eq!(entra.requests(), 2, "each request has a new signature");
}

#[tokio::test]
async fn an_unusable_certificate_is_reported_without_a_request_to_entra() {
    let (office, _twin) = office().await;
    let ((expired, _), (one, _), (other, _)) =
        (certificate(2024), certificate(4000), certificate(4000));
    let mismatched = json!({
        "certificate_pem": one["certificate_pem"], "private_key_pem": other["private_key_pem"],
    });
    for (credential, expected) in [
        (expired, "the certificate expired on 2025-01-01"),
        (
            mismatched,
            "private_key_pem is not the key of certificate_pem",
        ),
    ] {
        office.put(CREDENTIAL, &credential).await;
        let text = failure(&office, 0).await;
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(office.entra.requests(), 0);
}

#[tokio::test]
async fn a_wrong_clock_is_reported_for_a_certificate_and_does_not_affect_a_secret() {
    let (office, _twin) = office().await;
    let (pem, der) = certificate(4000);
    let entra = &office.entra;
    entra.upload_certificate(&entra.client_id(), &der);
    let secret = json!({"client_secret": entra.client_secret()});
    office.clock.stop();
    for minutes in [-10, 10] {
        let ours = office.clock.now() + chrono::TimeDelta::minutes(minutes);
        office.put(CREDENTIAL, &pem).await;
        let error = office.refresh_at(ours).await.unwrap_err().to_string();
        assert!(
            error.contains("AADSTS700024") && error.contains("correct the clock"),
            "{error}"
        );
        office.put(CREDENTIAL, &secret).await;
        let refreshed = office.refresh_at(ours).await.unwrap();
        let end = ours + chrono::TimeDelta::seconds(3_599);
        assert_eq!(
            refreshed.tokens[0].expires_at, end,
            "the expiry time is by the local clock"
        );
    }
}

#[tokio::test]
async fn the_token_of_each_application_user_is_renewed_independently() {
    let (office, _twin) = office().await;
    let entra = &office.entra;
    let second = entra.register();
    let credential = |secret: &str| {
        json!({
            "client_secret": entra.client_secret(),
            "application_users": {"second": {"client_id": second, "client_secret": secret}},
        })
    };
    let secret = entra.client_secret_of(&second).unwrap();
    office.put(CREDENTIAL, &credential(&secret)).await;
    let names: Vec<String> = office
        .refresh_at(now())
        .await
        .unwrap()
        .tokens
        .into_iter()
        .map(|token| token.application_user)
        .collect();
    assert_eq!(names, ["primary", "second"]);
    let before = office.tokens().await;
    assert_ne!(
        before["access_token"],
        before["application_users"]["second"]["access_token"]
    );

    office.put(CREDENTIAL, &credential("wrong")).await;
    let text = failure(&office, 20).await;
    assert!(
        text.starts_with("second: ") && text.contains("AADSTS7000215"),
        "{text}"
    );
    let then = office.tokens().await;
    assert_eq!(
        then["application_users"], before["application_users"],
        "the second user's token is kept"
    );
    assert_ne!(
        then["access_token"], before["access_token"],
        "the primary user's token is renewed"
    );

    office
        .put(CREDENTIAL, &json!({"client_secret": entra.client_secret()}))
        .await;
    office.refresh_at(after(40)).await.unwrap();
    assert!(
        office.tokens().await.get("application_users").is_none(),
        "the token is removed with its credential"
    );
}

#[tokio::test]
async fn an_earlier_requested_token_never_replaces_a_later_one() {
    let (office, _twin) = office().await;
    office.refresh_at(after(1)).await.unwrap();
    let later = office.tokens().await;
    assert!(!office.refresh_at(now()).await.unwrap().tokens[0].renewed);
    assert_eq!(office.tokens().await, later);
}

#[tokio::test]
async fn the_later_requested_token_stays_stored_even_if_it_expires_earlier() {
    for lifetimes in [[90, 60], [60, 90]] {
        // The earlier request comes second if its process was slow.
        for earlier_is_stored_first in [true, false] {
            let (office, _emulators) = office().await;
            let mut requests = [(after(0), lifetimes[0]), (after(1), lifetimes[1])];
            if !earlier_is_stored_first {
                requests.reverse();
            }
            let what = format!("{requests:?}");
            let mut renewed = Vec::new();
            for (requested_at, minutes) in requests {
                office.entra.set_lifetime(60 * minutes);
                let refreshed = office.refresh_at(requested_at).await.unwrap();
                renewed.push(refreshed.tokens[0].renewed);
            }
            assert_eq!(renewed, [true, earlier_is_stored_first], "{what}");
            let stored = office.tokens().await;
            assert_eq!(
                (
                    stored["requested_at"].as_i64(),
                    stored["expires_at"].as_i64()
                ),
                (
                    Some(after(1).timestamp_millis()),
                    Some(after(1 + lifetimes[1]).timestamp())
                ),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn of_two_concurrent_refreshes_the_later_requested_token_stays_stored() {
    let (office, _twin) = office().await;
    office.refresh_at(after(-20)).await.unwrap();
    let line = Tripwire::before(&office.moto.endpoint).await;
    let slow = office
        .secrets
        .config()
        .to_builder()
        .endpoint_url(line.url());
    let slow = aws_sdk_secretsmanager::Client::from_conf(slow.build());
    // The slow process has read the old token and stored its new version. Before that version
    // becomes the current one, the other process does all of its work.
    let (config, secrets) = (office.config.clone(), office.secrets.clone());
    line.at("UpdateSecretVersionStage", async move {
        token_refresher::refresh(&config, &secrets, after(1))
            .await
            .unwrap();
    });
    let refreshed = token_refresher::refresh(&office.config, &slow, now())
        .await
        .unwrap();
    assert_eq!(line.left(), [""; 0]);
    assert!(!refreshed.tokens[0].renewed);
    let requested_at = office.tokens().await["requested_at"].as_i64();
    assert_eq!(requested_at, Some(after(1).timestamp_millis()));
}

#[tokio::test]
async fn a_refresh_that_cannot_store_its_token_fails_and_names_the_secret() {
    let (mut office, _twin) = office().await;
    office.config.token_secret_id = "nowhere".to_owned();
    let text = failure(&office, 0).await;
    assert!(
        text.contains("secret nowhere: 404 ResourceNotFoundException"),
        "{text}"
    );
}
