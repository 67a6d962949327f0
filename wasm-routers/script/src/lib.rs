//! A ready router: script.
