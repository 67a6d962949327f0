//! The targets of an exchange: the names its bindings give.

use std::cell::RefCell;

use super::bytes::{PackedError, Reader, encode_text};
use super::{PLAN_UNBOUND_MAX, VERSION};
use crate::Target;

/// Host: packs the names of an exchange's targets, in the order of their numbers.
pub fn encode_targets<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Vec<u8> {
    let mut out = vec![VERSION, 0, 0, 0];
    out.extend((names.len() as u32).to_le_bytes());
    for name in names {
        encode_text(&mut out, name);
    }
    out
}

/// Guest: the targets of the exchange, which are the keys of its bindings.
#[derive(Debug, Default)]
pub struct Targets {
    names: Vec<String>,
    unbound: RefCell<Vec<String>>,
}

impl Targets {
    /// Reads what [`encode_targets`] wrote.
    ///
    /// # Errors
    /// When the bytes are not packed targets.
    pub fn decode(bytes: &[u8]) -> Result<Targets, PackedError> {
        let mut reader = Reader::versioned(bytes, "targets")?;
        reader.take(3, "targets")?;
        let count = reader.u32("targets")?;
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(reader.name("target name")?.to_owned());
        }
        reader.end()?;
        Ok(Targets {
            names,
            unbound: RefCell::default(),
        })
    }

    /// The target of that name.
    ///
    /// A name that no binding has gives a target that leads nowhere, so that routers can be loaded before their
    /// exchange is bound; `pointsman router logs` warns of it.
    pub fn named(&self, name: &str) -> Target {
        if let Some(target) = self.find(name) {
            return target;
        }
        let mut unbound = self.unbound.borrow_mut();
        if unbound.len() < PLAN_UNBOUND_MAX && !unbound.iter().any(|known| known == name) {
            unbound.push(name.to_owned());
        }
        Target::NOWHERE
    }

    /// The target of that name, if a binding has it.
    pub fn find(&self, name: &str) -> Option<Target> {
        let place = self.names.iter().position(|known| known == name)?;
        Some(Target(place as u32))
    }

    /// All targets with their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Target, &str)> {
        self.names
            .iter()
            .enumerate()
            .map(|(place, name)| (Target(place as u32), name.as_str()))
    }

    /// The names asked for by [`Targets::named`] that no binding has.
    pub(crate) fn into_unbound(self) -> Vec<String> {
        self.unbound.into_inner()
    }
}

impl<S: Into<String>> FromIterator<S> for Targets {
    /// Targets of these names, for tests.
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Targets {
        Targets {
            names: names.into_iter().map(Into::into).collect(),
            unbound: RefCell::default(),
        }
    }
}
