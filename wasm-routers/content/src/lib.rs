//! A ready router: content.
