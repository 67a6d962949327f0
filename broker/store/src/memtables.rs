//! Memtables are freed where nobody waits for it.
//!
//! fjall lets go of a memtable that was flushed while it holds the lock that each write to its keyspace needs. To free the
//! hundreds of thousands of keys and values in it takes a tenth of a second, for which nothing commits. So the store holds
//! every memtable as well, and lets go of it after fjall, on a thread of its own.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{AbstractTree, Keyspace};

use crate::staged::{Keyspaces, Table};

/// How often the thread looks whether fjall has let go of those that are being flushed, while there are any.
const LOOK: Duration = Duration::from_millis(50);

/// Held for as long as it is not freed; nothing else is done with it.
type Memtable = Arc<dyn Any + Send + Sync>;

/// The memtables written to, and the thread that frees those that were. Dropping it waits for the thread.
pub(crate) struct Memtables {
    active: [Memtable; Table::ALL.len()],
    /// There until it is dropped.
    sealed: Option<Sender<Memtable>>,
    thread: Option<JoinHandle<()>>,
}

impl Memtables {
    /// Holds the memtables that are there.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(crate) fn hold(keyspaces: &Keyspaces) -> io::Result<Memtables> {
        let (sealed, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("memtables".to_owned())
            .spawn(move || free(&receiver))?;
        Ok(Memtables {
            active: keyspaces.each_ref().map(active),
            sealed: Some(sealed),
            thread: Some(thread),
        })
    }

    /// Holds those that were begun since the last time. To be called after each batch. How many are held is up to fjall,
    /// which stops writing when four of a keyspace wait to be flushed.
    pub(crate) fn follow(&mut self, keyspaces: &Keyspaces) {
        for (held, keyspace) in self.active.iter_mut().zip(keyspaces) {
            let now = active(keyspace);
            if !Arc::ptr_eq(held, &now) {
                let before = std::mem::replace(held, now);
                if let Some(sealed) = &self.sealed {
                    // Without the thread it is freed here.
                    let _ = sealed.send(before);
                }
            }
        }
    }
}

impl Drop for Memtables {
    fn drop(&mut self) {
        self.sealed = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that frees memtables panicked");
        }
    }
}

fn active(keyspace: &Keyspace) -> Memtable {
    keyspace.tree.active_memtable()
}

/// Frees what comes once nobody else holds it, until nothing more can come.
fn free(sealed: &Receiver<Memtable>) {
    let mut held: Vec<Memtable> = Vec::new();
    loop {
        let came = if held.is_empty() {
            sealed.recv().map_err(RecvTimeoutError::from)
        } else {
            sealed.recv_timeout(LOOK)
        };
        match came {
            Ok(memtable) => held.push(memtable),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        held.retain(|memtable| Arc::strong_count(memtable) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::open::database;
    use crate::options::Options;

    fn weak(memtables: &Memtables, table: Table) -> Weak<dyn Any + Send + Sync> {
        Arc::downgrade(&memtables.active[table as usize])
    }

    #[test]
    fn a_flushed_memtable_is_there_until_it_is_handed_to_the_thread_and_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let (database, keyspaces) = database(folder.path(), &Options::default()).unwrap();
        let mut memtables = Memtables::hold(&keyspaces).unwrap();
        let first = weak(&memtables, Table::Log);
        let log = &keyspaces[Table::Log as usize];
        for round in 0..3_u8 {
            log.insert([round], [round]).unwrap();
            log.rotate_memtable_and_wait().unwrap();
        }
        assert!(first.upgrade().is_some(), "fjall freed it");
        memtables.follow(&keyspaces);
        assert!(!Weak::ptr_eq(&first, &weak(&memtables, Table::Log)));
        drop((keyspaces, database));
        drop(memtables);
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn what_is_written_to_stays_held() {
        let folder = tempfile::tempdir().unwrap();
        let (_database, keyspaces) = database(folder.path(), &Options::default()).unwrap();
        let mut memtables = Memtables::hold(&keyspaces).unwrap();
        let before = weak(&memtables, Table::State);
        keyspaces[Table::State as usize].insert("a", "b").unwrap();
        memtables.follow(&keyspaces);
        assert!(Weak::ptr_eq(&before, &weak(&memtables, Table::State)));
    }
}
