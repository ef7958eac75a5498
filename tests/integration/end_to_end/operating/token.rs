//! Tests the output of `mailverse token refresh`. The function that it invokes runs behind Lambda's
//! API.

use serde_json::Value;

use super::{Cloud, Seen, run};
use crate::end_to_end::canary::assert_silent;
use crate::end_to_end::invoking::{self, NAME};
use crate::manual;

type Lambda = Vec<(&'static str, String)>;

async fn lambda(cloud: &Cloud) -> Lambda {
    invoking::settings(cloud.function("token-refresher").await).await
}

async fn refresh(cloud: &Cloud, lambda: &Lambda, arguments: &[&str]) -> Seen {
    let settings = [cloud.aws_settings(), lambda.clone()];
    run(
        &[&["token", "refresh"], arguments].concat(),
        &settings.concat(),
    )
    .await
}

#[tokio::test]
async fn token_refresh_reports_the_expiry_of_the_token_or_the_remedy() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let lambda = lambda(&cloud).await;
    let name = ["--function", NAME];

    let seen = refresh(&cloud, &lambda, &name).await;
    let token: Value = serde_json::from_str(&cloud.stored("token").await.unwrap()).unwrap();
    seen.assert_ended(0, seen.last_line());
    assert!(
        seen.out.starts_with("primary: renewed, valid until 20"),
        "{}",
        seen.out
    );
    let json = refresh(&cloud, &lambda, &["--function", NAME, "--json"])
        .await
        .json();
    assert_eq!(json["tokens"][0]["identity"], "primary");
    assert!(token["expires_at"].is_i64());

    cloud
        .store("entra", r#"{"client_secret": "canary-wrong-secret"}"#)
        .await;
    let seen = refresh(&cloud, &lambda, &name).await;
    assert_eq!(seen.status, Some(1), "{}{}", seen.out, seen.err);
    assert!(
        seen.out.starts_with("not renewed: primary: entra rejected the credential: invalid_client AADSTS7000215, the client secret is wrong"),
        "{}",
        seen.out
    );
    let secrets = [
        cloud.secret_texts().await,
        vec!["canary-wrong-secret".to_owned()],
    ]
    .concat();
    assert_silent(
        "the command's output",
        &format!("{}{}", seen.out, seen.err),
        &secrets,
    );
}

#[tokio::test]
async fn the_token_refresh_transcript_of_the_manual_matches_the_output() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let lambda = lambda(&cloud).await;
    let seen = refresh(&cloud, &lambda, &["--function", NAME]).await;
    let command = "mailverse token refresh --function mailverse-token-refresher";
    manual::assert_shows("docs/operations.md", command, &seen.out);
}

#[tokio::test]
async fn token_refresh_with_a_missing_or_unnamed_function_is_bad_usage() {
    let cloud = Cloud::start(10).await;
    let lambda = lambda(&cloud).await;
    for (arguments, expected) in [
        (
            vec!["--function", "missing"],
            "failed to invoke the function missing: 404 ResourceNotFoundException",
        ),
        (vec![], "TOKEN_REFRESHER_FUNCTION is missing"),
    ] {
        let seen = refresh(&cloud, &lambda, &arguments).await;
        assert_eq!(seen.status, Some(2), "{}", seen.err);
        assert!(seen.err.contains(expected), "{}", seen.err);
    }
}
