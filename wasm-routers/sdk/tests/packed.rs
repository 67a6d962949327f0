//! The packed layouts: what one side writes the other reads, and nothing malformed gets through.

use pointsman_router::packed::{
    BatchEncoder, DecisionEncoder, DecisionView, Decisions, PackedError, encode_targets,
};
use pointsman_router::testing::{Routed, TestMessage, Trial};
use pointsman_router::{Decision, Delivery, Field, Message, Plan, Router, Target, Targets, Value};

fn full_message() -> TestMessage {
    TestMessage::new("order.paid")
        .priority(7)
        .message_id("m-1")
        .timestamp(1_700_000_000_000)
        .expiration(30_000)
        .content_type("application/json")
        .content_encoding("gzip")
        .correlation_id("c-1")
        .reply_to("answers")
        .header("kind", "paid")
        .header("count", 3)
        .header("ratio", 0.5)
        .header("vip", true)
        .header("raw", &b"\x00\xff"[..])
        .body("0123456789")
}

/// Sees everything, says what it saw in the reason of a rejection.
struct Witness;

impl Router for Witness {
    fn configure(_: &[u8], _: &Targets) -> Result<(Self, Plan), String> {
        let plan = Field::ALL.into_iter().fold(Plan::new(), Plan::field);
        Ok((Witness, plan.header("vip").header("absent").body_up_to(4)))
    }

    fn route(&mut self, m: &Message<'_>) -> Decision {
        assert_eq!(m.header("vip"), Some(Value::Bool(true)));
        assert_eq!(m.header("absent"), None);
        assert_eq!(m.header("count"), Some(Value::Int(3)), "read from all headers");
        let headers: Vec<_> = m
            .headers()
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        Decision::reject(format!(
            "{} {} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?} [{}] {:?} of {} whole {:?}",
            m.routing_key(),
            m.persistent(),
            m.priority(),
            m.message_id(),
            m.timestamp(),
            m.expiration(),
            m.content_type(),
            m.content_encoding(),
            m.correlation_id(),
            m.reply_to(),
            headers.join(" "),
            std::str::from_utf8(m.body()),
            m.body_len(),
            m.whole_body(),
        ))
    }
}

#[test]
fn a_router_sees_every_field_it_declared() {
    let routed = Trial::<Witness>::new("", &[]).unwrap().route(&full_message());
    let Routed::Rejected(saw) = routed else {
        panic!("{routed:?}");
    };
    assert_eq!(
        saw,
        "order.paid true 7 Some(\"m-1\") Some(1700000000000) Some(30000) Some(\"application/json\") \
         Some(\"gzip\") Some(\"c-1\") Some(\"answers\") [kind=Str(\"paid\") count=Int(3) ratio=Float(0.5) \
         vip=Bool(true) raw=Bytes([0, 255])] Ok(\"0123\") of 10 whole None"
    );
}

/// Declares the routing key only and looks at what the configuration says.
struct Curious(String);

impl Router for Curious {
    fn configure(config: &[u8], _: &Targets) -> Result<(Self, Plan), String> {
        Ok((
            Curious(String::from_utf8_lossy(config).into()),
            Plan::new().routing_key(),
        ))
    }

    fn route(&mut self, message: &Message<'_>) -> Decision {
        match self.0.as_str() {
            "header" => drop(message.header("kind")),
            _ => drop(message.whole_body()),
        }
        Decision::Unroutable
    }
}

#[test]
#[should_panic(expected = "asks for the header `kind`, which its plan does not declare")]
fn looking_at_an_undeclared_header_panics_with_its_name() {
    Trial::<Curious>::new("header", &[])
        .unwrap()
        .route(&full_message());
}

#[test]
#[should_panic(expected = "asks for the body, which its plan does not declare")]
fn looking_at_an_undeclared_body_panics() {
    Trial::<Curious>::new("body", &[]).unwrap().route(&full_message());
}

#[test]
fn what_is_not_declared_is_not_packed() {
    let plan = Plan::new().header("kind");
    let mut encoder = BatchEncoder::default();
    let (batch, count) = encoder.encode(&plan, &[full_message()], usize::MAX).unwrap();
    assert_eq!(count, 1);
    // Head, one slot, and the value: its kind and four letters.
    assert_eq!(batch.len(), 8 + 8 + 1 + 4);
    assert!(batch.ends_with(b"\x03paid"));
}

#[test]
fn a_batch_takes_the_leading_messages_that_fit() {
    let plan = Plan::new().body_up_to(100);
    let messages = vec![TestMessage::new("").body([0; 100]); 10];
    let mut encoder = BatchEncoder::default();
    let (batch, count) = encoder.encode(&plan, &messages, 400).unwrap();
    assert!(batch.len() <= 400);
    assert_eq!(count, 3);
    let refused = encoder.encode(&plan, &messages, 100).unwrap_err();
    assert!(
        matches!(refused, PackedError::OverLimit { limit: 100, .. }),
        "{refused}"
    );
}

#[test]
fn a_plan_survives_packing() {
    let plan = Plan::new()
        .routing_key()
        .reply_to()
        .header("a")
        .header("b")
        .body_up_to(9)
        .cacheable();
    assert_eq!(Plan::decode(&plan.encode()), Ok(plan));
}

#[test]
fn a_plan_of_a_later_version_is_refused_by_name() {
    let bytes = Plan::new().encode();
    let with = |place: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[place] = byte;
        Plan::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, 2), PackedError::Version(2));
    assert_eq!(with(1, 2), PackedError::Unknown("plan flags", 2));
    assert_eq!(with(5, 8), PackedError::Unknown("field bits", 1 << 11));
    let many = (0..65).fold(Plan::new(), |plan, number| plan.header(number.to_string()));
    assert!(matches!(
        Plan::decode(&many.encode()),
        Err(PackedError::OverLimit {
            got: 65,
            limit: 64,
            ..
        })
    ));
}

fn targets() -> Targets {
    Targets::from_iter(["a", "b", "c"])
}

fn pack(decisions: &[Decision]) -> Vec<u8> {
    let mut encoder = DecisionEncoder::new(decisions.len());
    decisions.iter().for_each(|decision| encoder.push(decision));
    encoder.finish()
}

fn sample() -> Vec<u8> {
    let [a, b] = ["a", "b"].map(|name| targets().named(name));
    let changed = Delivery::to(b)
        .routing_key("new")
        .priority(3)
        .expires_after(500)
        .without_header("old")
        .header("x", 1)
        .header("y", "z")
        .body("changed")
        .delay(250);
    pack(&[
        Decision::Unroutable,
        Decision::to(a),
        Decision::to_all([b, a, b]),
        Decision::changed([Delivery::to(a), changed]),
        Decision::reject("no"),
    ])
}

#[test]
fn decisions_survive_packing() {
    let bytes = sample();
    let decisions: Result<Vec<_>, _> = Decisions::decode(&bytes, 5, 3).unwrap().collect();
    let decisions = decisions.unwrap();
    assert_eq!(decisions[0], DecisionView::Unroutable);
    assert_eq!(decisions[1], DecisionView::One(0));
    let DecisionView::Several(numbers) = &decisions[2] else {
        panic!("{decisions:?}");
    };
    assert_eq!(numbers.iter().collect::<Vec<_>>(), [0, 1]);
    let DecisionView::Changed(deliveries) = &decisions[3] else {
        panic!("{decisions:?}");
    };
    assert_eq!(deliveries[0].changes, Default::default());
    let changes = &deliveries[1].changes;
    assert_eq!(
        (
            changes.routing_key,
            changes.priority,
            changes.expiration,
            changes.delay
        ),
        (Some("new"), Some(3), Some(500), Some(250))
    );
    assert_eq!(changes.remove_headers, ["old"]);
    assert_eq!(
        changes.set_headers,
        [("x", Value::Int(1)), ("y", Value::Str("z"))]
    );
    assert_eq!(changes.body, Some(&b"changed"[..]));
    assert_eq!(decisions[4], DecisionView::Reject("no"));
}

fn read(bytes: &[u8], messages: u32, targets: u32) -> Result<usize, PackedError> {
    let decisions: Result<Vec<_>, _> = Decisions::decode(bytes, messages, targets)?.collect();
    decisions.map(|decisions| decisions.len())
}

#[test]
fn every_cut_of_an_answer_is_an_error() {
    let bytes = sample();
    assert_eq!(read(&bytes, 5, 3), Ok(5));
    for len in 0..bytes.len() {
        let error = read(&bytes[..len], 5, 3).unwrap_err();
        assert!(matches!(error, PackedError::Truncated(_)), "{len}: {error}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(read(&longer, 5, 3), Err(PackedError::Trailing(1)));
}

#[test]
fn any_changed_byte_of_an_answer_is_read_without_panic() {
    let bytes = sample();
    for place in 0..bytes.len() {
        for value in 0..=u8::MAX {
            let mut broken = bytes.clone();
            broken[place] = value;
            let _ = read(&broken, 5, 3);
        }
    }
}

#[test]
fn a_wrong_count_of_decisions_is_named() {
    let wrong = PackedError::WrongCount {
        decisions: 5,
        messages: 6,
    };
    assert_eq!(read(&sample(), 6, 3), Err(wrong));
}

#[test]
fn a_target_that_nobody_bound_is_named() {
    let bytes = pack(&[Decision::to(targets().named("c"))]);
    let wrong = PackedError::TargetOutOfRange {
        target: 2,
        targets: 2,
    };
    assert_eq!(read(&bytes, 1, 2), Err(wrong));
}

#[test]
fn a_long_reason_is_cut_at_a_letter() {
    let bytes = pack(&[Decision::reject("é".repeat(1_000))]);
    let mut decisions = Decisions::decode(&bytes, 1, 0).unwrap();
    assert_eq!(decisions.next(), Some(Ok(DecisionView::Reject(&"é".repeat(512)))));
}

/// Sends to the target that the configuration names.
struct Named(Target);

impl Router for Named {
    fn configure(config: &[u8], targets: &Targets) -> Result<(Self, Plan), String> {
        let name = std::str::from_utf8(config).map_err(|_| "the configuration is not text".to_owned())?;
        Ok((Named(targets.named(name)), Plan::new()))
    }

    fn route(&mut self, _: &Message<'_>) -> Decision {
        Decision::to(self.0)
    }
}

pointsman_router::export!(Named);

#[test]
fn a_target_without_a_binding_leads_nowhere_and_is_reported() {
    let mut bound = Trial::<Named>::new("b", &["a", "b"]).unwrap();
    assert_eq!(bound.route(&TestMessage::new("")).targets(), ["b"]);
    assert!(bound.plan().unbound().is_empty());
    let mut unbound = Trial::<Named>::new("x", &["a", "b"]).unwrap();
    assert_eq!(unbound.route(&TestMessage::new("")), Routed::Unroutable);
    assert_eq!(unbound.plan().unbound(), ["x"]);
}

#[test]
fn what_configure_says_reaches_the_operator() {
    let refused = Trial::<Named>::new(b"\xff", &[]).unwrap_err();
    assert_eq!(refused, "the configuration is not text");
}

#[test]
fn malformed_targets_are_refused() {
    let bytes = encode_targets(["a", "b"].into_iter());
    assert!(Targets::decode(&bytes).is_ok());
    for len in 0..bytes.len() {
        assert!(Targets::decode(&bytes[..len]).is_err());
    }
}
