//! Requests that the core cannot answer alone: the broker's state, and everything that calls a module.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use pointsman_core::catalog::{Digest, VersionSpec};
use pointsman_core::topology::{Exchange, Router, Topology};
use pointsman_core::{ConnectionId, Input, RouterId, limits};
use pointsman_protocol::admin::{Reply, Request, RouterInfo, Status};
use pointsman_protocol::{ErrorBody, ErrorCode};
use pointsman_router_host::{Host, ModuleInfo};
use pointsman_store::Store;
use tokio::sync::oneshot;

use crate::driver::now;
use crate::mailbox::Mail;
use crate::session::Shared;

/// Whose request it is.
pub(crate) struct Asker {
    pub(crate) connection: ConnectionId,
    pub(crate) request: u64,
    pub(crate) vhost: String,
}

/// Answers, or hands the request on to the core, which will.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    asker: Asker,
    request: Request,
    body: Bytes,
) -> Option<Reply> {
    let answered = match request {
        Request::Status => status(shared)
            .await
            .map(|status| Some(Reply::Status(Box::new(status)))),
        Request::Explain { exchange } => explain(shared, &asker.vhost, &exchange, body).await.map(Some),
        Request::RouterLoad {
            name,
            config,
            activate,
        } => load(shared, asker, name, config, activate, body)
            .await
            .map(|()| None),
        Request::RouterActivate { ref name, version } => {
            let name = name.clone();
            switch(shared, asker, request, &name, Some(version))
                .await
                .map(|()| None)
        }
        Request::RouterRollback(ref name) => {
            let name = name.clone();
            switch(shared, asker, request, &name, None).await.map(|()| None)
        }
        Request::RouterLogs { name, count } => logs(shared, &asker.vhost, &name, count).map(Some),
        Request::RouterModule { name, version } => {
            module(shared, &asker.vhost, &name, version).await.map(Some)
        }
        Request::BackupBegin => backup(shared, move |shared| {
            shared
                .backups
                .begin(asker.connection, &shared.config, &shared.store)
        })
        .await
        .map(Some),
        Request::BackupRead { file, offset } => backup(shared, move |shared| {
            shared.backups.read(asker.connection, file, offset)
        })
        .await
        .map(Some),
        Request::BackupEnd => backup(shared, move |shared| {
            shared.backups.end(asker.connection);
            Ok(Reply::Done)
        })
        .await
        .map(Some),
        other => Err(ErrorBody::new(
            ErrorCode::Internal,
            format!("nobody answers {other:?}"),
        )),
    };
    answered.unwrap_or_else(|error| Some(Reply::Error(error)))
}

/// Adds what only the host knows.
pub(crate) fn fill_counters(shared: &Shared, vhost: &str, routers: &mut [RouterInfo]) {
    let routes = shared.routes.load();
    for info in routers {
        if let Some(router) = find_router(routes.topology(), vhost, &info.name) {
            info.counters = shared.host.counters(router.id);
        }
    }
}

async fn status(shared: &Shared) -> Result<Status, ErrorBody> {
    let (sender, answer) = oneshot::channel();
    shared
        .mailbox
        .send(Mail::Totals(sender))
        .await
        .map_err(|_| stopping())?;
    let figures = answer.await.map_err(|_| stopping())?;
    let totals = figures.totals;
    let mut store = shared.store.figures();
    store.push(("messages_missing".to_owned(), totals.missing));
    store.push(("memory_lane_bytes".to_owned(), totals.memory_bytes));
    store.push(("chunk_cache_bytes".to_owned(), totals.cache_bytes));
    store.push(("chunk_cache_hits".to_owned(), totals.cache_hits));
    store.push(("chunk_cache_misses".to_owned(), totals.cache_misses));
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data_dir: shared.config.data_dir.display().to_string(),
        uptime_ms: shared.started.elapsed().as_millis() as u64,
        fsync: shared.config.fsync.to_string(),
        connections: totals.connections,
        exchanges: totals.exchanges,
        queues: totals.queues,
        bindings: totals.bindings,
        routers: totals.routers,
        ready: totals.ready,
        unsettled: totals.unsettled,
        published: totals.published,
        delivered: totals.delivered,
        expired: totals.expired,
        delayed: totals.delayed,
        commits: figures.commits,
        blocked: shared.blocked.borrow().clone(),
        store,
    })
}

async fn explain(shared: &Shared, vhost: &str, exchange: &str, mut body: Bytes) -> Result<Reply, ErrorBody> {
    let malformed = || {
        ErrorBody::new(
            ErrorCode::MalformedFrame,
            "the message to explain does not decode",
        )
    };
    let meta_len = body.try_get_u32_le().map_err(|_| malformed())?;
    if body.len() < meta_len as usize {
        return Err(malformed());
    }
    let routes = shared.routes.load_full();
    let entry = routes
        .find(vhost, exchange)
        .ok_or_else(|| not_found("exchange", exchange))?;
    Ok(Reply::Explanation(routes.explain(entry, body, meta_len).await))
}

fn logs(shared: &Shared, vhost: &str, name: &str, count: u32) -> Result<Reply, ErrorBody> {
    let routes = shared.routes.load();
    let router = find_router(routes.topology(), vhost, name).ok_or_else(|| not_found("router", name))?;
    Ok(Reply::RouterLogs(shared.host.logs(router.id, count as usize)))
}

/// The module of a version, from the store.
async fn module(shared: &Arc<Shared>, vhost: &str, name: &str, version: u32) -> Result<Reply, ErrorBody> {
    let digest = {
        let routes = shared.routes.load();
        let router = find_router(routes.topology(), vhost, name).ok_or_else(|| not_found("router", name))?;
        router.versions.get(&version).map(|spec| spec.digest)
    };
    let digest = digest.ok_or_else(|| not_found("router version", &format!("{name}@{version}")))?;
    let store = shared.store.clone();
    let module = blocking(move || read_module(&store, &digest)).await?;
    Ok(Reply::RouterModule(module.to_vec()))
}

/// Runs what a backup needs from the disk.
async fn backup(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<Reply, ErrorBody> + Send + 'static,
) -> Result<Reply, ErrorBody> {
    let shared = shared.clone();
    blocking(move || work(&shared)).await
}

/// Compiles a module, tries it on every exchange that would use it, and hands the version to the core.
async fn load(
    shared: &Arc<Shared>,
    asker: Asker,
    name: String,
    config: Vec<u8>,
    activate: bool,
    module: Bytes,
) -> Result<(), ErrorBody> {
    if config.len() > limits::ROUTER_CONFIG_MAX {
        let message = format!(
            "a configuration of {} bytes is over the limit of {}",
            config.len(),
            limits::ROUTER_CONFIG_MAX
        );
        return Err(ErrorBody::new(ErrorCode::LimitReached, message));
    }
    let routes = shared.routes.load_full();
    let topology = routes.topology().clone();
    let router = find_router(&topology, &asker.vhost, &name).cloned();
    let (host, store) = (shared.host.clone(), shared.store.clone());
    let router_name = name.clone();
    let (spec, module) = blocking(move || {
        let loaded_at = now();
        let (spec, module) = if module.is_empty() {
            let latest = latest(router.as_deref(), &router_name)?;
            ensure_loaded(&host, &store, latest.digest)?;
            (
                VersionSpec {
                    config,
                    loaded_at,
                    ..latest
                },
                None,
            )
        } else {
            let ModuleInfo {
                digest,
                size,
                interface,
            } = host.load(&module)?;
            (
                VersionSpec {
                    digest,
                    size,
                    interface,
                    config,
                    loaded_at,
                },
                Some(module),
            )
        };
        try_everywhere(&host, &topology, router.as_deref().map(|router| router.id), &spec)?;
        Ok((spec, module))
    })
    .await?;
    let Asker {
        connection,
        request: id,
        ..
    } = asker;
    let input = Input::RouterLoaded {
        connection,
        id,
        name,
        spec,
        module,
        activate,
    };
    shared
        .mailbox
        .send(Mail::Input(input))
        .await
        .map_err(|_| stopping())
}

fn latest(router: Option<&Router>, name: &str) -> Result<VersionSpec, ErrorBody> {
    let latest = router.and_then(|router| router.versions.get_max());
    latest.map(|(_, spec)| (**spec).clone()).ok_or_else(|| {
        ErrorBody::new(
            ErrorCode::NotFound,
            format!("router `{name}` has no version whose module could be used"),
        )
        .hint("give a module with the first version")
    })
}

/// Tries a version on every exchange of its router, so that activating it cannot fail for a reason that is known now.
/// While no exchange uses the router, tries it without targets, which tells whether the configuration can be read.
fn try_everywhere(
    host: &Host,
    topology: &Topology,
    router: Option<RouterId>,
    spec: &VersionSpec,
) -> Result<(), ErrorBody> {
    let users: Vec<&Exchange> = topology
        .exchanges
        .values()
        .map(|exchange| &**exchange)
        .filter(|exchange| router.is_some() && exchange.router == router)
        .collect();
    if users.is_empty() {
        host.try_configure(spec.digest, &spec.config, &[])?;
    }
    for exchange in users {
        let mut targets: Vec<&str> = exchange.bindings.keys().map(|binding| &*binding.key).collect();
        targets.dedup();
        host.try_configure(spec.digest, &spec.config, &targets)
            .map_err(|error| {
                let mut body = ErrorBody::from(error);
                body.message = format!("on exchange `{}`: {}", exchange.spec.name, body.message);
                body
            })?;
    }
    Ok(())
}

/// Makes sure that the version is ready before the core switches to it.
async fn switch(
    shared: &Arc<Shared>,
    asker: Asker,
    request: Request,
    name: &str,
    version: Option<u32>,
) -> Result<(), ErrorBody> {
    let routes = shared.routes.load_full();
    let topology = routes.topology().clone();
    let router = find_router(&topology, &asker.vhost, name).cloned();
    // What is missing, the core refuses with the same words as everywhere.
    let version = router.as_ref().and_then(|router| version.or(router.previous));
    if let Some((router, spec)) = router.and_then(|router| {
        version
            .and_then(|v| router.versions.get(&v).cloned())
            .map(|spec| (router, spec))
    }) {
        let (host, store) = (shared.host.clone(), shared.store.clone());
        blocking(move || {
            ensure_loaded(&host, &store, spec.digest)?;
            try_everywhere(&host, &topology, Some(router.id), &spec)
        })
        .await?;
    }
    let input = Input::Request {
        connection: asker.connection,
        id: asker.request,
        request,
    };
    shared
        .mailbox
        .send(Mail::Input(input))
        .await
        .map_err(|_| stopping())
}

/// Loads the modules of all active versions. One that cannot be loaded is reported, and fails when it is called.
pub(crate) fn load_active(host: &Host, store: &Store, topology: &Topology) {
    for router in topology.routers.values() {
        let Some(spec) = router.active.and_then(|active| router.versions.get(&active)) else {
            continue;
        };
        if let Err(error) = ensure_loaded(host, store, spec.digest) {
            tracing::error!(router = router.name, %error, "the active version cannot be loaded");
        }
    }
}

/// Drops modules whose last version was unloaded.
pub(crate) fn forget_unused(host: &Host, before: &Topology, after: &Topology) {
    if before.routers.ptr_eq(&after.routers) {
        return;
    }
    let used: BTreeSet<Digest> = digests(after).collect();
    for digest in digests(before).filter(|digest| !used.contains(digest)) {
        host.forget(digest);
    }
}

fn digests(topology: &Topology) -> impl Iterator<Item = Digest> {
    topology
        .routers
        .values()
        .flat_map(|router| router.versions.values())
        .map(|spec| spec.digest)
}

fn ensure_loaded(host: &Host, store: &Store, digest: Digest) -> Result<(), ErrorBody> {
    if host.is_loaded(digest) {
        return Ok(());
    }
    host.load(&read_module(store, &digest)?)?;
    Ok(())
}

fn read_module(store: &Store, digest: &Digest) -> Result<Bytes, ErrorBody> {
    store
        .read_module(digest)
        .map_err(|error| ErrorBody::new(ErrorCode::StoreFailed, error.to_string()))?
        .ok_or_else(|| {
            let message = format!("the store has no module {digest}");
            ErrorBody::new(ErrorCode::StoreFailed, message)
        })
}

/// Runs what computes or reads for long on a thread where that hurts nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Result<T, ErrorBody> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ErrorBody::new(
            ErrorCode::Internal,
            format!("the work was cut off: {error}"),
        )),
    }
}

fn find_router<'a>(topology: &'a Topology, vhost: &str, name: &str) -> Option<&'a Arc<Router>> {
    topology
        .routers
        .get(topology.vhosts.get(vhost)?.routers.get(name)?)
}

fn not_found(kind: &str, name: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, format!("there is no {kind} `{name}`"))
        .hint(format!("`pointsman {kind} list` shows what there is"))
}

fn stopping() -> ErrorBody {
    ErrorBody::new(ErrorCode::ShuttingDown, "the broker is shutting down")
}
