//! Faults on request: each place where the store writes, syncs or reads asks here first, so that a test can make
//! exactly that one fail. Without a fault it costs one relaxed load.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A place where the disk can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Writing a batch.
    Write,
    /// Syncing the write-ahead log.
    Sync,
    /// Writing a keyspace's part of a memtable to tables.
    Flush,
    /// Writing the mark.
    Mark,
    /// Reading an index entry, chunk or module.
    Read,
    /// Writing the batch that replaces chunks by their sparse form.
    Rewrite,
}

impl Site {
    /// All of them.
    pub const ALL: [Site; 6] = [
        Site::Write,
        Site::Sync,
        Site::Flush,
        Site::Mark,
        Site::Read,
        Site::Rewrite,
    ];
}

/// What shall fail, shared by the store and whoever wants it to.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    armed: AtomicBool,
    plan: Mutex<Vec<Planned>>,
}

#[derive(Debug)]
struct Planned {
    site: Site,
    skip: u64,
    kind: io::ErrorKind,
}

impl Faults {
    /// Lets the next visit of `site` after `skip` more fail with an error of `kind`, once.
    pub fn fail(&self, site: Site, skip: u64, kind: io::ErrorKind) {
        self.plan().push(Planned { site, skip, kind });
        self.0.armed.store(true, Ordering::Release);
    }

    pub(crate) fn visit(&self, site: Site) -> io::Result<()> {
        if !self.0.armed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut plan = self.plan();
        let Some(at) = plan.iter().position(|planned| planned.site == site) else {
            return Ok(());
        };
        if plan[at].skip > 0 {
            plan[at].skip -= 1;
            return Ok(());
        }
        let kind = plan.remove(at).kind;
        self.0.armed.store(!plan.is_empty(), Ordering::Release);
        Err(io::Error::new(kind, format!("injected at {site:?}")))
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Vec<Planned>> {
        self.0.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_once_at_its_site_and_turn() {
        let faults = Faults::default();
        assert!(faults.visit(Site::Sync).is_ok());
        faults.fail(Site::Sync, 1, io::ErrorKind::StorageFull);
        assert!(faults.visit(Site::Write).is_ok());
        assert!(faults.visit(Site::Sync).is_ok());
        assert_eq!(
            faults.visit(Site::Sync).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert!(faults.visit(Site::Sync).is_ok());
    }
}
