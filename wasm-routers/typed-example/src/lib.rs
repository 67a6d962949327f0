//! A router written directly against the typed interface: what any language with component tooling does.
//!
//! It sends each message to the target named like its header `kind`, gives `audit` a marked copy if there is such a
//! target, and rejects messages without a kind.

use std::cell::RefCell;
use std::collections::HashMap;

use bindings::exports::pointsman::router::typed::{
    Changes, Decision, Delivery, Fields, Guest, Header, Message, Plan, Target, Value,
};

#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated code that crosses the component boundary"
)]
mod bindings {
    wit_bindgen::generate!({ world: "typed-router", path: "../wit" });

    // The names of the exports are nothing that a native linker takes.
    #[cfg(target_arch = "wasm32")]
    export!(TypedExample with_types_in self);
    #[cfg(target_arch = "wasm32")]
    use super::TypedExample;
}

/// What `configure` leaves for `route`.
struct State {
    kinds: HashMap<String, Target>,
    audit: Option<Target>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

struct TypedExample;

impl Guest for TypedExample {
    fn configure(_config: Vec<u8>, targets: Vec<String>) -> Result<Plan, String> {
        // A target's number is its place in the list.
        let kinds: HashMap<String, Target> = targets.into_iter().zip(0..).collect();
        let audit = kinds.get("audit").copied();
        STATE.set(Some(State { kinds, audit }));
        Ok(Plan {
            fields: Fields::empty(),
            headers: vec!["kind".to_owned()],
            body_up_to: 0,
            cacheable: true,
            unbound: Vec::new(),
        })
    }

    fn route(batch: Vec<Message>) -> Vec<Decision> {
        STATE.with_borrow(|state| match state {
            Some(state) => batch.iter().map(|message| state.decide(message)).collect(),
            None => panic!("route was called before configure"),
        })
    }
}

impl State {
    fn decide(&self, message: &Message) -> Decision {
        let Some(Value::Str(kind)) = message.headers.first().map(|header| &header.value) else {
            return Decision::Reject("the header `kind` is missing".to_owned());
        };
        let Some(&target) = self.kinds.get(kind) else {
            return Decision::Unroutable;
        };
        match self.audit {
            None => Decision::Deliver(vec![target]),
            Some(audit) => Decision::DeliverWith(vec![
                delivery(target, Vec::new()),
                delivery(audit, vec![header("audited", Value::Bool(true))]),
            ]),
        }
    }
}

/// A delivery that sets these headers and changes nothing else.
fn delivery(target: Target, set_headers: Vec<Header>) -> Delivery {
    Delivery {
        target,
        changes: Changes {
            routing_key: None,
            priority: None,
            expiration: None,
            delay: None,
            remove_headers: Vec::new(),
            set_headers,
            body: None,
        },
    }
}

fn header(name: &str, value: Value) -> Header {
    Header {
        name: name.to_owned(),
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: Option<&str>) -> Message {
        let kind = kind.map(|kind| header("kind", Value::Str(kind.to_owned())));
        Message {
            routing_key: String::new(),
            persistent: false,
            priority: 0,
            message_id: None,
            timestamp: None,
            expiration: None,
            content_type: None,
            content_encoding: None,
            correlation_id: None,
            reply_to: None,
            headers: kind.into_iter().collect(),
            body: Vec::new(),
            body_length: 0,
        }
    }

    fn route(targets: &[&str], kind: Option<&str>) -> Decision {
        let targets = targets.iter().map(|&name| name.to_owned()).collect();
        TypedExample::configure(Vec::new(), targets).unwrap();
        TypedExample::route(vec![message(kind)]).remove(0)
    }

    #[test]
    fn a_message_goes_to_the_target_of_its_kind() {
        assert!(matches!(route(&["a", "paid"], Some("paid")), Decision::Deliver(to) if to == [1]));
        assert!(matches!(route(&["a"], Some("paid")), Decision::Unroutable));
        assert!(matches!(route(&["a"], None), Decision::Reject(_)));
    }

    #[test]
    fn audit_gets_a_marked_copy() {
        let Decision::DeliverWith(deliveries) = route(&["audit", "paid"], Some("paid")) else {
            panic!("expected changed deliveries");
        };
        let sets: Vec<_> = deliveries
            .iter()
            .map(|to| (to.target, to.changes.set_headers.len()))
            .collect();
        assert_eq!(sets, [(1, 0), (0, 1)]);
    }
}
