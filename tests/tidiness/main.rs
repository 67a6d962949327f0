//! What nobody wants to watch by hand: the tree is as ARCHITECTURE.md says.
//!
//! Each rule is a function from what it looks at to a list of findings, one sentence each. It is tested on a small
//! bad sample beside it, and here on the tree.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "nothing is outside of a test binary")]

mod arrows;
mod files;
mod pages;

use std::path::PathBuf;

use files::Tree;

fn tree() -> Tree {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Tree::read(tests.parent().expect("tests/ is in the repository")).expect("the repository is readable")
}

#[track_caller]
fn assert_none(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n  {}\n", findings.join("\n  "));
}

#[test]
fn no_crate_depends_on_what_it_must_not() {
    let tree = tree();
    let crates = arrows::Crates::read(&tree);
    assert_none(crates.forbidden_arrows());
}

#[test]
fn every_rule_about_arrows_names_a_crate_that_is_there() {
    let crates = arrows::Crates::read(&tree());
    assert_none(crates.stale_rules());
}

#[test]
fn every_relative_link_in_the_docs_leads_somewhere() {
    assert_none(pages::dead_links(&tree()));
}

#[test]
fn the_map_in_architecture_names_every_crate_and_no_other() {
    let tree = tree();
    let names = arrows::Crates::read(&tree).names();
    assert_none(pages::map_gaps(tree.text("ARCHITECTURE.md"), &names));
}

#[test]
fn the_top_level_is_the_agreed_one() {
    assert_none(files::strangers(&tree()));
}

#[test]
fn no_source_file_is_over_the_longest_that_reads_well() {
    assert_none(files::too_long(&tree()));
}

#[test]
fn unsafe_code_is_in_its_one_named_file_only() {
    assert_none(files::unsafe_code(&tree()));
}

#[test]
fn no_binary_is_checked_in() {
    assert_none(files::binaries(&tree()));
}
