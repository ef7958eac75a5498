//! Checks that the manual of the command, `docs/cli.md`, has exactly what the compiled command
//! offers: for each subcommand a section with its name and a table of its options, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::replay::{command, project};

/// The options of each subcommand, by its name as an operator types it, such as `webhook create`.
type Options = BTreeMap<String, BTreeSet<String>>;

/// Returns what `mailverse SUBCOMMAND --help` prints, or `mailverse --help` for an empty name.
fn help(subcommand: &str) -> String {
    let output = Command::new(command())
        .args(subcommand.split_whitespace())
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{subcommand}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the names in the list below `Commands:`, without `help`.
fn subcommands(printed: &str) -> Vec<String> {
    let (_, listed) = printed.split_once("\nCommands:\n").unwrap_or_default();
    listed
        .lines()
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Returns the names in the list below `Options:`, without those that every subcommand has.
fn options(printed: &str) -> BTreeSet<String> {
    let (_, listed) = printed.split_once("\nOptions:\n").unwrap_or_default();
    listed
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
        .filter(|option| !matches!(*option, "--help" | "--version"))
        .map(str::to_owned)
        .collect()
}

/// Returns the options that the command offers for each subcommand.
fn offered() -> Options {
    let mut offered = Options::new();
    let mut unasked = subcommands(&help(""));
    while let Some(name) = unasked.pop() {
        let printed = help(&name);
        for below in subcommands(&printed) {
            unasked.push(format!("{name} {below}"));
        }
        offered.insert(name, options(&printed));
    }
    offered
}

/// Returns the sections of the manual, with the options in the first cells of their tables.
fn documented(manual: &str) -> Options {
    let mut documented = Options::new();
    let mut section = String::new();
    for line in manual.lines() {
        let heading = line
            .strip_prefix("## ")
            .or_else(|| line.strip_prefix("### "));
        if let Some(heading) = heading {
            heading.clone_into(&mut section);
            documented.entry(section.clone()).or_default();
        } else if let Some(cell) = line.strip_prefix("| `--") {
            let name: String = cell
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                .collect();
            let options = documented.entry(section.clone()).or_default();
            options.insert(format!("--{name}"));
        }
    }
    documented
}

/// Returns what is missing in the manual and what it has in excess, one line each.
fn differences(documented: &Options, offered: &Options) -> Vec<String> {
    let mut found = Vec::new();
    for (name, options) in offered {
        let Some(rows) = documented.get(name) else {
            found.push(format!("{name} has no section"));
            continue;
        };
        for option in options.difference(rows) {
            found.push(format!("{name} {option} has no row"));
        }
        for option in rows.difference(options) {
            found.push(format!("{name} has no option {option}"));
        }
    }
    for name in documented.keys() {
        if !offered.contains_key(name) {
            found.push(format!("there is no subcommand {name}"));
        }
    }
    found
}

fn manual() -> String {
    std::fs::read_to_string(project().join("docs/cli.md")).unwrap()
}

#[test]
fn the_manual_lists_exactly_the_subcommands_and_options_of_the_command() {
    let offered = offered();
    assert!(offered.len() >= 20, "{offered:?}");
    let found = differences(&documented(&manual()), &offered);
    assert!(found.is_empty(), "docs/cli.md:\n{}", found.join("\n"));
}

#[test]
fn a_missing_or_extra_row_or_section_of_the_manual_is_found() {
    let (manual, offered) = (manual(), offered());
    let cases = [
        (
            "| `--older-than AGE` |",
            "| `--older AGE` |",
            [
                "status --older-than has no row",
                "status has no option --older",
            ],
        ),
        (
            "### webhook rotate\n",
            "### webhook renew\n",
            [
                "webhook rotate has no section",
                "there is no subcommand webhook renew",
            ],
        ),
    ];
    for (old, new, expected) in cases {
        let planted = manual.replace(old, new);
        assert_ne!(planted, manual, "docs/cli.md has no {old}");
        let found = differences(&documented(&planted), &offered);
        assert_eq!(found, expected);
    }
}
