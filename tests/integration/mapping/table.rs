//! Is every golden case in the table of `tests/fixtures/mapping/README.md`, and has every rule there a case that fires and one that does not?

use std::collections::BTreeSet;

use super::{fixtures, folder};

/// The names in backquotes that a cell of the table holds.
fn cases(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_rule_has_a_case_that_fires_and_one_that_does_not_and_every_case_a_rule() {
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
            panic!("not three cells: {row}");
        };
        let (fires, does_not) = (cases(fires), cases(does_not));
        assert!(!fires.is_empty() && !does_not.is_empty(), "{rule}");
        assert!(!fires.iter().any(|case| does_not.contains(case)), "{rule}");
        named.extend(fires.into_iter().chain(does_not).map(str::to_owned));
        rules += 1;
    }
    assert!(rules >= 50, "the table is not where it should be: {rules}");
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
    assert!(invented.is_empty(), "no such case: {invented:?}");
}
