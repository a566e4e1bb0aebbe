//! The command `haypile`.

fn main() {}
