//! A slot on its way to another group, because Codis' dashboard wants it: this node does the whole of it by itself.
//!
//! `moves` holds what is on its way and how far, `mover` carries one slot over, `adopt` is the other node's side, `dial`
//! asks another node. To a node that is none of ours, `export` carries keys one by one, and `leaving` knows which those are. The commands that start and watch it are in `commands::slotsmgrt`.
//!
//! Nothing is kept on disk here: what is decided stands in the slots' roles (granted, moved), and what is not is begun
//! anew by the dashboard's next question. A move that nobody asks about any more ends by itself; the slot stays.

pub mod adopt;
pub mod dial;
pub mod export;
pub mod leaving;
pub mod mover;
pub mod moves;
