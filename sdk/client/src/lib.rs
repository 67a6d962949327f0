//! Client of the Pointsman broker: publisher, consumer, admin, reconnect.
