//! Renders tables, columns, keys and relationships as JSON (Dataverse facts §6, §7.2 and §17).

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::schema::{AlternateKey, Column, KeyStatus, Kind, Labels, Schema, Table};

/// The namespace of all types, with the dot that ends it.
pub(crate) const NAMESPACE: &str = "Microsoft.Dynamics.CRM.";

/// The namespace of the `UUIDv5` ids of definitions, so that an id depends only on the name.
const IDS: Uuid = Uuid::from_u128(0x7c9d_5b1e_2f64_4a86_9e0b_3d51_84a7_c6f2);

/// Returns the id of a definition: of a table (`part` is empty) or of a part of that table.
pub(crate) fn id(table: &str, part: &str) -> Uuid {
    Uuid::new_v5(&IDS, format!("{table}/{part}").as_bytes())
}

/// Returns the `MetadataId` of a table.
pub(crate) fn table_id(table: &Table) -> Uuid {
    id(&table.name, "")
}

/// Returns the `MetadataId` of a column.
pub(crate) fn column_id(table: &Table, column: &Column) -> Uuid {
    id(&table.name, &format!("column/{}", column.name))
}

/// Returns the `MetadataId` of a key.
pub(crate) fn key_id(table: &Table, key: &AlternateKey) -> Uuid {
    id(&table.name, &format!("key/{}", key.schema_name))
}

/// Renders a table.
pub(crate) fn table(table: &Table) -> Value {
    let ownership = if table.columns.contains_key("ownerid") {
        "UserOwned"
    } else {
        "OrganizationOwned"
    };
    json!({
        "MetadataId": table_id(table), "LogicalName": table.name, "SchemaName": table.schema_name,
        "EntitySetName": table.set, "LogicalCollectionName": table.set, "PrimaryIdAttribute": table.key,
        "PrimaryNameAttribute": table.title, "DisplayName": label(&table.labels, &table.schema_name),
        "DisplayCollectionName": label(&table.collection_labels, &table.set),
        "Description": label(&table.description, ""), "OwnershipType": ownership, "IsActivity": table.is_activity(),
        "IsCustomEntity": table.custom, "IsPrivate": false, "HasActivities": table.has_activities,
        "HasNotes": table.has_notes,
    })
}

/// Renders a column, with the properties of its derived type.
pub(crate) fn column(table: &Table, column: &Column) -> Value {
    let mut form = json!({
        "@odata.type": format!("#{NAMESPACE}{}", type_name(column)),
        "MetadataId": column_id(table, column), "LogicalName": column.name, "SchemaName": column.schema_name,
        "EntityLogicalName": table.name, "AttributeType": attribute_type(column),
        "AttributeTypeName": {"Value": format!("{}Type", column.type_name)},
        "DisplayName": label(&column.labels, &column.schema_name), "Description": label(&column.description, ""),
        "RequiredLevel": {
            "Value": column.required, "CanBeChanged": column.required != "SystemRequired",
            "ManagedPropertyLogicalName": "canmodifyrequirementlevelsettings",
        },
        "IsCustomAttribute": column.custom, "IsPrimaryId": column.name == table.key,
        "IsPrimaryName": column.name == table.title, "IsValidForCreate": column.valid_for_create,
        "IsValidForRead": column.name != "messageiddupcheck", "IsValidForUpdate": column.valid_for_update,
    });
    if let Some(fields) = form.as_object_mut() {
        own_properties(column, fields);
    }
    form
}

fn own_properties(column: &Column, fields: &mut Map<String, Value>) {
    match type_name(column) {
        "StringAttributeMetadata" => {
            fields.insert("MaxLength".to_owned(), json!(column.max_length));
            fields.insert("FormatName".to_owned(), json!({"Value": "Text"}));
        }
        "MemoAttributeMetadata" => {
            fields.insert("MaxLength".to_owned(), json!(column.max_length));
        }
        "LookupAttributeMetadata" => {
            fields.insert("Targets".to_owned(), json!(column.targets));
        }
        _ => {}
    }
}

/// Renders the choices of a column, which a client reads by expanding `OptionSet`.
pub(crate) fn option_set(table: &Table, column: &Column) -> Value {
    let mut set = json!({
        "MetadataId": id(&table.name, &format!("options/{}", column.name)),
        "Name": format!("{}_{}", table.name, column.name), "IsGlobal": false, "OptionSetType": column.type_name,
    });
    let option =
        |value: i64, text: &str| json!({"Value": value, "Label": label(&Labels::new(), text)});
    let Some(fields) = set.as_object_mut() else {
        return set;
    };
    if column.kind == Kind::Boolean {
        for (name, value, otherwise) in [("TrueOption", 1, "Yes"), ("FalseOption", 0, "No")] {
            let known = column.options.iter().find(|(known, _)| *known == value);
            let text = known.map_or(otherwise, |(_, text)| text);
            fields.insert(name.to_owned(), option(value, text));
        }
        return set;
    }
    let options = column.options.iter().map(|(value, text)| {
        let mut form = option(*value, text);
        let more = match column.kind {
            Kind::State => Some(("DefaultStatus", table.states.get(value))),
            Kind::Status => Some(("State", table.statuses.get(value))),
            _ => None,
        };
        if let (Some((name, number)), Some(fields)) = (more, form.as_object_mut()) {
            fields.insert(name.to_owned(), json!(number));
        }
        form
    });
    fields.insert("Options".to_owned(), options.collect());
    set
}

/// Renders an alternate key.
pub(crate) fn key(table: &Table, key: &AlternateKey) -> Value {
    let status = match key.status {
        KeyStatus::Pending => "Pending",
        KeyStatus::Active => "Active",
        KeyStatus::Failed => "Failed",
    };
    json!({
        "MetadataId": key_id(table, key), "LogicalName": key.schema_name.to_lowercase(),
        "SchemaName": key.schema_name, "EntityLogicalName": table.name, "KeyAttributes": key.columns,
        "EntityKeyIndexStatus": status, "DisplayName": label(&key.labels, &key.schema_name),
    })
}

/// Renders a relationship for every navigation name of every table.
///
/// Names that activities inherit belong to `activitypointer`, so that a query for `email` returns
/// only email's own names (Dataverse facts §6). The schema names are inferred.
pub(crate) fn relationships(schema: &Schema) -> Vec<Value> {
    let inherited = schema.inherited_navigations();
    let mut forms = Vec::new();
    for table in schema.tables() {
        for navigation in table.navigations.values() {
            let base = table.is_activity() && inherited.contains(navigation.name.as_str());
            if base && table.name != "email" {
                continue;
            }
            let referencing = if base { "activitypointer" } else { &table.name };
            let target = &navigation.target;
            let key = match schema.table(target) {
                Some(target) => target.key.clone(),
                None => format!("{target}id"),
            };
            let name = format!("{referencing}_{}", navigation.name);
            forms.push(json!({
                "MetadataId": id(referencing, &format!("relationship/{name}")), "SchemaName": name,
                "ReferencedEntity": target, "ReferencedAttribute": key, "ReferencingEntity": referencing,
                "ReferencingAttribute": navigation.column,
                "ReferencingEntityNavigationPropertyName": navigation.name,
                "RelationshipType": "OneToManyRelationship",
            }));
        }
    }
    forms
}

/// Renders a `Label` with its texts by language. `otherwise` is used if there is none. The caller's
/// language is English (1033).
fn label(labels: &Labels, otherwise: &str) -> Value {
    let mut forms: Vec<Value> = labels
        .iter()
        .map(|(language, text)| json!({"Label": text, "LanguageCode": language}))
        .collect();
    if forms.is_empty() && !otherwise.is_empty() {
        forms.push(json!({"Label": otherwise, "LanguageCode": 1033}));
    }
    let english = forms.iter().find(|form| form["LanguageCode"] == 1033);
    let user = english.cloned().unwrap_or_default();
    json!({"LocalizedLabels": forms, "UserLocalizedLabel": user})
}

/// Returns the metadata type of a column, as it is used to cast definitions.
pub(crate) fn type_name(column: &Column) -> &'static str {
    match column.type_name.as_str() {
        "String" => "StringAttributeMetadata",
        "Memo" => "MemoAttributeMetadata",
        "Integer" => "IntegerAttributeMetadata",
        "BigInt" => "BigIntAttributeMetadata",
        "Decimal" => "DecimalAttributeMetadata",
        "Double" => "DoubleAttributeMetadata",
        "Money" => "MoneyAttributeMetadata",
        "Boolean" => "BooleanAttributeMetadata",
        "DateTime" => "DateTimeAttributeMetadata",
        "Picklist" => "PicklistAttributeMetadata",
        "State" => "StateAttributeMetadata",
        "Status" => "StatusAttributeMetadata",
        "Lookup" | "Customer" | "Owner" | "PartyList" => "LookupAttributeMetadata",
        "Uniqueidentifier" => "UniqueIdentifierAttributeMetadata",
        "EntityName" => "EntityNameAttributeMetadata",
        "File" => "FileAttributeMetadata",
        "Image" => "ImageAttributeMetadata",
        _ => "AttributeMetadata",
    }
}

/// Returns the `AttributeType` of a column. Files and images are `Virtual`.
fn attribute_type(column: &Column) -> &str {
    match column.type_name.as_str() {
        "File" | "Image" => "Virtual",
        other => other,
    }
}
