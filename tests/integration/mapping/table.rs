//! Checks that every golden case is in the table of `tests/fixtures/mapping/README.md`, and that
//! every rule there has a case in which it applies and one in which it does not.

use std::collections::BTreeSet;

use super::{fixtures, folder};

/// Returns the names in backquotes in a cell of the table.
fn cases(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_mapping_rule_has_a_positive_and_a_negative_case_and_every_case_a_rule() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let rows = readme
        .split_once("\n## ")
        .unwrap()
        .1
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .filter(|row| !row.starts_with("---") && !row.starts_with("Rule |"));
    let mut named = BTreeSet::new();
    let mut rules = 0;
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [rule, fires, does_not] = cells[..] else {
            panic!("expected a table row with three cells: {row}");
        };
        let (fires, does_not) = (cases(fires), cases(does_not));
        assert!(!fires.is_empty() && !does_not.is_empty(), "{rule}");
        assert!(!fires.iter().any(|case| does_not.contains(case)), "{rule}");
        named.extend(fires.into_iter().chain(does_not).map(str::to_owned));
        rules += 1;
    }
    assert!(
        rules >= 50,
        "expected at least 50 rules in the table, found {rules}"
    );
    let there: BTreeSet<String> = fixtures()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .filter_map(|file| file.split_once('.'))
        .filter(|(name, _)| *name != "README")
        .map(|(name, _)| name.to_owned())
        .collect();
    let missing: Vec<_> = there.difference(&named).collect();
    let invented: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    assert!(
        invented.is_empty(),
        "in the table without a case: {invented:?}"
    );
}
