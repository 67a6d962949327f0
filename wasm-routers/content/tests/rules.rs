//! What the rules mean, as `README.md` says.

use pointsman_router::testing::{Routed, TestMessage, Trial};
use router_content::Content;

const TARGETS: [&str; 4] = ["paid", "review", "eu", "other"];

fn trial(rules: &str) -> Trial<Content> {
    Trial::new(rules, &TARGETS).unwrap()
}

fn refused(rules: &str) -> String {
    Trial::<Content>::new(rules, &TARGETS).unwrap_err()
}

fn order(body: &str) -> TestMessage {
    TestMessage::new("orders").body(body)
}

/// Whether one condition, written as JSON members, holds for a body.
fn holds(condition: &str, body: &str) -> bool {
    let rules = format!(r#"{{"rules": [{{"when": "body.v", {condition}, "to": "paid"}}]}}"#);
    trial(&rules).route(&order(body)).targets() == ["paid"]
}

#[test]
fn the_first_rule_that_holds_decides() {
    let mut router = trial(
        r#"{"rules": [
            {"when": "body.total", "gt": 1000, "to": "review"},
            {"when": "body.kind", "eq": "order.paid", "to": "paid"}
        ], "default": "other"}"#,
    );
    assert_eq!(
        router
            .route(&order(r#"{"kind": "order.paid", "total": 1001}"#))
            .targets(),
        ["review"]
    );
    assert_eq!(
        router
            .route(&order(r#"{"kind": "order.paid", "total": 1000}"#))
            .targets(),
        ["paid"]
    );
    assert_eq!(
        router.route(&order(r#"{"kind": "order.created"}"#)).targets(),
        ["other"]
    );
}

#[test]
fn with_match_all_every_rule_that_holds_adds_its_targets_once() {
    let mut router = trial(
        r#"{"match": "all", "rules": [
            {"when": "body.kind", "eq": "order.paid", "to": ["paid", "review"]},
            {"when": "body.customer.country", "in": ["DE", "FR"], "to": ["eu", "review"]}
        ]}"#,
    );
    let both = router.route(&order(r#"{"kind": "order.paid", "customer": {"country": "FR"}}"#));
    assert_eq!(both.targets(), ["paid", "review", "eu"]);
    assert_eq!(
        router
            .route(&order(r#"{"customer": {"country": "DE"}}"#))
            .targets(),
        ["review", "eu"]
    );
    assert_eq!(router.route(&order("{}")), Routed::Unroutable);
}

#[test]
fn all_conditions_of_a_rule_must_hold() {
    let mut router = trial(
        r#"{"rules": [{"all": [
            {"when": "header.region", "eq": "eu"},
            {"when": "body.total", "gt": 10, "lt": 20}
        ], "to": "eu"}]}"#,
    );
    let eu = |body| order(body).header("region", "eu");
    assert_eq!(router.route(&eu(r#"{"total": 15}"#)).targets(), ["eu"]);
    assert_eq!(router.route(&eu(r#"{"total": 20}"#)), Routed::Unroutable);
    assert_eq!(router.route(&eu(r#"{"total": 10}"#)), Routed::Unroutable);
    assert_eq!(router.route(&order(r#"{"total": 15}"#)), Routed::Unroutable);
}

#[test]
fn a_rule_can_reject_also_among_others_that_hold() {
    let rejecting = |matching: &str| {
        format!(
            r#"{{"match": "{matching}", "rules": [
                {{"when": "routing_key", "prefix": "ord", "to": "paid"}},
                {{"when": "body.test", "eq": true, "reject": "no test orders here"}}
            ]}}"#
        )
    };
    let test_order = order(r#"{"test": true}"#);
    assert_eq!(
        trial(&rejecting("all")).route(&test_order),
        Routed::Rejected("no test orders here".into())
    );
    assert_eq!(trial(&rejecting("first")).route(&test_order).targets(), ["paid"]);
}

#[test]
fn each_test_means_what_its_name_says() {
    assert!(holds(r#""eq": "x""#, r#"{"v": "x"}"#));
    assert!(!holds(r#""eq": "x""#, r#"{"v": "y"}"#));
    assert!(holds(r#""eq": 2"#, r#"{"v": 2.0}"#));
    assert!(holds(r#""eq": null"#, r#"{"v": null}"#));
    assert!(!holds(r#""eq": null"#, "{}"));
    assert!(holds(r#""in": ["x", 3, true]"#, r#"{"v": true}"#));
    assert!(!holds(r#""in": []"#, r#"{"v": 1}"#));
    assert!(holds(r#""prefix": "or""#, r#"{"v": "order"}"#));
    assert!(!holds(r#""prefix": "or""#, r#"{"v": 7}"#));
    assert!(holds(r#""gt": 1.5"#, r#"{"v": 2}"#));
    assert!(holds(r#""lt": "2026-01""#, r#"{"v": "2025-12-31"}"#));
    assert!(holds(r#""exists": true"#, r#"{"v": {}}"#));
    assert!(holds(r#""exists": false"#, "not json"));
}

#[test]
fn values_of_different_types_never_match() {
    for body in [
        r#"{"v": "5"}"#,
        r#"{"v": [5]}"#,
        r#"{"v": true}"#,
        r#"{"v": null}"#,
    ] {
        assert!(!holds(r#""eq": 5"#, body), "{body}");
        assert!(!holds(r#""gt": 4"#, body), "{body}");
        assert!(!holds(r#""lt": 6"#, body), "{body}");
    }
}

#[test]
fn rules_over_headers_and_properties_alone_do_not_see_the_body_and_are_cacheable() {
    let router = trial(r#"{"rules": [{"when": "header.kind", "eq": "x", "to": "paid"}]}"#);
    assert_eq!(router.plan().body_limit(), 0);
    assert!(router.plan().is_cacheable());
    let router = trial(r#"{"rules": [{"when": "body.kind", "eq": "x", "to": "paid"}], "body_up_to": 100}"#);
    assert_eq!(router.plan().body_limit(), 100);
    assert!(!router.plan().is_cacheable());
}

#[test]
fn a_faulty_configuration_is_refused_with_the_place_of_the_fault() {
    assert_eq!(
        refused(
            r#"{"rules": [{"when": "body.a", "eq": 1, "to": "paid"}, {"when": "bodi.a", "eq": 1, "to": "x"}]}"#
        ),
        "rule 2: `bodi.a` names no part of a message; write `header.NAME`, `body.PATH.TO.FIELD`, or one of \
         `routing_key`, `priority`, `message_id`, `timestamp`, `content_type`, `correlation_id`, `reply_to`"
    );
    assert_eq!(
        refused(r#"{"rules": [{"when": "body.a", "to": "paid"}]}"#),
        "rule 1: `body.a` has no test; write one of `eq`, `in`, `prefix`, `gt`, `lt`, `exists`"
    );
    assert_eq!(
        refused(r#"{"rules": [{"when": "body.a", "eq": 1}]}"#),
        "rule 1: write either `to` or `reject`"
    );
    assert!(refused(r#"{"rules": [{"all": [], "to": "paid"}]}"#).starts_with("rule 1: write either `when`"));
    assert!(
        refused(r#"{"rules": [{"when": "body.a", "eqq": 1, "to": "paid"}]}"#).contains("unknown field `eqq`")
    );
    assert!(refused(r#"{"rulez": []}"#).contains("unknown field `rulez`"));
    assert!(refused("").starts_with("the rules cannot be read"));
    assert!(
        refused(r#"{"rules": [{"when": "body.a", "eq": [1], "to": "paid"}]}"#).contains("cannot be compared")
    );
}
