//! What regions and failover promise, as `README.md` says.

use pointsman_router::testing::{Routed, TestMessage, Trial};
use router_geo::Geo;

const BOUND: [&str; 3] = ["frankfurt", "dublin", "ohio"];

/// A configuration with these further members.
fn config(more: &str) -> String {
    format!(
        r#"{{"by": "header.region", "aliases": {{"DE": "eu"}},
            "regions": {{"eu": ["frankfurt", "dublin"], "us": ["ohio", "oregon"]}} {more}}}"#
    )
}

fn route(more: &str, region: &str) -> Routed {
    let mut router = Trial::<Geo>::new(config(more), &BOUND).unwrap();
    router.route(&TestMessage::new("").header("region", region))
}

fn refused(config: &str) -> String {
    Trial::<Geo>::new(config, &BOUND).unwrap_err()
}

#[test]
fn a_message_goes_to_the_first_place_of_its_region() {
    assert_eq!(route("", "eu").targets(), ["frankfurt"]);
    assert_eq!(route("", "us").targets(), ["ohio"]);
}

#[test]
fn an_alias_stands_for_its_region() {
    assert_eq!(route("", "DE").targets(), ["frankfurt"]);
}

#[test]
fn a_place_that_is_down_is_passed_over_for_its_region_and_aliases() {
    let down = r#", "down": ["frankfurt"]"#;
    assert_eq!(route(down, "eu").targets(), ["dublin"]);
    assert_eq!(route(down, "DE").targets(), ["dublin"]);
    assert_eq!(route(down, "us").targets(), ["ohio"]);
}

#[test]
fn a_place_without_a_binding_is_passed_over_and_reported() {
    let mut router = Trial::<Geo>::new(config(r#", "down": ["frankfurt"]"#), &["frankfurt", "ohio"]).unwrap();
    assert_eq!(router.plan().unbound(), ["dublin"]);
    assert_eq!(
        router.route(&TestMessage::new("").header("region", "eu")),
        Routed::Unroutable
    );
}

#[test]
fn when_every_place_is_down_the_publisher_is_told() {
    let all_down = r#", "down": ["frankfurt", "dublin"]"#;
    assert_eq!(
        route(all_down, "eu"),
        Routed::Rejected("every place of the region `eu` is down".into())
    );
}

#[test]
fn an_unknown_or_missing_region_goes_to_the_default_or_nowhere() {
    assert_eq!(route("", "mars"), Routed::Unroutable);
    let default = r#", "default": "us""#;
    assert_eq!(route(default, "mars").targets(), ["ohio"]);
    let mut router = Trial::<Geo>::new(config(default), &BOUND).unwrap();
    assert_eq!(router.route(&TestMessage::new("")).targets(), ["ohio"]);
}

#[test]
fn the_region_can_be_a_field_of_the_body() {
    let config = r#"{"by": "body.customer.country", "regions": {"DE": ["frankfurt"]}}"#;
    let mut router = Trial::<Geo>::new(config, &BOUND).unwrap();
    let order = TestMessage::new("").body(r#"{"customer": {"country": "DE"}}"#);
    assert_eq!(router.route(&order).targets(), ["frankfurt"]);
}

#[test]
fn a_name_that_does_not_exist_is_refused() {
    assert_eq!(
        refused(&config(r#", "down": ["berlin"]"#)),
        "`berlin` is marked down, but no region has it"
    );
    assert_eq!(
        refused(&config(r#", "default": "mars""#)),
        "the default region `mars` is not among `regions`"
    );
    assert_eq!(
        refused(r#"{"by": "routing_key", "regions": {}, "aliases": {"DE": "eu"}}"#),
        "the alias `DE` is of the region `eu`, which is not among `regions`"
    );
    assert_eq!(
        refused(r#"{"by": "routing_key", "regions": {"eu": []}, "aliases": {"eu": "eu"}}"#),
        "`eu` is both a region and an alias"
    );
    assert!(refused("{}").starts_with("the regions cannot be read"));
}
