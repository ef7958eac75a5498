//! A signed probe through the public address: does a delivery arrive as it was sent?
//!
//! Sent as Nylas sends (Nylas facts §3): the HMAC over the exact bytes, `Content-Type` JSON, and of a compressed one the
//! packed bytes with `Content-Encoding: gzip`. It is signed with the stored secret; whether that is the one that Nylas
//! signs with, only a delivery of Nylas can tell.

use std::time::Duration;

use chrono::Utc;
use reqwest::StatusCode;
use uuid::Uuid;
use webhook_receiver::probe;
use webhook_receiver::signature::{HEADER, Key};

use super::front_end::{self, RestApi};
use crate::doctor::check::{Check, judged};

pub(crate) const PLAIN: &str = "webhook probe";
pub(crate) const GZIP: &str = "webhook gzip probe";

/// As long as Nylas waits (Nylas facts §6).
const PATIENCE: Duration = Duration::from_secs(10);

/// Most of an answer's text that is shown.
const SHOWN: usize = 60;

/// How a probe is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
}

/// The packings that a destination uses: a plain one is always tried, since it tells apart what is broken.
pub(crate) fn packings(compressed: bool) -> &'static [Packing] {
    if compressed {
        &[Packing::Plain, Packing::Gzip]
    } else {
        &[Packing::Plain]
    }
}

impl Packing {
    /// The name of its check.
    pub(crate) fn check(self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Gzip => GZIP,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Nothing {
        problem: String,
    },
    Status {
        status: StatusCode,
        text: String,
        rest_api: Option<RestApi>,
    },
}

/// Sends a probe to `url`, signed with `key`.
pub(crate) async fn probe(http: &reqwest::Client, url: &str, key: &Key, packing: Packing) -> Check {
    let answer = send(http, url, key, packing).await;
    let seen = match packing {
        Packing::Plain => "a signed delivery arrives as it was sent",
        Packing::Gzip => "a compressed delivery arrives as it was sent",
    };
    judged(packing.check(), seen.to_owned(), problem(packing, &answer))
}

async fn send(http: &reqwest::Client, url: &str, key: &Key, packing: Packing) -> Answer {
    let mut body = probe::body(&Uuid::new_v4().to_string(), Utc::now());
    let mut call = http
        .post(url)
        .timeout(PATIENCE)
        .header("content-type", "application/json");
    if packing == Packing::Gzip {
        body = probe::gzip(&body);
        call = call.header("content-encoding", "gzip");
    }
    let call = call.header(HEADER, key.sign(&body)).body(body);
    let answer = match call.send().await {
        Ok(answer) => answer,
        Err(error) => {
            let problem = mailverse::http::describe(error);
            return Answer::Nothing { problem };
        }
    };
    let status = answer.status();
    let rest_api = front_end::rest_api_by_answer(answer.headers())
        .or_else(|| front_end::rest_api_by_address(url));
    match answer.text().await {
        Ok(text) => Answer::Status {
            status,
            text: text.trim().to_owned(),
            rest_api,
        },
        Err(error) => Answer::Nothing {
            problem: mailverse::http::describe(error),
        },
    }
}

/// What is wrong with an answer, and what to do.
fn problem(packing: Packing, answer: &Answer) -> Option<(String, String)> {
    let (status, text, rest_api) = match answer {
        Answer::Nothing { problem } => {
            let remedy = "nobody answers within the 10 seconds that Nylas waits: check WEBHOOK_URL and the receiver's log";
            return Some((problem.clone(), remedy.to_owned()));
        }
        Answer::Status {
            status,
            text,
            rest_api,
        } => (status.as_u16(), text, rest_api.as_ref()),
    };
    if status == 200 && text == probe::ANSWER {
        return None;
    }
    let kind = match packing {
        Packing::Plain => "a signed probe",
        Packing::Gzip => "a compressed probe",
    };
    let shown: String = text.chars().take(SHOWN).collect();
    let seen = match shown.as_str() {
        "" => format!("{kind} was answered {status}"),
        text => format!("{kind} was answered {status}: {text}"),
    };
    Some((seen, remedy(packing, status, rest_api)))
}

fn remedy(packing: Packing, status: u16, rest_api: Option<&RestApi>) -> String {
    // The plain probe says what is wrong with everything else.
    if packing == Packing::Gzip && matches!(status, 400 | 401 | 413 | 415 | 503) {
        let cause = match rest_api {
            Some(rest_api) => format!("{rest_api}, which unpacks bodies before the signature can be checked"),
            None => "if the plain probe passes, something on the way unpacks or changes compressed bodies".to_owned(),
        };
        return format!(
            "{cause}, and every compressed delivery is lost: turn compressed delivery off at Nylas, or delete the destination there and run `mailverse webhook create`, which leaves it off"
        );
    }
    let text = match status {
        200 => {
            "something else answers, or a receiver older than this command: check WEBHOOK_URL (the output WebhookUrl of the stack) and deploy webhook-receiver"
        }
        401 => {
            "the receiver reads another secret, or something on the way changes the body: check WEBHOOK_SECRET_ID (the output WebhookSecretArn of the stack) and what stands between WEBHOOK_URL and webhook-receiver; Nylas never sends again what is answered 401"
        }
        403 => {
            "something before the receiver refuses: a firewall, or a function URL that wants IAM; Nylas cannot sign for IAM"
        }
        429 => {
            "Lambda throttles the receiver: check its reserved concurrency (parameter ReceiverConcurrency) and the account's concurrency"
        }
        503 => {
            "the receiver cannot read the secret, or a new secret is on its way to it: see its log, and try again in a minute"
        }
        _ => {
            "check WEBHOOK_URL (the output WebhookUrl of the stack), what stands between it and webhook-receiver, and the receiver's log"
        }
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, text: &str, rest_api: Option<RestApi>) -> Answer {
        Answer::Status {
            status: StatusCode::from_u16(status).unwrap(),
            text: text.to_owned(),
            rest_api,
        }
    }

    #[test]
    fn only_the_receivers_own_answer_to_a_probe_is_well() {
        let well = answered(200, "probe", None);
        assert_eq!(problem(Packing::Plain, &well), None);
        assert_eq!(problem(Packing::Gzip, &well), None);
        for (status, text, seen, remedy) in [
            (200, "ok", "answered 200: ok", "deploy webhook-receiver"),
            (200, "", "answered 200", "something else answers"),
            (
                401,
                "signature",
                "answered 401: signature",
                "WEBHOOK_SECRET_ID",
            ),
            (403, "", "answered 403", "IAM"),
            (429, "", "answered 429", "ReceiverConcurrency"),
            (503, "unavailable", "answered 503", "try again in a minute"),
            (301, "", "answered 301", "check WEBHOOK_URL"),
            (502, "", "answered 502", "the receiver's log"),
        ] {
            let found = problem(Packing::Plain, &answered(status, text, None)).unwrap();
            assert!(found.0.contains(seen), "{status}: {}", found.0);
            assert!(found.1.contains(remedy), "{status}: {}", found.1);
        }
    }

    #[test]
    fn a_compressed_probe_that_is_refused_says_how_to_turn_compression_off_and_names_a_rest_api() {
        for status in [400, 401, 503] {
            let rest_api = Some(RestApi::ByAnswer);
            let found = problem(Packing::Gzip, &answered(status, "", rest_api)).unwrap();
            assert!(found.0.contains("a compressed probe"), "{}", found.0);
            assert!(found.1.contains("REST API"), "{}", found.1);
            let found = problem(Packing::Gzip, &answered(status, "", None)).unwrap();
            assert!(found.1.contains("compressed delivery off"), "{}", found.1);
        }
    }

    #[test]
    fn a_page_that_answers_is_not_shown_whole() {
        let page = answered(404, &"x".repeat(5_000), None);
        let found = problem(Packing::Plain, &page).unwrap();
        assert!(found.0.len() < 120, "{}", found.0);
    }
}
