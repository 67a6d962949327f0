//! A broker as the generator sees it: exactly the operations that scenarios need.

use std::ops::Range;

use bytes::Bytes;

use crate::body::Arrivals;
use crate::{Error, Scenario};

/// A broker that can be put under load. Each publisher and each consumer has a connection of its own.
pub trait Broker: Sync {
    /// What publishes.
    type Publisher: Publisher;
    /// What consumes.
    type Consumer: Consumer;

    /// Makes the empty queues that the scenario needs, and what leads to them.
    fn set_up(&self, scenario: &Scenario) -> impl Future<Output = Result<(), Error>> + Send;

    /// Connects a publisher to what [`Broker::set_up`] made.
    fn publisher(&self, scenario: &Scenario) -> impl Future<Output = Result<Self::Publisher, Error>> + Send;

    /// Connects a consumer of a queue, numbered from 0.
    fn consumer(
        &self,
        scenario: &Scenario,
        queue: usize,
    ) -> impl Future<Output = Result<Self::Consumer, Error>> + Send;

    /// Removes what [`Broker::set_up`] made, also where that went only half the way.
    fn tear_down(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its routing key in a [`crate::Shape::Topic`], empty otherwise.
    pub key: &'static str,
    /// Its body.
    pub body: Bytes,
}

/// Publishes on one connection. Messages are numbered from 0 in the order they are sent.
pub trait Publisher: Send + 'static {
    /// Sends messages without waiting for their confirms. The generator keeps to the window.
    fn send(&mut self, messages: Vec<Outgoing>) -> impl Future<Output = Result<(), Error>> + Send;

    /// Waits until messages are confirmed, and appends their numbers. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Also when the broker refuses a message or routes it to no queue.
    fn confirmed(&mut self, numbers: &mut Vec<Range<u64>>) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends the connection; everything was confirmed.
    fn close(self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Consumes on one connection.
pub trait Consumer: Send + 'static {
    /// Waits for deliveries and takes in all that are there. Dropping the future loses nothing.
    fn receive(&mut self, arrivals: &mut Arrivals) -> impl Future<Output = Result<(), Error>> + Send;

    /// Acknowledges everything that was received, without waiting for the broker's answer.
    fn ack(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends the connection once the broker has the acknowledgements.
    fn close(self) -> impl Future<Output = Result<(), Error>> + Send;
}
