//! A module of `shared` uses only what stands to its left in the list of layers.
//!
//! The test reads every file of `shared/src`, takes the paths that start with `crate`, `super` or
//! `self` from its tokens (`use` trees and macro calls included, tests excluded), and compares the
//! layer of the file with the layer of what it uses.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::Item;

/// The layers, from left to right: the modules at the root of the crate. Modules of one layer may
/// use each other.
const LAYERS: [&[&str]; 11] = [
    &["env", "telemetry", "model"],
    &["clients"],
    &["mailboxes"],
    &["rate_limit"],
    &["ledger"],
    &["lookup"],
    &["policy"],
    &["resolve"],
    &["mapping"],
    &["decision_record"],
    &["pipeline"],
];

#[test]
fn a_module_uses_only_what_stands_to_its_left() {
    let mut wrong = BTreeSet::new();
    for file in rust_files(&source_folder()) {
        let module = module_of(&file);
        let text = std::fs::read_to_string(&file).expect("a source file is readable");
        wrong.extend(edges_to_the_right(&module, &text));
    }
    assert!(
        wrong.is_empty(),
        "these modules use a module to their right: {wrong:#?}"
    );
}

#[test]
fn the_emulators_use_nothing_of_the_crate_that_they_test() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../emulators/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).expect("the manifest is readable");
    assert!(!manifest.contains("mailverse"), "{manifest}");
}

#[test]
fn a_path_is_found_wherever_it_stands() {
    let module = ["policy".to_owned(), "rules".to_owned()];
    let found = paths_used(
        &module,
        "use crate::{model, pipeline::{Run, fate::Fate}};\n\
         use super::document::Settings;\n\
         /// See [`crate::mapping`].\n\
         fn f() { tracing::info!(\"{}\", crate::decision_record::text(1)); self::helper(); }\n\
         #[cfg(test)] mod tests { use crate::resolve::contacts; }",
    );
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(
        found,
        [
            "decision_record::text",
            "model",
            "pipeline::Run",
            "pipeline::fate::Fate",
            "policy::document::Settings",
            "policy::rules::helper",
        ]
    );
}

#[test]
fn an_edge_to_the_right_is_seen_and_no_other() {
    let module = ["mapping".to_owned()];
    let edges = edges_to_the_right(
        &module,
        "use crate::{model, resolve::parties, pipeline::Run};",
    );
    let expected = ("mapping".to_owned(), "pipeline::Run".to_owned());
    assert_eq!(edges, [expected]);
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All product files below `folder`. The root and files that only tests compile are left out.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the folder is readable").path();
        let name = path.file_stem().unwrap_or_default();
        if name == "tests" || name == "narrowing" || name == "lib" {
            continue;
        }
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// `shared/src/policy/rules.rs` is `["policy", "rules"]`.
fn module_of(file: &Path) -> Vec<String> {
    let below = file
        .strip_prefix(source_folder())
        .expect("the file lies below the source folder");
    below
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect()
}

/// The paths of layers to the right that a file uses, each with its module.
fn edges_to_the_right(module: &[String], text: &str) -> Vec<(String, String)> {
    let used = paths_used(module, text).into_iter();
    used.filter(|used| rank(used) > rank(module))
        .map(|used| (module.join("::"), used.join("::")))
        .collect()
}

/// The place of a module's layer in the list.
fn rank(path: &[String]) -> usize {
    let root = path.first().map_or("", String::as_str);
    let place = LAYERS.iter().position(|modules| modules.contains(&root));
    place.unwrap_or_else(|| panic!("{} has no layer", path.join("::")))
}

/// The paths within the crate that a file uses, from the root of the crate, sorted.
fn paths_used(module: &[String], text: &str) -> BTreeSet<Vec<String>> {
    let file = syn::parse_file(text).expect("a source file is Rust");
    let mut found = BTreeSet::new();
    for item in file.items {
        if is_for_tests(&item) {
            continue;
        }
        let tokens: Vec<TokenTree> = item.into_token_stream().into_iter().collect();
        collect(&tokens, module, &mut found);
    }
    found
}

fn is_for_tests(item: &Item) -> bool {
    let Item::Mod(module) = item else {
        return false;
    };
    let for_tests = module.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.to_token_stream().to_string().contains("test")
    });
    assert!(
        for_tests || module.content.is_none(),
        "the module {} belongs in a file of its own",
        module.ident
    );
    for_tests
}

fn collect(tokens: &[TokenTree], module: &[String], found: &mut BTreeSet<Vec<String>>) {
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        match token {
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                collect(&inner, module, found);
            }
            TokenTree::Ident(word) => {
                let root = match word.to_string().as_str() {
                    "crate" => Vec::new(),
                    "self" => module.to_vec(),
                    "super" => module[..module.len() - 1].to_vec(),
                    _ => continue,
                };
                if is_path_separator(rest) {
                    rest = follow(root, &rest[2..], found);
                }
            }
            _ => {}
        }
    }
}

/// Follows a path after `::`. Returns the tokens behind it.
fn follow<'a>(
    mut path: Vec<String>,
    tokens: &'a [TokenTree],
    found: &mut BTreeSet<Vec<String>>,
) -> &'a [TokenTree] {
    match tokens.split_first() {
        Some((TokenTree::Ident(word), after)) => {
            match word.to_string().as_str() {
                "super" => {
                    path.pop();
                }
                "self" => {}
                word => path.push(word.to_owned()),
            }
            if is_path_separator(after) {
                return follow(path, &after[2..], found);
            }
            found.insert(path);
            after
        }
        Some((TokenTree::Group(group), after)) => {
            follow_each(&path, group.stream(), found);
            after
        }
        _ => {
            found.insert(path);
            tokens
        }
    }
}

/// Follows each path of a group such as `{a, b::c}`.
fn follow_each(path: &[String], group: TokenStream, found: &mut BTreeSet<Vec<String>>) {
    let tokens: Vec<TokenTree> = group.into_iter().collect();
    let is_comma =
        |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',');
    for part in tokens.split(is_comma) {
        if !part.is_empty() {
            follow(path.to_vec(), part, found);
        }
    }
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(first), TokenTree::Punct(second), ..]
        if first.as_char() == ':' && second.as_char() == ':')
}
