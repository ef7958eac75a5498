use std::collections::BTreeSet;

use roxmltree::{Document, Node};

use super::*;

fn with_model(test: impl Fn(&Schema, &Document<'_>)) {
    let schema = Schema::load().unwrap();
    let xml = document(&schema);
    test(&schema, &Document::parse(&xml).unwrap());
}

fn named<'d>(document: &'d Document<'d>, element: &str, name: &str) -> Option<Node<'d, 'd>> {
    document
        .descendants()
        .find(|node| node.has_tag_name(element) && node.attribute("Name") == Some(name))
}

/// Returns the names of one kind of element that a type declares or inherits.
fn names<'d>(document: &'d Document<'d>, kind: &str, element: &str) -> BTreeSet<&'d str> {
    let mut names = BTreeSet::new();
    let mut next = named(document, "EntityType", kind);
    while let Some(node) = next {
        for child in node.children().filter(|child| child.has_tag_name(element)) {
            let name = child.attribute("Name").unwrap();
            assert!(
                names.insert(name),
                "{kind} declares or inherits {name} twice"
            );
        }
        let base = node.attribute("BaseType");
        let base = base.map(|base| base.trim_start_matches("mscrm."));
        next = base.and_then(|base| named(document, "EntityType", base));
    }
    names
}

#[test]
fn the_model_declares_exactly_the_properties_and_navigations_of_the_tables() {
    with_model(|schema, document| {
        for table in schema.tables() {
            let properties: BTreeSet<String> = properties(table).map(Column::property).collect();
            let declared = names(document, &table.name, "Property");
            assert!(properties.iter().eq(declared), "{}", table.name);

            let mut navigations: BTreeSet<String> = table.navigations.keys().cloned().collect();
            navigations.extend(read::collections(table).into_iter().map(|(name, _)| name));
            let declared = names(document, &table.name, "NavigationProperty");
            assert!(navigations.iter().eq(declared), "{}", table.name);
        }
    });
}

#[test]
fn every_type_that_the_model_references_is_declared() {
    with_model(|_, document| {
        let known: BTreeSet<&str> = document
            .descendants()
            .filter(|node| {
                ["EntityType", "ComplexType", "EnumType"].contains(&node.tag_name().name())
            })
            .filter_map(|node| node.attribute("Name"))
            .collect();
        for node in document.descendants() {
            for attribute in ["Type", "BaseType", "EntityType"] {
                let kind = node.attribute(attribute).unwrap_or_default();
                let kind = kind.trim_start_matches("Collection(").trim_end_matches(')');
                if let Some(kind) = kind.strip_prefix("mscrm.") {
                    assert!(known.contains(kind), "{kind}");
                }
            }
        }
    });
}

#[test]
fn partners_constraints_and_bindings_refer_to_existing_targets() {
    with_model(|_, document| {
        let target = |node: Node<'_, '_>| {
            let kind = node.attribute("Type").unwrap();
            let kind = kind.trim_start_matches("Collection(").trim_end_matches(')');
            kind.trim_start_matches("mscrm.").to_owned()
        };
        for navigation in document
            .descendants()
            .filter(|node| node.has_tag_name("NavigationProperty"))
        {
            let owner = navigation.parent().unwrap().attribute("Name").unwrap();
            if let Some(partner) = navigation.attribute("Partner") {
                let other = names(document, &target(navigation), "NavigationProperty");
                assert!(other.contains(partner), "{owner}: {partner}");
            }
            for constraint in navigation.children().filter(Node::is_element) {
                let (from, to) = (
                    constraint.attribute("Property").unwrap(),
                    constraint.attribute("ReferencedProperty").unwrap(),
                );
                assert!(names(document, owner, "Property").contains(from), "{from}");
                let other = names(document, &target(navigation), "Property");
                assert!(other.contains(to), "{owner}: {to}");
            }
        }
        for binding in document
            .descendants()
            .filter(|node| node.has_tag_name("NavigationPropertyBinding"))
        {
            let set = binding.parent().unwrap();
            let kind = set.attribute("EntityType").unwrap();
            let kind = kind.trim_start_matches("mscrm.");
            let path = binding.attribute("Path").unwrap();
            assert!(names(document, kind, "NavigationProperty").contains(path));
            let target = binding.attribute("Target").unwrap();
            assert!(named(document, "EntitySet", target).is_some(), "{target}");
        }
    });
}

#[test]
fn an_email_inherits_from_activitypointer_and_adds_its_own_navigations() {
    with_model(|_, document| {
        let email = named(document, "EntityType", "email").unwrap();
        assert_eq!(email.attribute("BaseType"), Some("mscrm.activitypointer"));
        let own = |name: &str| {
            email
                .children()
                .any(|node| node.attribute("Name") == Some(name))
        };
        assert!(own("regardingobjectid_contact_email") && own("email_activity_parties"));
        assert!(
            !own("regardingobjectid_contact"),
            "regardingobjectid_contact is inherited"
        );
        let all = names(document, "email", "NavigationProperty");
        assert!(all.contains("regardingobjectid_contact"));
        let subject = named(document, "Property", "subject").unwrap();
        assert_eq!(subject.attribute("Type"), Some("Edm.String"));
    });
}
