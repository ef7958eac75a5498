//! Compares two previews of a message. Pure.

use mailverse::decision_record::{DecisionRecord, Row};
use mailverse::pipeline::preview::{Preview, PreviewOutcome};
use mailverse::policy::document::Content;
use serde_json::json;

/// The kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The message was skipped and would be tracked.
    Tracked,
    /// The message was tracked and would be skipped.
    LeftOut,
    /// The message would be skipped by another rule.
    Rule,
    /// More or less of the message would be stored.
    Content,
    /// A party would be another row, or would be missing.
    People,
    /// The regarding would be another record.
    Regarding,
    /// More or fewer contacts would be created.
    Contacts,
}

impl What {
    /// Returns the code in the JSON report.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tracked => "newly_tracked",
            Self::LeftOut => "no_longer_tracked",
            Self::Rule => "other_rule",
            Self::Content => "content",
            Self::People => "people",
            Self::Regarding => "regarding",
            Self::Contacts => "contacts",
        }
    }
}

/// One difference between two previews.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Difference {
    pub(super) what: What,
    /// The value under the stored policy: a rule, a setting, a record or a number. Never content.
    pub(super) before: String,
    /// The value under the new policy.
    pub(super) after: String,
}

/// Returns the differences between two previews of one message.
///
/// # Errors
/// The reason why one of the previews is unknown; the report lists it.
pub(super) fn between(before: &Preview, after: &Preview) -> Result<Vec<Difference>, String> {
    let difference = |what, before: &str, after: &str| Difference {
        what,
        before: before.to_owned(),
        after: after.to_owned(),
    };
    let mut found = Vec::new();
    match (&before.outcome, &after.outcome) {
        (PreviewOutcome::Unknown { reason }, _) | (_, PreviewOutcome::Unknown { reason }) => {
            return Err(reason.clone());
        }
        (PreviewOutcome::Skipped { rule }, PreviewOutcome::Tracked { content, .. }) => {
            found.push(difference(What::Tracked, rule, &name(*content)));
        }
        (PreviewOutcome::Tracked { content, .. }, PreviewOutcome::Skipped { rule }) => {
            found.push(difference(What::LeftOut, &name(*content), rule));
        }
        (PreviewOutcome::Skipped { rule: one }, PreviewOutcome::Skipped { rule: other }) => {
            if one != other {
                found.push(difference(What::Rule, one, other));
            }
        }
        (
            PreviewOutcome::Tracked { content, contacts },
            PreviewOutcome::Tracked {
                content: other_content,
                contacts: other_contacts,
            },
        ) => {
            let pairs = [
                (What::Content, name(*content), name(*other_content)),
                (What::People, people(before), people(after)),
                (What::Regarding, regarding(before), regarding(after)),
                (
                    What::Contacts,
                    contacts.to_string(),
                    other_contacts.to_string(),
                ),
            ];
            found.extend(
                pairs
                    .into_iter()
                    .filter(|(_, one, other)| one != other)
                    .map(|(what, one, other)| difference(what, &one, &other)),
            );
        }
    }
    Ok(found)
}

fn name(content: Content) -> String {
    let name = json!(content);
    name.as_str().unwrap_or_default().to_owned()
}

/// Returns the people of a message as text, with the rows chosen for each, so that they can be
/// compared.
fn people(preview: &Preview) -> String {
    let people = preview
        .record
        .iter()
        .flat_map(|record| &record.people)
        .map(|person| {
            let rows: Vec<&str> = person.chosen.iter().map(|row| row.0.as_str()).collect();
            let who = if rows.is_empty() {
                "address only".to_owned()
            } else {
                rows.join(" + ")
            };
            format!("{} {}", person.role, who)
        });
    people.collect::<Vec<_>>().join(", ")
}

fn regarding(preview: &Preview) -> String {
    let chosen = |record: &DecisionRecord| -> Option<Row> {
        Some(record.regarding.as_ref()?.chosen.as_ref()?.record.clone())
    };
    let row = preview.record.as_ref().and_then(chosen);
    row.map_or_else(|| "nothing".to_owned(), |row| row.0)
}

#[cfg(test)]
mod tests {
    use mailverse::decision_record::{ChosenPart, PersonPart, RegardingPart};

    use super::*;

    fn preview(outcome: PreviewOutcome, record: Option<DecisionRecord>) -> Preview {
        Preview {
            key: "g/m".parse().unwrap(),
            outcome,
            record,
        }
    }

    fn tracked(content: Content, contacts: usize, person: &str, regarding: &str) -> Preview {
        let row = |text: &str| Row(text.to_owned());
        let record = DecisionRecord {
            people: vec![PersonPart {
                role: "from".to_owned(),
                chosen: vec![row(person)],
                ..PersonPart::default()
            }],
            regarding: Some(RegardingPart {
                candidates: Vec::new(),
                chosen: Some(ChosenPart {
                    source: String::new(),
                    record: row(regarding),
                    parent: None,
                }),
            }),
            ..DecisionRecord::default()
        };
        preview(PreviewOutcome::Tracked { content, contacts }, Some(record))
    }

    fn skipped(rule: &str) -> Preview {
        let rule = rule.to_owned();
        preview(PreviewOutcome::Skipped { rule }, None)
    }

    fn shown(before: &Preview, after: &Preview) -> Vec<(What, String)> {
        let found = between(before, after).unwrap();
        let shown = |d: Difference| (d.what, format!("{} → {}", d.before, d.after));
        found.into_iter().map(shown).collect()
    }

    #[test]
    fn identical_previews_have_no_differences() {
        for one in [
            tracked(Content::Full, 1, "contact/1", "lead/1"),
            skipped("bulk"),
        ] {
            assert_eq!(shown(&one, &one), []);
        }
    }

    #[test]
    fn newly_tracked_and_newly_skipped_messages_and_changed_rules_are_reported() {
        let message = tracked(Content::Full, 0, "contact/1", "lead/1");
        assert_eq!(
            shown(&skipped("bulk"), &message),
            [(What::Tracked, "bulk → full".to_owned())]
        );
        assert_eq!(
            shown(&message, &skipped("blocked")),
            [(What::LeftOut, "full → blocked".to_owned())]
        );
        assert_eq!(
            shown(&skipped("bulk"), &skipped("blocked")),
            [(What::Rule, "bulk → blocked".to_owned())]
        );
    }

    #[test]
    fn each_difference_of_a_message_that_is_tracked_in_both_previews_is_reported() {
        let before = tracked(Content::Full, 0, "contact/1", "lead/1");
        let after = tracked(Content::Subject, 2, "contact/2", "lead/2");
        let found: Vec<What> = shown(&before, &after)
            .into_iter()
            .map(|(what, _)| what)
            .collect();
        assert_eq!(
            found,
            [What::Content, What::People, What::Regarding, What::Contacts]
        );
    }

    #[test]
    fn an_unknown_preview_gives_its_reason_instead_of_a_difference() {
        let reason = "dataverse did not answer".to_owned();
        let unknown = preview(
            PreviewOutcome::Unknown {
                reason: reason.clone(),
            },
            None,
        );
        assert_eq!(between(&unknown, &skipped("bulk")), Err(reason.clone()));
        assert_eq!(between(&skipped("bulk"), &unknown), Err(reason));
    }
}
