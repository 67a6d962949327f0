//! Picks the values at some paths out of a JSON text while skipping all others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Scalar;

/// The paths as a tree of keys, so that one pass finds them all.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    root: Node,
    count: usize,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// The number of the path that ends here.
    path: Option<usize>,
    children: Vec<(String, Node)>,
}

impl Node {
    fn child(&self, key: &str) -> Option<&Node> {
        let (_, node) = self.children.iter().find(|(known, _)| known == key)?;
        Some(node)
    }

    fn child_or_new(&mut self, key: &str) -> &mut Node {
        let known = self.children.iter().position(|(known, _)| known == key);
        let place = known.unwrap_or_else(|| {
            self.children.push((key.to_owned(), Node::default()));
            self.children.len() - 1
        });
        &mut self.children[place].1
    }
}

impl Paths {
    /// Adds a path of keys with dots between; answers its number, the same for the same path.
    pub(super) fn add(&mut self, path: &str) -> usize {
        let node = path.split('.').fold(&mut self.root, Node::child_or_new);
        *node.path.get_or_insert_with(|| {
            self.count += 1;
            self.count - 1
        })
    }

    /// What is at each path. Stops at the first fault of the text or when all paths are found.
    pub(super) fn read<'a>(&self, text: &'a [u8]) -> Vec<Option<Scalar<'a>>> {
        let mut found = Found {
            values: vec![None; self.count],
            missing: self.count,
        };
        let seed = At {
            node: &self.root,
            found: &mut found,
        };
        // An error only says where reading stopped: at a fault, or because everything was found.
        let _ = seed.deserialize(&mut serde_json::Deserializer::from_slice(text));
        found.values
    }
}

struct Found<'de> {
    values: Vec<Option<Scalar<'de>>>,
    missing: usize,
}

/// Reads the value at a node of the tree.
struct At<'t, 'f, 'de> {
    node: &'t Node,
    found: &'f mut Found<'de>,
}

impl<'de> At<'_, '_, 'de> {
    /// Notes the value if a path ends here; an error when it was the last one missing.
    fn note<E: Error>(&mut self, value: Scalar<'de>) -> Result<(), E> {
        let Some(slot) = self.node.path.and_then(|path| self.found.values.get_mut(path)) else {
            return Ok(());
        };
        if slot.replace(value).is_none() {
            self.found.missing -= 1;
        }
        match self.found.missing {
            0 => Err(E::custom("everything is found")),
            _ => Ok(()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for At<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.note(Scalar::Null)
    }

    fn visit_bool<E: Error>(mut self, truth: bool) -> Result<(), E> {
        self.note(Scalar::Bool(truth))
    }

    fn visit_i64<E: Error>(mut self, number: i64) -> Result<(), E> {
        self.note(Scalar::Int(number))
    }

    fn visit_u64<E: Error>(mut self, number: u64) -> Result<(), E> {
        self.note(Scalar::from(number))
    }

    fn visit_f64<E: Error>(mut self, number: f64) -> Result<(), E> {
        self.note(Scalar::Float(number))
    }

    fn visit_borrowed_str<E: Error>(mut self, text: &'de str) -> Result<(), E> {
        self.note(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.note(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.note(Scalar::Other)?;
        if self.node.children.is_empty() {
            return IgnoredAny.visit_map(map).map(drop);
        }
        while let Some(child) = map.next_key_seed(Key(self.node))? {
            match child {
                Some(node) => map.next_value_seed(At {
                    node,
                    found: self.found,
                })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.note(Scalar::Other)?;
        if self.node.children.is_empty() {
            return IgnoredAny.visit_seq(list).map(drop);
        }
        let nothing = Node::default();
        for place in 0_usize.. {
            let node = self.node.child(&place.to_string()).unwrap_or(&nothing);
            let element = At {
                node,
                found: self.found,
            };
            if list.next_element_seed(element)?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Reads a key and finds the child of that name, without keeping the key.
struct Key<'t>(&'t Node);

impl<'de, 't> DeserializeSeed<'de> for Key<'t> {
    type Value = Option<&'t Node>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for Key<'t> {
    type Value = Option<&'t Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.child(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(paths: &[&str], text: &'a str) -> Vec<Option<Scalar<'a>>> {
        let mut tree = Paths::default();
        for path in paths {
            tree.add(path);
        }
        tree.read(text.as_bytes())
    }

    fn text(text: &str) -> Option<Scalar<'_>> {
        Some(Scalar::Text(text.into()))
    }

    const ORDER: &str = r#"{"id": 7, "note": "a\"b", "customer": {"country": "DE", "vip": true, "age": null},
        "total": 12.5, "big": 18446744073709551615, "items": [{"sku": "x"}, {"sku": "y"}]}"#;

    #[test]
    fn values_at_paths_are_found_in_one_pass() {
        let found = read(
            &[
                "customer.country",
                "id",
                "total",
                "items.1.sku",
                "customer.vip",
                "note",
            ],
            ORDER,
        );
        assert_eq!(found[0], text("DE"));
        assert_eq!(found[1], Some(Scalar::Int(7)));
        assert_eq!(found[2], Some(Scalar::Float(12.5)));
        assert_eq!(found[3], text("y"));
        assert_eq!(found[4], Some(Scalar::Bool(true)));
        assert_eq!(found[5], text("a\"b"));
    }

    #[test]
    fn a_null_an_object_and_an_absent_field_differ() {
        let found = read(
            &["customer.age", "customer", "customer.name", "items.2", "id.x"],
            ORDER,
        );
        assert_eq!(found, [Some(Scalar::Null), Some(Scalar::Other), None, None, None]);
    }

    #[test]
    fn a_cut_body_gives_the_fields_before_the_cut() {
        let cut = &ORDER[..ORDER.find("\"vip\"").unwrap()];
        assert_eq!(read(&["customer.country", "total"], cut), [text("DE"), None]);
    }

    #[test]
    fn reading_stops_when_everything_is_found() {
        assert_eq!(
            read(&["id"], r#"{"id": 1, this is not JSON"#),
            [Some(Scalar::Int(1))]
        );
    }

    #[test]
    fn what_is_not_json_has_no_fields() {
        for body in ["", "plain text", "[", "\u{0}", "{\"id\"", "42"] {
            assert_eq!(read(&["id"], body), [None], "{body}");
        }
    }

    #[test]
    fn nesting_without_end_is_given_up() {
        let deep = "{\"a\":".repeat(100_000);
        assert_eq!(read(&["id"], &deep), [None]);
    }
}
