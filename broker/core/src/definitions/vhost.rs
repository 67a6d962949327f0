//! Requests about vhosts and users.

use pointsman_protocol::admin::Reply;
use pointsman_protocol::spec::check_name;
use pointsman_protocol::{DEFAULT_VHOST, ErrorBody, ErrorCode};

use super::names::{check_free, check_room, not_found};
use super::{Definitions, define_synced};
use crate::broker::Broker;
use crate::catalog::{Definition, DefinitionKey, UserVerifier};
use crate::commit::Commit;
use crate::ids::{ConnectionId, VhostId};
use crate::limits::VHOSTS_MAX;
use crate::topology::Vhost;

impl Definitions {
    pub(super) fn next_vhost(&mut self) -> VhostId {
        self.next_changed = true;
        self.next.vhost += 1;
        VhostId(self.next.vhost - 1)
    }
}

impl Broker {
    /// The vhost a connection works in, unless it was deleted meanwhile.
    pub(crate) fn vhost_of(&self, connection: ConnectionId) -> Result<&Vhost, ErrorBody> {
        let gone = || ErrorBody::new(ErrorCode::NotFound, "the vhost of this connection does not exist");
        let connection = self.connections.get(&connection).ok_or_else(gone)?;
        let id = connection.vhost.ok_or_else(gone)?;
        self.definitions.vhost(id).ok_or_else(gone)
    }

    /// Makes a vhost unless it exists.
    pub(crate) fn make_vhost(&mut self, name: String, commit: &mut Commit) {
        if self.definitions.topology.vhosts.contains_key(&name) {
            return;
        }
        let id = self.definitions.next_vhost();
        let definition = Definition::Vhost(name.clone());
        define_synced(commit, DefinitionKey::Vhost(id), Some(definition));
        self.definitions.insert_vhost(id, name);
    }

    pub(crate) fn declare_vhost(&mut self, name: String, commit: &mut Commit) -> Result<Reply, ErrorBody> {
        let vhosts = &self.definitions.topology.vhosts;
        if !vhosts.contains_key(&name) {
            check_name("vhost", &name)?;
            check_free("vhost", &name)?;
            check_room("vhosts", "VHOSTS_MAX", vhosts.len(), VHOSTS_MAX)?;
            self.make_vhost(name, commit);
        }
        Ok(Reply::Done)
    }

    pub(crate) fn delete_vhost(&mut self, name: &str, commit: &mut Commit) -> Result<Reply, ErrorBody> {
        let vhosts = &self.definitions.topology.vhosts;
        let Some(vhost) = vhosts.get(name) else {
            return Err(not_found("vhost", name, vhosts.keys()));
        };
        if name == DEFAULT_VHOST {
            let message = format!("vhost '{name}' is the default one and stays");
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, message));
        }
        let (exchanges, queues, routers) = (vhost.exchanges.len(), vhost.queues.len(), vhost.routers.len());
        if exchanges + queues + routers > 0 {
            let message = format!(
                "vhost '{name}' is not empty: exchanges {exchanges}, queues {queues}, routers {routers}"
            );
            return Err(ErrorBody::new(ErrorCode::InUse, message).hint("delete them first"));
        }
        let id = vhost.id;
        define_synced(commit, DefinitionKey::Vhost(id), None);
        self.definitions.remove_vhost(id);
        Ok(Reply::Done)
    }

    pub(crate) fn list_vhosts(&self) -> Reply {
        Reply::Names(self.definitions.topology.vhosts.keys().cloned().collect())
    }

    /// Makes a user or changes its verifier.
    pub(crate) fn put_user(&mut self, name: String, verifier: UserVerifier, commit: &mut Commit) {
        let definition = Definition::User(verifier.clone());
        define_synced(commit, DefinitionKey::User(name.clone()), Some(definition));
        self.definitions.insert_user(name, verifier);
    }
}

impl Definitions {
    /// Adds a user or changes its verifier.
    pub(crate) fn insert_user(&mut self, name: String, verifier: UserVerifier) {
        self.changed = true;
        self.topology.users.insert(name, verifier);
    }
}
