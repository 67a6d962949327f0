//! A ready router: weighted.
