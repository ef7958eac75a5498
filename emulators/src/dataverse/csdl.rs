//! Writes the `$metadata` document (CSDL, OData 4.0) from the same tables that every request is
//! checked against.
//!
//! | In the tables                                    | In the document                                         |
//! | ------------------------------------------------ | ------------------------------------------------------- |
//! | a table with its key                             | entity type, based on `crmbaseentity`; entity set       |
//! | `email`, `appointment`                           | based on `activitypointer`, which has what both share   |
//! | a column that is a property                      | property with its Edm type, and the length of a text    |
//! | a lookup                                         | property `_name_value` of type `Edm.Guid`               |
//! | a navigation name                                | navigation property, with a binding to its entity set   |
//! | parties and attachments of an activity           | collections with their partners                         |
//! | a lookup target without a table in the emulator  | entity type with only a key, no entity set              |
//!
//! It is not fully documented which properties Dataverse declares on `activitypointer` and which on
//! `email`. Here, the base has the properties that are the same in `email` and `appointment`
//! (inferred). `activitypointers` is declared because lookups are bound through it, but it cannot
//! be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::definitions::properties::{METADATA_TYPES, MetadataType};
use super::read;
use super::schema::{Column, Kind, Navigation, Schema, Table};

const BASE: &str = "activitypointer";

/// Returns the whole document.
pub(crate) fn document(schema: &Schema) -> String {
    let mut text = String::from(HEAD);
    let inherited = Inherited::new(schema);
    inherited.write(&mut text, schema);
    for table in schema.tables() {
        write_table(&mut text, schema, table, &inherited);
    }
    for name in elsewhere(schema) {
        let key = key_of(schema, name);
        add(
            &mut text,
            format_args!(
                "<EntityType Name=\"{name}\" BaseType=\"mscrm.crmbaseentity\"><Key><PropertyRef Name=\"{key}\"/></Key>\
                 <Property Name=\"{key}\" Type=\"Edm.Guid\" Nullable=\"false\"/></EntityType>\n"
            ),
        );
    }
    for kind in METADATA_TYPES {
        write_metadata_type(&mut text, kind);
    }
    text.push_str(OPERATIONS);
    write_container(&mut text, schema, &inherited);
    text.push_str("</Schema></edmx:DataServices></edmx:Edmx>\n");
    text
}

fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _always_fits = text.write_fmt(more);
}

/// The columns and navigation names that email and appointment inherit from their base.
struct Inherited<'s> {
    columns: BTreeSet<&'s str>,
    navigations: BTreeSet<&'s str>,
}

impl<'s> Inherited<'s> {
    fn new(schema: &'s Schema) -> Self {
        let (email, appointment) = (schema.table("email"), schema.table("appointment"));
        let alike = |column: &&Column| {
            let other = appointment.and_then(|table| table.column(&column.name));
            other.is_some_and(|other| {
                edm_type(other) == edm_type(column) && other.max_length == column.max_length
            })
        };
        let columns = email.into_iter().flat_map(properties).filter(alike);
        Self {
            columns: columns.map(|column| column.name.as_str()).collect(),
            navigations: schema.inherited_navigations(),
        }
    }

    fn write(&self, text: &mut String, schema: &Schema) {
        let Some(email) = schema.table("email") else {
            return;
        };
        open_type(text, BASE, "crmbaseentity", Some(&email.key));
        for column in properties(email).filter(|column| self.has_column(&column.name)) {
            write_property(text, email, column);
        }
        for navigation in email.navigations.values() {
            if self.navigations.contains(navigation.name.as_str()) {
                write_navigation(text, schema, email, navigation);
            }
        }
        write_collection(
            text,
            "activity_pointer_activity_mime_attachment",
            "activitymimeattachment",
            "objectid_activitypointer",
        );
        text.push_str("</EntityType>\n");
    }

    fn has_column(&self, name: &str) -> bool {
        self.columns.contains(name)
    }
}

/// Returns the columns that are properties of the Web API.
fn properties(table: &Table) -> impl Iterator<Item = &Column> {
    table.columns.values().filter(|column| !column.hidden)
}

fn write_table(text: &mut String, schema: &Schema, table: &Table, inherited: &Inherited<'_>) {
    let derived = table.is_activity();
    if derived {
        open_type(text, &table.name, BASE, None);
    } else {
        open_type(text, &table.name, "crmbaseentity", Some(&table.key));
    }
    for column in properties(table).filter(|column| !derived || !inherited.has_column(&column.name))
    {
        write_property(text, table, column);
    }
    for navigation in table.navigations.values() {
        if !derived || !inherited.navigations.contains(navigation.name.as_str()) {
            write_navigation(text, schema, table, navigation);
        }
    }
    for (collection, child) in read::collections(table) {
        if collection.starts_with(&table.name) {
            let partner = if child == "activityparty" {
                "activityid"
            } else {
                "objectid"
            };
            write_collection(
                text,
                &collection,
                child,
                &format!("{partner}_{}", table.name),
            );
        }
    }
    text.push_str("</EntityType>\n");
}

fn open_type(text: &mut String, name: &str, base: &str, key: Option<&str>) {
    add(
        text,
        format_args!("<EntityType Name=\"{name}\" BaseType=\"mscrm.{base}\">"),
    );
    if let Some(key) = key {
        add(
            text,
            format_args!("<Key><PropertyRef Name=\"{key}\"/></Key>"),
        );
    }
    text.push('\n');
}

fn write_property(text: &mut String, table: &Table, column: &Column) {
    let name = column.property();
    let edm = edm_type(column);
    add(
        text,
        format_args!("<Property Name=\"{}\" Type=\"{edm}\"", escape(&name)),
    );
    if let Some(length) = column.max_length.filter(|_| edm == "Edm.String") {
        add(text, format_args!(" MaxLength=\"{length}\""));
    }
    if edm == "Edm.Decimal" {
        text.push_str(" Scale=\"variable\"");
    }
    if column.name == table.key {
        text.push_str(" Nullable=\"false\"");
    }
    text.push_str("/>\n");
}

fn write_navigation(text: &mut String, schema: &Schema, table: &Table, navigation: &Navigation) {
    let Navigation {
        name,
        column,
        target,
    } = navigation;
    add(
        text,
        format_args!("<NavigationProperty Name=\"{name}\" Type=\"mscrm.{target}\">"),
    );
    // An activity's key also has a navigation to its base row. It is not a lookup, so there is no
    // `_value` property to constrain.
    let lookup = table
        .column(column)
        .is_some_and(|column| column.kind == Kind::Lookup);
    if lookup {
        let key = key_of(schema, target);
        add(
            text,
            format_args!(
                "<ReferentialConstraint Property=\"_{column}_value\" ReferencedProperty=\"{key}\"/>"
            ),
        );
    }
    text.push_str("</NavigationProperty>\n");
}

fn write_collection(text: &mut String, name: &str, child: &str, partner: &str) {
    add(
        text,
        format_args!(
            "<NavigationProperty Name=\"{name}\" Type=\"Collection(mscrm.{child})\" Partner=\"{partner}\"/>\n"
        ),
    );
}

/// Returns the lookup targets that the emulator has no table for.
fn elsewhere(schema: &Schema) -> BTreeSet<&str> {
    let navigations = schema.tables().flat_map(|table| table.navigations.values());
    navigations
        .map(|navigation| navigation.target.as_str())
        .filter(|target| *target != BASE && schema.table(target).is_none())
        .collect()
}

/// Returns the key column of a table. `owner` and `principal` represent users and teams (the name
/// of their key is inferred).
fn key_of(schema: &Schema, table: &str) -> String {
    match (schema.table(table), table) {
        (Some(table), _) => table.key.clone(),
        (None, BASE) => "activityid".to_owned(),
        (None, "owner" | "principal") => "ownerid".to_owned(),
        (None, other) => format!("{other}id"),
    }
}

fn edm_type(column: &Column) -> &'static str {
    match column.kind {
        Kind::Text | Kind::TableName => "Edm.String",
        Kind::Integer | Kind::Choice | Kind::State | Kind::Status => "Edm.Int32",
        Kind::BigInteger => "Edm.Int64",
        Kind::Number if column.type_name == "Double" => "Edm.Double",
        Kind::Number => "Edm.Decimal",
        Kind::Boolean => "Edm.Boolean",
        Kind::DateTime => "Edm.DateTimeOffset",
        Kind::Lookup | Kind::Guid => "Edm.Guid",
        // Columns of this kind are hidden, so they are never declared.
        Kind::Opaque => "Edm.Untyped",
    }
}

fn write_metadata_type(text: &mut String, kind: &MetadataType) {
    let key = kind.base.is_none().then_some("MetadataId");
    open_type(
        text,
        kind.name,
        kind.base.unwrap_or("crmmodelbaseentity"),
        key,
    );
    for (name, edm) in kind.kept {
        let required = if *name == "MetadataId" {
            " Nullable=\"false\""
        } else {
            ""
        };
        add(
            text,
            format_args!("<Property Name=\"{name}\" Type=\"{edm}\"{required}/>\n"),
        );
    }
    for (name, target) in kind.navigations {
        add(
            text,
            format_args!(
                "<NavigationProperty Name=\"{name}\" Type=\"{target}\" ContainsTarget=\"true\"/>\n"
            ),
        );
    }
    text.push_str("</EntityType>\n");
}

fn write_container(text: &mut String, schema: &Schema, inherited: &Inherited<'_>) {
    text.push_str("<EntityContainer Name=\"System\">\n");
    let mut sets: BTreeMap<&str, (&str, Vec<&Navigation>)> = BTreeMap::new();
    for table in schema.tables() {
        let navigations = table.navigations.values().collect();
        sets.insert(&table.set, (&table.name, navigations));
    }
    let base = schema
        .table("email")
        .into_iter()
        .flat_map(|email| email.navigations.values())
        .filter(|navigation| inherited.navigations.contains(navigation.name.as_str()));
    sets.insert("activitypointers", (BASE, base.collect()));
    for (set, (name, navigations)) in sets {
        add(
            text,
            format_args!("<EntitySet Name=\"{set}\" EntityType=\"mscrm.{name}\">\n"),
        );
        for navigation in navigations {
            let target = schema.table(&navigation.target);
            let target = match navigation.target.as_str() {
                BASE => Some("activitypointers"),
                _ => target.map(|table| table.set.as_str()),
            };
            if let Some(target) = target {
                bind(text, &navigation.name, target);
            }
        }
        match schema.table(name) {
            Some(table) => read::collections(table)
                .iter()
                .for_each(|(collection, child)| bind_child(text, schema, collection, child)),
            None => bind_child(
                text,
                schema,
                "activity_pointer_activity_mime_attachment",
                "activitymimeattachment",
            ),
        }
        text.push_str("</EntitySet>\n");
    }
    text.push_str(
        "<EntitySet Name=\"EntityDefinitions\" EntityType=\"mscrm.EntityMetadata\"/>\n\
         <FunctionImport Name=\"WhoAmI\" Function=\"mscrm.WhoAmI\"/>\n\
         <ActionImport Name=\"PublishXml\" Action=\"mscrm.PublishXml\"/>\n\
         <ActionImport Name=\"PublishAllXml\" Action=\"mscrm.PublishAllXml\"/>\n\
         <ActionImport Name=\"ReactivateEntityKey\" Action=\"mscrm.ReactivateEntityKey\"/>\n\
         </EntityContainer>\n",
    );
}

fn bind_child(text: &mut String, schema: &Schema, collection: &str, child: &str) {
    if let Some(child) = schema.table(child) {
        bind(text, collection, &child.set);
    }
}

fn bind(text: &mut String, path: &str, target: &str) {
    add(
        text,
        format_args!("<NavigationPropertyBinding Path=\"{path}\" Target=\"{target}\"/>\n"),
    );
}

/// Escapes text for an XML attribute: the column names that a test adds may have any characters.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

const HEAD: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>
<Schema Namespace="Microsoft.Dynamics.CRM" Alias="mscrm" xmlns="http://docs.oasis-open.org/odata/ns/edm">
<EntityType Name="crmbaseentity" Abstract="true"/>
<EntityType Name="crmmodelbaseentity" Abstract="true"/>
"#;

/// The enumerations and complex types of definitions, and the functions and actions of the service.
const OPERATIONS: &str = r#"<EnumType Name="OwnershipTypes">
<Member Name="None" Value="0"/><Member Name="UserOwned" Value="1"/><Member Name="OrganizationOwned" Value="8"/></EnumType>
<EnumType Name="EntityKeyIndexStatus"><Member Name="Pending" Value="0"/><Member Name="InProgress" Value="1"/>
<Member Name="Active" Value="2"/><Member Name="Failed" Value="3"/></EnumType>
<ComplexType Name="LocalizedLabel"><Property Name="Label" Type="Edm.String"/>
<Property Name="LanguageCode" Type="Edm.Int32" Nullable="false"/></ComplexType>
<ComplexType Name="Label"><Property Name="LocalizedLabels" Type="Collection(mscrm.LocalizedLabel)"/>
<Property Name="UserLocalizedLabel" Type="mscrm.LocalizedLabel"/></ComplexType>
<ComplexType Name="AttributeTypeDisplayName"><Property Name="Value" Type="Edm.String"/></ComplexType>
<ComplexType Name="StringFormatName"><Property Name="Value" Type="Edm.String"/></ComplexType>
<ComplexType Name="AttributeRequiredLevelManagedProperty"><Property Name="Value" Type="Edm.String"/>
<Property Name="CanBeChanged" Type="Edm.Boolean"/><Property Name="ManagedPropertyLogicalName" Type="Edm.String"/></ComplexType>
<ComplexType Name="OptionMetadata" OpenType="true"><Property Name="Value" Type="Edm.Int32"/>
<Property Name="Label" Type="mscrm.Label"/></ComplexType>
<ComplexType Name="WhoAmIResponse"><Property Name="BusinessUnitId" Type="Edm.Guid" Nullable="false"/>
<Property Name="UserId" Type="Edm.Guid" Nullable="false"/>
<Property Name="OrganizationId" Type="Edm.Guid" Nullable="false"/></ComplexType>
<Function Name="WhoAmI"><ReturnType Type="mscrm.WhoAmIResponse" Nullable="false"/></Function>
<Action Name="PublishXml"><Parameter Name="ParameterXml" Type="Edm.String" Nullable="false"/></Action>
<Action Name="PublishAllXml"/>
<Action Name="ReactivateEntityKey"><Parameter Name="EntityLogicalName" Type="Edm.String" Nullable="false"/>
<Parameter Name="EntityKeyLogicalName" Type="Edm.String" Nullable="false"/></Action>
"#;

#[cfg(test)]
mod tests;
