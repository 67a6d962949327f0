//! Load for a broker, and what it did with it.
//!
//! A [`Scenario`] says what is sent where and how fast. [`run`] drives any [`Broker`] through it and gives a [`Report`],
//! or an [`Error`] when a confirmed message did not arrive: there is no rate for lost messages.
//!
//! *Closed loop*: each publisher keeps up to `window` messages unconfirmed and sends more as confirms come; this finds
//! how much a broker takes. *Open loop*: messages are due at fixed times, whatever the broker does, and latency counts
//! from when a message was due. A broker that stalls is so charged for every message that had to wait, not only for the
//! one that saw it (Gil Tene's "coordinated omission").
//!
//! Everything runs in tasks of the caller's runtime. One thread is enough to keep a broker of two cores busy.

#![forbid(unsafe_code)]

// From what is asked over the broker's side to the figures.
mod scenario;
mod broker;
mod pointsman;

mod body;
mod pace;
mod publish;

mod ledger;
mod consume;

mod run;
mod report;

mod error;

pub use body::Arrivals;
pub use broker::{Broker, Consumer, Outgoing, Publisher};
pub use error::Error;
pub use pointsman::{Pointsman, PointsmanConsumer, PointsmanPublisher};
pub use report::{Flow, Latency, Report};
pub use run::{Progress, run};
pub use scenario::{Amount, BINDINGS, Order, Scenario, Shape};
