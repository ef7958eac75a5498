//! Texts that must not appear where content or a secret has no place.

/// The texts of the test message.
pub(super) const SUBJECT: &str = "Canary subject 7f3a91";
pub(super) const BODY: &str = "canary-body-5c20de";
pub(super) const NAME: &str = "Canaria Name-e81b";
pub(super) const ADDRESS: &str = "canary-address-44ab@kites.example";

/// Fails if `text`, which comes from `place`, holds content of the message, or one of `secrets`.
pub(super) fn assert_silent(place: &str, text: &str, secrets: &[String]) {
    let text = text.to_lowercase();
    let content = [SUBJECT, BODY, NAME, ADDRESS, "ada@ours.example"].map(str::to_owned);
    for canary in content.iter().chain(secrets) {
        assert!(
            !text.contains(&canary.to_lowercase()),
            "{place} holds {canary}:\n{text}"
        );
    }
}
