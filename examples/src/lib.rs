//! Programs a newcomer runs in order.
