//! Faults on request: each place where the store writes, syncs or reads asks here first, so that a test can make
//! exactly that one fail, or take as long as it likes. Without a fault it costs one relaxed load.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Failure(io::ErrorKind),
    /// Says that somebody is there, and waits until the other end is gone.
    Hold(Sender<()>, Receiver<()>),
}

/// Who visits a site is held there until this is dropped.
#[derive(Debug)]
pub struct Held {
    arrived: Receiver<()>,
    _release: Sender<()>,
}

impl Held {
    /// Waits until somebody is held, as long as that patience lasts; says whether somebody is.
    pub fn wait(&self, patience: Duration) -> bool {
        self.arrived.recv_timeout(patience).is_ok()
    }
}

impl Faults {
    /// Lets the next visit of `site` after `skip` more fail with an error of `kind`, once.
    pub fn fail(&self, site: Site, skip: u64, kind: io::ErrorKind) {
        self.add(site, skip, Fault::Failure(kind));
    }

    /// Holds the next visit of `site`, once.
    pub fn hold(&self, site: Site) -> Held {
        let (arrive, arrived) = channel();
        let (release, released) = channel();
        self.add(site, 0, Fault::Hold(arrive, released));
        Held {
            arrived,
            _release: release,
        }
    }

    fn add(&self, site: Site, skip: u64, fault: Fault) {
        self.plan().push(Planned { site, skip, fault });
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
        let fault = plan.remove(at).fault;
        self.0.armed.store(!plan.is_empty(), Ordering::Release);
        drop(plan);
        match fault {
            Fault::Failure(kind) => Err(io::Error::new(kind, format!("injected at {site:?}"))),
            Fault::Hold(arrive, released) => {
                // Whoever asked for it may be gone.
                let _ = arrive.send(());
                let _ = released.recv();
                Ok(())
            }
        }
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
