//! Who may send what is for operators, where that is restricted: `admin-requirepass` and `admin-sources`.
//!
//! A codis-proxy passes every command on that it does not know, so its clients reach PKCLUSTER, REPLICAOF, ACL and what nodes send
//! each other. Either setting closes these ([`Flags::OPERATOR`](crate::table::Flags::OPERATOR)) to all but those who gave that
//! password or come from there. What Codis' dashboard and sentinels send themselves stays open to who has the product's password:
//! the proxy refuses it to its clients.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::config::Settings;
use crate::cx::is;
use crate::session::Session;
use crate::table::{self, Command, Flags};

/// Addresses, and networks such as `10.1.0.0/16`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources(Vec<(IpAddr, u8)>);

impl Sources {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is among them.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(network, bits)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(*bits)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        })
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |(network, bits): &(IpAddr, u8)| {
            let whole = if network.is_ipv4() { 32 } else { 128 };
            if *bits == whole { network.to_string() } else { format!("{network}/{bits}") }
        };
        f.write_str(&self.0.iter().map(text).collect::<Vec<_>>().join(" "))
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Sources, String> {
        let source = |word: &str| {
            let (network, bits) = word.split_once('/').map_or((word, None), |(a, b)| (a, Some(b)));
            let network: IpAddr = network.parse().ok()?;
            let whole = if network.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(whole), |bits| bits.parse().ok())?;
            (bits <= whole).then_some((network, bits))
        };
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        let sources = words.map(source).collect::<Option<Vec<_>>>();
        sources.map(Sources).ok_or_else(|| "expected addresses such as 10.0.0.1 or 10.1.0.0/16".to_owned())
    }
}

/// Why a connection may not send a command that is for operators; `None` if it may.
#[must_use]
pub fn hindrance(
    settings: &Settings,
    session: &Session,
    command: &Command,
    args: &[&[u8]],
) -> Option<String> {
    let (by_password, by_source) =
        (!settings.admin_requirepass.is_empty(), !settings.admin_sources.is_empty());
    if !by_password && !by_source
        || session.is_operator
        || settings.admin_sources.has(session.client.address.ip())
        || is_the_dashboards(command, args)
    {
        return None;
    }
    let remedy = match (by_password, by_source) {
        (true, false) => "AUTH with the password of admin-requirepass",
        (false, _) => "send it from an address of admin-sources",
        (true, true) => {
            "AUTH with the password of admin-requirepass, or send it from an address of admin-sources"
        }
    };
    let name = command.name.split('|').next().unwrap_or_default();
    Some(format!("NOPERM {} is for operators: {remedy}", name.to_ascii_uppercase()))
}

/// Whether a command, or the one whose second word it is, is for operators.
#[must_use]
pub fn is_theirs(command: &Command) -> bool {
    let family = command.name.split_once('|').and_then(|(family, _)| table::find(family.as_bytes()));
    family.unwrap_or(command).flags.has(Flags::OPERATOR)
}

/// What Codis' dashboard, codis-ha and sentinels say with CONFIG.
fn is_the_dashboards(command: &Command, args: &[&[u8]]) -> bool {
    command.name.starts_with("config|")
        && match args {
            [_, get, what] => is(get, "get") && is(what, "maxmemory"),
            [_, set, what, _] => is(set, "set") && is(what, "masterauth"),
            [_, rewrite] => is(rewrite, "rewrite"),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    fn closed(settings: Settings) -> Bench {
        Bench::with(Settings { requirepass: "p".into(), ..settings })
    }

    #[test]
    fn sources_are_addresses_and_networks() {
        let sources: Sources = "10.0.0.1, 10.1.0.0/16 ::1 fd00::/8".parse().expect("all four are");
        for (address, expected) in [
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("10.1.200.3", true),
            ("10.2.0.0", false),
            ("::ffff:10.0.0.1", true),
            ("::1", true),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(sources.has(address.parse().expect("an address")), expected, "{address}");
        }
        assert_eq!(sources.to_string(), "10.0.0.1 10.1.0.0/16 ::1 fd00::/8");
        assert!("0.0.0.0/0".parse::<Sources>().expect("all").has(IpAddr::from([1, 2, 3, 4])));
        for wrong in ["x", "10.0.0.1/33", "10.0.0/8", "::/129", "10.0.0.1/"] {
            assert!(wrong.parse::<Sources>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_for_operators_asks_for_their_password() {
        let mut bench = closed(Settings { admin_requirepass: "boss".into(), ..Settings::default() });
        let told = |name: &str| {
            format!("-NOPERM {name} is for operators: AUTH with the password of admin-requirepass")
        };
        for (line, name) in [
            ("pkcluster info slot 1", "PKCLUSTER"),
            ("replicaof no one", "REPLICAOF"),
            ("acl whoami", "ACL"),
            ("config get requirepass", "CONFIG"),
            ("config set requirepass x", "CONFIG"),
            ("config set masterauth x requirepass y", "CONFIG"),
            ("config resetstat", "CONFIG"),
            ("debug sleep 0", "DEBUG"),
            ("function list", "FUNCTION"),
            ("function flush", "FUNCTION"),
            ("haypile.adopt 1 127.0.0.1 5", "HAYPILE.ADOPT"),
            ("haypile.release 1 x", "HAYPILE.RELEASE"),
            ("haypile.sync 1 x 127.0.0.1:5", "HAYPILE.SYNC"),
        ] {
            assert_eq!(bench.run(line), told(name), "{line}");
        }
        assert_eq!(
            bench.run("slotsmgrt-exec-wrapper a acl whoami"),
            format!("*2 :2 {}", told("ACL")),
            "a wrapper opens nothing"
        );
        bench.check(
            "auth p          -> +OK
             acl whoami      -> -NOPERM ACL is for operators: AUTH with the password of admin-requirepass
             auth x          -> -WRONGPASS invalid username-password pair or user is disabled.
             auth boss       -> +OK
             acl whoami      -> $7 default
             auth p          -> +OK
             acl whoami      -> $7 default",
        );
    }

    #[test]
    fn the_dashboard_and_sentinels_need_the_products_password_alone() {
        let mut bench = closed(Settings { admin_requirepass: "boss".into(), ..Settings::default() });
        assert!(bench.run("config get maxmemory").starts_with("*2 $9 maxmemory"));
        assert!(bench.run("info").contains("run_id:"));
        bench.check(
            "slotsinfo 0 0                          -> *0
             multi                                  -> +OK
             config set masterauth p                -> +QUEUED
             slaveof no one                         -> +QUEUED
             client kill type normal                -> +QUEUED
             discard                                -> +OK
             config set masterauth p                -> +OK
             slotsmgrt-async-cancel                 -> :0
             client setname sentinel-1-cmd          -> +OK
             publish __sentinel__:hello x           -> :0",
        );
    }

    #[test]
    fn who_comes_from_an_admin_source_needs_no_more() {
        let sources =
            |text: &str| Settings { admin_sources: text.parse().expect("sources"), ..Settings::default() };
        closed(sources("127.0.0.0/8")).check("acl whoami -> $7 default");
        closed(sources("10.0.0.1"))
            .check("acl whoami -> -NOPERM ACL is for operators: send it from an address of admin-sources");
        Bench::with(Settings::default()).check("acl whoami -> $7 default");
    }

    /// What codis-proxy 3.2 refuses to its clients, of what is an operator's here.
    const REFUSED_BY_THE_PROXY: &[&str] = &[
        "bgsave",
        "client",
        "dbsize",
        "flushall",
        "flushdb",
        "lastsave",
        "monitor",
        "save",
        "script",
        "shutdown",
        "slaveof",
        "slowlog",
        "slotscheck",
        "slotsdel",
        "restore",
        "restore-asking",
        "keys",
        "object",
        "latency",
    ];

    #[test]
    fn no_command_for_operators_is_left_that_a_proxy_passes_on() {
        for command in table::all() {
            let is_admin = command.flags.has(Flags::ADMIN) && !command.flags.has(Flags::OPERATOR);
            let is_refused =
                REFUSED_BY_THE_PROXY.contains(&command.name) || command.name.starts_with("slotsmgrt");
            assert!(!is_admin || is_refused, "{}", command.name);
        }
    }
}
