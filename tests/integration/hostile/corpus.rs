//! Reads the cases of `tests/fixtures/hostile` and the table there with the expected outcomes.

use std::collections::BTreeSet;
use std::path::Path;

use mailverse::clients::nylas::wire;
use mailverse::model::ids::MessageId;
use serde_json::{Map, Value};

/// A case: one message object, and what is expected of it.
pub(super) struct Case {
    pub(super) name: String,
    /// The id to request the message by: its own id, or the name of the case if it has no usable
    /// one.
    pub(super) id: String,
    /// The `grant_id` of the object itself, if it has one.
    pub(super) grant: Option<String>,
    /// The object's text as the mailbox returns it, which need not be valid JSON.
    pub(super) text: String,
    pub(super) becomes: String,
    pub(super) webhook: u16,
}

impl Case {
    /// Returns the object as our JSON reader parses it. `None` if it cannot be parsed.
    pub(super) fn object(&self) -> Option<Value> {
        wire::json(self.text.as_bytes()).ok()
    }
}

/// Returns all cases, in the order of the table.
pub(super) fn corpus() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hostile");
    let table = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let cases: Vec<Case> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, file, _, becomes, webhook, _] = cells[..] else {
                panic!("expected a table row with four cells: {line}");
            };
            let file = file.trim_matches('`');
            read(&folder, file, becomes, webhook.parse().unwrap())
        })
        .collect();
    let listed: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let name = name_of(&file);
        assert!(
            file == "README.md" || listed.contains(name),
            "{file} is not in the table"
        );
    }
    cases
}

fn name_of(file: &str) -> &str {
    let name = file.strip_suffix(".json").unwrap_or(file);
    name.strip_suffix(".recipe").unwrap_or(name)
}

fn read(folder: &Path, file: &str, becomes: &str, webhook: u16) -> Case {
    let mut text = std::fs::read_to_string(folder.join(file)).unwrap();
    if file.ends_with(".recipe.json") {
        text = expanded(&serde_json::from_str(&text).unwrap()).to_string();
    }
    let name = name_of(file).to_owned();
    let object = wire::json(text.as_bytes()).unwrap_or_default();
    let own_id = object["id"]
        .as_str()
        .filter(|id| id.parse::<MessageId>().is_ok());
    Case {
        id: own_id.unwrap_or(&name).to_owned(),
        grant: object["grant_id"].as_str().map(str::to_owned),
        name,
        text,
        becomes: becomes.to_owned(),
        webhook,
    }
}

/// Expands a recipe. The README of the folder describes the forms.
fn expanded(recipe: &Value) -> Value {
    match recipe {
        Value::Object(fields) => {
            let times = || usize::try_from(fields["$times"].as_u64().unwrap()).unwrap();
            if let Some(text) = fields.get("$repeat") {
                Value::from(text.as_str().unwrap().repeat(times()))
            } else if let Some(parts) = fields.get("$concat") {
                let text = |part| expanded(part).as_str().unwrap().to_owned();
                Value::from(
                    parts
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(text)
                        .collect::<String>(),
                )
            } else if let Some(each) = fields.get("$each") {
                let each = expanded(each);
                let then = fields.get("$then").and_then(Value::as_array);
                let counted = (0..times()).map(|n| numbered(&each, &n.to_string()));
                counted.chain(then.into_iter().flatten().cloned()).collect()
            } else if let Some(depth) = fields.get("$nest") {
                (0..depth.as_u64().unwrap()).fold(Value::Null, |inner, _| Value::from(vec![inner]))
            } else {
                let fields = fields
                    .iter()
                    .map(|(name, value)| (name.clone(), expanded(value)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
        }
        Value::Array(items) => items.iter().map(expanded).collect(),
        other => other.clone(),
    }
}

/// Returns the value with each `{n}` replaced by `n`, in field names too.
fn numbered(value: &Value, n: &str) -> Value {
    match value {
        Value::String(text) => Value::from(text.replace("{n}", n)),
        Value::Array(items) => items.iter().map(|item| numbered(item, n)).collect(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.replace("{n}", n), numbered(value, n)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}
