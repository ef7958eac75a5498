//! Checks what must hold at the end.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::Shape;
use crate::run::Figures;
use crate::test_organisation::{MAILBOXES, TestOrganisation};

/// The most requests to Dataverse for each message.
const MOST_DATAVERSE_REQUESTS: f64 = 0.05;

/// The requests to Dataverse of one batch, including those of a new process.
const REQUESTS_OF_A_BATCH: u64 = 4;

/// The messages for which Nylas may be asked for one page.
const MESSAGES_A_PAGE: usize = 100;

/// The result of the audit.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) messages: usize,
    pub(crate) written: usize,
    pub(crate) skipped: usize,
    pub(crate) dead: usize,
    pub(crate) lost: usize,
    pub(crate) twice: usize,
    pub(crate) dataverse_requests_a_message: f64,
    /// Pages that Nylas returned, without failed requests.
    pub(crate) pages: u64,
    pub(crate) findings: Vec<String>,
}

/// Checks every message, every row and every figure. `answer` is the final progress report to the
/// operator.
pub(crate) async fn audit(
    organisation: &TestOrganisation,
    shape: &Shape,
    figures: Figures,
    answer: Option<&Value>,
) -> Verdict {
    let mut verdict = Verdict {
        messages: MAILBOXES * shape.messages,
        ..Verdict::default()
    };
    let states = states(organisation).await;
    for mailbox in 0..MAILBOXES {
        for number in 0..shape.messages {
            let key = format!("grant-{mailbox}/m{number:05}");
            match states.get(&key).map(String::as_str) {
                Some("written") => verdict.written += 1,
                Some("skipped") => verdict.skipped += 1,
                Some("dead") => {
                    verdict.dead += 1;
                    verdict.findings.push(format!("{key} is dead"));
                }
                other => {
                    verdict.lost += 1;
                    if verdict.lost <= 10 {
                        let state = other.unwrap_or("no state");
                        verdict.findings.push(format!("{key} has {state}"));
                    }
                }
            }
        }
    }
    rows(organisation, &mut verdict);
    told(&mut verdict, answer);
    // So few messages leave no room for the requests that are repeated after an invocation was
    // stopped.
    let (finished, killed) = (figures.invocations, figures.cut + figures.killed);
    let again = if shape.short {
        (finished, killed)
    } else {
        (0, 0)
    };
    budgets(organisation, again, &mut verdict);
    if shape.defect.is_none() && figures.killed < shape.kills {
        verdict.findings.push(format!(
            "{} invocations were killed; {} were required",
            figures.killed, shape.kills
        ));
    }
    if figures.failed_requests == 0 {
        verdict
            .findings
            .push("no request to Nylas failed".to_owned());
    }
    if organisation.receive(&organisation.dead).await.is_some() {
        let finding = "the dead-letter queue is not empty".to_owned();
        verdict.findings.push(finding);
    }
    verdict
}

/// Returns the state of every message, by grant and id.
async fn states(organisation: &TestOrganisation) -> HashMap<String, String> {
    let items = organisation.items().await;
    let state = |item: &HashMap<String, aws_sdk_dynamodb::types::AttributeValue>| {
        let grant = item["pk"].as_s().unwrap().strip_prefix("mailbox#")?;
        let id = item["sk"].as_s().unwrap().strip_prefix("message#")?;
        let state = item["state"].as_s().unwrap().clone();
        Some((format!("{grant}/{id}"), state))
    };
    items.iter().filter_map(state).collect()
}

/// Checks that each email has one completed row, however many mailboxes have it.
fn rows(organisation: &TestOrganisation, verdict: &mut Verdict) {
    let mut rows: HashMap<String, usize> = HashMap::new();
    for row in organisation.emulators.dataverse().rows("email") {
        let id = row["messageid"].as_str().unwrap().to_owned();
        if row["statecode"] != json!(1) {
            verdict
                .findings
                .push(format!("the row of {id} is not completed"));
        }
        *rows.entry(id).or_default() += 1;
    }
    for (id, count) in &rows {
        if *count > 1 {
            verdict.twice += 1;
            verdict.findings.push(format!("{id} has {count} rows"));
        }
    }
    if verdict.written > 0 && rows.is_empty() {
        verdict.findings.push("Dataverse has no rows".to_owned());
    }
}

/// Checks that the progress report agrees with the ledger, except for messages that were queued and
/// settled since.
fn told(verdict: &mut Verdict, answer: Option<&Value>) {
    let Some(answer) = answer else {
        verdict
            .findings
            .push("there is no progress report for the run".to_owned());
        return;
    };
    if answer["ended"] != json!(true) {
        verdict
            .findings
            .push(format!("the run has not ended: {answer}"));
    }
    let number = |name: &str| usize::try_from(answer[name].as_u64().unwrap()).unwrap();
    let all = number("synced") + number("skipped") + number("waiting") + number("dead");
    if number("total_emails") < verdict.messages || all != number("total_emails") {
        verdict.findings.push(format!(
            "of {} messages, {} were listed, and {all} have a state",
            verdict.messages,
            number("total_emails")
        ));
    }
}

fn budgets(organisation: &TestOrganisation, (finished, killed): (u64, u64), verdict: &mut Verdict) {
    let requests =
        organisation.emulators.dataverse().requests().total - REQUESTS_OF_A_BATCH * killed;
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let each = requests as f64 / verdict.messages as f64;
    verdict.dataverse_requests_a_message = each;
    if each > MOST_DATAVERSE_REQUESTS {
        verdict.findings.push(format!(
            "{each:.3} requests to Dataverse for each message; at most {MOST_DATAVERSE_REQUESTS} are allowed"
        ));
    }
    verdict.pages = organisation.emulators.nylas().pages();
    let most = finished + u64::try_from(verdict.messages.div_ceil(MESSAGES_A_PAGE)).unwrap();
    if verdict.pages > most {
        verdict.findings.push(format!(
            "Nylas was asked for {} pages; at most {most} are allowed",
            verdict.pages
        ));
    }
}
