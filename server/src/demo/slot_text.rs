//! What `pkcluster info slot` tells, read back.

/// A slot as a node tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotText {
    /// Which.
    pub slot: u16,
    /// Its last record there.
    pub seq: u64,
    /// Who follows it there: address, status, lag.
    pub slaves: Vec<(String, String, u64)>,
    /// Whom it follows there.
    pub master: Option<String>,
    /// How that stands.
    pub slave_status: Option<String>,
    /// Why it is not connected.
    pub last_error: Option<String>,
    /// What the node is to it, in one word.
    pub state: String,
}

impl SlotText {
    /// Whether it follows somebody and has the connection.
    pub fn is_connected(&self) -> bool {
        self.slave_status.as_deref() == Some("kConnected")
    }

    /// The lag of the slave at this address, once its records stream.
    pub fn lag_of(&self, address: &str) -> Option<u64> {
        let slave = self.slaves.iter().find(|(slave, ..)| slave == address)?;
        (slave.1 == "SlaveBinlogSync").then_some(slave.2)
    }
}

/// Reads the text; what makes no sense is passed over.
pub fn parse(text: &str) -> Vec<SlotText> {
    text.split("\r\n\r\n").filter_map(slot).collect()
}

fn slot(text: &str) -> Option<SlotText> {
    let mut lines = text.lines();
    let (name, rest) = lines.next()?.strip_prefix("(db0:")?.split_once(") binlog_offset=")?;
    let (_term, seq) = rest.split_once(',')?.0.split_once(' ')?;
    let mut slot = SlotText { slot: name.parse().ok()?, seq: seq.parse().ok()?, ..SlotText::default() };
    for line in lines {
        let Some((name, value)) = line.trim_start().split_once(": ") else { continue };
        let value = value.to_owned();
        match name {
            "master" => slot.master = Some(value),
            "slave status" => slot.slave_status = Some(value),
            "last_error" => slot.last_error = Some(value),
            "state" => slot.state = value,
            "replication_status" => slot.slaves.last_mut()?.1 = value,
            "lag" => slot.slaves.last_mut()?.2 = value.parse().ok()?,
            _ if name.starts_with("slave[") => slot.slaves.push((value, String::new(), u64::MAX)),
            _ => {}
        }
    }
    Some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_with_slaves_and_a_slave_are_read() {
        let text = "(db0:1) binlog_offset=2 81,safety_purge=none\r\n  Role: Master\r\n  connected_slaves: 1\r\n  \
            slave[0]: 127.0.0.1:5\r\n  replication_status: SlaveBinlogSync\r\n  lag: 4\r\n  state: master\r\n\r\n\
            (db0:7) binlog_offset=1 0,safety_purge=none\r\n  Role: Slave\r\n  master: 127.0.0.1:9\r\n  \
            slave status: kError\r\n  last_error: no such: slot\r\n\r\n";
        let slots = parse(text);
        assert_eq!((slots[0].slot, slots[0].seq, slots[0].lag_of("127.0.0.1:5")), (1, 81, Some(4)));
        assert_eq!(slots[0].lag_of("127.0.0.1:6"), None);
        assert_eq!((slots[1].slot, slots[1].is_connected()), (7, false));
        assert_eq!(slots[1].last_error.as_deref(), Some("no such: slot"));
        assert_eq!(slots.len(), 2);
    }
}
