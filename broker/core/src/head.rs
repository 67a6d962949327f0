//! What stands before the metadata and the body of a message in a chunk.
//!
//! A record of a chunk:
//!
//! ```text
//! varint  metadata length
//! varint  body length
//! varint  exchange id
//! varint  router id + 1, or 0 when no module decided
//! varint  router version, only when a module decided
//! bytes   metadata (postcard MessageMeta, as the publisher sent it or a router changed it)
//! bytes   body
//! ```

use crate::ids::{DecidedBy, ExchangeId, RouterId};
use crate::varint;

/// The varints before a record's metadata, collected so that they are appended as one.
#[derive(Default)]
pub(crate) struct HeadBuffer {
    bytes: [u8; 5 * varint::LEN_MAX],
    len: usize,
}

impl HeadBuffer {
    pub(crate) fn of(
        meta_len: usize,
        body_len: usize,
        exchange: ExchangeId,
        decided_by: Option<DecidedBy>,
    ) -> HeadBuffer {
        let mut head = HeadBuffer::default();
        head.put(meta_len as u32);
        head.put(body_len as u32);
        head.put(exchange.0);
        match decided_by {
            None => head.put(0),
            Some(by) => {
                head.put(by.router.0 + 1);
                head.put(by.version);
            }
        }
        head
    }

    /// Appends one of at most five varints.
    fn put(&mut self, value: u32) {
        varint::put(value, |byte| {
            self.bytes[self.len] = byte;
            self.len += 1;
        });
    }

    /// What goes in front of the metadata.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What stands before a record's metadata, and what follows from it.
pub(crate) struct Head {
    pub(crate) exchange: ExchangeId,
    pub(crate) decided_by: Option<DecidedBy>,
    pub(crate) meta_at: usize,
    pub(crate) body_at: usize,
    body_len: usize,
}

impl Head {
    /// Reads the head of the record that begins at `start`; `None` where it is cut off or none.
    pub(crate) fn read(bytes: &[u8], start: usize) -> Option<Head> {
        let mut at = start;
        let meta_len = varint::take(bytes, &mut at)? as usize;
        let body_len = varint::take(bytes, &mut at)? as usize;
        let exchange = ExchangeId(varint::take(bytes, &mut at)?);
        let decided_by = match varint::take(bytes, &mut at)? {
            0 => None,
            n => Some(DecidedBy {
                router: RouterId(n - 1),
                version: varint::take(bytes, &mut at)?,
            }),
        };
        Some(Head {
            exchange,
            decided_by,
            meta_at: at,
            body_at: at.checked_add(meta_len)?,
            body_len,
        })
    }

    /// Where the record ends, if that is not behind `len`.
    pub(crate) fn end_within(&self, len: usize) -> Option<usize> {
        let end = self.body_at.checked_add(self.body_len)?;
        (end <= len).then_some(end)
    }
}
