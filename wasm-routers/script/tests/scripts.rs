//! What a script sees and answers, as `README.md` says.

use pointsman_router::packed::Fields as _;
use pointsman_router::testing::{Routed, TestMessage, Trial};
use pointsman_router::{Field, Value};
use router_script::Script;

fn trial(script: &str) -> Trial<Script> {
    Trial::new(script, &["paid", "eu", "other"]).unwrap()
}

fn route(script: &str, message: &TestMessage) -> Routed {
    trial(script).route(message)
}

fn refused(script: &str) -> String {
    Trial::<Script>::new(script, &[]).unwrap_err()
}

fn message() -> TestMessage {
    TestMessage::new("order.paid")
        .priority(3)
        .header("kind", "paid")
        .header("count", 2)
        .body(r#"{"total": 12.5, "customer": {"country": "DE"}, "tags": ["a"]}"#)
}

#[test]
fn a_script_answers_a_name_a_list_or_nothing() {
    assert_eq!(
        route(r#"fn route(msg) { "paid" }"#, &message()).targets(),
        ["paid"]
    );
    assert_eq!(
        route(r#"fn route(msg) { ["eu", "paid", "eu"] }"#, &message()).targets(),
        ["paid", "eu"]
    );
    assert_eq!(route("fn route(msg) { [] }", &message()), Routed::Unroutable);
    assert_eq!(route("fn route(msg) { }", &message()), Routed::Unroutable);
}

#[test]
fn a_script_sees_properties_headers_and_the_json_of_the_body() {
    let script = r#"
        fn route(msg) {
            if msg.routing_key == "order.paid" && msg.priority == 3 && msg.message_id == ()
                && msg.headers.kind == "paid" && msg.headers["count"] == 2 && msg.headers.absent == ()
                && msg.json.total > 12.0 && msg.json.customer.country in ["DE", "FR"]
                && msg.json.tags[0] == "a" && msg.body.starts_with("{") && msg.body_len == 61
            { "eu" } else { "other" }
        }"#;
    assert_eq!(route(script, &message()).targets(), ["eu"]);
}

#[test]
fn a_body_that_is_no_json_object_has_no_json() {
    let script = r#"fn route(msg) { if msg.json == () { "other" } else { "paid" } }"#;
    for body in ["", "text", "[1]", "{\"a\":"] {
        assert_eq!(
            route(script, &TestMessage::new("").body(body)).targets(),
            ["other"],
            "{body}"
        );
    }
}

#[test]
fn a_script_can_reject() {
    let script = r#"fn route(msg) { reject("no orders on " + msg.routing_key) }"#;
    assert_eq!(
        route(script, &message()),
        Routed::Rejected("no orders on order.paid".into())
    );
}

#[test]
fn a_map_changes_what_the_target_gets() {
    let script = r#"fn route(msg) { [
        #{ to: "paid", routing_key: "k", priority: 9, expires_after: 500, delay: 250, body: "new",
           headers: #{ kind: (), count: 3, seen: true } },
        "eu"
    ] }"#;
    let routed = route(script, &message());
    assert_eq!(routed.targets(), ["paid", "eu"]);
    let paid = routed.received("paid").unwrap();
    assert_eq!(
        (
            paid.routing_key(),
            paid.priority(),
            paid.expiration(),
            paid.delay()
        ),
        ("k", 9, Some(500), Some(250))
    );
    let headers: Vec<_> = paid.headers().collect();
    assert_eq!(headers, [("count", Value::Int(3)), ("seen", Value::Bool(true))]);
    assert_eq!(paid.body(), b"new");
    assert_eq!(routed.received("eu"), Some(&message()));
}

#[test]
fn a_script_declares_what_its_text_mentions() {
    let plan = trial(r#"fn route(msg) { msg.routing_key }"#).plan().clone();
    assert_eq!(plan.declared_fields().collect::<Vec<_>>(), [Field::RoutingKey]);
    assert_eq!(plan.body_limit(), 0);
    assert!(plan.is_cacheable());
    let plan = trial(r#"fn route(msg) { if msg.headers.kind == msg.json.kind { "eu" } }"#)
        .plan()
        .clone();
    assert_eq!(plan.declared_fields().collect::<Vec<_>>(), [Field::AllHeaders]);
    assert_eq!(plan.body_limit(), 64 * 1024);
}

#[test]
fn a_script_that_does_not_compile_is_refused_with_its_line() {
    let error = refused("fn route(msg) {\n  let x = ;\n}");
    assert!(
        error.starts_with("the script does not compile:") && error.contains("line 2"),
        "{error}"
    );
    assert_eq!(
        refused("fn other(msg) { }"),
        "the script has no function `route(msg)`"
    );
    assert_eq!(
        refused("fn route() { }"),
        "the script has no function `route(msg)`"
    );
    assert!(refused("fn route(msg) { eval(\"1\") }").contains("eval"));
}

#[test]
#[should_panic(expected = "names the target `piad`, which no binding has")]
fn naming_an_unknown_target_fails_the_message() {
    route(r#"fn route(msg) { "piad" }"#, &message());
}

#[test]
#[should_panic(expected = "the script answered i64")]
fn answering_a_number_fails_the_message() {
    route("fn route(msg) { 1 }", &message());
}

#[test]
#[should_panic(expected = "Too many operations")]
fn an_endless_loop_ends() {
    route("fn route(msg) { loop { } }", &message());
}

#[test]
#[should_panic(expected = "the script failed")]
fn an_endless_recursion_ends() {
    route("fn route(msg) { route(msg) }", &message());
}

#[test]
#[should_panic(expected = "the script failed")]
fn a_text_that_doubles_without_end_ends() {
    route(r#"fn route(msg) { let s = "x"; loop { s += s; } }"#, &message());
}
