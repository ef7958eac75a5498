//! The property names of definitions (Dataverse facts §17; names from Microsoft's reference of the
//! types).
//!
//! The emulator stores some properties of each type. It only knows the names of the others: a body
//! may have them without effect, but a query for one is answered with 501, so that no value is
//! invented. Any other name is an error of the caller.

use super::super::refusal::Refusal;

/// A metadata type, such as `EntityMetadata`.
pub(crate) struct MetadataType {
    pub(crate) name: &'static str,
    pub(crate) base: Option<&'static str>,
    /// Name and Edm type.
    pub(crate) kept: &'static [(&'static str, &'static str)],
    known: &'static [&'static str],
    /// Name and Edm type.
    pub(crate) navigations: &'static [(&'static str, &'static str)],
}

/// How a metadata type treats a property name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Kept,
    Known,
    Navigation,
    Unknown,
}

/// Returns how a type or one of its base types treats a property name.
pub(crate) fn name(kind: &str, name: &str) -> Name {
    let mut next = Some(kind);
    while let Some(kind) = next.and_then(metadata_type) {
        if kind.kept.iter().any(|(kept, _)| *kept == name) {
            return Name::Kept;
        }
        if kind.navigations.iter().any(|(known, _)| *known == name) {
            return Name::Navigation;
        }
        if kind.known.contains(&name) {
            return Name::Known;
        }
        next = kind.base;
    }
    Name::Unknown
}

/// Returns the metadata type with this name, or `None` if there is none.
pub(crate) fn metadata_type(name: &str) -> Option<&'static MetadataType> {
    METADATA_TYPES.iter().find(|kind| kind.name == name)
}

/// Rejects a property name in a query: with 501 if the emulator does not store it, as unknown if
/// the type does not define it.
pub(crate) fn queried(kind: &str, property: &str) -> Result<(), Refusal> {
    match name(kind, property) {
        Name::Kept => Ok(()),
        Name::Known | Name::Navigation => Err(Refusal::not_imitated(format!(
            "the property '{property}' of definitions"
        ))),
        Name::Unknown => Err(Refusal::unknown_column(kind, property)),
    }
}

const TEXT: &str = "Edm.String";
const FLAG: &str = "Edm.Boolean";
const LABEL: &str = "mscrm.Label";
const OPTIONS: &str = "Collection(mscrm.OptionMetadata)";

const fn attribute(name: &'static str) -> MetadataType {
    MetadataType {
        name,
        base: Some("AttributeMetadata"),
        kept: &[],
        known: &["Format", "FormulaDefinition", "ImeMode", "SourceTypeMask"],
        navigations: &[],
    }
}

const fn choice(name: &'static str) -> MetadataType {
    MetadataType {
        known: &["DefaultFormValue", "DefaultValue", "GlobalOptionSet"],
        navigations: &[("OptionSet", "mscrm.OptionSetMetadata")],
        ..attribute(name)
    }
}

/// All metadata types of the emulator, base types first.
pub(crate) const METADATA_TYPES: &[MetadataType] = &[
    MetadataType {
        name: "EntityMetadata",
        base: None,
        kept: &[
            ("MetadataId", "Edm.Guid"),
            ("LogicalName", TEXT),
            ("SchemaName", TEXT),
            ("EntitySetName", TEXT),
            ("LogicalCollectionName", TEXT),
            ("PrimaryIdAttribute", TEXT),
            ("PrimaryNameAttribute", TEXT),
            ("DisplayName", LABEL),
            ("DisplayCollectionName", LABEL),
            ("Description", LABEL),
            ("OwnershipType", "mscrm.OwnershipTypes"),
            ("IsActivity", FLAG),
            ("IsCustomEntity", FLAG),
            ("IsPrivate", FLAG),
            ("HasActivities", FLAG),
            ("HasNotes", FLAG),
        ],
        known: &[
            "ActivityTypeMask",
            "AutoCreateAccessTeams",
            "AutoRouteToOwnerQueue",
            "CanBeInManyToMany",
            "CanCreateAttributes",
            "CanTriggerWorkflow",
            "ChangeTrackingEnabled",
            "CollectionSchemaName",
            "EntityColor",
            "HasChanged",
            "HasEmailAddresses",
            "HasFeedback",
            "IntroducedVersion",
            "IsAuditEnabled",
            "IsAvailableOffline",
            "IsBPFEntity",
            "IsChildEntity",
            "IsConnectionsEnabled",
            "IsCustomizable",
            "IsDocumentManagementEnabled",
            "IsDuplicateDetectionEnabled",
            "IsEnabledForCharts",
            "IsImportable",
            "IsIntersect",
            "IsLogicalEntity",
            "IsMailMergeEnabled",
            "IsManaged",
            "IsMappable",
            "IsOfflineInMobileClient",
            "IsQuickCreateEnabled",
            "IsReadOnlyInMobileClient",
            "IsRenameable",
            "IsValidForAdvancedFind",
            "IsValidForQueue",
            "IsVisibleInMobile",
            "IsVisibleInMobileClient",
            "ObjectTypeCode",
            "PrimaryImageAttribute",
            "RecurrenceBaseEntityLogicalName",
            "ReportViewName",
            "SyncToExternalSearchIndex",
            "TableType",
        ],
        navigations: &[
            ("Attributes", "Collection(mscrm.AttributeMetadata)"),
            ("Keys", "Collection(mscrm.EntityKeyMetadata)"),
            (
                "OneToManyRelationships",
                "Collection(mscrm.OneToManyRelationshipMetadata)",
            ),
            (
                "ManyToOneRelationships",
                "Collection(mscrm.OneToManyRelationshipMetadata)",
            ),
        ],
    },
    MetadataType {
        name: "AttributeMetadata",
        base: None,
        kept: &[
            ("MetadataId", "Edm.Guid"),
            ("LogicalName", TEXT),
            ("SchemaName", TEXT),
            ("EntityLogicalName", TEXT),
            ("AttributeType", TEXT),
            ("AttributeTypeName", "mscrm.AttributeTypeDisplayName"),
            ("DisplayName", LABEL),
            ("Description", LABEL),
            (
                "RequiredLevel",
                "mscrm.AttributeRequiredLevelManagedProperty",
            ),
            ("IsCustomAttribute", FLAG),
            ("IsPrimaryId", FLAG),
            ("IsPrimaryName", FLAG),
            ("IsValidForCreate", FLAG),
            ("IsValidForRead", FLAG),
            ("IsValidForUpdate", FLAG),
        ],
        known: &[
            "AttributeOf",
            "AutoNumberFormat",
            "CanBeSecuredForCreate",
            "CanBeSecuredForRead",
            "CanBeSecuredForUpdate",
            "CanModifyAdditionalSettings",
            "ColumnNumber",
            "CreatedOn",
            "DeprecatedVersion",
            "ExternalName",
            "HasChanged",
            "InheritsFrom",
            "IntroducedVersion",
            "IsAuditEnabled",
            "IsCustomizable",
            "IsDataSourceSecret",
            "IsFilterable",
            "IsGlobalFilterEnabled",
            "IsLogical",
            "IsManaged",
            "IsRenameable",
            "IsRequiredForForm",
            "IsRetrievable",
            "IsSearchable",
            "IsSecured",
            "IsSortableEnabled",
            "IsValidForAdvancedFind",
            "IsValidForForm",
            "IsValidForGrid",
            "IsValidODataAttribute",
            "LinkedAttributeId",
            "ModifiedOn",
            "SourceType",
        ],
        navigations: &[],
    },
    MetadataType {
        kept: &[
            ("MaxLength", "Edm.Int32"),
            ("FormatName", "mscrm.StringFormatName"),
        ],
        known: &[
            "DatabaseLength",
            "Format",
            "FormulaDefinition",
            "ImeMode",
            "IsLocalizable",
            "SourceTypeMask",
            "YomiOf",
        ],
        ..attribute("StringAttributeMetadata")
    },
    MetadataType {
        kept: &[("MaxLength", "Edm.Int32")],
        known: &["Format", "FormatName", "ImeMode", "IsLocalizable"],
        ..attribute("MemoAttributeMetadata")
    },
    MetadataType {
        known: &[
            "Format",
            "FormulaDefinition",
            "MaxValue",
            "MinValue",
            "SourceTypeMask",
        ],
        ..attribute("IntegerAttributeMetadata")
    },
    MetadataType {
        known: &[
            "CanChangeDateTimeBehavior",
            "DateTimeBehavior",
            "Format",
            "FormulaDefinition",
            "ImeMode",
            "MaxSupportedValue",
            "MinSupportedValue",
            "SourceTypeMask",
        ],
        ..attribute("DateTimeAttributeMetadata")
    },
    MetadataType {
        kept: &[("Targets", "Collection(Edm.String)")],
        ..attribute("LookupAttributeMetadata")
    },
    choice("BooleanAttributeMetadata"),
    choice("PicklistAttributeMetadata"),
    choice("StateAttributeMetadata"),
    choice("StatusAttributeMetadata"),
    attribute("BigIntAttributeMetadata"),
    attribute("DecimalAttributeMetadata"),
    attribute("DoubleAttributeMetadata"),
    attribute("MoneyAttributeMetadata"),
    attribute("UniqueIdentifierAttributeMetadata"),
    attribute("EntityNameAttributeMetadata"),
    attribute("FileAttributeMetadata"),
    attribute("ImageAttributeMetadata"),
    MetadataType {
        name: "OptionSetMetadata",
        base: None,
        kept: &[
            ("MetadataId", "Edm.Guid"),
            ("Name", TEXT),
            ("IsGlobal", FLAG),
            ("OptionSetType", TEXT),
            ("Options", OPTIONS),
            ("TrueOption", "mscrm.OptionMetadata"),
            ("FalseOption", "mscrm.OptionMetadata"),
        ],
        known: &[
            "Description",
            "DisplayName",
            "HasChanged",
            "IsCustomOptionSet",
            "IsCustomizable",
            "IsManaged",
        ],
        navigations: &[],
    },
    MetadataType {
        name: "EntityKeyMetadata",
        base: None,
        kept: &[
            ("MetadataId", "Edm.Guid"),
            ("LogicalName", TEXT),
            ("SchemaName", TEXT),
            ("EntityLogicalName", TEXT),
            ("KeyAttributes", "Collection(Edm.String)"),
            ("EntityKeyIndexStatus", "mscrm.EntityKeyIndexStatus"),
            ("DisplayName", LABEL),
        ],
        known: &[
            "AsyncJob",
            "HasChanged",
            "IntroducedVersion",
            "IsCustomizable",
            "IsExportKey",
            "IsManaged",
            "IsSecondaryKey",
            "IsSynchronous",
        ],
        navigations: &[],
    },
    MetadataType {
        name: "OneToManyRelationshipMetadata",
        base: None,
        kept: &[
            ("MetadataId", "Edm.Guid"),
            ("SchemaName", TEXT),
            ("ReferencedEntity", TEXT),
            ("ReferencedAttribute", TEXT),
            ("ReferencingEntity", TEXT),
            ("ReferencingAttribute", TEXT),
            ("ReferencingEntityNavigationPropertyName", TEXT),
            ("RelationshipType", TEXT),
        ],
        known: &[
            "AssociatedMenuConfiguration",
            "CascadeConfiguration",
            "HasChanged",
            "IntroducedVersion",
            "IsCustomRelationship",
            "IsCustomizable",
            "IsHierarchical",
            "IsManaged",
            "IsValidForAdvancedFind",
            "ReferencedEntityNavigationPropertyName",
            "RelationshipBehavior",
            "SecurityTypes",
        ],
        navigations: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_type_inherits_the_properties_of_its_base() {
        let of = |property| name("StringAttributeMetadata", property);
        assert_eq!(of("MaxLength"), Name::Kept);
        assert_eq!(of("LogicalName"), Name::Kept);
        assert_eq!(of("IsAuditEnabled"), Name::Known);
        assert_eq!(of("Maxlength"), Name::Unknown);
        assert_eq!(name("AttributeMetadata", "MaxLength"), Name::Unknown);
    }

    #[test]
    fn every_base_of_a_metadata_type_exists() {
        for base in METADATA_TYPES.iter().filter_map(|kind| kind.base) {
            assert!(metadata_type(base).is_some(), "{base}");
        }
    }
}
