//! Sends a signed probe through the public URL, to check that a delivery arrives unchanged.
//!
//! It is sent as Nylas sends (Nylas facts §3): an HMAC over the exact bytes, `Content-Type` JSON,
//! and a compressed one as gzip bytes with `Content-Encoding: gzip`. It is signed with the stored
//! secret. Only a delivery from Nylas shows whether Nylas signs with the same secret.

use std::time::Duration;

use chrono::Utc;
use reqwest::StatusCode;
use uuid::Uuid;
use webhook_receiver::probe;
use webhook_receiver::signature::{HEADER, Key};

use super::rest_api_detection;
use super::rest_api_detection::RestApi;
use crate::doctor::check::{Check, judged};

pub(crate) const PLAIN: &str = "webhook probe";
pub(crate) const GZIP: &str = "webhook gzip probe";

/// How long to wait for an answer: as long as Nylas does (Nylas facts §6).
const PATIENCE: Duration = Duration::from_secs(10);

/// How many characters of an answer's text are shown at most.
const SHOWN: usize = 60;

/// The encoding of a probe's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
}

/// Returns the probes to send to a destination.
///
/// The plain one is always sent, because it tells a problem with compression from other problems.
pub(crate) fn packings(compressed: bool) -> &'static [Packing] {
    if compressed {
        &[Packing::Plain, Packing::Gzip]
    } else {
        &[Packing::Plain]
    }
}

impl Packing {
    /// Returns the name of the check for this probe.
    pub(crate) fn check(self) -> &'static str {
        match self {
            Self::Plain => PLAIN,
            Self::Gzip => GZIP,
        }
    }
}

/// The answer to a probe.
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

/// Sends a probe signed with `key` to `url`, and checks the answer.
pub(crate) async fn probe(http: &reqwest::Client, url: &str, key: &Key, packing: Packing) -> Check {
    let answer = send(http, url, key, packing).await;
    let seen = match packing {
        Packing::Plain => "a signed delivery arrives unchanged",
        Packing::Gzip => "a compressed delivery arrives unchanged",
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
            let problem = mailverse::clients::http::describe(error);
            return Answer::Nothing { problem };
        }
    };
    let status = answer.status();
    let rest_api = rest_api_detection::rest_api_by_answer(answer.headers())
        .or_else(|| rest_api_detection::rest_api_by_address(url));
    match answer.text().await {
        Ok(text) => Answer::Status {
            status,
            text: text.trim().to_owned(),
            rest_api,
        },
        Err(error) => Answer::Nothing {
            problem: mailverse::clients::http::describe(error),
        },
    }
}

/// Returns what is wrong with an answer and what to do, or `None` if it is the receiver's answer to
/// a probe.
fn problem(packing: Packing, answer: &Answer) -> Option<(String, String)> {
    let (status, text, rest_api) = match answer {
        Answer::Nothing { problem } => {
            let remedy = "no answer within 10 seconds, which is how long Nylas waits: check WEBHOOK_URL and the receiver's log";
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
        "" => format!("{kind} was answered with {status}"),
        text => format!("{kind} was answered with {status}: {text}"),
    };
    Some((seen, remedy(packing, status, rest_api)))
}

fn remedy(packing: Packing, status: u16, rest_api: Option<&RestApi>) -> String {
    // Any other status is not about compression; the plain probe reports its cause.
    if packing == Packing::Gzip && matches!(status, 400 | 401 | 413 | 415 | 503) {
        let cause = match rest_api {
            Some(rest_api) => format!("{rest_api}, which decompresses bodies before the signature can be checked"),
            None => "if the plain probe passes, a proxy or gateway decompresses or changes compressed bodies".to_owned(),
        };
        return format!(
            "{cause}, and every compressed delivery is lost: turn compressed delivery off at Nylas, or delete the destination there and run `mailverse webhook create` without --compressed"
        );
    }
    let text = match status {
        200 => {
            "something else answers, or a receiver older than this command: check WEBHOOK_URL (the output WebhookUrl of the stack) and deploy webhook-receiver"
        }
        401 => {
            "the receiver reads another secret, or a proxy or gateway changes the body: check WEBHOOK_SECRET_ID (the output WebhookSecretArn of the stack) and what is between WEBHOOK_URL and webhook-receiver; Nylas does not retry a delivery that is answered with 401"
        }
        403 => {
            "something in front of the receiver rejects the call: a firewall, or a function URL that requires IAM; Nylas cannot sign for IAM"
        }
        429 => {
            "Lambda throttles the receiver: check its reserved concurrency (parameter ReceiverConcurrency) and the account's concurrency"
        }
        503 => {
            "the receiver cannot read the secret, or does not have a new secret yet: see its log, and try again in a minute"
        }
        _ => {
            "check WEBHOOK_URL (the output WebhookUrl of the stack), what is between it and webhook-receiver, and the receiver's log"
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
    fn only_the_receivers_own_answer_passes_the_probe_check() {
        let passed = answered(200, "probe", None);
        assert_eq!(problem(Packing::Plain, &passed), None);
        assert_eq!(problem(Packing::Gzip, &passed), None);
        for (status, text, seen, remedy) in [
            (
                200,
                "ok",
                "answered with 200: ok",
                "deploy webhook-receiver",
            ),
            (200, "", "answered with 200", "something else answers"),
            (
                401,
                "signature",
                "answered with 401: signature",
                "WEBHOOK_SECRET_ID",
            ),
            (403, "", "answered with 403", "IAM"),
            (429, "", "answered with 429", "ReceiverConcurrency"),
            (
                503,
                "unavailable",
                "answered with 503",
                "try again in a minute",
            ),
            (301, "", "answered with 301", "check WEBHOOK_URL"),
            (502, "", "answered with 502", "the receiver's log"),
        ] {
            let found = problem(Packing::Plain, &answered(status, text, None)).unwrap();
            assert!(found.0.contains(seen), "{status}: {}", found.0);
            assert!(found.1.contains(remedy), "{status}: {}", found.1);
        }
    }

    #[test]
    fn a_rejected_compressed_probe_names_the_rest_api_or_suggests_turning_compression_off() {
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
    fn a_long_answer_is_shortened_in_the_report() {
        let page = answered(404, &"x".repeat(5_000), None);
        let found = problem(Packing::Plain, &page).unwrap();
        assert!(found.0.len() < 120, "{}", found.0);
    }
}
