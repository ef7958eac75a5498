//! The first and the last step: **claim** and **settle**.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt, stream};

use super::Pipeline;
use super::failure::Failure;
use super::invocation::{Delivery, Invocation};
use super::outcome::{Attempts, Outcome};
use super::processed::Processed;
use super::stages::{Finished, PendingMessage};
use crate::clients::retry::{FIRST_STEP, RECEIVE_LIMIT};
use crate::ledger::messages::LedgerError;
use crate::ledger::{Claim, ClaimRequest};
use crate::model::ids::MessageKey;
use crate::model::sync_request::Trigger;

/// The most ledger calls at the same time.
const LEDGER_CALLS: usize = 10;

impl Pipeline {
    /// Claims each message. A message that another worker holds, or that is already settled, is
    /// returned as handled.
    pub(super) async fn claim(
        &self,
        deliveries: Vec<Delivery>,
        invocation: &Invocation,
    ) -> (Vec<PendingMessage>, Vec<Processed>) {
        let claims = stream::iter(once_each(deliveries)).map(async |deliveries| {
            let request = ClaimRequest {
                token: invocation.token,
                now: invocation.now,
                // A message that a list shows, or that Nylas reports as changed, may have left the
                // folder for which it was skipped.
                revisit: deliveries.request.trigger != Trigger::Created,
                redelivery: deliveries.receive_count > 1,
                last_delivery: deliveries.receive_count >= RECEIVE_LIMIT,
            };
            let claim = self.ledger.claim(&deliveries.request.key, &request).await;
            (deliveries, claim)
        });
        let claims: Vec<_> = claims.buffered(LEDGER_CALLS).collect().await;
        let (mut pending_messages, mut processed) = (Vec::new(), Vec::new());
        for (
            Delivery {
                request,
                message,
                receive_count,
            },
            claim,
        ) in claims
        {
            let key = request.key;
            let failure = match claim {
                Ok(Claim::Won { failures, since }) => {
                    let attempts = Attempts {
                        receive_count,
                        failures,
                        since,
                    };
                    pending_messages.push(PendingMessage {
                        key,
                        attempts,
                        message,
                        decision: None,
                        made: BTreeSet::new(),
                    });
                    continue;
                }
                Ok(Claim::Settled(entry)) => {
                    if let Some(settled) = Processed::settled_before(key.clone(), entry) {
                        processed.push(settled);
                        continue;
                    }
                    Failure::postponed(FIRST_STEP, "the ledger item is incomplete")
                }
                Ok(Claim::HeldUntil(until)) => {
                    let wait = (until - invocation.now).to_std().unwrap_or_default();
                    Failure::postponed(wait, "another worker is processing it")
                }
                // The state of the message is unknown, so the attempt does not count against it.
                Err(error) => Failure::postponed(FIRST_STEP, error.to_string()),
            };
            processed.push(unclaimed(key, failure, receive_count, invocation));
        }
        (pending_messages, processed)
    }

    /// Settles the claims. If another worker took a claim over, that worker settles it.
    pub(super) async fn settle(
        &self,
        finished: Vec<Finished>,
        invocation: &Invocation,
    ) -> Vec<Processed> {
        let settled = stream::iter(finished).map(async |finished| {
            let Finished {
                key,
                attempts: Attempts { receive_count, .. },
                outcome,
                decision,
                record,
                summary,
                ..
            } = finished;
            // If the decision record cannot be built, only the explanation is lost; the message is
            // settled anyway.
            let decided = record.and_then(|record| record.decided(invocation.now).ok());
            let stored_outcome = outcome.stored_outcome(invocation.now);
            let outcome = match self
                .ledger
                .settle_with_decision(
                    &key,
                    invocation.token,
                    invocation.now,
                    &stored_outcome,
                    decided.as_ref(),
                )
                .await
            {
                Ok(()) => outcome,
                // The next delivery finds the outcome of the other worker, or the row in Dataverse.
                Err(error @ (LedgerError::ClaimLost | LedgerError::Unavailable(_))) => {
                    let failure = Failure::postponed(FIRST_STEP, error.to_string());
                    Outcome::of_failure(
                        &key,
                        failure,
                        unknown(receive_count, invocation),
                        invocation,
                    )
                }
            };
            Processed {
                key,
                outcome,
                settled_before: false,
                decision,
                settled_at: None,
                summary,
            }
        });
        settled.buffered(LEDGER_CALLS).collect().await
    }
}

/// Returns the outcome of each message if the batch is not started: it goes back to the queue
/// unclaimed.
pub(super) fn untouched(
    deliveries: Vec<Delivery>,
    failure: &Failure,
    invocation: &Invocation,
) -> Vec<Processed> {
    let back = once_each(deliveries).into_iter().map(|deliveries| {
        unclaimed(
            deliveries.request.key,
            failure.clone(),
            deliveries.receive_count,
            invocation,
        )
    });
    back.collect()
}

fn unclaimed(
    key: MessageKey,
    failure: Failure,
    receive_count: u32,
    invocation: &Invocation,
) -> Processed {
    let outcome = Outcome::of_failure(
        &key,
        failure,
        unknown(receive_count, invocation),
        invocation,
    );
    Processed {
        key,
        outcome,
        settled_before: false,
        decision: None,
        settled_at: None,
        summary: None,
    }
}

/// The attempts of a message that was not claimed. The ledger was not read, so earlier failures are
/// unknown.
const fn unknown(receive_count: u32, invocation: &Invocation) -> Attempts {
    Attempts {
        receive_count,
        ..Attempts::first(invocation.now)
    }
}

/// Returns each message once, even if the batch names it several times. A trigger that revisits
/// skipped messages wins, so that an update is not lost behind a creation.
pub(super) fn once_each(deliveries: Vec<Delivery>) -> Vec<Delivery> {
    let mut places: HashMap<MessageKey, usize> = HashMap::new();
    let mut once: Vec<Delivery> = Vec::new();
    for item in deliveries {
        let known = places
            .get(&item.request.key)
            .and_then(|place| once.get_mut(*place));
        if let Some(known) = known {
            if known.request.trigger == Trigger::Created {
                known.request.trigger = item.request.trigger;
            }
            known.receive_count = known.receive_count.min(item.receive_count);
            known.message = known.message.take().or(item.message);
        } else {
            places.insert(item.request.key.clone(), once.len());
            once.push(item);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sync_request::SyncRequest;

    fn deliveries(trigger: Trigger, receive_count: u32) -> Delivery {
        let key = MessageKey {
            grant_id: "g".parse().unwrap(),
            message_id: "m".parse().unwrap(),
        };
        Delivery {
            request: SyncRequest { key, trigger },
            message: None,
            receive_count,
        }
    }

    #[test]
    fn an_update_or_backfill_trigger_is_kept_among_deliveries_of_one_message() {
        for reason in [Trigger::Updated, Trigger::Backfill] {
            for batch in [[Trigger::Created, reason], [reason, Trigger::Created]] {
                let once = once_each(batch.map(|trigger| deliveries(trigger, 2)).into());
                assert_eq!(once.len(), 1);
                assert_eq!(once[0].request.trigger, reason);
            }
        }
    }
}
