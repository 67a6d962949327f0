//! One method a request: what the broker has is declared, listed and deleted here.

use bytes::{Bytes, BytesMut};
use pointsman_protocol::admin::{
    BindingSpec, ExchangeInfo, ExchangeSpec, Explanation, QueueInfo, QueueSpec, Reply, Request, RouterEvent,
    RouterInfo, RouterVersion, Status,
};
use pointsman_protocol::frame;

use crate::{Client, Error, Message};

/// Takes the one reply that answers a request out of [`Reply`].
macro_rules! expect {
    ($reply:expr, $pattern:pat => $value:expr) => {
        match $reply {
            $pattern => Ok($value),
            other => Err(Error::Protocol(format!("{other:?} does not answer that request"))),
        }
    };
}

impl Client {
    /// The broker's state.
    ///
    /// # Errors
    /// As [`Client::request`], here and in all methods below.
    pub async fn status(&self) -> Result<Status, Error> {
        expect!(self.ask(Request::Status).await?, Reply::Status(status) => *status)
    }

    /// Makes a vhost; it may exist.
    pub async fn declare_vhost(&self, name: impl Into<String>) -> Result<(), Error> {
        expect!(self.ask(Request::DeclareVhost(name.into())).await?, Reply::Done => ())
    }

    /// Deletes an empty vhost.
    pub async fn delete_vhost(&self, name: impl Into<String>) -> Result<(), Error> {
        expect!(self.ask(Request::DeleteVhost(name.into())).await?, Reply::Done => ())
    }

    /// The names of all vhosts, sorted.
    pub async fn vhosts(&self) -> Result<Vec<String>, Error> {
        expect!(self.ask(Request::ListVhosts).await?, Reply::Names(names) => names)
    }

    /// Makes an exchange; it may exist with the same properties.
    pub async fn declare_exchange(&self, spec: ExchangeSpec) -> Result<(), Error> {
        expect!(self.ask(Request::DeclareExchange(spec)).await?, Reply::Done => ())
    }

    /// Deletes an exchange and its bindings; with `if_unused` only when it has none.
    pub async fn delete_exchange(&self, name: impl Into<String>, if_unused: bool) -> Result<(), Error> {
        let name = name.into();
        expect!(self.ask(Request::DeleteExchange { name, if_unused }).await?, Reply::Done => ())
    }

    /// All exchanges, by name.
    pub async fn exchanges(&self) -> Result<Vec<ExchangeInfo>, Error> {
        expect!(self.ask(Request::ListExchanges(None)).await?, Reply::Exchanges(all) => all)
    }

    /// Makes a queue, which may exist with the same properties, and returns it as it is: with the name the broker
    /// chose where none was given.
    pub async fn declare_queue(&self, spec: QueueSpec) -> Result<QueueInfo, Error> {
        let reply = self.ask(Request::DeclareQueue(spec)).await?;
        one_queue(expect!(reply, Reply::Queues(one) => one)?)
    }

    /// Deletes a queue, and returns how many messages went with it; with `if_unused` only when it has no consumers,
    /// with `if_empty` only when it has no messages.
    pub async fn delete_queue(
        &self,
        name: impl Into<String>,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<u64, Error> {
        let request = Request::DeleteQueue {
            name: name.into(),
            if_unused,
            if_empty,
        };
        expect!(self.ask(request).await?, Reply::Purged(messages) => messages)
    }

    /// Removes the messages that wait in a queue, not those delivered and unsettled, and returns how many.
    pub async fn purge_queue(&self, name: impl Into<String>) -> Result<u64, Error> {
        expect!(self.ask(Request::PurgeQueue(name.into())).await?, Reply::Purged(messages) => messages)
    }

    /// All queues, by name.
    pub async fn queues(&self) -> Result<Vec<QueueInfo>, Error> {
        expect!(self.ask(Request::ListQueues(None)).await?, Reply::Queues(all) => all)
    }

    /// The queue of that name.
    pub async fn queue(&self, name: impl Into<String>) -> Result<QueueInfo, Error> {
        let reply = self.ask(Request::ListQueues(Some(name.into()))).await?;
        one_queue(expect!(reply, Reply::Queues(one) => one)?)
    }

    /// Makes a binding; it may exist.
    pub async fn bind(&self, mut spec: BindingSpec) -> Result<(), Error> {
        spec.sort_arguments();
        expect!(self.ask(Request::Bind(spec)).await?, Reply::Done => ())
    }

    /// Removes a binding.
    pub async fn unbind(&self, mut spec: BindingSpec) -> Result<(), Error> {
        spec.sort_arguments();
        expect!(self.ask(Request::Unbind(spec)).await?, Reply::Done => ())
    }

    /// All bindings, by source, destination and key.
    pub async fn bindings(&self) -> Result<Vec<BindingSpec>, Error> {
        expect!(self.ask(Request::ListBindings).await?, Reply::Bindings(all) => all)
    }

    /// Adds a version to a router, making the router if needed; with `activate` it decides from then on. An empty
    /// `module` takes that of the latest version with the new configuration.
    pub async fn router_load(
        &self,
        name: impl Into<String>,
        module: impl Into<Bytes>,
        config: impl Into<Vec<u8>>,
        activate: bool,
    ) -> Result<RouterVersion, Error> {
        let request = Request::RouterLoad {
            name: name.into(),
            config: config.into(),
            activate,
        };
        let reply = self.request(request, module.into()).await?;
        expect!(reply, Reply::RouterVersion(version) => version)
    }

    /// Makes a version the one that decides, on every exchange of that router at once.
    pub async fn router_activate(
        &self,
        name: impl Into<String>,
        version: u32,
    ) -> Result<RouterVersion, Error> {
        let name = name.into();
        let reply = self.ask(Request::RouterActivate { name, version }).await?;
        expect!(reply, Reply::RouterVersion(version) => version)
    }

    /// Activates the version that was active before.
    pub async fn router_rollback(&self, name: impl Into<String>) -> Result<RouterVersion, Error> {
        let reply = self.ask(Request::RouterRollback(name.into())).await?;
        expect!(reply, Reply::RouterVersion(version) => version)
    }

    /// Removes an inactive version, or with `None` the whole router when no exchange uses it.
    pub async fn router_unload(&self, name: impl Into<String>, version: Option<u32>) -> Result<(), Error> {
        let name = name.into();
        expect!(self.ask(Request::RouterUnload { name, version }).await?, Reply::Done => ())
    }

    /// All routers, by name.
    pub async fn routers(&self) -> Result<Vec<RouterInfo>, Error> {
        expect!(self.ask(Request::ListRouters(None)).await?, Reply::Routers(all) => all)
    }

    /// The last `count` events of a router, oldest first.
    pub async fn router_logs(&self, name: impl Into<String>, count: u32) -> Result<Vec<RouterEvent>, Error> {
        let name = name.into();
        expect!(self.ask(Request::RouterLogs { name, count }).await?, Reply::RouterLogs(events) => events)
    }

    /// Where a message would go and why, without sending it.
    pub async fn explain(
        &self,
        exchange: impl Into<String>,
        message: &Message,
    ) -> Result<Explanation, Error> {
        let request = Request::Explain {
            exchange: exchange.into(),
        };
        let reply = self.request(request, explain_body(message)).await?;
        expect!(reply, Reply::Explanation(explanation) => explanation)
    }

    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        self.request(request, Bytes::new()).await
    }
}

/// A message as [`Request::Explain`] takes it: metadata behind a 4-byte little-endian length, then the body.
fn explain_body(message: &Message) -> Bytes {
    let mut out = BytesMut::from(&[0; 4][..]);
    frame::put_postcard(&mut out, &message.meta());
    let meta_len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&meta_len.to_le_bytes());
    out.extend_from_slice(message.body());
    out.freeze()
}

fn one_queue(mut queues: Vec<QueueInfo>) -> Result<QueueInfo, Error> {
    match (queues.pop(), queues.is_empty()) {
        (Some(queue), true) => Ok(queue),
        _ => Err(Error::Protocol("the reply is not about one queue".into())),
    }
}
