//! The history of each key of the ledger, as seen on the connections to it, and the check that no
//! worker violated the claim rule.
//!
//! Every write to the ledger passes one lock, so that the order in which writes are seen is the
//! order in which they were done. The kind of a write is read from its update expression, and
//! whether it succeeded from its answer. Conditions are ignored, because they are under test.
//!
//! | Event | Forbidden while |
//! | --- | --- |
//! | a claim succeeds | another token holds the key, and its lease has not expired |
//! | a claim succeeds | the key has a final state |
//! | a settlement succeeds | the key is held by another token, or not held |

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

/// The history of all keys.
#[derive(Default)]
pub(crate) struct History {
    keys: HashMap<String, Life>,
    /// Claims that violated the rule.
    pub(crate) two_holders: Vec<String>,
    /// Settlements that violated the rule.
    pub(crate) stale: Vec<String>,
    pub(crate) claims: u64,
    pub(crate) settlements: u64,
    /// How often the table was emptied.
    generation: u32,
}

/// The current state of one key.
#[derive(Default)]
struct Life {
    /// The token, and the end of its lease in Unix milliseconds.
    holder: Option<(String, i64)>,
    settled: Option<Settled>,
}

#[derive(Clone)]
struct Settled {
    state: String,
    reason: String,
    claimable: bool,
}

/// States by folder, which a message can leave: the policy rules that a later change of the message
/// reverses.
const BY_PLACE: [&str; 4] = ["draft", "spam", "trash", "gone"];

/// The kind of a write to the ledger.
pub(crate) enum Write {
    Claim { key: String, token: String },
    Settle { key: String, token: String },
}

impl History {
    /// Records a write and whether it succeeded.
    pub(crate) fn saw(&mut self, call: &Value, done: bool) {
        let (Some(write), true) = (Write::read(call), done) else {
            return;
        };
        let generation = self.generation;
        match write {
            Write::Claim { key, token } => {
                self.claims += 1;
                let now = number(call, "changed_at_ms").unwrap_or_default();
                let until = number(call, "lease_until_ms").unwrap_or_default();
                let life = self.keys.entry(key.clone()).or_default();
                if let Some((holder, lease)) = &life.holder
                    && *holder != token
                    && *lease > now
                {
                    self.two_holders.push(format!(
                        "{key}: {token} claimed it while {holder} held it for another {} ms (generation {generation})",
                        lease - now
                    ));
                }
                if let Some(settled) = &life.settled
                    && !settled.may_be_claimed()
                {
                    self.two_holders.push(format!(
                        "{key}: {token} claimed it although it was {} (generation {generation})",
                        settled.state
                    ));
                }
                life.holder = Some((token, until));
                life.settled = None;
            }
            Write::Settle { key, token } => {
                self.settlements += 1;
                let life = self.keys.entry(key.clone()).or_default();
                let state = text(call, "state").unwrap_or_default().to_owned();
                match &life.holder {
                    Some((holder, _)) if *holder == token => {}
                    holder => self.stale.push(format!(
                        "{key}: {token} settled it {state} while {} held it (generation {generation})",
                        holder.as_ref().map_or("nobody", |(holder, _)| holder)
                    )),
                }
                life.holder = None;
                let reason = text(call, "reason").unwrap_or_default().to_owned();
                let claimable = value(call, "claimable").is_some();
                life.settled = (state != "waiting").then_some(Settled {
                    state,
                    reason,
                    claimable,
                });
            }
        }
    }

    /// Returns all current leases: key, token, end in Unix milliseconds.
    pub(crate) fn leases(&self) -> Vec<(String, String, i64)> {
        let held = self.keys.iter().filter_map(|(key, life)| {
            let (token, until) = life.holder.clone()?;
            Some((key.clone(), token, until))
        });
        held.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Records that the lease of `key` now ends at `until`.
    pub(crate) fn moved(&mut self, key: &str, until: i64) {
        if let Some((_, lease)) = self.keys.get_mut(key).and_then(|life| life.holder.as_mut()) {
            *lease = until;
        }
    }

    /// Records that the table was emptied.
    pub(crate) fn wiped(&mut self) {
        self.generation += 1;
        for life in self.keys.values_mut() {
            life.holder = None;
            life.settled = None;
        }
    }

    /// Returns the keys with a final state or a holder. All other messages are still on the queue.
    pub(crate) fn known(&self) -> Vec<String> {
        let known = self
            .keys
            .iter()
            .filter(|(_, life)| life.settled.is_some() || life.holder.is_some());
        let mut keys: Vec<String> = known.map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys
    }
}

impl Settled {
    fn may_be_claimed(&self) -> bool {
        (self.state == "dead" && self.claimable)
            || (self.state == "skipped" && BY_PLACE.contains(&self.reason.as_str()))
    }
}

impl Write {
    /// Returns the key of the message, and a description of the write.
    pub(crate) fn told(&self, call: &Value) -> (&str, String) {
        match self {
            Self::Claim { key, token } => {
                let state = text(call, "state").unwrap_or("waiting");
                (key, format!("claims it as {state} ({token})"))
            }
            Self::Settle { key, token } => {
                let state = text(call, "state").unwrap_or_default();
                let reason = text(call, "reason").unwrap_or_default();
                (key, format!("settles it {state}: {reason} ({token})"))
            }
        }
    }

    /// Parses an `UpdateItem` call for a message; `None` for anything else.
    pub(crate) fn read(call: &Value) -> Option<Self> {
        let part = |name: &str| call["Key"][name]["S"].as_str();
        let grant = part("pk")?.strip_prefix("mailbox#")?;
        let message = part("sk")?.strip_prefix("message#")?;
        let key = format!("{grant}/{message}");
        let update = call["UpdateExpression"].as_str()?;
        let (set, rest) = update.split_once("REMOVE").unwrap_or((update, ""));
        if let Some(token) = placeholder(set, "claim_token") {
            let token = call["ExpressionAttributeValues"][token]["S"].as_str()?;
            return Some(Self::Claim {
                key,
                token: token.to_owned(),
            });
        }
        if !rest.contains("claim_token") {
            return None;
        }
        let condition = call["ConditionExpression"].as_str().unwrap_or_default();
        let token = placeholder(condition, "claim_token")?;
        let token = call["ExpressionAttributeValues"][token]["S"].as_str()?;
        Some(Self::Settle {
            key,
            token: token.to_owned(),
        })
    }
}

/// Returns the value that an update sets `attribute` to.
fn value<'a>(call: &'a Value, attribute: &str) -> Option<&'a Value> {
    let update = call["UpdateExpression"].as_str()?;
    let set = update.split("REMOVE").next()?;
    let name = if attribute == "state" {
        "#state"
    } else {
        attribute
    };
    let found = &call["ExpressionAttributeValues"][placeholder(set, name)?];
    (!found.is_null()).then_some(found)
}

fn text<'a>(call: &'a Value, attribute: &str) -> Option<&'a str> {
    value(call, attribute)?["S"].as_str()
}

fn number(call: &Value, attribute: &str) -> Option<i64> {
    value(call, attribute)?["N"].as_str()?.parse().ok()
}

/// Returns the `:name` after `attribute = `.
fn placeholder<'a>(expression: &'a str, attribute: &str) -> Option<&'a str> {
    let assignment = format!("{attribute} = ");
    let at = expression.match_indices(&assignment).find(|(at, _)| {
        let before = expression
            .get(..*at)
            .unwrap_or_default()
            .chars()
            .next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '#')
    })?;
    let rest = expression.get(at.0 + assignment.len()..)?;
    let end = rest
        .find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .unwrap_or(rest.len());
    rest.get(..end).filter(|name| name.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(update: &str, condition: &str, values: &Value) -> Value {
        json!({
            "TableName": "ledger", "Key": {"pk": {"S": "mailbox#g"}, "sk": {"S": "message#m"}},
            "UpdateExpression": update, "ConditionExpression": condition, "ExpressionAttributeValues": values,
        })
    }

    fn claim(token: &str, now: i64, until: i64) -> Value {
        call(
            "SET #state = :waiting, claim_token = :token, lease_until_ms = :until, changed_at_ms = :now REMOVE retry_at_ms ADD attempts :one",
            "attribute_not_exists(pk) OR claim_token = :other",
            &json!({
                ":waiting": {"S": "waiting"}, ":token": {"S": token}, ":until": {"N": until.to_string()}, ":now": {"N": now.to_string()},
            }),
        )
    }

    fn settle(token: &str, state: &str) -> Value {
        call(
            "SET #state = :state, changed_at_ms = :now REMOVE claim_token, lease_until_ms",
            "claim_token = :token",
            &json!({":state": {"S": state}, ":token": {"S": token}, ":now": {"N": "5"}}),
        )
    }

    #[test]
    fn claims_and_settlements_in_sequence_are_not_reported() {
        let mut history = History::default();
        for (write, done) in [
            (claim("a", 0, 100), true),
            (claim("b", 50, 150), false),
            (settle("a", "waiting"), true),
            (claim("b", 60, 160), true),
            (claim("c", 160, 260), true),
            (settle("b", "written"), false),
            (settle("c", "written"), true),
        ] {
            history.saw(&write, done);
        }
        assert_eq!((history.two_holders.len(), history.stale.len()), (0, 0));
        assert_eq!((history.claims, history.settlements), (3, 2));
        assert_eq!(history.known(), ["g/m"]);
    }

    #[test]
    fn a_claim_that_is_won_during_another_lease_is_reported() {
        let mut history = History::default();
        history.saw(&claim("a", 0, 100), true);
        history.saw(&claim("b", 99, 199), true);
        assert_eq!(history.two_holders.len(), 1, "{:?}", history.two_holders);
    }

    #[test]
    fn a_claim_of_a_message_with_a_final_outcome_is_reported() {
        let mut history = History::default();
        history.saw(&claim("a", 0, 100), true);
        history.saw(&settle("a", "written"), true);
        history.saw(&claim("b", 500, 600), true);
        assert_eq!(history.two_holders.len(), 1, "{:?}", history.two_holders);
    }

    #[test]
    fn a_successful_settlement_with_a_lost_claim_is_reported() {
        let mut history = History::default();
        history.saw(&claim("a", 0, 100), true);
        history.saw(&claim("b", 100, 200), true);
        history.saw(&settle("a", "waiting"), true);
        assert_eq!(history.stale.len(), 1, "{:?}", history.stale);
    }

    #[test]
    fn leases_ended_and_tables_emptied_by_the_harness_are_not_reported() {
        let mut history = History::default();
        history.saw(&claim("a", 0, 100), true);
        history.moved("g/m", -100);
        history.saw(&claim("b", 10, 110), true);
        history.wiped();
        history.saw(&claim("c", 20, 120), true);
        assert_eq!(history.two_holders.len(), 0, "{:?}", history.two_holders);
    }
}
