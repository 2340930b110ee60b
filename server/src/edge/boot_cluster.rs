//! What a start needs to know of other members: who this one is, whom the log begins with, where peers reach it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use node::Identity;
use node::membership::Member;

use super::boot::{Opened, background, patiently, random};
use super::failpoint::server_version;
use super::peers;
use super::replication::Seed;
use super::shared::Shared;
use super::{join, listen};
use crate::config::{Config, Founder};
use crate::sys::{Fatal, probe};

/// A lane to a peer is not given up sooner, however short elections are: TCP sends again after 0.2 s, 0.6 s and 1.4 s.
const PEER_STALL_MIN: Duration = Duration::from_secs(1);

/// Bound sockets of `--listen-peer-urls`.
///
/// # Errors
/// One of them is taken or not of this machine.
pub fn listeners(config: &Config) -> Result<Vec<peers::Listener>, Fatal> {
    let options = listen::Options { reuse_port: config.socket_reuse_port, user_timeout: None };
    let bind = |url: &crate::config::Listen| {
        patiently(
            |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse,
            || match url.unix {
                true => listen::bind_unix(&url.host),
                false => listen::bind(&url.host, url.port, options),
            },
        )
        .map(|socket| peers::Listener { socket, tls: url.tls })
        .map_err(|error| probe::from_listen(&url.url, &error))
    };
    config.listen_peer.iter().map(bind).collect()
}

/// What the raft core begins with: the members of the store, or before it has any, those that the flags name.
///
/// # Errors
/// There is no randomness to be had, or a thread cannot be made.
pub fn peers(
    shared: &Arc<Shared>,
    opened: &Opened,
    remotes: Vec<Member>,
    listeners: Vec<peers::Listener>,
    tls: Option<peers::Tls>,
) -> Result<Seed, Fatal> {
    let config = &shared.config;
    let (mut members, removed) = (opened.contents.members.clone(), opened.contents.removed.clone());
    if members.is_empty() {
        let remotes = match remotes.is_empty() {
            true => join::ask_again(config, shared.identity, tls.as_ref()),
            false => remotes,
        };
        members = first_members(config, shared.identity, remotes);
    }
    let settings = peer_settings(config, shared.identity, &members, tls)?;
    let store = opened.settings.clone();
    let background = background("ringd-snapshot")?;
    Ok(Seed { settings, listeners, members, removed, store, background })
}

/// What the connections to peers need to know.
///
/// # Errors
/// There is no randomness to be had.
pub fn peer_settings(
    config: &Config,
    identity: Identity,
    members: &[Member],
    tls: Option<peers::Tls>,
) -> Result<peers::Settings, Fatal> {
    let own = members.iter().find(|member| member.id == identity.member_id);
    Ok(peers::Settings {
        identity,
        peer_urls: own.map(|member| member.peer_urls.clone()).unwrap_or_default(),
        seed: random()?,
        data_dir: config.data_dir.clone(),
        read_timeout: config.raft_read_timeout,
        write_timeout: config.raft_write_timeout,
        stall_timeout: PEER_STALL_MIN.max(2 * config.election_timeout),
        server_version: server_version(),
        tls,
    })
}

/// Whom this member knows before it has applied anything: the founders, if it is one; else itself and those that it has found
/// by its flags. If that is nobody, the others come to it and say where they can be answered.
pub fn first_members(config: &Config, identity: Identity, mut remotes: Vec<Member>) -> Vec<Member> {
    let Ok(bootstrap) = &config.bootstrap else { return Vec::new() };
    if join::joins(bootstrap, identity) {
        if remotes.iter().all(|member| member.id != identity.member_id) {
            let peer_urls = bootstrap.peer_urls.clone();
            remotes.push(Member { id: identity.member_id, peer_urls, ..Member::default() });
        }
        return remotes;
    }
    let founder = |founder: &Founder| Member {
        id: founder.id.0,
        peer_urls: founder.peer_urls.clone(),
        ..Member::default()
    };
    bootstrap.members.iter().map(founder).collect()
}
