//! Tests of the Entra client and of the stored token.

use chrono::{DateTime, TimeDelta, Utc};
use emulators::{Emulators, Fault};
use mailverse::clients::entra::client::{Credential, EntraClient, EntraError};
use mailverse::clients::entra::{Origin, TokenSource};
use secrecy::ExposeSecret;

use crate::test_organisation::{status, throttled};

/// The settings of a client; each test makes one of them wrong.
struct Told {
    tenant: String,
    client_id: String,
    secret: String,
    organisation: String,
}

impl Told {
    fn by(emulators: &Emulators) -> Self {
        Self {
            tenant: emulators.entra().tenant_id(),
            client_id: emulators.entra().client_id(),
            secret: emulators.entra().client_secret(),
            organisation: emulators.dataverse().url(),
        }
    }

    fn client(&self, emulators: &Emulators) -> EntraClient {
        EntraClient::new(
            mailverse::clients::http::client().unwrap(),
            &emulators.entra().authority().parse().unwrap(),
            &self.tenant,
            self.client_id.clone(),
            Credential::Secret(self.secret.clone().into()),
            &self.organisation.parse().unwrap(),
        )
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_154_400, 0).unwrap()
}

#[tokio::test]
async fn a_token_is_returned_with_its_expiry() {
    let emulators = Emulators::start().await.unwrap();
    let token = Told::by(&emulators)
        .client(&emulators)
        .request(now())
        .await
        .unwrap();
    assert_eq!(token.expires_at, now() + TimeDelta::seconds(3_599));
    assert!(!token.access_token.expose_secret().is_empty());
}

#[tokio::test]
async fn a_rejected_token_request_names_the_setting_to_change() {
    let emulators = Emulators::start().await.unwrap();
    let told = |change: fn(&mut Told)| {
        let mut told = Told::by(&emulators);
        change(&mut told);
        told
    };
    for (told, expected, remedy) in [
        (
            told(|told| told.secret.push('x')),
            7_000_215,
            "ENTRA_SECRET_ID",
        ),
        (
            told(|told| told.client_id = "nobody".to_owned()),
            700_016,
            "ENTRA_CLIENT_ID",
        ),
        (
            told(|told| told.tenant = "nowhere".to_owned()),
            90_002,
            "ENTRA_TENANT_ID",
        ),
        (
            told(|told| told.organisation = "https://other.crm.dynamics.com".to_owned()),
            500_011,
            "DATAVERSE_URL",
        ),
    ] {
        let error = told
            .client(&emulators)
            .request(now())
            .await
            .expect_err("the request should be refused");
        let EntraError::Refused { code, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(code, expected);
        let text = error.to_string();
        assert!(text.contains(remedy), "{text}");
        assert!(
            !text.contains(&told.secret),
            "the error must not contain the secret"
        );
    }
}

#[tokio::test]
async fn a_429_a_5xx_and_a_broken_connection_are_outages() {
    let emulators = Emulators::start().await.unwrap();
    for fault in [
        throttled("temporarily_unavailable", 9),
        status(500, ""),
        status(503, ""),
        Fault::ResetBefore,
        Fault::ResetAfterCommit,
    ] {
        let what = format!("{fault:?}");
        emulators.entra().fail_next(fault);
        let error = Told::by(&emulators)
            .client(&emulators)
            .request(now())
            .await
            .expect_err("the request should fail");
        assert!(
            matches!(error, EntraError::Unavailable { .. }),
            "{what}: {error}"
        );
    }
}

#[tokio::test]
async fn a_response_without_a_token_is_an_outage() {
    let emulators = Emulators::start().await.unwrap();
    emulators.entra().fail_next(status(200, ""));
    let error = Told::by(&emulators)
        .client(&emulators)
        .request(now())
        .await
        .expect_err("the request should fail");
    assert!(matches!(error, EntraError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_token_is_cached_until_five_minutes_before_its_expiry_or_its_rejection() {
    let emulators = Emulators::start().await.unwrap();
    let source = TokenSource::new(Origin::Entra(Told::by(&emulators).client(&emulators)));
    let mut seen = Vec::new();
    for seconds in [0, 3_298, 3_299, 3_300] {
        let token = source
            .token(now() + TimeDelta::seconds(seconds))
            .await
            .unwrap();
        seen.push(token.expose_secret().to_owned());
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(
        seen[1], seen[2],
        "the token should be renewed five minutes before it ends"
    );
    assert_eq!(seen[2], seen[3]);
    source.refused(&seen[3].clone().into()).await;
    let fresh = source
        .token(now() + TimeDelta::seconds(3_301))
        .await
        .unwrap();
    assert_ne!(fresh.expose_secret(), seen[3]);
    assert_eq!(emulators.entra().requests(), 3);
}
