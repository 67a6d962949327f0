//! What a router author imports: one trait, a borrowed view of the message, a decision.
