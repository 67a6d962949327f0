//! Requests about routers. Compiling and trying a module is the server's business; what comes here is good.

use std::sync::Arc;

use bytes::Bytes;
use pointsman_protocol::admin::{Reply, RouterCounters, RouterInfo, RouterVersion};
use pointsman_protocol::spec::check_name;
use pointsman_protocol::{ErrorBody, ErrorCode};

use super::names::{check_free, check_room, not_found};
use super::{Definitions, define_synced};
use crate::broker::Broker;
use crate::catalog::{Definition, DefinitionKey, Digest, VersionSpec};
use crate::commit::{Commit, Record};
use crate::ids::{ConnectionId, RouterId, VhostId};
use crate::limits::{ROUTER_CONFIG_MAX, ROUTER_VERSIONS_MAX, ROUTERS_MAX};
use crate::topology::{Router, Vhost};

/// A module that was compiled, tried and found good.
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) spec: VersionSpec,
    pub(crate) module: Option<Bytes>,
    pub(crate) activate: bool,
}

impl Definitions {
    fn next_router(&mut self) -> RouterId {
        self.next_changed = true;
        self.next.router += 1;
        RouterId(self.next.router - 1)
    }

    /// A router by name, or who is nearest.
    pub(super) fn find_router(&self, vhost: &Vhost, name: &str) -> Result<&Arc<Router>, ErrorBody> {
        self.router(vhost.id, name)
            .ok_or_else(|| not_found("router", name, vhost.routers.keys()))
    }

    /// Makes a router's state current and durable.
    fn store_router(&mut self, router: Router, commit: &mut Commit) {
        let definition = Definition::Router {
            vhost: router.vhost,
            name: router.name.clone(),
            active: router.active,
            previous: router.previous,
            next_version: router.next_version,
        };
        define_synced(commit, DefinitionKey::Router(router.id), Some(definition));
        self.put_router(router);
    }

    fn drop_version(&mut self, id: RouterId, number: u32, commit: &mut Commit) {
        define_synced(commit, DefinitionKey::RouterVersion(id, number), None);
        if let Some(digest) = self.remove_version(id, number) {
            commit.records.push(Record::Module { digest, bytes: None });
        }
    }

    /// The names of the exchanges that use a router, sorted.
    fn users_of(&self, id: RouterId) -> Vec<String> {
        let users = self.by_router.get(&id).into_iter().flatten();
        let exchanges = users.filter_map(|id| self.topology.exchanges.get(id));
        let mut names: Vec<String> = exchanges.map(|exchange| exchange.spec.name.clone()).collect();
        names.sort();
        names
    }
}

fn version_info(router: &Router, number: u32, spec: &VersionSpec) -> RouterVersion {
    RouterVersion {
        router: router.name.clone(),
        version: number,
        digest: spec.digest.0,
        size: spec.size,
        interface: spec.interface,
        config: spec.config.clone(),
        loaded_at: spec.loaded_at,
        active: router.active == Some(number),
    }
}

fn version_not_found(router: &Router, number: u32) -> ErrorBody {
    let loaded: Vec<String> = router.versions.keys().map(u32::to_string).collect();
    let message = format!("router '{}' has no version {number}", router.name);
    ErrorBody::new(ErrorCode::NotFound, message).hint(format!("it has {}", loaded.join(", ")))
}

impl Broker {
    /// Adds a version to a router, making the router if needed. The first one ever loaded is active at once.
    pub(crate) fn load_router(
        &mut self,
        connection: ConnectionId,
        loaded: Loaded,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?.id;
        let mut router = self.router_to_load(vhost, &loaded)?;
        let digest = loaded.spec.digest;
        self.store_module(digest, loaded.module, commit)?;
        let number = router.next_version;
        router.next_version += 1;
        if loaded.activate || number == 1 {
            router.previous = router.active;
            router.active = Some(number);
        }
        let id = router.id;
        self.definitions.store_router(router, commit);
        let definition = Definition::RouterVersion(loaded.spec.clone());
        define_synced(commit, DefinitionKey::RouterVersion(id, number), Some(definition));
        self.definitions.insert_version(id, number, loaded.spec);
        self.reply_version(id, number)
    }

    /// The router a version is to be added to, new or as it is.
    fn router_to_load(&mut self, vhost: VhostId, loaded: &Loaded) -> Result<Router, ErrorBody> {
        let name = &loaded.name;
        let config = loaded.spec.config.len();
        if config > ROUTER_CONFIG_MAX {
            let message = format!(
                "a configuration of {config} bytes is over the limit ROUTER_CONFIG_MAX of {ROUTER_CONFIG_MAX}"
            );
            return Err(ErrorBody::new(ErrorCode::LimitReached, message));
        }
        if let Some(router) = self.definitions.router(vhost, name) {
            let versions = router.versions.len();
            if versions >= ROUTER_VERSIONS_MAX {
                let message =
                    format!("router '{name}' has {versions} versions, the limit ROUTER_VERSIONS_MAX");
                return Err(ErrorBody::new(ErrorCode::LimitReached, message).hint("unload an old one"));
            }
            return Ok(Router::clone(router));
        }
        check_name("router", name)?;
        check_free("router", name)?;
        let routers = self.definitions.topology.routers.len();
        check_room("routers", "ROUTERS_MAX", routers, ROUTERS_MAX)?;
        Ok(Router {
            id: self.definitions.next_router(),
            vhost,
            name: name.clone(),
            active: None,
            previous: None,
            next_version: 1,
            versions: imbl::OrdMap::new(),
        })
    }

    /// Writes a module the store does not have yet.
    fn store_module(
        &mut self,
        digest: Digest,
        module: Option<Bytes>,
        commit: &mut Commit,
    ) -> Result<(), ErrorBody> {
        match module {
            Some(bytes) => commit.records.push(Record::Module {
                digest,
                bytes: Some(bytes),
            }),
            None if self.definitions.modules.contains_key(&digest) => {}
            None => {
                let message = format!("no loaded version has the module {digest}");
                return Err(ErrorBody::new(ErrorCode::NotFound, message).hint("upload the module as well"));
            }
        }
        Ok(())
    }

    fn reply_version(&self, id: RouterId, number: u32) -> Result<Reply, ErrorBody> {
        let router = self.definitions.topology.routers.get(&id);
        router
            .and_then(|router| {
                let spec = router.versions.get(&number)?;
                Some(Reply::RouterVersion(version_info(router, number, spec)))
            })
            .ok_or_else(|| ErrorBody::new(ErrorCode::Internal, format!("version {number} is not there")))
    }

    pub(crate) fn activate_router(
        &mut self,
        connection: ConnectionId,
        name: &str,
        number: u32,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let router = self.definitions.find_router(self.vhost_of(connection)?, name)?;
        if !router.versions.contains_key(&number) {
            return Err(version_not_found(router, number));
        }
        let id = router.id;
        if router.active != Some(number) {
            let mut router = Router::clone(router);
            router.previous = router.active;
            router.active = Some(number);
            self.definitions.store_router(router, commit);
        }
        self.reply_version(id, number)
    }

    pub(crate) fn roll_back_router(
        &mut self,
        connection: ConnectionId,
        name: &str,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let router = self.definitions.find_router(self.vhost_of(connection)?, name)?;
        let Some(previous) = router.previous else {
            let message = format!("router '{name}' has no version that was active before");
            return Err(ErrorBody::new(ErrorCode::PreconditionFailed, message)
                .hint("activate one of its versions by number"));
        };
        self.activate_router(connection, name, previous, commit)
    }

    pub(crate) fn unload_router(
        &mut self,
        connection: ConnectionId,
        name: &str,
        version: Option<u32>,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let router = self.definitions.find_router(self.vhost_of(connection)?, name)?;
        let router = Arc::clone(router);
        match version {
            Some(number) => self.unload_version(&router, number, commit)?,
            None => self.unload_whole(&router, commit)?,
        }
        Ok(Reply::Done)
    }

    fn unload_version(&mut self, router: &Router, number: u32, commit: &mut Commit) -> Result<(), ErrorBody> {
        if !router.versions.contains_key(&number) {
            return Err(version_not_found(router, number));
        }
        if router.active == Some(number) {
            let message = format!("version {number} of router '{}' is active", router.name);
            return Err(ErrorBody::new(ErrorCode::InUse, message).hint("activate another version first"));
        }
        if router.previous == Some(number) {
            let mut router = router.clone();
            router.previous = None;
            self.definitions.store_router(router, commit);
        }
        self.definitions.drop_version(router.id, number, commit);
        Ok(())
    }

    fn unload_whole(&mut self, router: &Router, commit: &mut Commit) -> Result<(), ErrorBody> {
        let users = self.definitions.users_of(router.id);
        if let Some(first) = users.first() {
            let message = format!(
                "router '{}' decides for {} exchanges, such as '{first}'",
                router.name,
                users.len()
            );
            return Err(ErrorBody::new(ErrorCode::InUse, message).hint("delete these exchanges first"));
        }
        for &number in router.versions.keys() {
            self.definitions.drop_version(router.id, number, commit);
        }
        define_synced(commit, DefinitionKey::Router(router.id), None);
        self.definitions.remove_router(router.id);
        Ok(())
    }

    pub(crate) fn list_routers(
        &self,
        connection: ConnectionId,
        name: Option<&str>,
    ) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        let routers = match name {
            Some(name) => vec![self.router_info(self.definitions.find_router(vhost, name)?)],
            None => {
                let ids = vhost.routers.values();
                ids.filter_map(|id| self.definitions.topology.routers.get(id))
                    .map(|router| self.router_info(router))
                    .collect()
            }
        };
        Ok(Reply::Routers(routers))
    }

    fn router_info(&self, router: &Arc<Router>) -> RouterInfo {
        RouterInfo {
            name: router.name.clone(),
            active: router.active,
            previous: router.previous,
            versions: router
                .versions
                .iter()
                .map(|(&number, spec)| version_info(router, number, spec))
                .collect(),
            exchanges: self.definitions.users_of(router.id),
            counters: RouterCounters::default(),
        }
    }
}
