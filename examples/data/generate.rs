//! Writes `orders.jsonl`, the same lines on every machine:
//! `cargo run -p pointsman-examples --bin generate-orders > examples/data/orders.jsonl`
//!
//! Each order lives as orders do: it is created, mostly paid, mostly shipped, sometimes refunded or cancelled. The
//! lines are its events, sorted by time as a shop would publish them.

use std::io::{BufWriter, Write as _};

const ORDERS: u64 = 1_300;
/// The name, the currency, and how many of 100 customers.
const COUNTRIES: [(&str, &str, u64); 10] = [
    ("US", "USD", 28),
    ("DE", "EUR", 17),
    ("GB", "GBP", 13),
    ("FR", "EUR", 10),
    ("NL", "EUR", 7),
    ("CA", "CAD", 7),
    ("ES", "EUR", 6),
    ("PL", "PLN", 5),
    ("SE", "SEK", 4),
    ("IN", "INR", 3),
];
const TIERS: [(&str, u64); 3] = [("standard", 72), ("plus", 22), ("business", 6)];
/// Stock number, name, price in hundredths.
const CATALOGUE: [(&str, &str, u64); 12] = [
    ("LMP-0114", "Desk lamp, brass", 6_490),
    ("KBD-0072", "Keyboard, 75 keys", 11_900),
    ("CHR-0031", "Office chair", 38_900),
    ("MUG-0205", "Mug, stoneware", 1_450),
    ("NTB-0009", "Notebook, dotted", 1_290),
    ("BAG-0088", "Messenger bag", 12_400),
    ("HDP-0017", "Headphones", 19_900),
    ("PEN-0140", "Fountain pen", 5_800),
    ("DSK-0004", "Standing desk", 64_900),
    ("MON-0052", "Monitor, 27 inch", 32_900),
    ("CBL-0301", "Cable, 2 m", 990),
    ("PLT-0066", "Plant pot, large", 3_490),
];
/// How likely each number of different items is, of 100.
const ITEM_COUNTS: [(u64, u64); 4] = [(1, 55), (2, 27), (3, 12), (4, 6)];
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

fn main() -> std::io::Result<()> {
    let mut dice = Dice(0x5EED);
    let mut events = Vec::new();
    let mut opened_at = 8 * HOUR;
    for number in 1..=ORDERS {
        opened_at += dice.below(15 * MINUTE);
        let order = order(number, &mut dice);
        let life = life(opened_at, &mut dice);
        events.extend(life.into_iter().map(|(at, kind)| (at, kind, order.clone())));
    }
    events.sort_by_key(|(at, _, _)| *at); // a stable sort: equal times keep the order they were made in
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (number, (at, kind, order)) in (1..).zip(events) {
        let at = iso(at);
        writeln!(
            out,
            r#"{{"id":"evt-{number:05}","kind":"{kind}","created_at":"{at}",{order}}}"#
        )?;
    }
    out.flush()
}

/// What happens to one order, and when, in seconds since the start of the month.
fn life(opened_at: u64, dice: &mut Dice) -> Vec<(u64, &'static str)> {
    let mut events = vec![(opened_at, "order.created")];
    if dice.below(100) < 8 {
        events.push((opened_at + dice.below(12 * HOUR), "order.cancelled"));
        return events;
    }
    let paid_at = opened_at + MINUTE + dice.below(2 * HOUR);
    events.push((paid_at, "order.paid"));
    let shipped_at = paid_at + 4 * HOUR + dice.below(40 * HOUR);
    if dice.below(100) < 4 {
        events.push((paid_at + dice.below(4 * HOUR), "order.cancelled"));
        return events;
    }
    events.push((shipped_at, "order.shipped"));
    if dice.below(100) < 7 {
        events.push((shipped_at + 48 * HOUR + dice.below(120 * HOUR), "order.refunded"));
    }
    events
}

/// The members that all events of an order share. Nothing in them needs escaping.
fn order(number: u64, dice: &mut Dice) -> String {
    let (country, currency, _) = dice.weighted(&COUNTRIES, |(_, _, weight)| *weight);
    let (tier, _) = dice.weighted(&TIERS, |(_, weight)| *weight);
    let customer = 1 + dice.below(600);
    let (different, _) = dice.weighted(&ITEM_COUNTS, |(_, weight)| *weight);
    let first = dice.below(CATALOGUE.len() as u64);
    let mut total = 0;
    let items: Vec<String> = (0..*different)
        .map(|step| {
            // Five steps through twelve items never meet the same one twice within four.
            let place = (first + 5 * step) as usize % CATALOGUE.len();
            let (sku, name, price) = CATALOGUE[place];
            let quantity = 1 + dice.below(3) * dice.below(2);
            total += price * quantity;
            let price = hundredths(price);
            format!(r#"{{"sku":"{sku}","name":"{name}","quantity":{quantity},"price":{price}}}"#)
        })
        .collect();
    format!(
        r#""order":"ord-{number:05}","customer":{{"id":"cus-{customer:04}","country":"{country}","tier":"{tier}"}},"items":[{}],"total":{},"currency":"{currency}""#,
        items.join(","),
        hundredths(total),
    )
}

fn hundredths(amount: u64) -> String {
    format!("{}.{:02}", amount / 100, amount % 100)
}

/// A time in March 2026.
fn iso(seconds: u64) -> String {
    let (day, hour) = (1 + seconds / (24 * HOUR), seconds / HOUR % 24);
    let (minute, second) = (seconds / MINUTE % 60, seconds % 60);
    assert!(day <= 31, "the orders do not fit into March");
    format!("2026-03-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to but without `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of the choices, by weights that add up to 100.
    fn weighted<'a, T>(&mut self, choices: &'a [T], weight: impl Fn(&T) -> u64) -> &'a T {
        let mut left = self.below(100);
        for choice in choices {
            match left.checked_sub(weight(choice)) {
                Some(rest) => left = rest,
                None => return choice,
            }
        }
        panic!("the weights do not add up to 100")
    }
}
