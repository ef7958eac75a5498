//! Checks that notifications from Nylas arrive: the destination, its secret, the receiver behind
//! the URL, and everything between.
//!
//! A probe (`signed_probe.rs`) needs the secret and a receiver that answers. If one of them is
//! broken, the probe is skipped.

use mailverse::clients::nylas::webhooks::Destination;
use uuid::Uuid;
use webhook_receiver::notification::HANDLED;
use webhook_receiver::signature::Key;

use super::secret_rotation::{StoreError, StoredSecret};
use super::signed_probe;
use crate::doctor::SETTINGS;
use crate::doctor::check::{Check, judged};

pub(crate) const DESTINATION: &str = "webhook destination";
pub(crate) const RECEIVER: &str = "webhook receiver";
pub(crate) const SECRET: &str = "webhook secret";

/// Returns the triggers that our destination must have.
pub(crate) fn triggers() -> Vec<&'static str> {
    HANDLED.iter().map(|(trigger, _)| *trigger).collect()
}

/// Returns the destination for `url`. A trailing slash makes no difference.
pub(crate) fn our_destination<'d>(
    destinations: &'d [Destination],
    url: &str,
) -> Option<&'d Destination> {
    let plain = |url: &str| url.trim_end_matches('/').to_owned();
    let mut all = destinations.iter();
    all.find(|one| plain(&one.url) == plain(url))
}

/// Checks that the application has an active destination for `url` with all triggers.
pub(crate) fn destination(destinations: &[Destination], url: &str) -> Check {
    let Some(found) = our_destination(destinations, url) else {
        return Check::broken(
            DESTINATION,
            format!(
                "none of {} destinations has the URL {url}",
                destinations.len()
            ),
            "run `mailverse webhook create`; or set WEBHOOK_URL to the output WebhookUrl of the stack",
        );
    };
    let missing: Vec<&str> = triggers()
        .into_iter()
        .filter(|wanted| !found.triggers.iter().any(|it| it == wanted))
        .collect();
    let problem = if found.status != "active" {
        let remedy = match found.status.as_str() {
            "failing" => {
                "the receiver rejects deliveries or does not answer: see its log; Nylas keeps trying for 72 hours, then it stops"
            }
            _ => {
                "set the destination active again at Nylas; it does not send what happened in the meantime, but the scheduled backfill finds those messages, because it lists each mailbox from its watermark"
            }
        };
        Some((
            format!("{} is {}", found.id, found.status),
            remedy.to_owned(),
        ))
    } else if missing.is_empty() {
        None
    } else {
        Some((
            format!("{} lacks {}", found.id, missing.join(", ")),
            "subscribe the destination to these triggers at Nylas".to_owned(),
        ))
    };
    let packed = if found.compressed { ", compressed" } else { "" };
    let seen = format!(
        "{} is active, with {}{packed}",
        found.id,
        triggers().join(", ")
    );
    judged(DESTINATION, seen, problem)
}

/// Checks the receiver and the secret, and sends a plain probe. Sends a gzip probe too if the
/// destination is `compressed`.
///
/// `url` and `store` are `None` if the setting is missing.
pub(crate) async fn delivery_path(
    http: &reqwest::Client,
    url: Option<&str>,
    store: Option<&StoredSecret>,
    compressed: bool,
) -> Vec<Check> {
    let answers = match url {
        Some(url) => receiver(http, url).await,
        None => Check::skipped(RECEIVER, SETTINGS),
    };
    let (stored, key) = match store {
        Some(store) => secret(store).await,
        None => (Check::skipped(SECRET, SETTINGS), None),
    };
    let mut needs = if url.is_none() || store.is_none() {
        SETTINGS
    } else if answers.is_broken() {
        RECEIVER
    } else {
        SECRET
    };
    let mut reachable = !answers.is_broken();
    let mut checks = vec![answers, stored];
    for packing in signed_probe::packings(compressed) {
        let check = match (url, &key) {
            (Some(url), Some(key)) if reachable => {
                signed_probe::probe(http, url, key, *packing).await
            }
            _ => Check::skipped(packing.check(), needs),
        };
        if reachable && check.is_broken() {
            // If the plain probe fails, the gzip probe fails for the same reason.
            (reachable, needs) = (false, packing.check());
        }
        checks.push(check);
    }
    checks
}

/// Checks that the receiver answers a challenge as Nylas requires: status 200, exactly the value,
/// not chunked (Nylas facts §2).
async fn receiver(http: &reqwest::Client, url: &str) -> Check {
    let challenge = Uuid::new_v4().to_string();
    let problem = match ask(http, url, &challenge).await {
        Err(error) => Some(mailverse::clients::http::describe(error)),
        Ok(answer) if answer.status().as_u16() != 200 => {
            Some(format!("answers a challenge with {}", answer.status()))
        }
        Ok(answer) if answer.headers().contains_key("transfer-encoding") => {
            Some("answers a challenge with a chunked body".to_owned())
        }
        Ok(answer) => match answer.bytes().await {
            Ok(body) if body == challenge.as_bytes() => None,
            _ => Some("answers a challenge with another value".to_owned()),
        },
    };
    let remedy = "check WEBHOOK_URL (the output WebhookUrl of the stack) and whatever is between it and webhook-receiver; see the function's log";
    judged(
        RECEIVER,
        "answers a challenge".to_owned(),
        problem.map(|seen| (seen, remedy.to_owned())),
    )
}

/// Sends a challenge, as Nylas does, and returns the answer.
///
/// # Errors
/// There was no answer; check the URL.
pub(crate) async fn ask(
    http: &reqwest::Client,
    url: &str,
    challenge: &str,
) -> Result<reqwest::Response, reqwest::Error> {
    let separator = if url.contains('?') { '&' } else { '?' };
    let call = http.get(format!("{url}{separator}challenge={challenge}"));
    call.send().await
}

/// Checks the stored secret. Returns the signing key too, if there is a valid one.
///
/// Only a delivery from Nylas shows whether Nylas signs with the same secret.
async fn secret(store: &StoredSecret) -> (Check, Option<Key>) {
    let held = match store.held().await {
        Ok(held) => held,
        Err(error @ (StoreError::Read(_) | StoreError::Call { .. })) => {
            let remedy = "check WEBHOOK_SECRET_ID and the right secretsmanager:GetSecretValue";
            return (Check::broken(SECRET, error.to_string(), remedy), None);
        }
    };
    let renew = "run `mailverse webhook create`; if the destination exists already, run `mailverse webhook rotate`";
    let Some(value) = held.value else {
        return (Check::broken(SECRET, "no value is stored", renew), None);
    };
    let key = match Key::new(&value) {
        Ok(key) => key,
        Err(problem) => return (Check::broken(SECRET, problem.to_string(), renew), None),
    };
    let problem = if held.in_rotation {
        Some((
            "a rotation was started and not finished".to_owned(),
            "run `mailverse webhook rotate` again, unless another operator is rotating right now"
                .to_owned(),
        ))
    } else {
        None
    };
    let seen = "stored, no rotation in progress".to_owned();
    (judged(SECRET, seen, problem), Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::check::Verdict;

    fn with(status: &str, triggers: &[&str]) -> Check {
        let found = Destination {
            id: "d1".to_owned(),
            url: "https://x.example/".to_owned(),
            triggers: triggers.iter().map(|it| (*it).to_owned()).collect(),
            status: status.to_owned(),
            compressed: false,
        };
        destination(&[found], "https://x.example")
    }

    #[test]
    fn a_destination_passes_if_it_is_active_and_has_all_triggers() {
        let all = ["message.created", "message.updated", "grant.expired"];
        assert_eq!(with("active", &all).verdict, Verdict::Well);
        for status in ["pause", "failing", "failed", "inactive", ""] {
            assert!(with(status, &all).is_broken(), "{status}");
        }
        let lacking = with("active", &["message.created"]);
        assert_eq!(lacking.seen, "d1 lacks message.updated");
        assert!(destination(&[], "https://x.example").is_broken());
    }
}
