//! Several segments behind one another, as one message sees them, but for the network and the threads in between.

use std::sync::Arc;

use bytes::BytesMut;
use pointsman_core::input::Publish;
use pointsman_core::{Broker, Commit, Effect, Input};
use pointsman_protocol::admin::{BindingSpec, ExchangeKind, ExchangeSpec, Request};
use pointsman_protocol::consume::put_delivery;
use pointsman_protocol::frame::{self, Frame, Kind};
use pointsman_protocol::limits::FRAME_BODY_MAX;
use pointsman_router_host::{Incoming, Routes};
use pointsman_store::Store;
use tempfile::TempDir;

use crate::core::{Core, PUBLISHER, delivered, request_of};
use crate::exchanges;
use crate::segment::{BATCH, BODY, Limit, Segment, Work, meta, run};
use crate::store;

const KEY: &str = "orders.eu.new";

pub(crate) fn segments() -> Vec<Segment> {
    vec![
        Segment::new(
            "path: publish, frames to records",
            BATCH,
            Limit::Copy(BODY),
            || Path::new(false),
        ),
        Segment::new("path: publish, frames to disk", BATCH, Limit::Sync(BODY), || {
            Path::new(true)
        }),
        Segment::new(
            "path: deliver, credit to frames",
            BATCH,
            Limit::Copy(BODY),
            || Deliver {
                path: Path::new(false),
                out: BytesMut::new(),
            },
        ),
    ]
}

/// From the bytes of a publisher's stream over a direct exchange into a queue, and to the disk.
struct Path {
    core: Core,
    routes: Arc<Routes>,
    store: Option<(Store, TempDir)>,
    buffer: BytesMut,
    commit: Commit,
    _folder: TempDir,
}

impl Path {
    fn new(durable: bool) -> Path {
        let (broker, store) = if durable {
            let (store, restored, folder) = store::open();
            (
                Broker::restore(restored).expect("it is empty"),
                Some((store, folder)),
            )
        } else {
            (Broker::new(), None)
        };
        let (mut core, mut commit) = Core::new(broker, 1);
        for request in [
            Request::DeclareExchange(ExchangeSpec::new("orders", ExchangeKind::Direct)),
            Request::Bind(BindingSpec::to_queue("orders", "q0", KEY)),
        ] {
            let mut declared = core.turn(request_of(request));
            commit.records.append(&mut declared.records);
        }
        let (host, folder) = exchanges::host(0);
        let routes = Routes::new(host, core.broker.topology());
        let mut path = Path {
            core,
            routes,
            store,
            buffer: BytesMut::new(),
            commit: Commit::default(),
            _folder: folder,
        };
        path.write(&commit, false);
        path
    }

    /// Consumes the last batch and receives the next one.
    fn next(&mut self) {
        if self.core.next > 1 {
            let commits = [self.core.deliver(), self.core.settle()];
            assert_eq!(delivered(&commits[0][0]), BATCH);
            for commit in commits.iter().flatten() {
                self.write(commit, false);
            }
        }
        self.receive();
    }

    /// Puts the next batch into the buffer.
    fn receive(&mut self) {
        for sequence in (self.core.next..).take(BATCH) {
            frame::put(
                &mut self.buffer,
                Kind::Publish,
                0,
                sequence,
                &meta(KEY),
                &[b'x'; BODY],
            );
        }
        self.core.next += BATCH as u64;
    }

    fn publish(&mut self) {
        let mut batch = Vec::new();
        while let Some(frame) = Frame::take(&mut self.buffer, FRAME_BODY_MAX).expect("they are frames") {
            batch.push(Incoming {
                sequence: frame.header.id,
                content: frame.content,
                meta_len: frame.header.meta_len,
            });
        }
        let mut messages: Vec<Publish> = Vec::with_capacity(batch.len());
        let entry = self.routes.find("/", "orders").expect("it is declared");
        run(self.routes.route(entry, batch, &mut messages));
        self.commit = self.core.turn(Input::Publish {
            publisher: PUBLISHER,
            messages,
        });
    }

    fn write(&mut self, commit: &Commit, synced: bool) {
        if let Some((store, _)) = &self.store {
            store.apply(&[&commit.records], synced).expect("it is written");
        }
    }
}

impl Work for Path {
    fn prepare(&mut self) {
        self.commit = Commit::default();
        self.next();
    }
    fn run(&mut self) {
        self.publish();
        let commit = std::mem::take(&mut self.commit);
        self.write(&commit, true);
        self.commit = commit;
    }
}

/// From credit to the bytes of a consumer's stream.
struct Deliver {
    path: Path,
    out: BytesMut,
}

impl Work for Deliver {
    fn prepare(&mut self) {
        if self.path.core.next > 1 {
            self.path.core.settle();
        }
        self.out.clear();
        self.path.receive();
        self.path.publish();
    }
    fn run(&mut self) {
        let commits = self.path.core.deliver();
        for effect in commits.iter().flat_map(|commit| &commit.effects) {
            let Effect::Deliver {
                first,
                chunk,
                record,
                count,
                ..
            } = effect
            else {
                continue;
            };
            for n in 0..*count {
                let message = chunk.get(record + n).expect("it is there");
                let (tag, body) = (first.0 + u64::from(n), message.body);
                put_delivery(
                    &mut self.out,
                    0,
                    tag,
                    b"\0\x06orders\0\0",
                    message.meta,
                    body.len() as u32,
                );
                self.out.extend_from_slice(body);
            }
        }
    }
}
