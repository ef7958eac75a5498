//! Whether Nylas' notifications arrive: the destination, its secret, and the receiver behind the URL.

use mailverse::nylas::webhooks::Destination;
use uuid::Uuid;
use webhook_receiver::notification::HANDLED;

use super::rotation::{StoreError, StoredSecret};
use crate::doctor::check::{Check, judged};

pub(crate) const DESTINATION: &str = "webhook destination";
pub(crate) const RECEIVER: &str = "webhook receiver";
pub(crate) const SECRET: &str = "webhook secret";

/// The triggers that our destination has to have.
pub(crate) fn triggers() -> Vec<&'static str> {
    HANDLED.iter().map(|(trigger, _)| *trigger).collect()
}

/// Which destination is the one of `url`. The root of a host is written with or without its slash.
pub(crate) fn ours<'d>(destinations: &'d [Destination], url: &str) -> Option<&'d Destination> {
    let plain = |url: &str| url.trim_end_matches('/').to_owned();
    let mut all = destinations.iter();
    all.find(|one| plain(&one.url) == plain(url))
}

/// The destination of `url` among those of the application.
pub(crate) fn destination(destinations: &[Destination], url: &str) -> Check {
    let Some(found) = ours(destinations, url) else {
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
                "the receiver refuses deliveries or does not answer: see its log; Nylas goes on for 72 hours, then it stops"
            }
            _ => {
                "set the destination active again at Nylas; nothing is sent for the time between, and the scheduled backfill finds that mail, since it lists each mailbox since its watermark"
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
    let seen = format!("{} is active, with {}", found.id, triggers().join(", "));
    judged(DESTINATION, seen, problem)
}

/// Whether the receiver answers a challenge as Nylas wants it: 200, the very value, not chunked (Nylas facts §2).
pub(crate) async fn receiver(http: &reqwest::Client, url: &str) -> Check {
    let challenge = Uuid::new_v4().to_string();
    let separator = if url.contains('?') { '&' } else { '?' };
    let call = http.get(format!("{url}{separator}challenge={challenge}"));
    let problem = match call.send().await {
        Err(error) => Some(mailverse::http::describe(error)),
        Ok(answer) if answer.status().as_u16() != 200 => {
            Some(format!("answers a challenge with {}", answer.status()))
        }
        Ok(answer) if answer.headers().contains_key("transfer-encoding") => {
            Some("answers a challenge in chunks".to_owned())
        }
        Ok(answer) => match answer.bytes().await {
            Ok(body) if body == challenge.as_bytes() => None,
            _ => Some("answers a challenge with something else".to_owned()),
        },
    };
    let remedy = "check WEBHOOK_URL (the output WebhookUrl of the stack) and that nothing stands between it and webhook-receiver; see the function's log";
    judged(
        RECEIVER,
        "answers a challenge".to_owned(),
        problem.map(|seen| (seen, remedy.to_owned())),
    )
}

/// The stored secret. Whether it is the one that Nylas signs with, only a delivery can tell.
pub(crate) async fn secret(store: &StoredSecret) -> Check {
    let held = match store.held().await {
        Ok(held) => held,
        Err(error @ (StoreError::Read(_) | StoreError::Call { .. })) => {
            return Check::broken(
                SECRET,
                error.to_string(),
                "check WEBHOOK_SECRET_ID and the right secretsmanager:GetSecretValue",
            );
        }
    };
    let problem = if !held.value {
        Some((
            "no value is stored".to_owned(),
            "run `mailverse webhook create`; where the destination is there already: `mailverse webhook rotate`".to_owned(),
        ))
    } else if held.in_rotation {
        Some((
            "a rotation began and did not end".to_owned(),
            "run `mailverse webhook rotate` again, unless somebody is at it now".to_owned(),
        ))
    } else {
        None
    };
    judged(SECRET, "stored, no rotation under way".to_owned(), problem)
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
        };
        destination(&[found], "https://x.example")
    }

    #[test]
    fn a_destination_is_well_when_it_is_active_and_has_all_triggers() {
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
