//! Contract of the stored policy document.

use mailverse::ledger::policy_document::{Pushed, StoredPolicy};
use mailverse::rate_limit::ApplicationUser;

use super::{Bench, contract, now};

contract! {
    before_the_first_push_there_is_no_document
    a_pushed_document_is_read_unchanged
    a_push_based_on_the_last_version_replaces_the_document
    a_push_based_on_another_version_does_not_replace_the_document
    a_push_is_idempotent
    a_stored_policy_does_not_affect_pauses_or_messages
}

async fn before_the_first_push_there_is_no_document(bench: Bench) {
    assert_eq!(bench.ledger.stored_policy().await.unwrap(), None);
}

async fn push(bench: &Bench, document: &str, version: &str, seen: Option<&str>) -> Pushed {
    let push = bench.ledger.push_policy(document, version, seen, now());
    push.await.unwrap()
}

async fn stored(bench: &Bench) -> StoredPolicy {
    bench
        .ledger
        .stored_policy()
        .await
        .unwrap()
        .expect("a document is stored")
}

async fn a_pushed_document_is_read_unchanged(bench: Bench) {
    let document = "{\n  \"defaults\": {\"block\": []}, \"ü\": 1}\n";
    assert_eq!(push(&bench, document, "v1", None).await, Pushed::Stored);
    let expected = StoredPolicy {
        document: document.to_owned(),
        version: "v1".to_owned(),
        pushed_at: Some(now()),
        revision: 1,
    };
    assert_eq!(stored(&bench).await, expected);
}

async fn a_push_based_on_the_last_version_replaces_the_document(bench: Bench) {
    push(&bench, "{}", "v1", None).await;
    assert_eq!(push(&bench, "{ }", "v2", Some("v1")).await, Pushed::Stored);
    let second = stored(&bench).await;
    assert_eq!((second.version.as_str(), second.revision), ("v2", 2));
    // Pushing the first document again creates a third revision.
    push(&bench, "{}", "v1", Some("v2")).await;
    let third = stored(&bench).await;
    assert_eq!((third.version.as_str(), third.revision), ("v1", 3));
}

async fn a_push_based_on_another_version_does_not_replace_the_document(bench: Bench) {
    push(&bench, "{}", "v1", None).await;
    for seen in [None, Some("v0")] {
        assert_eq!(push(&bench, "{ }", "v2", seen).await, Pushed::Changed);
    }
    assert_eq!(stored(&bench).await.document, "{}");
}

async fn a_push_is_idempotent(bench: Bench) {
    for seen in [None, None, Some("v0")] {
        assert_eq!(push(&bench, "{}", "v1", seen).await, Pushed::Stored);
    }
}

async fn a_stored_policy_does_not_affect_pauses_or_messages(bench: Bench) {
    push(&bench, "{}", "v1", None).await;
    assert_eq!(
        bench
            .ledger
            .paused_until(&ApplicationUser::primary(), now())
            .await
            .unwrap(),
        None
    );
    assert_eq!(bench.ledger.entry(&super::key()).await.unwrap(), None);
}
