//! Contract for a DynamoDB that fails. Errors of the ledger repeat nothing of DynamoDB's text,
//! except for a missing permission.

use mailverse::ledger::messages::{Ledger, LedgerError};
use mailverse::ledger::{Claim, ClaimRequest, LEASE, State};
use serde_json::json;

use super::connection::{Fault, FaultyConnection};
use super::{Bench, contract, key, now, worker, written};

contract! {
    what_passes_is_tried_three_times_before_it_is_an_outage
    what_does_not_pass_is_an_outage_at_once
    what_does_not_come_through_is_tried_three_times_before_it_is_an_outage
    an_answer_of_something_else_is_an_outage_at_once
    a_missing_right_is_named
    a_call_that_was_refused_for_a_moment_is_done_once
    a_claim_whose_answer_is_lost_is_won
    a_claim_whose_answers_are_all_lost_holds_and_is_won_when_its_worker_asks_again
    a_settlement_whose_answer_is_lost_stands_and_is_recognised
    a_settlement_whose_answers_are_all_lost_stands
    a_look_whose_answer_is_lost_is_repeated
    a_refusal_without_its_item_tells_a_claim_nothing_and_a_settlement_enough
    an_item_of_a_later_build_is_an_outage
}

/// More than the attempts of any call.
const ALWAYS: usize = 10;

/// A text that no error may repeat.
const PRIVATE: &str = "Re: your salary, from ada@example.com";

/// Returns a rejection in DynamoDB's format.
fn refusal(status: u16, code: &str) -> Fault {
    let body = json!({
        "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"),
        "message": format!("{PRIVATE}, claimed by {}", worker(1)),
    });
    Fault::Answer(status, body.to_string())
}

/// Runs a claim, a settlement and a read whose attempts all meet `fault`. Returns the error text
/// and the number of attempts of each.
async fn outages(bench: &Bench, fault: &Fault) -> [(String, usize); 3] {
    let connection = || FaultyConnection::new(bench, vec![fault.clone(); ALWAYS]);
    let (claiming, settling, looking) = (connection(), connection(), connection());
    let (claim, settled, look) = (
        claim(&claiming.ledger, 1)
            .await
            .expect_err("every attempt of the claim fails"),
        settle(&settling.ledger)
            .await
            .expect_err("every attempt of the settlement fails"),
        looking
            .ledger
            .entry(&key())
            .await
            .expect_err("every attempt of the read fails"),
    );
    [(claim, claiming), (settled, settling), (look, looking)]
        .map(|(error, connection)| (told(&error), ALWAYS - connection.left()))
}

/// Returns the text of an outage, and asserts that it contains nothing that DynamoDB sent or
/// received.
fn told(error: &LedgerError) -> String {
    assert!(matches!(error, LedgerError::Unavailable(_)), "{error:?}");
    let text = error.to_string();
    let token = worker(1).to_string();
    for all in [&text, &format!("{error:?}")] {
        assert!(!all.contains(PRIVATE) && !all.contains(&token), "{all}");
    }
    text.strip_prefix("the ledger is unavailable: ")
        .unwrap()
        .to_owned()
}

async fn claim(ledger: &Ledger, n: u128) -> Result<Claim, LedgerError> {
    let request = ClaimRequest::new(worker(n), now());
    ledger.claim(&key(), &request).await
}

async fn settle(ledger: &Ledger) -> Result<(), LedgerError> {
    ledger.settle(&key(), worker(1), now(), &written()).await
}

async fn what_passes_is_tried_three_times_before_it_is_an_outage(bench: Bench) {
    for (status, code) in [
        (400, "ProvisionedThroughputExceededException"),
        (400, "ThrottlingException"),
        (400, "RequestLimitExceeded"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailable"),
    ] {
        let expected = (format!("{status} {code}"), 3);
        for outage in outages(&bench, &refusal(status, code)).await {
            assert_eq!(outage, expected);
        }
    }
}

async fn what_does_not_pass_is_an_outage_at_once(bench: Bench) {
    for code in [
        // Another call is changing the item. This is transient, but the SDK does not retry it and
        // neither do we: the queue does.
        "TransactionConflictException",
        "ItemCollectionSizeLimitExceededException",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
        "ValidationException",
    ] {
        let expected = (format!("400 {code}"), 1);
        for outage in outages(&bench, &refusal(400, code)).await {
            assert_eq!(outage, expected);
        }
    }
}

async fn what_does_not_come_through_is_tried_three_times_before_it_is_an_outage(bench: Bench) {
    for (fault, text) in [
        (Fault::NoConnectionInTime, "no connection in time"),
        (Fault::NotReachable, "not reachable"),
    ] {
        for outage in outages(&bench, &fault).await {
            assert_eq!(outage, (text.to_owned(), 3));
        }
    }
}

async fn an_answer_of_something_else_is_an_outage_at_once(bench: Bench) {
    let page = Fault::Answer(200, format!("<html>{PRIVATE}"));
    for outage in outages(&bench, &page).await {
        assert_eq!(outage, ("200 an error without a code".to_owned(), 1));
    }
}

async fn a_missing_right_is_named(bench: Bench) {
    let words = "no identity-based policy allows the dynamodb:UpdateItem action";
    let body =
        json!({ "__type": "com.amazon.coral.service#AccessDeniedException", "message": words });
    for (text, tries) in outages(&bench, &Fault::Answer(400, body.to_string())).await {
        assert_eq!(
            (text, tries),
            (format!("400 AccessDeniedException: {words}"), 1)
        );
    }
}

async fn a_call_that_was_refused_for_a_moment_is_done_once(bench: Bench) {
    let moment = || {
        let faults = [refusal(400, "ThrottlingException"), Fault::NotReachable];
        FaultyConnection::new(&bench, faults).ledger
    };
    assert!(claim(&moment(), 1).await.unwrap().is_won());
    assert_eq!(bench.entry().await.attempts, 1);
    settle(&moment()).await.unwrap();
    let entry = moment().entry(&key()).await.unwrap().unwrap();
    assert_eq!((entry.state, entry.attempts), (State::Written, 1));
}

async fn a_claim_whose_answer_is_lost_is_won(bench: Bench) {
    let connection = FaultyConnection::new(&bench, [Fault::LostAnswer]);
    assert!(claim(&connection.ledger, 1).await.unwrap().is_won());
    assert_eq!(connection.left(), 0);
    let entry = bench.entry().await;
    assert_eq!(entry.held, Some((worker(1), now() + LEASE)));
    assert_eq!(entry.attempts, 2, "the repeated attempt is counted too");
}

async fn a_claim_whose_answers_are_all_lost_holds_and_is_won_when_its_worker_asks_again(
    bench: Bench,
) {
    let connection = FaultyConnection::new(&bench, vec![Fault::LostAnswer; 3]);
    let lost = claim(&connection.ledger, 1).await.unwrap_err();
    assert_eq!(told(&lost), "not reachable");
    assert_eq!(connection.left(), 0);
    let held = Claim::HeldUntil(now() + LEASE);
    assert_eq!(claim(&connection.ledger, 2).await.unwrap(), held);
    assert!(claim(&connection.ledger, 1).await.unwrap().is_won());
}

async fn a_settlement_whose_answer_is_lost_stands_and_is_recognised(bench: Bench) {
    bench.claim(worker(1), now()).await;
    let connection = FaultyConnection::new(&bench, [Fault::LostAnswer]);
    // The repeated attempt finds no claim, but the settlement that it was about to write.
    settle(&connection.ledger).await.unwrap();
    assert_eq!(connection.left(), 0);
    assert_eq!(bench.entry().await.state, State::Written);
}

async fn a_settlement_whose_answers_are_all_lost_stands(bench: Bench) {
    bench.claim(worker(1), now()).await;
    let faults = [Fault::LostAnswer, Fault::NotReachable, Fault::NotReachable];
    let connection = FaultyConnection::new(&bench, faults);
    assert_eq!(
        told(&settle(&connection.ledger).await.unwrap_err()),
        "not reachable"
    );
    assert_eq!(bench.entry().await.state, State::Written);
}

async fn a_look_whose_answer_is_lost_is_repeated(bench: Bench) {
    bench.settled(&written()).await;
    let connection = FaultyConnection::new(&bench, [Fault::LostAnswer]);
    let entry = connection.ledger.entry(&key()).await.unwrap();
    assert_eq!(entry, Some(bench.entry().await));
    assert_eq!(connection.left(), 0);
}

async fn a_refusal_without_its_item_tells_a_claim_nothing_and_a_settlement_enough(bench: Bench) {
    let faults = || [refusal(400, "ConditionalCheckFailedException")];
    let connection = FaultyConnection::new(&bench, faults());
    let refused = claim(&connection.ledger, 1).await.unwrap_err();
    assert_eq!(
        told(&refused),
        "a rejected claim came without the stored item"
    );
    let connection = FaultyConnection::new(&bench, faults());
    let error = settle(&connection.ledger).await.unwrap_err();
    assert!(matches!(error, LedgerError::ClaimLost), "{error:?}");
}

async fn an_item_of_a_later_build_is_an_outage(bench: Bench) {
    let item = json!({ "state": { "S": PRIVATE }, "claim_token": { "S": worker(1).to_string() } });
    let refused = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        "message": "The conditional request failed",
        "Item": item,
    });
    let connection = FaultyConnection::new(&bench, [Fault::Answer(400, refused.to_string())]);
    let claim = claim(&connection.ledger, 1).await.unwrap_err();
    let connection = FaultyConnection::new(
        &bench,
        [Fault::Answer(200, json!({ "Item": item }).to_string())],
    );
    let look = connection.ledger.entry(&key()).await.unwrap_err();
    for error in [claim, look] {
        assert_eq!(told(&error), "an item has no state or an unknown one");
    }
}
