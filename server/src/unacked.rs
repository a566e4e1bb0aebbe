//! The replies of a batch that tell of writes, and which records each needs on replicas before it leaves.

use std::collections::BTreeMap;
use std::ops::Range;

use haypile_engine::types::{Seq, Slot};

use crate::resp::ReplyWriter;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Unacked {
    /// By their places among the batch's replies, which do not overlap and ascend.
    replies: Vec<Waits>,
    records: Vec<(Slot, Seq)>,
}

#[derive(Debug)]
struct Waits {
    /// Where the reply lies.
    reply: Range<usize>,
    /// Which records it tells of.
    records: Range<usize>,
}

impl Unacked {
    /// A reply tells of these records.
    pub fn push(&mut self, from: usize, to: usize, records: &[(Slot, Seq)]) {
        let first = self.records.len();
        self.records.extend_from_slice(records);
        self.replies.push(Waits { reply: from..to, records: first..self.records.len() });
    }

    /// Whether no reply tells of anything.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// All records: of each slot the last, as acknowledgements are cumulative.
    pub fn records(&self) -> Vec<(Slot, Seq)> {
        if let [one] = self.records[..] {
            return vec![one];
        }
        let mut last = BTreeMap::new();
        for &(slot, seq) in &self.records {
            last.entry(slot).and_modify(|known: &mut Seq| *known = seq.max(*known)).or_insert(seq);
        }
        last.into_iter().collect()
    }

    /// The replies with an error in the place of each that tells of a record which too few replicas have, and how many
    /// these are. `count` says how many have a record.
    pub fn refuse(
        &self,
        replies: &ReplyWriter,
        count: impl Fn((Slot, Seq)) -> usize,
        wanted: usize,
    ) -> (ReplyWriter, u64) {
        let bytes = replies.as_bytes();
        let mut out = ReplyWriter::new(replies.proto());
        let (mut kept, mut refused) = (0, 0);
        for Waits { reply, records } in &self.replies {
            let have = self.records[records.clone()].iter().map(|record| count(*record)).min();
            let have = have.unwrap_or(wanted);
            if have >= wanted {
                continue;
            }
            out.raw(&bytes[kept..reply.start]);
            out.error(&format!(
                "NOACK done on this node, but {have} of {wanted} replicas acknowledged it in time: it is lost if this \
                 node is lost before they do"
            ));
            kept = reply.end;
            refused += 1;
        }
        out.raw(&bytes[kept..]);
        (out, refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Proto;

    #[test]
    fn only_the_replies_of_what_is_missing_become_errors() {
        let slot = |number| Slot::new(number).expect("in range");
        let mut replies = ReplyWriter::new(Proto::Resp2);
        let mut unacked = Unacked::default();
        for (number, seq) in [(1, 5), (2, 9), (1, 6)] {
            let from = replies.len();
            replies.integer(i64::from(number));
            unacked.push(from, replies.len(), &[(slot(number), Seq(seq))]);
            replies.simple("read");
        }
        assert_eq!(unacked.records(), [(slot(1), Seq(6)), (slot(2), Seq(9))]);
        let count = |(of, seq): (Slot, Seq)| usize::from(of == slot(2) || seq <= Seq(5));
        let (shown, refused) = unacked.refuse(&replies, count, 1);
        let text = String::from_utf8(shown.as_bytes().to_vec()).expect("text");
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(refused, 1);
        assert_eq!(lines[..4], [":1", "+read", ":2", "+read"]);
        assert!(lines[4].starts_with("-NOACK done on this node, but 0 of 1 replicas "), "{}", lines[4]);
        assert_eq!(lines[5..], ["+read", ""]);
    }
}
