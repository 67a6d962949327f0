//! What a split promises, as `README.md` says.

use std::collections::BTreeMap;

use pointsman_router::testing::{Routed, TestMessage, Trial};
use router_weighted::Weighted;

const KEYS: usize = 10_000;

fn trial(config: &str) -> Trial<Weighted> {
    Trial::new(config, &["stable", "canary", "third"]).unwrap()
}

/// Where each of many routing keys goes.
fn split(config: &str) -> Vec<String> {
    let mut router = trial(config);
    let keys = (0..KEYS).map(|number| TestMessage::new(&format!("customer-{number}")));
    keys.map(|message| router.route(&message).targets()[0].to_owned())
        .collect()
}

fn counts(split: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    split
        .iter()
        .for_each(|target| *counts.entry(target.as_str()).or_default() += 1);
    counts
}

#[test]
fn keys_are_split_by_weight() {
    let split = split(r#"{"weights": {"stable": 70, "canary": 20, "third": 10}}"#);
    let counts = counts(&split);
    // Five standard deviations of a fair draw are under 250.
    for (target, expected) in [("stable", 7_000), ("canary", 2_000), ("third", 1_000)] {
        assert!(counts[target].abs_diff(expected) < 250, "{counts:?}");
    }
}

#[test]
fn raising_a_weight_moves_keys_only_to_that_target() {
    let before = split(r#"{"weights": {"stable": 60, "canary": 5, "third": 35}}"#);
    let after = split(r#"{"weights": {"stable": 60, "canary": 50, "third": 35}}"#);
    for (before, after) in before.iter().zip(&after) {
        assert!(
            after == before || after == "canary",
            "moved from {before} to {after}"
        );
    }
    assert!(counts(&after)["canary"] > counts(&before)["canary"]);
}

#[test]
fn a_weight_of_0_drains_a_target() {
    let split = split(r#"{"weights": {"stable": 1, "canary": 0}}"#);
    assert_eq!(counts(&split), [("stable", KEYS)].into());
}

#[test]
fn the_key_can_be_a_header_or_a_field_and_numbers_count_as_their_text() {
    for key in ["header.customer", "body.customer"] {
        let mut router = trial(&format!(
            r#"{{"weights": {{"stable": 1, "canary": 1}}, "key": "{key}"}}"#
        ));
        for number in 0..100 {
            let as_number = TestMessage::new("").header("customer", number);
            let as_number = as_number.body(format!(r#"{{"customer": {number}}}"#));
            let as_text = TestMessage::new("other").header("customer", number.to_string().as_str());
            let as_text = as_text.body(format!(r#"{{"customer": "{number}"}}"#));
            assert_eq!(
                router.route(&as_number).targets(),
                router.route(&as_text).targets()
            );
        }
    }
}

#[test]
fn a_message_without_the_key_goes_to_missing_or_nowhere() {
    let mut nowhere = trial(r#"{"weights": {"stable": 1}, "key": "header.customer"}"#);
    assert_eq!(nowhere.route(&TestMessage::new("x")), Routed::Unroutable);
    let mut missing = trial(r#"{"weights": {"stable": 1}, "key": "header.customer", "missing": "third"}"#);
    assert_eq!(missing.route(&TestMessage::new("x")).targets(), ["third"]);
}

#[test]
fn a_split_is_cacheable_by_its_key() {
    let router = trial(r#"{"weights": {"stable": 1}, "key": "header.customer"}"#);
    assert!(router.plan().is_cacheable());
    assert_eq!(router.plan().headers(), ["customer"]);
}

#[test]
fn a_faulty_configuration_is_refused() {
    let refused = |config: &str| Trial::<Weighted>::new(config, &[]).unwrap_err();
    assert_eq!(
        refused(r#"{"weights": {"a": 0}}"#),
        "no target has a weight above 0"
    );
    assert!(refused(r#"{"weights": {"a": -1}}"#).starts_with("the weights cannot be read"));
    assert!(refused(r#"{"weights": {"a": 1}, "key": "customer"}"#).starts_with("`customer` names no part"));
}
