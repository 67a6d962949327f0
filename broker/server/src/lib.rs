//! The running broker: listen, session, driver, auth, admin, metrics.
