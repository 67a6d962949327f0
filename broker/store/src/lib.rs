//! Durable records of the core on fjall: log, index, recovery, the commit thread.
