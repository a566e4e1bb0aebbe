//! How values of each type are laid out in the engine's entries. Knows no command and no reply.
