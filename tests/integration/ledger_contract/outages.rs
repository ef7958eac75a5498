//! Contract for a DynamoDB that fails. Errors of the ledger repeat nothing of DynamoDB's text,
//! except for a missing permission.

use mailverse::ledger::messages::{Ledger, LedgerError};
use mailverse::ledger::{Claim, ClaimRequest, LEASE, State};
use serde_json::json;

use super::connection::{Fault, FaultyConnection};
use super::{Bench, contract, key, key_of, now, worker, written};

contract! {
    a_transient_error_is_an_outage_after_three_attempts
    a_non_transient_error_is_an_outage_after_one_attempt
    a_connection_failure_is_an_outage_after_three_attempts
    a_response_that_is_not_from_dynamodb_is_an_outage_after_one_attempt
    an_access_denied_error_names_the_missing_permission
    a_call_that_succeeds_on_a_retry_takes_effect_once
    a_claim_with_a_lost_response_is_won_on_the_retry
    a_claim_whose_responses_are_all_lost_holds_and_its_worker_can_repeat_it
    a_settlement_with_a_lost_response_is_recognised_on_the_retry
    a_settlement_whose_responses_are_all_lost_takes_effect
    a_read_with_a_lost_response_is_repeated
    a_conditional_failure_without_an_item_is_an_outage_for_a_claim_only
    an_item_with_an_unknown_state_is_an_outage
    states_and_watermarks_that_a_response_had_no_room_for_are_read_by_further_calls
    every_hundred_keys_have_eight_calls
    a_batch_read_that_is_incomplete_after_eight_calls_is_an_outage
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

async fn a_transient_error_is_an_outage_after_three_attempts(bench: Bench) {
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

async fn a_non_transient_error_is_an_outage_after_one_attempt(bench: Bench) {
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

async fn a_connection_failure_is_an_outage_after_three_attempts(bench: Bench) {
    for (fault, text) in [
        (Fault::NoConnectionInTime, "no connection in time"),
        (Fault::NotReachable, "not reachable"),
    ] {
        for outage in outages(&bench, &fault).await {
            assert_eq!(outage, (text.to_owned(), 3));
        }
    }
}

async fn a_response_that_is_not_from_dynamodb_is_an_outage_after_one_attempt(bench: Bench) {
    let page = Fault::Answer(200, format!("<html>{PRIVATE}"));
    for outage in outages(&bench, &page).await {
        assert_eq!(outage, ("200 an error without a code".to_owned(), 1));
    }
}

async fn an_access_denied_error_names_the_missing_permission(bench: Bench) {
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

async fn a_call_that_succeeds_on_a_retry_takes_effect_once(bench: Bench) {
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

async fn a_claim_with_a_lost_response_is_won_on_the_retry(bench: Bench) {
    let connection = FaultyConnection::new(&bench, [Fault::LostAnswer]);
    assert!(claim(&connection.ledger, 1).await.unwrap().is_won());
    assert_eq!(connection.left(), 0);
    let entry = bench.entry().await;
    assert_eq!(entry.held, Some((worker(1), now() + LEASE)));
    assert_eq!(entry.attempts, 2, "the repeated attempt is counted too");
}

async fn a_claim_whose_responses_are_all_lost_holds_and_its_worker_can_repeat_it(bench: Bench) {
    let connection = FaultyConnection::new(&bench, vec![Fault::LostAnswer; 3]);
    let lost = claim(&connection.ledger, 1).await.unwrap_err();
    assert_eq!(told(&lost), "not reachable");
    assert_eq!(connection.left(), 0);
    let held = Claim::HeldUntil(now() + LEASE);
    assert_eq!(claim(&connection.ledger, 2).await.unwrap(), held);
    assert!(claim(&connection.ledger, 1).await.unwrap().is_won());
}

async fn a_settlement_with_a_lost_response_is_recognised_on_the_retry(bench: Bench) {
    bench.claim(worker(1), now()).await;
    let connection = FaultyConnection::new(&bench, [Fault::LostAnswer]);
    // The repeated attempt finds no claim, but the settlement that it was about to write.
    settle(&connection.ledger).await.unwrap();
    assert_eq!(connection.left(), 0);
    assert_eq!(bench.entry().await.state, State::Written);
}

async fn a_settlement_whose_responses_are_all_lost_takes_effect(bench: Bench) {
    bench.claim(worker(1), now()).await;
    let faults = [Fault::LostAnswer, Fault::NotReachable, Fault::NotReachable];
    let connection = FaultyConnection::new(&bench, faults);
    assert_eq!(
        told(&settle(&connection.ledger).await.unwrap_err()),
        "not reachable"
    );
    assert_eq!(bench.entry().await.state, State::Written);
}

async fn a_read_with_a_lost_response_is_repeated(bench: Bench) {
    bench.settled(&written()).await;
    let connection = FaultyConnection::new(&bench, [Fault::LostAnswer]);
    let entry = connection.ledger.entry(&key()).await.unwrap();
    assert_eq!(entry, Some(bench.entry().await));
    assert_eq!(connection.left(), 0);
}

async fn a_conditional_failure_without_an_item_is_an_outage_for_a_claim_only(bench: Bench) {
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

async fn an_item_with_an_unknown_state_is_an_outage(bench: Bench) {
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

/// Reads the states of messages and the records of mailboxes through a new connection each, with a
/// response for each of `rooms` that has room for so many keys. Returns the sorted names of those
/// that were found, and asserts that every response was needed.
async fn found(
    bench: &Bench,
    names: &[String],
    rooms: &[usize],
) -> [Result<Vec<String>, LedgerError>; 2] {
    let faults = || rooms.iter().map(|keys| Fault::RoomFor(*keys));
    let (reading, listing) = (
        FaultyConnection::new(bench, faults()),
        FaultyConnection::new(bench, faults()),
    );
    let keys: Vec<_> = names.iter().map(|name| key_of("grant-1", name)).collect();
    let entries = reading.ledger.entries(&keys).await.map(|entries| {
        let mut found: Vec<_> = entries
            .into_iter()
            .filter(|(_, entry)| entry.state == State::Waiting)
            .map(|(key, _)| key.message_id.as_str().to_owned())
            .collect();
        found.sort();
        found
    });
    let grants: Vec<_> = names.iter().map(|name| name.parse().unwrap()).collect();
    let records = listing
        .ledger
        .mailbox_records(&grants)
        .await
        .map(|records| {
            let mut found: Vec<_> = records
                .into_iter()
                .filter(|(_, record)| record.watermark == Some(now()))
                .map(|(grant, _)| grant.to_string())
                .collect();
            found.sort();
            found
        });
    assert_eq!([reading.left(), listing.left()], [0, 0], "{rooms:?}");
    [entries, records]
}

/// Stores the state of a message and the watermark of a mailbox under each of so many names.
/// Returns the names, sorted.
async fn stored(bench: &Bench, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|n| format!("name-{n:03}")).collect();
    for name in &names {
        let request = ClaimRequest::new(worker(1), now());
        let claim = bench.ledger.claim(&key_of("grant-1", name), &request).await;
        assert!(claim.unwrap().is_won());
        let grant = name.parse().unwrap();
        bench.ledger.advance_watermark(&grant, now()).await.unwrap();
    }
    names
}

async fn states_and_watermarks_that_a_response_had_no_room_for_are_read_by_further_calls(
    bench: Bench,
) {
    let names = stored(&bench, 5).await;
    for rooms in [
        &[][..],
        &[0],
        &[4],
        &[2, 1],
        &[1, 0, 3],
        &[1, 1, 1, 1],
        // One call less than the most.
        &[0, 0, 1, 0, 1, 0, 0],
    ] {
        for read in found(&bench, &names, rooms).await {
            assert_eq!(read.unwrap(), names, "{rooms:?}");
        }
    }
}

async fn every_hundred_keys_have_eight_calls(bench: Bench) {
    let names = stored(&bench, 130).await;
    // `usize::MAX` is room for all that was left over.
    let rooms = [[14; 7].as_slice(), &[usize::MAX], &[4; 7]].concat();
    for read in found(&bench, &names, &rooms).await {
        assert_eq!(read.unwrap(), names);
    }
}

async fn a_batch_read_that_is_incomplete_after_eight_calls_is_an_outage(bench: Bench) {
    let names = stored(&bench, 9).await;
    for rooms in [[1; 8], [0; 8]] {
        for read in found(&bench, &names, &rooms).await {
            assert_eq!(
                told(&read.unwrap_err()),
                "BatchGetItem returned unprocessed keys too many times"
            );
        }
    }
}
