//! A ready router: geo.
